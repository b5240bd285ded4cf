"""The HRNet backbone: blocks, multi-resolution modules, and the whole, to be read from top to bottom.

Branch k works at stride 4 * 2**k with width C * 2**k. High resolution is kept throughout: every module runs its
branches in parallel and then fuses each with all others.

Attribute names are those of the official code, so that its weights load without renaming keys.

Source:
    Wang et al., "Deep High-Resolution Representation Learning for Visual Recognition", arXiv 1908.07919, section 3;
    HRNet/HRNet-Semantic-Segmentation, lib/models/seg_hrnet.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hrseg.errors import ConfigError
from hrseg.models.registry import Backbone, Shapes
from hrseg.utils.checks import is_number, is_whole, require, require_channels
from hrseg.utils.upsample import upsample

Maps = tuple[Tensor, ...]  # feature maps, finest first
MakeBlock = Callable[[int], nn.Module]  # from a width to a block that keeps the shape of its input


def conv_bn(in_channels: int, out_channels: int, kernel: int, stride: int = 1, relu: bool = True) -> nn.Sequential:
    """Convolution without bias, with same padding, batch norm, and optionally ReLU."""
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2, bias=False)
    layers: list[nn.Module] = [conv, nn.BatchNorm2d(out_channels)]
    return nn.Sequential(*layers, nn.ReLU(inplace=True)) if relu else nn.Sequential(*layers)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a residual connection; input and output have the same width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, width, h, w) to the same shape."""
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = self.bn2(self.conv2(out))
        out += x
        return F.relu(out, inplace=True)


class Bottleneck(nn.Module):
    """1x1, 3x3 and expanding 1x1 convolution with a residual connection, projected where the width changes."""

    expansion = 4

    def __init__(self, in_channels: int, width: int) -> None:
        super().__init__()
        out_channels = width * self.expansion
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        same = in_channels == out_channels
        self.downsample = nn.Identity() if same else conv_bn(in_channels, out_channels, 1, relu=False)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, in_channels, h, w) to (B, 4 * width, h, w)."""
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = F.relu(self.bn2(self.conv2(out)), inplace=True)
        out = self.bn3(self.conv3(out))
        out += self.downsample(x)
        return F.relu(out, inplace=True)


class Transition(nn.ModuleList):
    """From the branches of a stage to those of the next, the new one from the coarsest at half its size."""

    def __init__(self, in_widths: Sequence[int], out_widths: Sequence[int]) -> None:
        super().__init__()
        for branch, width in enumerate(out_widths):
            if branch >= len(in_widths):
                # nested one level deeper, as in the official code and its files
                self.append(nn.Sequential(conv_bn(in_widths[-1], width, 3, stride=2)))
            elif in_widths[branch] != width:
                self.append(conv_bn(in_widths[branch], width, 3))
            else:
                self.append(nn.Identity())

    def forward(self, maps: Maps) -> Maps:
        """Maps the branches of one stage to those of the next."""
        return tuple(layer(maps[min(branch, len(maps) - 1)]) for branch, layer in enumerate(self))


class HighResolutionModule(nn.Module):
    """Parallel branches of blocks, then their fusion: every output is the ReLU of a sum over all branches.

    Args:
        widths: Channels of the branches, finest first.
        block: Makes a block from its width.
        blocks: Blocks per branch.
        fuse_mode: How coarser maps are upsampled, "bilinear" or "nearest".
        align_corners: Of the bilinear upsampling.
    """

    def __init__(
        self, widths: Sequence[int], block: MakeBlock, blocks: int, fuse_mode: str, align_corners: bool
    ) -> None:
        super().__init__()
        self.fuse_mode = fuse_mode
        self.align_corners = align_corners
        self.branches = nn.ModuleList(nn.Sequential(*(block(width) for _ in range(blocks))) for width in widths)
        self.fuse_layers = nn.ModuleList(
            nn.ModuleList(self._fuse_layer(widths, source, target) for source in range(len(widths)))
            for target in range(len(widths))
        )

    @staticmethod
    def _fuse_layer(widths: Sequence[int], source: int, target: int) -> nn.Module:
        """From the width of branch `source` to that of `target` and, where that is coarser, to its size."""
        if source == target:
            return nn.Identity()
        if source > target:
            return conv_bn(widths[source], widths[target], 1, relu=False)
        downsamples = [conv_bn(widths[source], widths[source], 3, stride=2) for _ in range(target - source - 1)]
        return nn.Sequential(*downsamples, conv_bn(widths[source], widths[target], 3, stride=2, relu=False))

    def forward(self, maps: Maps) -> Maps:
        """Maps branches (B, C * 2**k, h / 2**k, w / 2**k) to the same shapes, or to the first alone in HRNetV1."""
        maps = tuple(branch(x) for branch, x in zip(self.branches, maps, strict=True))
        return tuple(self._fuse(maps, target) for target in range(len(self.fuse_layers)))

    def _fuse(self, maps: Maps, target: int) -> Tensor:
        size = maps[target].shape[-2:]
        layers = self.fuse_layers[target]
        assert isinstance(layers, nn.ModuleList)
        total: Tensor = layers[0](maps[0])
        for source in range(1, len(maps)):
            term = layers[source](maps[source])
            if source > target:
                term = upsample(term, size, self.align_corners, self.fuse_mode)
            if source == 1:
                total = total + term  # not in place: the first may be a branch's own map, which other targets need
            else:
                total += term
        return F.relu(total, inplace=True)


@dataclass(frozen=True)
class HRNetVariant:
    """Width, depth and block of a backbone.

    Args:
        width: C, the channels of the finest branch; the next ones have 2C, 4C and 8C.
        blocks: Blocks of each branch of a module.
        modules: Modules of stages 2, 3 and 4.
        layer1_blocks: Bottleneck blocks of stage 1.
        layer1_width: Inner width of those bottlenecks; their output has four times as many channels.
        block: Makes the blocks of stages 2 to 4: plain, or with attention of `psa.py`.

    Raises:
        ConfigError: A number is outside its range.
    """

    width: int
    blocks: int = 4
    modules: tuple[int, int, int] = (1, 4, 3)
    layer1_blocks: int = 4
    layer1_width: int = 64
    block: MakeBlock = BasicBlock

    def __post_init__(self) -> None:
        require(is_whole(self.width, 1, 1024), "width", self.width, "a number from 1 to 1024")
        require_channels(layer1_width=self.layer1_width)
        for name in ("blocks", "layer1_blocks"):
            require(is_whole(getattr(self, name), 1, 100), name, getattr(self, name), "a number from 1 to 100")
        modules_known = isinstance(self.modules, list | tuple) and len(self.modules) == 3
        modules_known = modules_known and all(is_whole(number, 0, 100) for number in self.modules)
        require(modules_known, "modules", self.modules, "three numbers from 0 to 100, of stages 2, 3 and 4")
        require(callable(self.block), "block", self.block, "a class or function that makes a block from its width")


VARIANTS = {
    # the first is 16 wide, in spite of its name
    "w18_small_v1": HRNetVariant(16, blocks=2, modules=(1, 1, 1), layer1_blocks=1, layer1_width=32),
    "w18_small_v2": HRNetVariant(18, blocks=2, modules=(1, 3, 2), layer1_blocks=2),
    "w18": HRNetVariant(18),
    "w30": HRNetVariant(30),
    "w32": HRNetVariant(32),
    "w40": HRNetVariant(40),
    "w44": HRNetVariant(44),
    "w48": HRNetVariant(48),
    "w64": HRNetVariant(64),
}


class HRNet(nn.Module):
    """The backbone: a stem to stride 4, one stage of bottlenecks, and three stages with 2, 3 and 4 branches.

    The arguments are those of `base.Network`. Weights keep torch's own initialisation; networks built on the backbone
    call `initialize`.

    Attributes:
        widths: Channels of the maps that `features` returns.
        strides: Their output strides.

    Raises:
        ConfigError: An argument is outside its range.
    """

    smallest_size: ClassVar[int] = 1  # of the images' sides, in pixels
    strides: ClassVar[tuple[int, ...]] = (4, 8, 16, 32)
    draws: ClassVar[bool] = False  # whether stages draw random numbers in training

    def __init__(
        self,
        variant: HRNetVariant,
        in_channels: int = 3,
        fuse_mode: str = "bilinear",
        align_corners: bool = False,
        checkpoint_stages: Sequence[int] = (),
    ) -> None:
        require_channels(in_channels=in_channels)
        require(isinstance(variant, HRNetVariant), "variant", variant, "an HRNetVariant, such as one of VARIANTS")
        require(fuse_mode in ("bilinear", "nearest"), "fuse_mode", fuse_mode, "bilinear or nearest")
        require(isinstance(align_corners, bool), "align_corners", align_corners, "true or false")
        is_list = isinstance(checkpoint_stages, list | tuple)
        stages_known = is_list and all(is_whole(stage, 1, 4) for stage in checkpoint_stages)
        require(stages_known, "checkpoint_stages", checkpoint_stages, "a list of stages out of 1, 2, 3, 4")
        super().__init__()
        self.in_channels = in_channels
        self.fuse_mode = fuse_mode
        self.align_corners = align_corners
        self.checkpoint_stages = frozenset(checkpoint_stages)
        self.widths = tuple(variant.width * 2**branch for branch in range(4))

        self.conv1 = nn.Conv2d(in_channels, 64, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.conv2 = nn.Conv2d(64, 64, 3, stride=2, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(64)
        self.relu: nn.Module = nn.ReLU(inplace=True)
        layer1_width = variant.layer1_width * Bottleneck.expansion
        self.layer1 = nn.Sequential(
            Bottleneck(64, variant.layer1_width),
            *(Bottleneck(layer1_width, variant.layer1_width) for _ in range(variant.layer1_blocks - 1)),
        )

        def stage(branches: int) -> nn.Sequential:
            modules = variant.modules[branches - 2]
            arguments = self.widths[:branches], variant.block, variant.blocks, fuse_mode, align_corners
            return nn.Sequential(*(HighResolutionModule(*arguments) for _ in range(modules)))

        self.transition1 = Transition((layer1_width,), self.widths[:2])
        self.stage2 = stage(branches=2)
        self.transition2 = Transition(self.widths[:2], self.widths[:3])
        self.stage3 = stage(branches=3)
        self.transition3 = Transition(self.widths[:3], self.widths)
        self.stage4 = stage(branches=4)

    def features(self, images: Tensor) -> Maps:
        """Computes the four feature maps for the head.

        Args:
            images: (B, in_channels, H, W) float, normalised; any H and W.

        Returns:
            Four maps, finest first: (B, C * 2**k, H / stride, W / stride), stride 4 * 2**k, sizes rounded up.

        Raises:
            ConfigError: The images have another type, number of channels, or are too small.
        """
        if not torch.compiler.is_compiling():
            self._check(images)
            if images.device.type == "cpu" and not self.training:
                images = images.contiguous(memory_format=torch.channels_last)  # faster, whatever the weights' format
        x = self.relu(self.bn1(self.conv1(images)))
        x = self.relu(self.bn2(self.conv2(x)))
        x = self._run(1, self.layer1, x)
        maps: Maps = self._run(2, self.stage2, self.transition1((x,)))
        maps = self._run(3, self.stage3, self.transition2(maps))
        maps = self._run(4, self.stage4, self.transition3(maps))
        return maps

    def _run(self, stage: int, units: nn.Sequential, x: Any) -> Any:
        """Runs the blocks or modules of a stage, each with activation checkpointing if the stage has it."""
        recompute = self.training and stage in self.checkpoint_stages
        for unit in units:
            x = _recomputed(unit, x, self.draws) if recompute else unit(x)
        return x

    def _check(self, images: Tensor) -> None:
        if torch.jit.is_tracing():  # type: ignore[attr-defined,no-untyped-call]
            return  # a check would specialise the graph to these sizes
        shape = tuple(images.shape)
        if len(shape) != 4 or shape[1] != self.in_channels or min(shape[2:]) < self.smallest_size:
            raise ConfigError(
                f"images of shape {shape}; expected (batch, {self.in_channels}, height, width), "
                f"height and width from {self.smallest_size}"
            )
        if not images.is_floating_point():
            raise ConfigError(f"images of type {images.dtype}; expected float: divide by 255 and normalise them first")


def concatenate(maps: Maps, align_corners: bool = False) -> Tensor:
    """Upsamples maps (B, C_k, h_k, w_k) to the size of the first, and joins them: (B, sum of all C_k, h_0, w_0)."""
    finest, *coarser = maps
    return torch.cat([finest, *(upsample(x, finest.shape[-2:], align_corners) for x in coarser)], dim=1)


def initialize(network: nn.Module, init: str, bn_momentum: float) -> None:
    """Initialises every convolution and the momentum of every batch norm of a network.

    Args:
        network: Changed in place.
        init: "official": convolutions normal with a std of 0.001, biases with torch's own initialisation, before
            ImageNet weights are loaded, as in all official segmentation recipes. "kaiming": He normal over the inputs,
            biases zero, for training from scratch.
        bn_momentum: See `base.Network`.

    Raises:
        ConfigError: An argument is outside its range.

    Source:
        HRNet/HRNet-Semantic-Segmentation, lib/models/seg_hrnet.py, init_weights.
    """
    require(init in ("official", "kaiming"), "init", init, "official or kaiming")
    require(is_number(bn_momentum) and 0 < bn_momentum <= 1, "bn_momentum", bn_momentum, "above 0 and at most 1")
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = bn_momentum
        elif isinstance(module, nn.Conv2d) and init == "official":
            nn.init.normal_(module.weight, std=0.001)
        elif isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def _recomputed(unit: nn.Module, x: Any, draws: bool) -> Any:
    """Applies a unit with activation checkpointing, and updates running statistics in the first forward pass only."""
    if torch.compiler.is_compiling():  # recomputation in a compiled graph leaves buffers alone
        return checkpoint(unit, x, use_reentrant=False)
    return checkpoint(
        unit,
        x,
        use_reentrant=False,
        preserve_rng_state=draws,  # takes time
        context_fn=lambda: (nullcontext(), _scratch_statistics(unit)),
    )


@contextmanager
def _scratch_statistics(unit: nn.Module) -> Iterator[None]:
    """Lets batch norms update copies of their running statistics, which are then discarded."""
    norms = [module for module in unit.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    kept = [dict(norm.named_buffers()) for norm in norms]
    for norm, buffers in zip(norms, kept, strict=True):
        for name, buffer in buffers.items():
            setattr(norm, name, buffer.clone())
    try:
        yield
    finally:
        for norm, buffers in zip(norms, kept, strict=True):
            for name, buffer in buffers.items():
                setattr(norm, name, buffer)


def count_units(shapes: Shapes, pattern: str) -> int:
    """Counts the different numbers that the first group of a pattern matches at the start of keys."""
    return len({match[1] for key in shapes if (match := re.match(pattern, key))})


def read_backbone(shapes: Shapes) -> tuple[str, dict[str, Any]] | None:
    """Reads the size (a key of `VARIANTS`) and constructor arguments of an HRNet; None for unknown sizes."""
    if not {"conv1.weight", "transition1.0.0.weight", "layer1.0.conv1.weight"} <= set(shapes):
        return None
    two, three, four = (count_units(shapes, rf"stage{stage}\.(\d+)\.") for stage in (2, 3, 4))
    found = HRNetVariant(
        width=shapes["transition1.0.0.weight"][0],
        blocks=count_units(shapes, r"stage2\.0\.branches\.0\.(\d+)\."),
        modules=(two, three, four),
        layer1_blocks=count_units(shapes, r"layer1\.(\d+)\."),
        layer1_width=shapes["layer1.0.conv1.weight"][0],
    )
    size = next((size for size, variant in VARIANTS.items() if variant == found), None)
    return None if size is None else (size, {"in_channels": shapes["conv1.weight"][1]})


HRNET_BACKBONE = Backbone(
    read_backbone,
    pretrained_as="hrnetv2_SIZE",
    # the last module of HRNetV1 fuses to the finest map only
    optional_keys=(r"(stage4\.\d+\.fuse_layers)\.[1-3]\.",),
)
