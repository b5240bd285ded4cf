"""The OCR head as one plain function of the trunk's maps and official weights; slow, and independent of hrseg.

It goes through images, regions and pixels one by one, and writes batch norm and softmax out. Beside it the names and
shapes of the official files, written down from their description.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.references.hrnet_plain import Weights, enlarge

OCR = "ocr_distri_head"
ATTENTION = f"{OCR}.object_context_block"


def ocr_plain(
    maps: Sequence[Tensor], w: Weights, align_corners: bool, batch_statistics: bool = False
) -> tuple[Tensor, Tensor]:
    """The logits and the auxiliary logits at the size of the first map, in the maps' precision, without dropout.

    With `batch_statistics` batch norm works as in training.
    """
    w = {name: tensor.to(maps[0].dtype) for name, tensor in w.items()}

    def conv(x: Tensor, name: str) -> Tensor:
        weight = w[f"{name}.weight"]
        return F.conv2d(x, weight, w.get(f"{name}.bias"), padding=weight.shape[-1] // 2)

    def conv_norm_relu(x: Tensor, name: str, norm: str) -> Tensor:
        x = conv(x, name)
        scale, shift = (w[f"{norm}.{e}"].view(1, -1, 1, 1) for e in ("weight", "bias"))
        if batch_statistics:
            mean = x.mean((0, 2, 3), keepdim=True)
            var = ((x - mean) ** 2).mean((0, 2, 3), keepdim=True)
        else:
            mean, var = (w[f"{norm}.{e}"].view(1, -1, 1, 1) for e in ("running_mean", "running_var"))
        return ((x - mean) / (var + 1e-5).sqrt() * scale + shift).clamp(min=0)

    def twice(x: Tensor, name: str) -> Tensor:
        x = conv_norm_relu(x, f"{name}.0", f"{name}.1.0")
        return conv_norm_relu(x, f"{name}.2", f"{name}.3.0")

    def shares(logits: Tensor) -> Tensor:
        powers = (logits - logits.max()).exp()
        return powers / powers.sum()

    size = maps[0].shape[-2:]
    wide = torch.cat([enlarge(x, (size[0], size[1]), "bilinear", align_corners) for x in maps], 1)
    aux = conv(conv_norm_relu(wide, "aux_head.0", "aux_head.1"), "aux_head.3")
    pixels = conv_norm_relu(wide, "conv3x3_ocr.0", "conv3x3_ocr.1")

    regions = torch.stack(
        [
            torch.stack([(shares(scores) * image).sum((1, 2)) for scores in aux[number]], 1)
            for number, image in enumerate(pixels)
        ]
    ).unsqueeze(3)

    queries, keys = twice(pixels, f"{ATTENTION}.f_pixel"), twice(regions, f"{ATTENTION}.f_object")
    values = conv_norm_relu(regions, f"{ATTENTION}.f_down.0", f"{ATTENTION}.f_down.1.0")
    contexts = []
    for query, key, value in zip(queries, keys, values, strict=True):
        context = []
        for pixel in query.flatten(1).unbind(1):
            alike = torch.stack([(pixel * one).sum() / len(pixel) ** 0.5 for one in key[:, :, 0].unbind(1)])
            context.append((shares(alike) * value[:, :, 0]).sum(1))
        contexts.append(torch.stack(context, 1).view(query.shape))
    context = conv_norm_relu(torch.stack(contexts), f"{ATTENTION}.f_up.0", f"{ATTENTION}.f_up.1.0")
    start = f"{OCR}.conv_bn_dropout"
    both = conv_norm_relu(torch.cat([context, pixels], 1), f"{start}.0", f"{start}.1.0")
    return conv(both, "cls_head"), aux


def ocr_shapes(
    wide: int,
    num_classes: int,
    mid: int = 512,
    key: int = 256,
    inner_bias: bool = False,
    aux_kernel: int = 1,
    aux: int | None = None,
) -> dict[str, tuple[int, ...]]:
    """The head's entries on a trunk of `wide` channels, in the order of the official files."""
    aux = wide if aux is None else aux
    shapes: dict[str, tuple[int, ...]] = {}

    def add_conv(name: str, out: int, inside: int, kernel: int = 1, bias: bool = True) -> None:
        shapes[f"{name}.weight"] = (out, inside, kernel, kernel)
        if bias:
            shapes[f"{name}.bias"] = (out,)

    def add_norm(name: str, channels: int) -> None:
        for kind in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.{kind}"] = (channels,)
        shapes[f"{name}.num_batches_tracked"] = ()

    add_conv("conv3x3_ocr.0", mid, wide, 3)
    add_norm("conv3x3_ocr.1", mid)
    for name, out, inside in (
        ("f_pixel.0", key, mid),
        ("f_pixel.2", key, key),
        ("f_object.0", key, mid),
        ("f_object.2", key, key),
        ("f_down.0", key, mid),
        ("f_up.0", mid, key),
    ):
        add_conv(f"{ATTENTION}.{name}", out, inside, bias=inner_bias)
        part, number = name.split(".")
        add_norm(f"{ATTENTION}.{part}.{int(number) + 1}.0", out)
    add_conv(f"{OCR}.conv_bn_dropout.0", mid, 2 * mid, bias=inner_bias)
    add_norm(f"{OCR}.conv_bn_dropout.1.0", mid)
    add_conv("cls_head", num_classes, mid)
    add_conv("aux_head.0", aux, wide, aux_kernel)
    add_norm("aux_head.1", aux)
    add_conv("aux_head.3", num_classes, aux)
    return shapes
