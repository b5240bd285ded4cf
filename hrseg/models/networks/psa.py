"""Polarized self-attention (PSA), over channels and over pixels, in the blocks of HRNet; and the networks with it.

The variant selects the blocks: `dataclasses.replace(VARIANTS["w48"], block=PSA_BLOCKS["psa_s"])`.

The official code applies each 1x1 convolution to every pixel, even where only a (weighted) mean of the results is used.
Here the convolution follows the mean, with the same results but for rounding.

Source:
    Liu et al., "Polarized Self-Attention: Towards High-quality Pixel-wise Regression", arXiv 2107.00782;
    DeLightCMU/PSA, semantic-segmentation/network/PSA.py and hrnetv2.py.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from hrseg.models.networks.hmsa import HRNetV2OCRMultiScale
from hrseg.models.networks.hrnet import HRNET_BACKBONE, VARIANTS, MakeBlock
from hrseg.models.networks.hrnetv2 import HRNetV2, head_arguments as plain_arguments
from hrseg.models.networks.ocr import NVIDIA, OPENSEG, HRNetV2OCR, head_arguments as ocr_arguments
from hrseg.models.registry import FileFormat, register
from hrseg.utils.checks import require


def conv1x1(in_channels: int, out_channels: int) -> nn.Conv2d:
    """A 1x1 convolution without bias."""
    return nn.Conv2d(in_channels, out_channels, 1, bias=False)


class PolarizedSelfAttention(nn.Module, ABC):
    """Attention over channels and attention over pixels, with weights from 0 to 1; subclasses combine the two.

    In the official names, "right" is the attention over channels, "left" the one over pixels.

    Args:
        width: C, the channels of the maps.
        conv_up: Maps (B, C / 2, 1, 1), the result of the attention over channels, to (B, C, 1, 1).
    """

    def __init__(self, width: int, conv_up: nn.Module) -> None:
        super().__init__()
        self.conv_q_right = conv1x1(width, 1)
        self.conv_v_right = conv1x1(width, width // 2)
        self.conv_up = conv_up
        self.conv_q_left = conv1x1(width, width // 2)
        self.conv_v_left = conv1x1(width, width // 2)

    def weigh_channels(self, x: Tensor) -> Tensor:
        """Multiplies each channel of (B, C, h, w) by its weight, computed from a weighted mean of the pixels."""
        attention = self.conv_q_right(x).flatten(2).softmax(2)
        mean = x.flatten(2) @ attention.transpose(1, 2)
        weights: Tensor = self.conv_up(self.conv_v_right(mean.unsqueeze(3))).sigmoid()
        return x * weights

    def weigh_pixels(self, x: Tensor) -> Tensor:
        """Multiplies each pixel of (B, C, h, w) by its weight, computed from the mean of all pixels as the query."""
        query = self.conv_q_left(x.mean((2, 3), keepdim=True)).flatten(2).transpose(1, 2)
        return x * self.scores(x, query).view(-1, 1, *x.shape[2:]).sigmoid()

    @abstractmethod
    def scores(self, x: Tensor, query: Tensor) -> Tensor:
        """Products of a query (B, 1, C / 2) with the values of the pixels of (B, C, h, w): (B, 1, h * w)."""


class ParallelPSA(PolarizedSelfAttention):
    """PSA(p): the sum of the maps weighted by channel and of those weighted by pixel; softmax over the products."""

    def __init__(self, width: int) -> None:
        super().__init__(width, conv1x1(width // 2, width))

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, C, h, w) to the same shape."""
        return self.weigh_channels(x) + self.weigh_pixels(x)

    def scores(self, x: Tensor, query: Tensor) -> Tensor:
        """Products of query and values; the convolution of the values is applied to the query."""
        return (query @ self.conv_v_left.weight.flatten(1) @ x.flatten(2)).softmax(2)


class SequentialPSA(PolarizedSelfAttention):
    """PSA(s), as in the released segmentation code: channels first, then pixels; softmax over each map of values.

    Args:
        width: C, the channels of the maps.

    Raises:
        ConfigError: `width` is below 8, which would leave the narrowest layer without channels.
    """

    def __init__(self, width: int) -> None:
        require(width >= 8, "width", width, "at least 8")
        inner, narrow = width // 2, width // 2 // 4
        conv_up = nn.Sequential(
            nn.Conv2d(inner, narrow, 1),
            nn.LayerNorm((narrow, 1, 1)),
            nn.ReLU(inplace=True),
            nn.Conv2d(narrow, width, 1),
        )
        super().__init__(width, conv_up)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, C, h, w) to the same shape."""
        return self.weigh_pixels(self.weigh_channels(x))

    def scores(self, x: Tensor, query: Tensor) -> Tensor:
        """Products of query and values; each channel of the values sums to 1 over the pixels."""
        values: Tensor = self.conv_v_left(x).flatten(2).softmax(2)
        return query @ values


class PSABlock(nn.Module):
    """A `BasicBlock` with attention between its two convolutions.

    Args:
        width: Channels of the maps.
        attention: Makes the attention layer from the width.
    """

    def __init__(self, width: int, attention: MakeBlock) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.deattn = attention(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, width, h, w) to the same shape."""
        out = self.deattn(F.relu(self.bn1(self.conv1(x)), inplace=True))
        out = self.bn2(self.conv2(out))
        out += x
        return F.relu(out, inplace=True)


PSA_BLOCKS: dict[str, MakeBlock] = {
    "psa_p": partial(PSABlock, attention=ParallelPSA),
    "psa_s": partial(PSABlock, attention=SequentialPSA),
}

for _block, _order, _key in (
    ("psa_p", "parallel", "conv_up.weight"),
    ("psa_s", "sequence", "conv_up.0.weight"),
):
    _sizes = {size: replace(variant, block=PSA_BLOCKS[_block]) for size, variant in VARIANTS.items()}
    _backbone = replace(
        HRNET_BACKBONE,
        block_key=f"stage2.0.branches.0.0.deattn.{_key}",
        # files of plain HRNets lack the attention of all blocks
        optional_keys=(*HRNET_BACKBONE.optional_keys, r".*(\.deattn\.)"),
    )
    register(
        f"hrnetv2_SIZE_{_block}",
        HRNetV2,
        _sizes,
        title=f"HRNetV2, polarized self-attention (PSA) in {_order}",
        authors="Liu et al.",
        arxiv="2107.00782",
        backbone=_backbone,
        head_keys=("last_layer.0.weight",),
        classes_key="last_layer.3.weight",
        head_arguments=plain_arguments,
        formats={"official": FileFormat(prefix="model.")},
    )
    register(
        f"hrnetv2_SIZE_{_block}_ocr",
        partial(HRNetV2OCR, align_corners=False),  # as in NVIDIA's code, which the official code is based on
        _sizes,
        title=f"HRNetV2 + OCR, PSA in {_order}",
        authors="Liu et al.",
        arxiv="2107.00782",
        backbone=_backbone,
        head_keys=("cls_head.weight",),
        classes_key="cls_head.weight",
        head_arguments=ocr_arguments,
        formats={"official": lambda config: OPENSEG if config["inner_bias"] else NVIDIA},
    )
    register(
        f"hrnetv2_SIZE_{_block}_ocr_hmsa",
        HRNetV2OCRMultiScale,
        _sizes,
        title=f"HRNetV2 + OCR, multi-scale attention, PSA in {_order}",
        authors="Liu et al.",
        arxiv="2107.00782",
        backbone=_backbone,
        head_keys=("cls_head.weight", "scale_attn.conv0.weight"),
        classes_key="cls_head.weight",
        head_arguments=ocr_arguments,
        formats={"official": NVIDIA},
    )
