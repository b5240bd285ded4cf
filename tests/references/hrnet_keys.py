"""Names and shapes of the official files, written down from their description, and random weights under these names."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Sizes:
    width: int
    blocks: int
    modules: tuple[int, int, int]
    layer1_blocks: int
    layer1_width: int


FULL = (4, (1, 4, 3), 4, 64)
SIZES = {
    "hrnetv2_w18_small_v1": Sizes(16, 2, (1, 1, 1), 1, 32),
    "hrnetv2_w18_small_v2": Sizes(18, 2, (1, 3, 2), 2, 64),
    **{f"hrnetv2_w{width}": Sizes(width, *FULL) for width in (18, 30, 32, 40, 44, 48, 64)},
}


def _norm(name: str, channels: int) -> Shapes:
    vectors = {f"{name}.{kind}": (channels,) for kind in ("weight", "bias", "running_mean", "running_var")}
    return {**vectors, f"{name}.num_batches_tracked": ()}


def _conv(name: str, norm: str, out: int, inside: int, kernel: int) -> Shapes:
    return {f"{name}.weight": (out, inside, kernel, kernel), **_norm(norm, out)}


def _bottleneck(name: str, inside: int, width: int) -> Shapes:
    shapes = {
        **_conv(f"{name}.conv1", f"{name}.bn1", width, inside, 1),
        **_conv(f"{name}.conv2", f"{name}.bn2", width, width, 3),
        **_conv(f"{name}.conv3", f"{name}.bn3", 4 * width, width, 1),
    }
    if inside != 4 * width:
        shapes |= _conv(f"{name}.downsample.0", f"{name}.downsample.1", 4 * width, inside, 1)
    return shapes


def _module(name: str, widths: list[int], blocks: int) -> Shapes:
    shapes: Shapes = {}
    for branch, width in enumerate(widths):
        for block in range(blocks):
            start = f"{name}.branches.{branch}.{block}"
            shapes |= _conv(f"{start}.conv1", f"{start}.bn1", width, width, 3)
            shapes |= _conv(f"{start}.conv2", f"{start}.bn2", width, width, 3)
    for i, wide_i in enumerate(widths):
        for j, wide_j in enumerate(widths):
            start = f"{name}.fuse_layers.{i}.{j}"
            if j > i:
                shapes |= _conv(f"{start}.0", f"{start}.1", wide_i, wide_j, 1)
            for k in range(i - j):
                out = wide_i if k == i - j - 1 else wide_j
                shapes |= _conv(f"{start}.{k}.0", f"{start}.{k}.1", out, wide_j, 3)
    return shapes


def trunk_shapes(sizes: Sizes) -> Shapes:
    c1, c2, c4, c8 = (sizes.width * factor for factor in (1, 2, 4, 8))
    stage1 = 4 * sizes.layer1_width
    shapes = {**_conv("conv1", "bn1", 64, 3, 3), **_conv("conv2", "bn2", 64, 64, 3)}
    for block in range(sizes.layer1_blocks):
        shapes |= _bottleneck(f"layer1.{block}", 64 if block == 0 else stage1, sizes.layer1_width)
    shapes |= _conv("transition1.0.0", "transition1.0.1", c1, stage1, 3)
    shapes |= _conv("transition1.1.0.0", "transition1.1.0.1", c2, stage1, 3)
    shapes |= _conv("transition2.2.0.0", "transition2.2.0.1", c4, c2, 3)
    shapes |= _conv("transition3.3.0.0", "transition3.3.0.1", c8, c4, 3)
    for stage, widths, number in zip((2, 3, 4), ([c1, c2], [c1, c2, c4], [c1, c2, c4, c8]), sizes.modules, strict=True):
        for module in range(number):
            shapes |= _module(f"stage{stage}.{module}", widths, sizes.blocks)
    return shapes


def segmentation_shapes(sizes: Sizes, num_classes: int) -> Shapes:
    """The official segmentation network."""
    wide = 15 * sizes.width
    head = {
        "last_layer.0.weight": (wide, wide, 1, 1),
        "last_layer.0.bias": (wide,),
        **_norm("last_layer.1", wide),
        "last_layer.3.weight": (num_classes, wide, 1, 1),
        "last_layer.3.bias": (num_classes,),
    }
    return trunk_shapes(sizes) | head


def classification_shapes(sizes: Sizes) -> Shapes:
    """The official ImageNet network."""
    shapes = trunk_shapes(sizes)
    for branch, width in enumerate((32, 64, 128, 256)):
        shapes |= _bottleneck(f"incre_modules.{branch}.0", sizes.width * 2**branch, width)
    for step, width in enumerate((128, 256, 512)):
        shapes |= _conv(f"downsamp_modules.{step}.0", f"downsamp_modules.{step}.1", 2 * width, width, 3)
        shapes[f"downsamp_modules.{step}.0.bias"] = (2 * width,)
    shapes |= _conv("final_layer.0", "final_layer.1", 2048, 1024, 1)
    return shapes | {"final_layer.0.bias": (2048,), "classifier.weight": (1000, 2048), "classifier.bias": (1000,)}


def random_weights(shapes: Shapes, seed: int = 0) -> dict[str, Tensor]:
    """Weights that keep activations near 1, so that every entry matters to the result."""
    generator = torch.Generator().manual_seed(seed)

    def draw(name: str, shape: tuple[int, ...]) -> Tensor:
        if name.endswith("num_batches_tracked"):
            return torch.tensor(7)
        noise = torch.randn(shape, generator=generator)
        if name.endswith("running_var") or (len(shape) == 1 and name.endswith("weight")):
            return 1 + 0.5 * noise.tanh()
        return noise * 0.1 if len(shape) == 1 else noise * (2 / shape[1:].numel()) ** 0.5

    return {name: draw(name, torch.Size(shape)) for name, shape in shapes.items()}
