"""Segmentation networks: a trunk with a head, and the one place where logits are enlarged to the size of the images."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from hrseg.errors import ConfigError
from hrseg.models.networks.base import Network
from hrseg.models.networks.heads import V2Head
from hrseg.models.networks.hrnet import HRNet, HRNetVariant, Maps, initialize, resize
from hrseg.utils.checks import require


class Segmenter(Network, ABC):
    """What every segmentation network of hrseg offers; a subclass supplies `features` and `outputs`.

    Attributes:
        num_classes: K, the channels of the logits.
        align_corners: Of the network's bilinear enlargements; whoever enlarges its logits must do the same.
        channel_order: Of the images, "rgb" or "bgr"; whoever reads images must bring them into that order before their
            channels are normalised.
        output_weights: Of the losses on the outputs that it is trained with, as published.
    """

    output_weights: ClassVar[Mapping[str, float]] = {"out": 1.0}
    num_classes: int
    align_corners: bool
    channel_order: str = "rgb"

    @abstractmethod
    def features(self, images: Tensor) -> Maps:
        """Maps images (B, in_channels, H, W) to the trunk's four maps at strides 4, 8, 16, 32."""

    @abstractmethod
    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        """Maps images (B, in_channels, H, W) to everything that a loss may want, at the network's own stride.

        Returns:
            "out": logits (B, K, H / 4, W / 4), sizes rounded up; networks with auxiliary heads add theirs.
        """

    def forward(self, images: Tensor) -> Tensor:
        """Maps images (B, in_channels, H, W), float and normalised, to logits (B, K, H, W)."""
        return resize(self.outputs(images)["out"], images.shape[-2:], align_corners=self.align_corners)


def known_order(channel_order: str) -> str:
    """Gives the order of channels back.

    Raises:
        ConfigError: It is none.
    """
    require(channel_order in ("rgb", "bgr"), "channel_order", channel_order, "rgb or bgr")
    return channel_order


def outputs_of(network: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """What `Segmenter.outputs` gives, of any network: one without that method has logits only, {"out": (B, K, h, w)}.

    Args:
        network: A `Segmenter`, or a module that maps images to logits, or to a mapping with logits under "out" or
            "logits", as those of torchvision and transformers.
        images: (B, C, H, W) float, normalised.

    Returns:
        The outputs by name, in single precision if the network computed in half: what follows, an enlargement, a sum
        of views, decides between classes by less than half precision tells apart.

    Raises:
        ConfigError: The network gives something else, such as a tuple, of which nobody knows which are the logits.
    """
    of_network = getattr(network, "outputs", None)
    found = of_network(images) if callable(of_network) else network(images)
    if isinstance(found, Tensor):
        found = {"out": found}
    if isinstance(found, Mapping) and "out" not in found and "logits" in found:
        found = {"out": found["logits"]}
    if not isinstance(found, Mapping) or not isinstance(found.get("out"), Tensor):
        held = f" of {', '.join(map(str, found))}" if isinstance(found, Mapping) else ""
        raise ConfigError(
            f"{type(network).__name__} gives a {type(found).__name__}{held}; expected logits (B, K, h, w), alone or "
            'under "out". Give it a method `outputs` of the images that returns {"out": logits}'
        )
    # some give their own loss beside the logits
    outputs = {name: x for name, x in found.items() if isinstance(x, Tensor) and (x.ndim > 0 or name == "out")}
    return {name: output.to(torch.promote_types(output.dtype, torch.float32)) for name, output in outputs.items()}


class HRNetV2(HRNet, Segmenter):
    """HRNetV2 for semantic segmentation.

    The names of its parameters are exactly those of the official files.

    Args:
        variant: Width and depth; `VARIANTS` holds the published ones.
        num_classes: K, the channels of the logits.
        in_channels: Channels of the images.
        fuse_mode: How coarser maps are enlarged before they are added to finer ones: "bilinear" as in the official
            segmentation code, or "nearest" as in the official classification code.
        align_corners: Of every bilinear enlargement, in the trunk, in the head, and of the logits.
        bn_momentum: Share of the newest batch in the running statistics of batch norm. 0.01 is official for the plain
            HRNetV2; trainings of a few hundred steps want more, as it takes that long to forget the first values.
        init: "kaiming" for training from scratch, "official" for a network that is given ImageNet weights; see
            `initialize`.
        checkpoint_stages: Stages out of 1, 2, 3, 4 whose activations are computed again in the backward pass instead of
            being kept: more time for less memory, the same result.
        head_kernel: Size of the head's first convolution; 3 in openseg.
        channel_order: Of the images, "rgb" or "bgr", as in the weights of openseg.

    Raises:
        ConfigError: An argument is outside its range.

    Source:
        HRNet/HRNet-Semantic-Segmentation, branches master and pytorch-v1.1, lib/models/seg_hrnet.py.
    """

    head_names: ClassVar[tuple[str, ...]] = ("last_layer",)

    def __init__(
        self,
        variant: HRNetVariant,
        num_classes: int = 19,
        in_channels: int = 3,
        fuse_mode: str = "bilinear",
        align_corners: bool = False,
        bn_momentum: float = 0.01,
        init: str = "kaiming",
        checkpoint_stages: Sequence[int] = (),
        head_kernel: int = 1,
        channel_order: str = "rgb",
    ) -> None:
        super().__init__(variant, in_channels, fuse_mode, align_corners, checkpoint_stages)
        self.num_classes = num_classes
        self.channel_order = known_order(channel_order)
        self.last_layer = V2Head(self.widths, num_classes, align_corners, head_kernel)
        initialize(self, init, bn_momentum)

    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        """Maps images (B, in_channels, H, W) to {"out": logits (B, K, H / 4, W / 4)}, sizes rounded up."""
        return {"out": self.last_layer(self.features(images))}
