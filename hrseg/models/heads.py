"""Heads: what turns the four maps of a trunk into logits."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hrseg.models.hrnet import Maps, require, resize


class V2Head(nn.Sequential):
    """The HRNetV2 head: all maps at the finest size, side by side, through two 1x1 convolutions.

    Args:
        widths: Channels of the four maps, finest first; together 15C.
        num_classes: K, the channels of the logits.
        align_corners: Of the bilinear enlargement of the coarser maps.

    Raises:
        ConfigError: `num_classes` is below 1.

    Source:
        HRNet/HRNet-Semantic-Segmentation, lib/models/seg_hrnet.py, last_layer: entries 0, 1 and 3 of its Sequential.
    """

    def __init__(self, widths: Sequence[int], num_classes: int, align_corners: bool) -> None:
        require(isinstance(num_classes, int) and num_classes > 0, "num_classes", num_classes, "a number from 1")
        channels = sum(widths)
        super().__init__(
            nn.Conv2d(channels, channels, 1),  # with a bias, useless before batch norm, that the official files hold
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, num_classes, 1),
        )
        self.align_corners = align_corners

    def forward(self, maps: Maps) -> Tensor:
        """Maps (B, C * 2**k, h / 2**k, w / 2**k), finest first, to logits (B, K, h, w)."""
        finest, *coarser = maps
        size = finest.shape[-2:]
        enlarged = [resize(x, size, align_corners=self.align_corners) for x in coarser]
        x = torch.cat([finest, *enlarged], dim=1)
        for layer in self:
            x = layer(x)
        return x
