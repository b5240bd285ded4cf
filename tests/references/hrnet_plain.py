"""HRNetV2 as one plain function of images and official weights; slow, and independent of hrseg.

It takes the depth from the names of the weights, enlarges by explicit matrices, and writes batch norm out.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

Weights = dict[str, Tensor]


def enlarge(x: Tensor, size: tuple[int, int], mode: str, align_corners: bool) -> Tensor:
    def matrix(inside: int, out: int) -> Tensor:
        weights = x.new_zeros(out, inside)
        for i in range(out):
            if mode == "nearest":
                weights[i, i * inside // out] = 1
                continue
            if align_corners:
                position = i * (inside - 1) / (out - 1) if out > 1 else 0.0
            else:
                position = max((i + 0.5) * inside / out - 0.5, 0.0)
            low = min(int(position), inside - 1)
            weights[i, low] += 1 - (position - low)
            weights[i, min(low + 1, inside - 1)] += position - low
        return weights

    return torch.einsum("ih,bchw,jw->bcij", matrix(x.shape[2], size[0]), x, matrix(x.shape[3], size[1]))


def hrnet_plain(
    images: Tensor, w: Weights, fuse_mode: str, align_corners: bool, batch_statistics: bool = False
) -> tuple[list[Tensor], Tensor]:
    """The four maps of the trunk and the logits at stride 4, in the precision of the images.

    With `batch_statistics` batch norm works as in training.
    """
    w = {name: tensor.to(images.dtype) for name, tensor in w.items()}

    def count(start: str) -> int:
        return len({name[len(start) :].split(".")[0] for name in w if name.startswith(start)})

    def conv(x: Tensor, name: str, norm: str, stride: int = 1) -> Tensor:
        weight = w[f"{name}.weight"]
        x = F.conv2d(x, weight, w.get(f"{name}.bias"), stride, weight.shape[-1] // 2)
        scale, shift = (w[f"{norm}.{e}"].view(1, -1, 1, 1) for e in ("weight", "bias"))
        if batch_statistics:
            mean = x.mean((0, 2, 3), keepdim=True)
            var = ((x - mean) ** 2).mean((0, 2, 3), keepdim=True)
        else:
            mean, var = (w[f"{norm}.{e}"].view(1, -1, 1, 1) for e in ("running_mean", "running_var"))
        return (x - mean) / (var + 1e-5).sqrt() * scale + shift

    def bottleneck(x: Tensor, name: str) -> Tensor:
        y = conv(x, f"{name}.conv1", f"{name}.bn1").clamp(min=0)
        y = conv(y, f"{name}.conv2", f"{name}.bn2").clamp(min=0)
        y = conv(y, f"{name}.conv3", f"{name}.bn3")
        if f"{name}.downsample.0.weight" in w:
            x = conv(x, f"{name}.downsample.0", f"{name}.downsample.1")
        return (x + y).clamp(min=0)

    def basic(x: Tensor, name: str) -> Tensor:
        y = conv(x, f"{name}.conv1", f"{name}.bn1").clamp(min=0)
        return (x + conv(y, f"{name}.conv2", f"{name}.bn2")).clamp(min=0)

    def module(maps: list[Tensor], name: str) -> list[Tensor]:
        after = []
        for b, x in enumerate(maps):
            for n in range(count(f"{name}.branches.{b}.")):
                x = basic(x, f"{name}.branches.{b}.{n}")
            after.append(x)
        fused = []
        for i, target in enumerate(after):
            total = torch.zeros_like(target)
            for j, x in enumerate(after):
                start = f"{name}.fuse_layers.{i}.{j}"
                if j > i:
                    x = enlarge(conv(x, f"{start}.0", f"{start}.1"), target.shape[-2:], fuse_mode, align_corners)
                for k in range(i - j):
                    x = conv(x, f"{start}.{k}.0", f"{start}.{k}.1", stride=2)
                    if k < i - j - 1:
                        x = x.clamp(min=0)
                total = total + x
            fused.append(total.clamp(min=0))
        return fused

    x = conv(images, "conv1", "bn1", stride=2).clamp(min=0)
    x = conv(x, "conv2", "bn2", stride=2).clamp(min=0)
    for block in range(count("layer1.")):
        x = bottleneck(x, f"layer1.{block}")
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

    size = maps[0].shape[-2:]
    wide = torch.cat([maps[0]] + [enlarge(x, size, "bilinear", align_corners) for x in maps[1:]], 1)
    hidden = conv(wide, "last_layer.0", "last_layer.1").clamp(min=0)
    return maps, F.conv2d(hidden, w["last_layer.3.weight"], w["last_layer.3.bias"])
