"""Base classes: `Network` of all networks, `Segmenter` of those for segmentation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from hrseg.errors import ConfigError
from hrseg.models.networks.hrnet import Maps
from hrseg.utils.checks import require
from hrseg.utils.construct import RecordsArguments, given_names
from hrseg.utils.upsample import upsample


class Network(nn.Module, RecordsArguments):
    """Base class of the networks that `create_model` builds.

    These arguments mean the same in every network that has them; each has the defaults of its official code.

    Args:
        variant: Width, depth and block of the backbone; `VARIANTS` and `HRFORMER_VARIANTS` are the published ones.
        num_classes: K, the channels of the logits.
        in_channels: Channels of the images.
        fuse_mode: How the backbone upsamples coarser maps before it adds them to finer ones: "bilinear" as in the
            official segmentation code, or "nearest" as in the official classification and pose code. Weights fit both,
            results differ.
        align_corners: Of all bilinear upsampling: in the backbone, in the head, and of the logits.
        bn_momentum: Momentum of batch norm, the weight of the newest batch in the running statistics.
        init: "kaiming" to train from scratch, "official" before ImageNet weights are loaded; see `hrnet.initialize`.
        checkpoint_stages: Stages out of 1, 2, 3, 4 with activation checkpointing: recomputed in the backward pass
            instead of kept. Takes a quarter more time and much less memory, with the same results.
        channel_order: Channel order of the images, "rgb" or "bgr".

    Attributes:
        head_names: The attributes that make up the head, which fine-tuning initialises anew or trains faster.
        head_aliases: Key prefixes of another head, each with the prefix of this head's keys that
            `load_weights(strict=False)` loads them into.
        config: Name and constructor arguments as plain values, from which `create_model` rebuilds the network. Empty
            for a network that it did not build.
        given: Names of the arguments that `create_model` or the constructor was given; they override the defaults of a
            file's layout.
        loaded_from: The file that `load_weights` read last; None for a random initialisation.
        initialised: The keys that the file lacked, which keep their initialisation.
    """

    head_names: ClassVar[tuple[str, ...]]
    head_aliases: ClassVar[Mapping[str, str]] = {}

    def __init__(self) -> None:
        super().__init__()
        self.config: dict[str, Any] = {}
        self.given = given_names(self)
        self.loaded_from: str | None = None
        self.initialised: tuple[str, ...] = ()

    def adapt_backbone(self, entries: Mapping[str, Any]) -> dict[str, Any]:
        """Adapts the state dict of a backbone to this network, such as to another window size."""
        return dict(entries)


class Segmenter(Network, ABC):
    """Interface of the segmentation networks; a subclass supplies `features` and `outputs`.

    Attributes:
        num_classes: K, the channels of the logits.
        align_corners: Of the network's bilinear upsampling, and of any further upsampling of its logits.
        channel_order: Channel order of the images, "rgb" or "bgr", to be converted before they are normalised.
        output_weights: Published weights of the losses on the outputs.
    """

    output_weights: ClassVar[Mapping[str, float]] = {"out": 1.0}
    num_classes: int
    align_corners: bool
    channel_order: str = "rgb"

    @abstractmethod
    def features(self, images: Tensor) -> Maps:
        """Maps images (B, in_channels, H, W) to the backbone's four maps at strides 4, 8, 16, 32."""

    @abstractmethod
    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        """Maps images (B, in_channels, H, W) to all outputs that a loss may use, at the network's own stride.

        Returns:
            "out": logits (B, K, H / 4, W / 4), sizes rounded up; networks with auxiliary heads add theirs.
        """

    def forward(self, images: Tensor) -> Tensor:
        """Maps images (B, in_channels, H, W), float and normalised, to logits (B, K, H, W)."""
        return upsample(self.outputs(images)["out"], images.shape[-2:], self.align_corners)


def check_channel_order(channel_order: str) -> str:
    """Returns the channel order.

    Raises:
        ConfigError: It is neither "rgb" nor "bgr".
    """
    require(channel_order in ("rgb", "bgr"), "channel_order", channel_order, "rgb or bgr")
    return channel_order


def outputs_of(network: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """Computes the named outputs of any network; without a method `outputs`, only {"out": (B, K, h, w)}.

    Args:
        network: A `Segmenter`, or a module that maps images to logits, or to a mapping with logits under "out" or
            "logits", as in torchvision and transformers.
        images: (B, C, H, W) float, normalised.

    Returns:
        The outputs, in single precision at least: half precision does not resolve the differences between classes
        that upsampling or a sum over views depends on.

    Raises:
        ConfigError: The network returns something else, such as a tuple.
    """
    method = getattr(network, "outputs", None)
    found = method(images) if callable(method) else network(images)
    if isinstance(found, Tensor):
        found = {"out": found}
    if isinstance(found, Mapping) and "out" not in found and "logits" in found:
        found = {"out": found["logits"]}
    if not isinstance(found, Mapping) or not isinstance(found.get("out"), Tensor):
        held = f" of {', '.join(map(str, found))}" if isinstance(found, Mapping) else ""
        raise ConfigError(
            f"{type(network).__name__} returns a {type(found).__name__}{held}; expected logits (B, K, h, w), alone or "
            'under "out". Add a method `outputs(images)` that returns {"out": logits}'
        )
    # some networks return their own loss beside the logits
    outputs = {name: x for name, x in found.items() if isinstance(x, Tensor) and (x.ndim > 0 or name == "out")}
    return {name: output.to(torch.promote_types(output.dtype, torch.float32)) for name, output in outputs.items()}
