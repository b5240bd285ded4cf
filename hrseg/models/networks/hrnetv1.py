"""HRNetV1: the finest map alone, as in pose estimation.

Attribute names are those of the official code, so that its weights load without renaming keys.

Source:
    Sun et al., "Deep High-Resolution Representation Learning for Human Pose Estimation", arXiv 1902.09212;
    leoxiaobin/deep-high-resolution-net.pytorch, lib/models/pose_hrnet.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from hrseg.models.networks.base import Segmenter
from hrseg.models.networks.hrnet import (
    HRNET_BACKBONE,
    VARIANTS,
    HighResolutionModule,
    HRNet,
    HRNetVariant,
    Maps,
    initialize,
)
from hrseg.models.registry import FileFormat, register
from hrseg.utils.checks import require_channels


class HRNetV1(HRNet, Segmenter):
    """HRNetV1: one 1x1 convolution on the finest map; the pose network, with classes for joints.

    `Network` describes the arguments that are not listed here.

    Args:
        num_classes: K; joints in the pose network.
        fuse_mode: "nearest" as in the official pose code, or "bilinear".
        bn_momentum: 0.1 in the official pose code, 0.01 in the segmentation code.

    Raises:
        ConfigError: An argument is outside its range.
    """

    head_names: ClassVar[tuple[str, ...]] = ("final_layer",)
    strides: ClassVar[tuple[int, ...]] = (4,)

    def __init__(
        self,
        variant: HRNetVariant,
        num_classes: int = 19,
        in_channels: int = 3,
        fuse_mode: str = "nearest",
        align_corners: bool = False,
        bn_momentum: float = 0.1,
        init: str = "kaiming",
        checkpoint_stages: Sequence[int] = (),
    ) -> None:
        require_channels(num_classes=num_classes)
        super().__init__(variant, in_channels, fuse_mode, align_corners, checkpoint_stages)
        last = self.stage4[-1]
        assert isinstance(last, HighResolutionModule)
        del last.fuse_layers[1:]  # the coarser outputs are not used
        self.widths = self.widths[:1]
        self.num_classes = num_classes
        self.final_layer = nn.Conv2d(variant.width, num_classes, 1)
        initialize(self, init, bn_momentum)
        assert self.final_layer.bias is not None
        nn.init.zeros_(self.final_layer.bias)

    def features(self, images: Tensor) -> Maps:
        """Maps images (B, in_channels, H, W) to one map, (B, C, H / 4, W / 4), sizes rounded up."""
        return super().features(images)

    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        """Maps images (B, in_channels, H, W) to {"out": logits (B, K, H / 4, W / 4)}, sizes rounded up."""
        (finest,) = self.features(images)
        return {"out": self.final_layer(finest)}


register(
    "hrnetv1_SIZE",
    HRNetV1,
    VARIANTS,
    title="HRNetV1, the finest map alone, as for poses",
    authors="Sun et al.",
    arxiv="1902.09212",
    backbone=HRNET_BACKBONE,
    head_keys=("final_layer.weight",),
    classes_key="final_layer.weight",
    unused_keys=(r"stage4\.\d+\.fuse_layers\.[1-3]\.",),
    formats={"official": FileFormat()},
)
