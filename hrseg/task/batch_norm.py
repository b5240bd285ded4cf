"""The error of batch norm in training on one value per channel, with its remedy."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.func import functional_call

from hrseg.errors import ConfigError


@contextmanager
def single_values_as_config_error(images: Tensor) -> Iterator[None]:
    """Adds the remedy to torch's error for batch norm in training with one value per channel.

    These are 1x1 features of a batch of one image: of crops of one output stride, of global pooling, as in ASPP, and of
    object regions of a single class. Synchronised batch norm has the values of all ranks.

    Args:
        images: (B, 3, H, W), the batch that goes through the network in the block.

    Raises:
        ConfigError: A map has one value per channel.
    """
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        height, width = images.shape[-2:]
        remedy = ", or crops of more than 32x32 (data.crop_size)" if max(height, width) <= 32 else ""
        raise ConfigError(
            f"batch norm cannot be trained on one value per channel, which a batch of {len(images)} image of "
            f"{height}x{width} gives (torch: {error}); give data.batch_size 2 or more{remedy}"
        ) from error


def check_single_values(network: nn.Module, images: Tensor) -> None:
    """Runs a batch through a network as in a training step, without changing its running statistics.

    Args:
        network: In training mode, except frozen layers.
        images: (B, 3, H, W), of any values.

    Raises:
        ConfigError: A map has one value per channel.
    """
    buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
    with torch.no_grad(), single_values_as_config_error(images):
        functional_call(network, buffers, images)
