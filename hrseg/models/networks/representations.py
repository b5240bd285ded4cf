"""The trunk's other uses: HRNetV1 by its finest map alone, HRNetV2p for detection, and the ImageNet classifier.

Names of parameters are exactly those of the official files.

Source:
    Wang et al., "Deep High-Resolution Representation Learning for Visual Recognition", arXiv 1908.07919, section 3.4.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hrseg.models.networks.base import Network
from hrseg.models.networks.batch_norm import BatchNorm2d
from hrseg.models.networks.hrnet import Bottleneck, HighResolutionModule, HRNet, HRNetVariant, Maps, initialize, resize
from hrseg.models.networks.hrnetv2 import Segmenter
from hrseg.utils.checks import require_channels


class HRNetV1(HRNet, Segmenter):
    """HRNetV1: one 1x1 convolution on the finest map; the pose network with joints for classes, here for segmentation.

    Args:
        variant: Width, depth and block; `VARIANTS` holds the published ones.
        num_classes: K, the channels of the logits; joints in the pose network.
        in_channels: Channels of the images.
        fuse_mode: How coarser maps are enlarged before they are added to finer ones: "nearest" as in the official pose
            code, or "bilinear" as in the official segmentation code.
        align_corners: Of every bilinear enlargement, in the trunk and of the logits.
        bn_momentum: Share of the newest batch in the running statistics of batch norm: 0.1 in the official pose code,
            0.01 in the segmentation code.
        init: "kaiming" for training from scratch, "official" for a network that is given ImageNet weights; see
            `initialize`.
        checkpoint_stages: Stages out of 1, 2, 3, 4 whose activations are computed again in the backward pass instead of
            being kept: more time for less memory, the same result.

    Raises:
        ConfigError: An argument is outside its range.

    Source:
        leoxiaobin/deep-high-resolution-net.pytorch, lib/models/pose_hrnet.py.
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
        del last.fuse_layers[1:]  # what would make the coarser maps, which nobody reads
        self.widths = self.widths[:1]
        self.num_classes = num_classes
        self.final_layer = nn.Conv2d(variant.width, num_classes, 1)
        initialize(self, init, bn_momentum)
        assert self.final_layer.bias is not None
        nn.init.zeros_(self.final_layer.bias)

    def features(self, images: Tensor) -> Maps:
        """Maps images (B, in_channels, H, W) to one map alone, (B, C, H / 4, W / 4), sizes rounded up."""
        return super().features(images)

    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        """Maps images (B, in_channels, H, W) to {"out": logits (B, K, H / 4, W / 4)}, sizes rounded up."""
        (finest,) = self.features(images)
        return {"out": self.final_layer(finest)}


class HRNetV2p(HRNet, Network):
    """HRNetV2p: a pyramid of five maps for detectors, which torchvision's `FasterRCNN` and `MaskRCNN` take as backbone.

    Args:
        variant: Width, depth and block; `VARIANTS` holds the published ones.
        in_channels: Channels of the images.
        bn_momentum: Share of the newest batch in the running statistics of batch norm.
        checkpoint_stages: Stages out of 1, 2, 3, 4 whose activations are computed again in the backward pass instead of
            being kept: more time for less memory, the same result.

    Attributes:
        out_channels: Channels of every map of the pyramid.

    Raises:
        ConfigError: An argument is outside its range.

    Source:
        HRNet/HRNet-Object-Detection, mmdet/models/necks/hrfpn.py; HRNet/HRNet-MaskRCNN-Benchmark,
        maskrcnn_benchmark/modeling/backbone/hrfpn.py.
    """

    head_names: ClassVar[tuple[str, ...]] = ("reduction_conv", "fpn_conv")
    out_channels: ClassVar[int] = 256
    smallest_size: ClassVar[int] = 61  # 16 pixels at stride 4, which become one of the coarsest map

    def __init__(
        self,
        variant: HRNetVariant,
        in_channels: int = 3,
        bn_momentum: float = 0.1,
        checkpoint_stages: Sequence[int] = (),
    ) -> None:
        super().__init__(variant, in_channels, "nearest", checkpoint_stages=checkpoint_stages)
        channels = self.out_channels
        self.reduction_conv = nn.Sequential(nn.Conv2d(sum(self.widths), channels, 1))
        self.fpn_conv = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(5))
        _initialize(self, bn_momentum)
        for module in (*self.reduction_conv.modules(), *self.fpn_conv.modules()):
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        """Computes the pyramid.

        Args:
            images: (B, in_channels, H, W) float, normalised; H and W from 61.

        Returns:
            "0" to "4", finest first: (B, 256, h / 2**k, w / 2**k), where h and w are H / 4 and W / 4 rounded up, and
            each quotient is rounded down.
        """
        finest, *coarser = self.features(images)
        x = self.reduction_conv(torch.cat([finest, *(resize(x, finest.shape[-2:]) for x in coarser)], 1))
        levels = [x, *(F.avg_pool2d(x, 2**level) for level in range(1, len(self.fpn_conv)))]
        return OrderedDict((str(level), conv(levels[level])) for level, conv in enumerate(self.fpn_conv))


class HRNetClassifier(HRNet, Network):
    """The ImageNet classifier, whose trunk starts every other network: a cascade from the finest map down to a vector.

    Args:
        variant: Width, depth and block; `VARIANTS` holds the published ones.
        num_classes: K, the number of logits.
        in_channels: Channels of the images.
        bn_momentum: Share of the newest batch in the running statistics of batch norm.
        checkpoint_stages: Stages out of 1, 2, 3, 4 whose activations are computed again in the backward pass instead of
            being kept: more time for less memory, the same result.

    Raises:
        ConfigError: An argument is outside its range.

    Source:
        HRNet/HRNet-Image-Classification, lib/models/cls_hrnet.py.
    """

    head_names: ClassVar[tuple[str, ...]] = ("classifier",)

    def __init__(
        self,
        variant: HRNetVariant,
        num_classes: int = 1000,
        in_channels: int = 3,
        bn_momentum: float = 0.1,
        checkpoint_stages: Sequence[int] = (),
    ) -> None:
        require_channels(num_classes=num_classes)
        super().__init__(variant, in_channels, "nearest", checkpoint_stages=checkpoint_stages)
        self.num_classes = num_classes
        inner = (32, 64, 128, 256)
        outer = [Bottleneck.expansion * width for width in inner]
        self.incre_modules = nn.ModuleList(
            nn.Sequential(Bottleneck(channels, width)) for channels, width in zip(self.widths, inner, strict=True)
        )
        self.downsamp_modules = nn.ModuleList(
            _biased_conv_bn(outer[step], outer[step + 1], 3, stride=2) for step in range(3)
        )
        self.final_layer = _biased_conv_bn(outer[-1], 2048, 1)
        self.classifier = nn.Linear(2048, num_classes)
        _initialize(self, bn_momentum)

    def forward(self, images: Tensor) -> Tensor:
        """Maps images (B, in_channels, H, W), float and normalised, to logits (B, K)."""
        finest, *coarser = self.features(images)
        widen_finest, *widen = self.incre_modules
        x = widen_finest(finest)
        for halve, widen_next, next_map in zip(self.downsamp_modules, widen, coarser, strict=True):
            x = widen_next(next_map) + halve(x)
        logits: Tensor = self.classifier(self.final_layer(x).mean((2, 3)))
        return logits


def _biased_conv_bn(in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """As `conv_bn`, with a bias, useless before batch norm, that the official files hold."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2),
        BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


def _initialize(network: nn.Module, bn_momentum: float) -> None:
    """First values as in the official classification and detection code: He normal over the outputs.

    Biases stay as torch draws them, which changes nothing: all of them are followed by batch norm.
    """
    initialize(network, "official", bn_momentum)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
