"""HRFormer as plain functions of images and official weights; slow, and independent of hrseg.

It takes the depth from the names of the weights, goes through the attention window by window and head by head with the
softmax written out, asks for every pair of pixels which row of the bias table is theirs, and pads with explicit zeros.
"""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.references.hrnet_keys import Shapes, _bottleneck, _conv, _norm
from tests.references.hrnet_plain import Weights, enlarge


@cache
def table_rows(window: int) -> Tensor:
    """For every query and key of a window the row of the bias table, from the two pixels' coordinates."""
    rows = torch.empty(window**2, window**2, dtype=torch.int64)
    for query in range(window**2):
        for key in range(window**2):
            down = query // window - key // window
            right = query % window - key % window
            rows[query, key] = (down + window - 1) * (2 * window - 1) + right + window - 1
    return rows


def attention(x: Tensor, w: Weights, name: str, window: int) -> Tensor:
    """Window attention of (C, h, w) after its layer norm."""
    channels, height, width = x.shape
    rows, columns = -(-height // window), -(-width // window)
    top, left = (rows * window - height) // 2, (columns * window - width) // 2
    table = w[f"{name}.relative_position_bias_table"]
    heads = table.shape[1]
    out = torch.zeros_like(x)

    def project(tokens: Tensor, kind: str) -> Tensor:
        return tokens @ w[f"{name}.{kind}_proj.weight"].T + w[f"{name}.{kind}_proj.bias"]

    for row in range(rows):
        for column in range(columns):
            places = [
                (row * window + i - top, column * window + j - left) for i in range(window) for j in range(window)
            ]
            inside = [0 <= i < height and 0 <= j < width for i, j in places]
            tokens = torch.stack(
                [x[:, i, j] if known else x.new_zeros(channels) for (i, j), known in zip(places, inside, strict=True)]
            )
            query, key, value = (project(tokens, kind) for kind in "qkv")
            parts = []
            for head in range(heads):
                part = slice(head * channels // heads, (head + 1) * channels // heads)
                scores = query[:, part] @ key[:, part].T / (channels / heads) ** 0.5
                scores = (scores + table[table_rows(window), head]).exp()
                parts.append(scores / scores.sum(1, keepdim=True) @ value[:, part])
            result = project(torch.cat(parts, 1), "out")
            for token, ((i, j), known) in enumerate(zip(places, inside, strict=True)):
                if known:
                    out[:, i, j] = result[token]
    return out


def hrformer_plain(images: Tensor, w: Weights, window: int = 7, batch_statistics: bool = False) -> list[Tensor]:
    """The four maps of the trunk, in the precision of the images; with `batch_statistics` as batch norm in training."""
    w = {name: tensor.to(images.dtype) for name, tensor in w.items()}

    def count(start: str) -> int:
        return len({name[len(start) :].split(".")[0] for name in w if name.startswith(start)})

    def conv(x: Tensor, name: str, norm: str, stride: int = 1) -> Tensor:
        return _conv_norm(x, w, name, norm, stride, batch_statistics)

    def layer_norm(x: Tensor, name: str) -> Tensor:
        mean = x.mean(1, keepdim=True)
        var = ((x - mean) ** 2).mean(1, keepdim=True)
        scale, shift = (w[f"{name}.{e}"].view(1, -1, 1, 1) for e in ("weight", "bias"))
        return (x - mean) / (var + 1e-6).sqrt() * scale + shift

    def gelu(x: Tensor) -> Tensor:
        return x * (1 + torch.erf(x / 2**0.5)) / 2

    def transformer(x: Tensor, name: str) -> Tensor:
        normed = layer_norm(x, f"{name}.norm1")
        x = x + torch.stack([attention(image, w, f"{name}.attn.attn", window) for image in normed])
        y = layer_norm(x, f"{name}.norm2")
        for layer, norm in (("fc1", "norm1"), ("dw3x3", "norm2"), ("fc2", "norm3")):
            y = gelu(conv(y, f"{name}.mlp.{layer}", f"{name}.mlp.{norm}"))
        return x + y

    def module(maps: list[Tensor], name: str) -> list[Tensor]:
        after = []
        for b, x in enumerate(maps):
            for n in range(count(f"{name}.branches.{b}.")):
                x = transformer(x, f"{name}.branches.{b}.{n}")
            after.append(x)
        fused = []
        for i, target in enumerate(after):
            total = torch.zeros_like(target)
            for j, x in enumerate(after):
                start = f"{name}.fuse_layers.{i}.{j}"
                if j > i:
                    x = conv(x, f"{start}.0", f"{start}.1")
                    x = enlarge(x, (x.shape[2] * 2 ** (j - i), x.shape[3] * 2 ** (j - i)), "nearest", False)
                    x = enlarge(x, tuple(target.shape[-2:]), "bilinear", align_corners=True)
                for k in range(i - j):
                    x = conv(x, f"{start}.{k}.0", f"{start}.{k}.1", stride=2)
                    x = conv(x, f"{start}.{k}.2", f"{start}.{k}.3")
                    if k < i - j - 1:
                        x = x.clamp(min=0)
                total = total + x
            fused.append(total.clamp(min=0))
        return fused

    x = conv(images, "conv1", "bn1", stride=2).clamp(min=0)
    x = conv(x, "conv2", "bn2", stride=2).clamp(min=0)
    for block in range(count("layer1.")):
        x = _plain_bottleneck(x, w, f"layer1.{block}", batch_statistics)
    maps = [
        conv(x, "transition1.0.0", "transition1.0.1").clamp(min=0),
        conv(x, "transition1.1.0.0", "transition1.1.0.1", stride=2).clamp(min=0),
    ]
    for stage in (2, 3, 4):
        if stage > 2:
            name = f"transition{stage - 1}.{stage - 1}.0"
            maps.append(conv(maps[-1], f"{name}.0", f"{name}.1", stride=2).clamp(min=0))
        for number in range(count(f"stage{stage}.")):
            maps = module(maps, f"stage{stage}.{number}")
    return maps


def classifier_plain(maps: list[Tensor], w: Weights) -> Tensor:
    """Logits (B, K) of the ImageNet classifier from the four maps of the trunk, in their precision."""
    w = {name: tensor.to(maps[0].dtype) for name, tensor in w.items()}
    y = _plain_bottleneck(maps[0], w, "incre_modules.0.0")
    for i in range(3):
        y = _conv_norm(y, w, f"downsamp_modules.{i}.0", f"downsamp_modules.{i}.1", 2)
        y = _conv_norm(y, w, f"downsamp_modules.{i}.2", f"downsamp_modules.{i}.3").clamp(min=0)
        y = y + _plain_bottleneck(maps[i + 1], w, f"incre_modules.{i + 1}.0")
    y = _conv_norm(y, w, "final_layer.0", "final_layer.1").clamp(min=0)
    return y.mean((2, 3)) @ w["classifier.weight"].T + w["classifier.bias"]


def _conv_norm(x: Tensor, w: Weights, name: str, norm: str, stride: int = 1, batch_statistics: bool = False) -> Tensor:
    weight = w[f"{name}.weight"]
    groups = x.shape[1] // weight.shape[1]
    x = F.conv2d(x, weight, w.get(f"{name}.bias"), stride, weight.shape[-1] // 2, groups=groups)
    scale, shift = (w[f"{norm}.{e}"].view(1, -1, 1, 1) for e in ("weight", "bias"))
    if batch_statistics:
        mean = x.mean((0, 2, 3), keepdim=True)
        var = ((x - mean) ** 2).mean((0, 2, 3), keepdim=True)
    else:
        mean, var = (w[f"{norm}.{e}"].view(1, -1, 1, 1) for e in ("running_mean", "running_var"))
    return (x - mean) / (var + 1e-5).sqrt() * scale + shift


def _plain_bottleneck(x: Tensor, w: Weights, name: str, batch_statistics: bool = False) -> Tensor:
    y = _conv_norm(x, w, f"{name}.conv1", f"{name}.bn1", 1, batch_statistics).clamp(min=0)
    y = _conv_norm(y, w, f"{name}.conv2", f"{name}.bn2", 1, batch_statistics).clamp(min=0)
    y = _conv_norm(y, w, f"{name}.conv3", f"{name}.bn3", 1, batch_statistics)
    if f"{name}.downsample.0.weight" in w:
        x = _conv_norm(x, w, f"{name}.downsample.0", f"{name}.downsample.1", 1, batch_statistics)
    return (x + y).clamp(min=0)


def trunk_shapes(width: int, heads: int, modules: tuple[int, int, int], blocks: int = 2, window: int = 7) -> Shapes:
    """Names and shapes of the official trunk, written down from its description."""
    widths = [width * 2**branch for branch in range(4)]
    shapes = {**_conv("conv1", "bn1", 64, 3, 3), **_conv("conv2", "bn2", 64, 64, 3)}
    shapes |= _bottleneck("layer1.0", 64, 64) | _bottleneck("layer1.1", 256, 64)
    shapes |= _conv("transition1.0.0", "transition1.0.1", widths[0], 256, 3)
    shapes |= _conv("transition1.1.0.0", "transition1.1.0.1", widths[1], 256, 3)
    shapes |= _conv("transition2.2.0.0", "transition2.2.0.1", widths[2], widths[1], 3)
    shapes |= _conv("transition3.3.0.0", "transition3.3.0.1", widths[3], widths[2], 3)
    for stage, number in zip((2, 3, 4), modules, strict=True):
        for module in range(number):
            shapes |= _module(f"stage{stage}.{module}", widths[:stage], heads, blocks, window)
    return shapes


def classifier_shapes(width: int, heads: int, modules: tuple[int, int, int], blocks: int = 2) -> Shapes:
    """Names and shapes of the official ImageNet classifier."""
    shapes = trunk_shapes(width, heads, modules, blocks)
    for branch, inner in enumerate((32, 64, 128, 256)):
        name = f"incre_modules.{branch}.0"
        shapes |= _bottleneck(name, width * 2**branch, inner) | {f"{name}.conv2.weight": (inner, 1, 3, 3)}
    for step, wide in enumerate((128, 256, 512)):
        name = f"downsamp_modules.{step}"
        shapes |= {f"{name}.0.weight": (wide, 1, 3, 3), f"{name}.0.bias": (wide,), **_norm(f"{name}.1", wide)}
        shapes |= {f"{name}.2.weight": (2 * wide, wide, 1, 1), f"{name}.2.bias": (2 * wide,)}
        shapes |= _norm(f"{name}.3", 2 * wide)
    shapes |= _conv("final_layer.0", "final_layer.1", 2048, 1024, 1)
    return shapes | {"final_layer.0.bias": (2048,), "classifier.weight": (1000, 2048), "classifier.bias": (1000,)}


def _module(name: str, widths: list[int], heads: int, blocks: int, window: int) -> Shapes:
    shapes: Shapes = {}
    for branch, width in enumerate(widths):
        for block in range(blocks):
            shapes |= _transformer(f"{name}.branches.{branch}.{block}", width, heads * 2**branch, window)
    for i, wide_i in enumerate(widths):
        for j, wide_j in enumerate(widths):
            start = f"{name}.fuse_layers.{i}.{j}"
            if j > i:
                shapes |= _conv(f"{start}.0", f"{start}.1", wide_i, wide_j, 1)
            for k in range(i - j):
                out = wide_i if k == i - j - 1 else wide_j
                shapes |= {f"{start}.{k}.0.weight": (wide_j, 1, 3, 3), **_norm(f"{start}.{k}.1", wide_j)}
                shapes |= _conv(f"{start}.{k}.2", f"{start}.{k}.3", out, wide_j, 1)
    return shapes


def _transformer(name: str, width: int, heads: int, window: int) -> Shapes:
    shapes: Shapes = {
        f"{name}.attn.attn.relative_position_bias_table": ((2 * window - 1) ** 2, heads),
        f"{name}.attn.attn.relative_position_index": (window**2, window**2),
    }
    for kind in "qkv":
        shapes |= _with_bias(f"{name}.attn.attn.{kind}_proj", (width, width))
    shapes |= _with_bias(f"{name}.attn.attn.out_proj", (width, width))
    for norm in ("norm1", "norm2"):
        shapes |= {f"{name}.{norm}.weight": (width,), f"{name}.{norm}.bias": (width,)}
    shapes |= _with_bias(f"{name}.mlp.fc1", (4 * width, width, 1, 1)) | _norm(f"{name}.mlp.norm1", 4 * width)
    shapes |= _with_bias(f"{name}.mlp.dw3x3", (4 * width, 1, 3, 3)) | _norm(f"{name}.mlp.norm2", 4 * width)
    return shapes | _with_bias(f"{name}.mlp.fc2", (width, 4 * width, 1, 1)) | _norm(f"{name}.mlp.norm3", width)


def _with_bias(name: str, shape: tuple[int, ...]) -> Shapes:
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
