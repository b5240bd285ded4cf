"""The ImageNet classifier of HRNet, whose backbone is the start of every other network.

Its parameters have the names of the official files.

Source:
    Wang et al., "Deep High-Resolution Representation Learning for Visual Recognition", arXiv 1908.07919;
    HRNet/HRNet-Image-Classification, lib/models/cls_hrnet.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from hrseg.models.networks.base import Network
from hrseg.models.networks.hrnet import HRNET_BACKBONE, VARIANTS, Bottleneck, HRNet, HRNetVariant, initialize
from hrseg.models.registry import FileFormat, register
from hrseg.utils.checks import require_channels


class HRNetClassifier(HRNet, Network):
    """The ImageNet classifier: the maps widened, downsampled from the finest to the coarsest and added, and averaged.

    Args:
        variant: See `Network`, as for all that are not described here.
        num_classes: K.
        in_channels: Channels of the images.
        bn_momentum: See `Network`.
        checkpoint_stages: Of 1, 2, 3, 4.

    Raises:
        ConfigError: An argument is outside its range.
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
        initialize_fan_out(self, bn_momentum)

    def forward(self, images: Tensor) -> Tensor:
        """Maps images (B, in_channels, H, W), float and normalised, to logits (B, K)."""
        finest, *coarser = self.features(images)
        widen_finest, *widen = self.incre_modules
        x = widen_finest(finest)
        for downsample, widen_next, next_map in zip(self.downsamp_modules, widen, coarser, strict=True):
            x = widen_next(next_map) + downsample(x)
        logits: Tensor = self.classifier(self.final_layer(x).mean((2, 3)))
        return logits


def _biased_conv_bn(in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """As `conv_bn`, with a bias, useless before batch norm, that the official files hold."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


def initialize_fan_out(network: nn.Module, bn_momentum: float) -> None:
    """Initialises weights as the official classification and detection code: He normal over the outputs.

    Biases stay as torch draws them, without effect: batch norm follows all of them.
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
