"""HRNetV2: the four maps concatenated at stride 4, and two 1x1 convolutions.

Source:
    Wang et al., "Deep High-Resolution Representation Learning for Visual Recognition", arXiv 1908.07919, section 3.4;
    HRNet/HRNet-Semantic-Segmentation, branches master and pytorch-v1.1, lib/models/seg_hrnet.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from hrseg.models.networks.base import Segmenter, check_channel_order
from hrseg.models.networks.hrnet import HRNET_BACKBONE, VARIANTS, HRNet, HRNetVariant, Maps, concatenate, initialize
from hrseg.models.registry import FileFormat, Shapes, register
from hrseg.utils.checks import require_channels, require_kernel


class V2Head(nn.Sequential):
    """The HRNetV2 head: two convolutions on the concatenation of all maps at the finest size.

    Args:
        widths: Channels of the four maps, finest first; together 15C.
        num_classes: K, the channels of the logits.
        align_corners: Of the bilinear upsampling of the coarser maps.
        kernel: Kernel size of the first convolution: 1, or 3 in openseg.

    Raises:
        ConfigError: An argument is outside its range.

    Source:
        HRNet/HRNet-Semantic-Segmentation, lib/models/seg_hrnet.py, last_layer: entries 0, 1 and 3 of its Sequential.
    """

    def __init__(self, widths: Sequence[int], num_classes: int, align_corners: bool, kernel: int = 1) -> None:
        require_channels(num_classes=num_classes)
        require_kernel("head_kernel", kernel)
        channels = sum(widths)
        super().__init__(
            # the bias, useless before batch norm, is in the official files
            nn.Conv2d(channels, channels, kernel, padding=kernel // 2),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, num_classes, 1),
        )
        self.widths = tuple(widths)
        self.align_corners = align_corners

    def forward(self, maps: Maps) -> Tensor:
        """Maps (B, C * 2**k, h / 2**k, w / 2**k), finest first, to logits (B, K, h, w)."""
        x = concatenate(maps, self.align_corners)
        for layer in self:
            x = layer(x)
        return x


class HRNetV2(HRNet, Segmenter):
    """HRNetV2 for semantic segmentation; its parameters have the names of the official files.

    `Network` describes the arguments that are not listed here.

    Args:
        align_corners: False in the official code for Cityscapes, LIP and PASCAL-Context, True for ADE20K and
            COCO-Stuff.
        bn_momentum: 0.01 in the official code. Trainings of a few hundred steps need more: the running statistics take
            that long to forget their initial values.
        head_kernel: Kernel size of the head's first convolution; 3 in openseg.
        channel_order: "bgr" in the weights of openseg.

    Raises:
        ConfigError: An argument is outside its range.
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
        self.channel_order = check_channel_order(channel_order)
        self.last_layer = V2Head(self.widths, num_classes, align_corners, head_kernel)
        initialize(self, init, bn_momentum)

    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        """Maps images (B, in_channels, H, W) to {"out": logits (B, K, H / 4, W / 4)}, sizes rounded up."""
        return {"out": self.last_layer(self.features(images))}


def head_arguments(shapes: Shapes) -> dict[str, int]:
    """Reads the constructor arguments of the head from its shapes."""
    return {"head_kernel": shapes["last_layer.0.weight"][2]}


register(
    "hrnetv2_SIZE",
    HRNetV2,
    VARIANTS,
    title="HRNetV2",
    authors="Wang et al.",
    arxiv="1908.07919",
    backbone=HRNET_BACKBONE,
    head_keys=("last_layer.0.weight",),
    classes_key="last_layer.3.weight",
    head_arguments=head_arguments,
    formats={
        "official": FileFormat(prefix="model."),  # where network and loss are one module
        "mmseg": FileFormat("mmsegmentation"),
        "timm": FileFormat(backbone_only=True),
    },
)
