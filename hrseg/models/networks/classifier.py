"""The ImageNet classifier of HRNet, whose pretrained backbone every other network starts from.

Attribute names are those of the official code, so that its weights load without renaming keys.

Source:
    Wang et al., "Deep High-Resolution Representation Learning for Visual Recognition", arXiv 1908.07919;
    HRNet/HRNet-Image-Classification, lib/models/cls_hrnet.py.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import ClassVar

from torch import Tensor, nn

from hrseg.models.networks.base import Network
from hrseg.models.networks.hrnet import HRNET_BACKBONE, VARIANTS, Bottleneck, HRNet, HRNetVariant, Maps, initialize
from hrseg.models.registry import FileFormat, register
from hrseg.utils.checks import require_channels


class ClassifierHead(Network, ABC):
    """The ImageNet head as a mixin: the other base class is the backbone, which supplies `features`.

    The four maps are widened, then downsampled and added from the finest to the coarsest, whose pixels are averaged.
    The network's constructor calls `add_head`.
    """

    head_names: ClassVar[tuple[str, ...]] = ("classifier",)

    @abstractmethod
    def features(self, images: Tensor) -> Maps:
        """Maps images (B, in_channels, H, W) to the backbone's four maps at strides 4, 8, 16, 32."""

    def add_head(
        self,
        widths: Sequence[int],
        num_classes: int,
        block: Callable[[int, int], nn.Module],
        downsample: Callable[[int, int], nn.Module],
    ) -> None:
        """Builds the head.

        Args:
            widths: Channels of the backbone's four maps, finest first.
            num_classes: Number of classes, K.
            block: Makes the block that widens a map, from its channels and the block's inner width.
            downsample: Makes the layer that halves the size of a map, from its channels to those of the next.

        Raises:
            ConfigError: `num_classes` is outside its range.
        """
        require_channels(num_classes=num_classes)
        self.num_classes = num_classes
        inner = (32, 64, 128, 256)
        outer = [Bottleneck.expansion * width for width in inner]
        self.incre_modules = nn.ModuleList(nn.Sequential(block(*each)) for each in zip(widths, inner, strict=True))
        self.downsamp_modules = nn.ModuleList(downsample(fine, coarse) for fine, coarse in pairwise(outer))
        self.final_layer = _biased_conv_bn(outer[-1], 2048, 1)
        self.classifier = nn.Linear(2048, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Maps images (B, in_channels, H, W), float and normalised, to logits (B, K)."""
        finest, *coarser = self.features(images)
        widen_finest, *widen = self.incre_modules
        x = widen_finest(finest)
        for downsample, widen_next, next_map in zip(self.downsamp_modules, widen, coarser, strict=True):
            x = widen_next(next_map) + downsample(x)
        logits: Tensor = self.classifier(self.final_layer(x).mean((2, 3)))
        return logits


class HRNetClassifier(HRNet, ClassifierHead):
    """The ImageNet classifier of HRNet.

    The arguments are those of `Network`.

    Raises:
        ConfigError: An argument is outside its range.
    """

    def __init__(
        self,
        variant: HRNetVariant,
        num_classes: int = 1000,
        in_channels: int = 3,
        bn_momentum: float = 0.1,
        checkpoint_stages: Sequence[int] = (),
    ) -> None:
        super().__init__(variant, in_channels, "nearest", checkpoint_stages=checkpoint_stages)
        self.add_head(self.widths, num_classes, Bottleneck, partial(_biased_conv_bn, kernel=3, stride=2))
        initialize_fan_out(self, bn_momentum)


def _biased_conv_bn(in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """`conv_bn` with a bias, which has no effect before batch norm but is in the official files."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


def initialize_fan_out(network: nn.Module, bn_momentum: float) -> None:
    """Initialises weights as the official classification and detection code: He normal over the outputs.

    Biases keep torch's own initialisation, which has no effect: batch norm follows all of them.
    """
    initialize(network, "official", bn_momentum)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


register(
    "hrnetv2_SIZE_cls",
    HRNetClassifier,
    VARIANTS,
    title="HRNetV2, ImageNet classifier",
    authors="Wang et al.",
    arxiv="1908.07919",
    backbone=HRNET_BACKBONE,
    head_keys=("classifier.weight",),
    classes_key="classifier.weight",
    formats={"official": FileFormat(), "timm": FileFormat()},
)
