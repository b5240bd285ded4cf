"""HRNetV2p: a feature pyramid for object detection.

Attribute names are those of the official code, so that its weights load without renaming keys.

Source:
    Wang et al., "Deep High-Resolution Representation Learning for Visual Recognition", arXiv 1908.07919,
    section 3.4; HRNet/HRNet-Object-Detection, mmdet/models/necks/hrfpn.py; HRNet/HRNet-MaskRCNN-Benchmark,
    maskrcnn_benchmark/modeling/backbone/hrfpn.py.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from hrseg.models.networks.base import Network
from hrseg.models.networks.classifier import initialize_fan_out
from hrseg.models.networks.hrnet import HRNET_BACKBONE, VARIANTS, HRNet, HRNetVariant, concatenate
from hrseg.models.registry import FileFormat, register


class HRNetV2p(HRNet, Network):
    """HRNetV2p: a feature pyramid of five maps, a backbone for torchvision's `FasterRCNN` and `MaskRCNN`.

    The arguments are those of `Network`.

    Attributes:
        out_channels: Channels of every map of the pyramid.

    Raises:
        ConfigError: An argument is outside its range.
    """

    head_names: ClassVar[tuple[str, ...]] = ("reduction_conv", "fpn_conv")
    out_channels: ClassVar[int] = 256
    smallest_size: ClassVar[int] = 61  # 16 pixels at stride 4, one in the coarsest map

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
        initialize_fan_out(self, bn_momentum)
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
        x = self.reduction_conv(concatenate(self.features(images)))
        levels = [x, *(F.avg_pool2d(x, 2**level) for level in range(1, len(self.fpn_conv)))]
        return OrderedDict((str(level), conv(levels[level])) for level, conv in enumerate(self.fpn_conv))


register(
    "hrnetv2p_SIZE",
    HRNetV2p,
    VARIANTS,
    title="HRNetV2p, pyramid of features for detectors",
    authors="Wang et al.",
    arxiv="1908.07919",
    backbone=HRNET_BACKBONE,
    head_keys=("reduction_conv.0.weight",),
    formats={"official": FileFormat("official detection", under="state_dict"), "timm": FileFormat(backbone_only=True)},
)
