"""HRFormer: HRNet with transformer blocks, and the networks built on it.

Stem, stage 1 and transitions are HRNet's. A branch is a sequence of transformer blocks: self-attention within local
windows, then a feed-forward network whose depth-wise 3x3 convolution exchanges information across windows.

Attribute names are those of the official code, so that its weights load without renaming keys.

Source:
    Yuan et al., "HRFormer: High-Resolution Transformer for Dense Prediction", arXiv 2110.09408, section 3;
    HRNet/HRFormer, cls/models/hrt.py and seg/lib/models/backbones/hrt/.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hrseg.models.networks.base import check_channel_order
from hrseg.models.networks.classifier import ClassifierHead
from hrseg.models.networks.hrnet import (
    BasicBlock,
    Bottleneck,
    HighResolutionModule,
    HRNet,
    HRNetVariant,
    conv_bn,
    count_units,
)
from hrseg.models.networks.ocr import OPENSEG, OCRHead
from hrseg.models.networks.window_attention import BIAS_TABLE, WindowAttention, resize_bias_tables
from hrseg.models.registry import Backbone, FileFormat, Shapes, register
from hrseg.utils.checks import is_number, is_whole, require


@dataclass(frozen=True)
class HRFormerVariant:
    """Width and depth of a backbone.

    Args:
        width: C, the channels of the finest branch; the next ones have 2C, 4C and 8C.
        heads: Attention heads of the finest branch; the next ones have two, four and eight times as many.
        modules: Modules of stages 2, 3 and 4.
        blocks: Transformer blocks of each branch of a module.

    Raises:
        ConfigError: A number is outside its range, or the heads do not divide the width.
    """

    width: int
    heads: int
    modules: tuple[int, int, int]
    blocks: int = 2

    def __post_init__(self) -> None:
        HRNetVariant(self.width, self.blocks, self.modules)  # checks the ranges
        divides = is_whole(self.heads) and self.width % self.heads == 0
        require(divides, "heads", self.heads, f"a number that divides the width {self.width}")


HRFORMER_VARIANTS = {
    "t": HRFormerVariant(18, heads=1, modules=(1, 3, 2)),
    "s": HRFormerVariant(32, heads=1, modules=(1, 4, 2)),
    "b": HRFormerVariant(78, heads=2, modules=(1, 4, 2)),
}


class DropPath(nn.Module):
    """Stochastic depth: in training, zeroes samples of a batch at random and scales the others up.

    Args:
        probability: Probability that a sample is zeroed, from 0 to below 1.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, ...) to the same shape."""
        if not self.training or self.probability == 0:
            return x
        keeps = torch.rand(len(x), *[1] * (x.ndim - 1), device=x.device) >= self.probability
        return x * keeps.to(x.dtype).div(1 - self.probability)


class FeedForward(nn.Module):
    """1x1 convolution to four times the width, depth-wise 3x3, 1x1 back to the width; all with batch norm and GELU."""

    expansion = 4

    def __init__(self, width: int) -> None:
        super().__init__()
        inner = width * self.expansion
        self.fc1 = nn.Conv2d(width, inner, 1)
        self.norm1 = nn.BatchNorm2d(inner)
        self.dw3x3 = nn.Conv2d(inner, inner, 3, padding=1, groups=inner)
        self.norm2 = nn.BatchNorm2d(inner)
        self.fc2 = nn.Conv2d(inner, width, 1)
        self.norm3 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, width, h, w) to the same shape."""
        x = self.norm2(self.dw3x3(F.gelu(self.norm1(self.fc1(x)))))  # nested, which frees each map early
        x = F.gelu(x)
        return F.gelu(self.norm3(self.fc2(x)))


class TransformerBlock(nn.Module):
    """Window attention and feed-forward network, each after a layer norm and with a residual connection.

    `WindowAttention` describes the arguments that are not listed here.

    Args:
        drop_path: Probability of stochastic depth for both residual branches.
    """

    def __init__(self, width: int, heads: int, window_size: int, drop_path: float) -> None:
        super().__init__()
        self.attn = WindowAttention(width, heads, window_size)
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.drop_path = DropPath(drop_path)
        self.mlp = FeedForward(width)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, C, h, w) to the same shape, in channels_last."""
        x = x.permute(0, 2, 3, 1).contiguous()  # copies in the first block at most
        x = x + self.drop_path(self.attn(self.norm1(x)))
        hidden = self.mlp(self.norm2(x).permute(0, 3, 1, 2))
        x = x.permute(0, 3, 1, 2) + self.drop_path(hidden)
        return x


class TransformerModule(HighResolutionModule):
    """Parallel branches of transformer blocks, then their fusion as in HRNet, but with depth-wise convolutions.

    Coarser maps are upsampled by an integer factor (nearest) and then, if the finer map has an odd size, resized
    bilinearly.

    Args:
        widths: Channels of the branches, finest first.
        heads: Attention heads of the finest branch.
        window_size: Side of the windows.
        drop_paths: Probability of stochastic depth in each block of a branch.
    """

    def __init__(self, widths: Sequence[int], heads: int, window_size: int, drop_paths: Sequence[float]) -> None:
        super().__init__(widths, BasicBlock, blocks=0, fuse_mode="bilinear", align_corners=True)
        self.branches = nn.ModuleList(
            nn.Sequential(*(TransformerBlock(width, heads * 2**branch, window_size, rate) for rate in drop_paths))
            for branch, width in enumerate(widths)
        )

    @staticmethod
    def _fuse_layer(widths: Sequence[int], source: int, target: int) -> nn.Module:
        """Maps the width and size of branch `source` to those of `target`, odd sizes rounded up."""
        if source == target:
            return nn.Identity()
        if source > target:
            conv, norm = conv_bn(widths[source], widths[target], 1, relu=False)
            return nn.Sequential(conv, norm, nn.Upsample(scale_factor=2 ** (source - target)))
        downsamples = [_depthwise_downsample(widths[source], widths[source]) for _ in range(target - source - 1)]
        for downsample in downsamples:
            downsample.append(nn.ReLU(inplace=True))
        return nn.Sequential(*downsamples, _depthwise_downsample(widths[source], widths[target]))


def _depthwise_downsample(in_channels: int, out_channels: int, bias: bool = False) -> nn.Sequential:
    """A depth-wise 3x3 convolution of stride 2 and a 1x1 convolution to the new width, each with batch norm."""
    return nn.Sequential(
        nn.Conv2d(in_channels, in_channels, 3, stride=2, padding=1, groups=in_channels, bias=bias),
        nn.BatchNorm2d(in_channels),
        nn.Conv2d(in_channels, out_channels, 1, bias=bias),
        nn.BatchNorm2d(out_channels),
    )


class HRFormer(HRNet):
    """The backbone: HRNet's stem, two bottlenecks, and three stages of transformer modules with 2, 3 and 4 branches.

    All bilinear upsampling aligns corners. Weights keep torch's own initialisation; bias tables are normal with a std
    of 0.02, as in the official code. `Network` describes the arguments that are not listed here.

    Args:
        window_size: Side of the windows, in pixels of each map; 7 in the published classifiers, up to 15 in
            segmentation. `window_attention.resize_bias_tables` adapts weights to another.
        drop_path: Probability of stochastic depth in the last block; it rises linearly from 0 in the first block.
            Parallel branches have equal probabilities.

    Raises:
        ConfigError: An argument is outside its range.
    """

    draws: ClassVar[bool] = True

    def __init__(
        self,
        variant: HRFormerVariant,
        in_channels: int = 3,
        window_size: int = 7,
        drop_path: float = 0.0,
        checkpoint_stages: Sequence[int] = (),
    ) -> None:
        require(is_whole(window_size, 1, 32), "window_size", window_size, "a number from 1 to 32")
        require(is_number(drop_path, 0, 1), "drop_path", drop_path, "from 0 to below 1")
        # stages are empty here, and replaced below
        without_stages = HRNetVariant(variant.width, modules=(0, 0, 0), layer1_blocks=2)
        super().__init__(without_stages, in_channels, align_corners=True, checkpoint_stages=checkpoint_stages)
        self.window_size = window_size

        depth = variant.blocks * sum(variant.modules)
        rates = iter([drop_path * block / max(depth - 1, 1) for block in range(depth)])

        def stage(branches: int) -> nn.Sequential:
            widths = self.widths[:branches]
            modules = variant.modules[branches - 2]
            return nn.Sequential(
                *(
                    TransformerModule(widths, variant.heads, window_size, [next(rates) for _ in range(variant.blocks)])
                    for _ in range(modules)
                )
            )

        self.stage2 = stage(branches=2)
        self.stage3 = stage(branches=3)
        self.stage4 = stage(branches=4)

    def adapt_backbone(self, entries: Mapping[str, Any]) -> dict[str, Any]:
        """Resizes the bias tables of a state dict to the network's window size."""
        return resize_bias_tables(entries, self.window_size)


class DepthwiseBottleneck(Bottleneck):
    """HRNet's bottleneck with a depth-wise 3x3 convolution."""

    def __init__(self, in_channels: int, width: int) -> None:
        super().__init__(in_channels, width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False)


class HRFormerClassifier(HRFormer, ClassifierHead):
    """The ImageNet classifier of HRFormer.

    `Network` and `HRFormer` describe the arguments that are not listed here.

    Args:
        drop_path: 0 in the published T and S, 0.2 in B.

    Raises:
        ConfigError: An argument is outside its range.

    Source:
        HRNet/HRFormer, cls/models/hrt.py.
    """

    def __init__(
        self,
        variant: HRFormerVariant,
        num_classes: int = 1000,
        in_channels: int = 3,
        window_size: int = 7,
        drop_path: float = 0.0,
        checkpoint_stages: Sequence[int] = (),
    ) -> None:
        super().__init__(variant, in_channels, window_size, drop_path, checkpoint_stages)

        def downsample(fine: int, coarse: int) -> nn.Sequential:
            return _depthwise_downsample(fine, coarse, bias=True).append(nn.ReLU(inplace=True))

        self.add_head(self.widths, num_classes, DepthwiseBottleneck, downsample)


class HRFormerOCR(HRFormer, OCRHead):
    """HRFormer + OCR for semantic segmentation, the official "OCR v2".

    Keys of the backbone are the official ones without `backbone.`, keys of the head those of HRNetV2 + OCR. `Network`
    and `HRFormer` describe the arguments that are not listed here.

    Args:
        window_size: 7, 13 or 15 in the published networks.
        drop_path: 0.4 in the published B for Cityscapes, 0.3 in the one for PASCAL-Context with windows of 15.
        dropout: Probability that a channel of the last features is zeroed in training.
        channel_order: "bgr" in the official segmentation weights.

    Raises:
        ConfigError: An argument is outside its range.

    Source:
        HRNet/HRFormer, seg/lib/models/nets/hrt.py.
    """

    def __init__(
        self,
        variant: HRFormerVariant,
        num_classes: int = 19,
        in_channels: int = 3,
        window_size: int = 7,
        drop_path: float = 0.2,
        checkpoint_stages: Sequence[int] = (),
        dropout: float = 0.05,
        channel_order: str = "rgb",
    ) -> None:
        super().__init__(variant, in_channels, window_size, drop_path, checkpoint_stages)
        self.channel_order = check_channel_order(channel_order)
        self.add_head(self.widths, num_classes, dropout=dropout, inner_bias=True, aux_kernel=3, aux_channels=512)


_TABLE = f"stage2.0.branches.0.0.attn.attn.{BIAS_TABLE}"


def _read_backbone(shapes: Shapes) -> tuple[str, dict[str, Any]] | None:
    if not {"conv1.weight", "transition1.0.0.weight", "layer1.0.conv1.weight", _TABLE} <= set(shapes):
        return None
    rows, heads = shapes[_TABLE]
    two, three, four = (count_units(shapes, rf"stage{stage}\.(\d+)\.") for stage in (2, 3, 4))
    found = HRFormerVariant(
        width=shapes["transition1.0.0.weight"][0],
        heads=heads,
        modules=(two, three, four),
        blocks=count_units(shapes, r"stage2\.0\.branches\.0\.(\d+)\."),
    )
    size = next((size for size, variant in HRFORMER_VARIANTS.items() if variant == found), None)
    arguments = {"in_channels": shapes["conv1.weight"][1], "window_size": (round(rows**0.5) + 1) // 2}
    return None if size is None else (size, arguments)


_BACKBONE = Backbone(_read_backbone, pretrained_as="hrformer_SIZE", block_key=_TABLE)

register(
    "hrformer_SIZE",
    HRFormerClassifier,
    HRFORMER_VARIANTS,
    title="HRFormer, ImageNet classifier",
    authors="Yuan et al.",
    arxiv="2110.09408",
    counts_attention=True,
    backbone=_BACKBONE,
    head_keys=("classifier.weight",),
    classes_key="classifier.weight",
    formats={"official": FileFormat(under="model")},
)
register(
    "hrformer_SIZE_ocr",
    HRFormerOCR,
    HRFORMER_VARIANTS,
    title="HRFormer + OCR",
    authors="Yuan et al.",
    arxiv="2110.09408",
    counts_attention=True,
    backbone=_BACKBONE,
    head_keys=("cls_head.weight",),
    classes_key="cls_head.weight",
    formats={"official": OPENSEG},
)
