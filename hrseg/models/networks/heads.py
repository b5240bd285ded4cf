"""The HRNetV2 head, from the four maps of a backbone to logits."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hrseg.models.networks.hrnet import Maps, resize
from hrseg.utils.checks import require_channels, require_kernel


def concatenate(maps: Maps, align_corners: bool = False) -> Tensor:
    """Upsamples maps (B, C_k, h_k, w_k), finest first, to the size of the first: (B, sum of all C_k, h_0, w_0)."""
    finest, *coarser = maps
    return torch.cat([finest, *(resize(x, finest.shape[-2:], align_corners=align_corners) for x in coarser)], dim=1)


class V2Head(nn.Sequential):
    """The HRNetV2 head: two convolutions on the concatenation of all maps at the finest size.

    Args:
        widths: Channels of the four maps, finest first; together 15C.
        num_classes: K, the channels of the logits.
        align_corners: Of the bilinear upsampling of the coarser maps.
        kernel: Size of the first convolution: 1, or 3 in openseg.

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
        self.align_corners = align_corners

    def forward(self, maps: Maps) -> Tensor:
        """Maps (B, C * 2**k, h / 2**k, w / 2**k), finest first, to logits (B, K, h, w)."""
        x = concatenate(maps, self.align_corners)
        for layer in self:
            x = layer(x)
        return x
