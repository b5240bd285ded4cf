"""Heads: what turns the four maps of a trunk into logits."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hrseg.models.networks.batch_norm import BatchNorm2d
from hrseg.models.networks.hrnet import Maps, resize
from hrseg.utils.checks import require_channels, require_kernel


class V2Head(nn.Sequential):
    """The HRNetV2 head: all maps at the finest size, side by side, through two convolutions.

    Args:
        widths: Channels of the four maps, finest first; together 15C.
        num_classes: K, the channels of the logits.
        align_corners: Of the bilinear enlargement of the coarser maps.
        kernel: Size of the first convolution; 1 but for openseg, which has 3.

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
            # with a bias, useless before batch norm, that the official files hold
            nn.Conv2d(channels, channels, kernel, padding=kernel // 2),
            BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, num_classes, 1),
        )
        self.align_corners = align_corners

    def forward(self, maps: Maps) -> Tensor:
        """Maps (B, C * 2**k, h / 2**k, w / 2**k), finest first, to logits (B, K, h, w)."""
        first, *layers = self
        # as it was built, the head evaluates in the published multiply-adds; folded batch norms are gone
        as_published = not self.training and isinstance(self[1], nn.BatchNorm2d)
        if maps[0].device.type == "cpu" and not as_published and first.kernel_size == (1, 1):
            x = self._first_before_enlargement(maps)
        else:
            finest, *coarser = maps
            x = first(torch.cat([finest, *(self._enlarge(x, finest) for x in coarser)], dim=1))
        for layer in layers:
            x = layer(x)
        return x

    def _first_before_enlargement(self, maps: Maps) -> Tensor:
        """The result of the first convolution as a sum over the maps, each taken through its part at its own size.

        A 1x1 convolution and an enlargement may change places. The convolution then works on the small maps, and they
        are all that is kept for the backward pass.
        """
        finest, *coarser = maps
        convolution = self[0]
        assert isinstance(convolution, nn.Conv2d)
        weight, *weights = torch.split(convolution.weight, [x.shape[1] for x in maps], dim=1)
        total = F.conv2d(finest, weight, convolution.bias)
        for x, weight in zip(coarser, weights, strict=True):
            total += self._enlarge(F.conv2d(x, weight), finest)
        return total

    def _enlarge(self, x: Tensor, finest: Tensor) -> Tensor:
        return resize(x, finest.shape[-2:], align_corners=self.align_corners)
