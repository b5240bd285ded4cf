"""Polarized self-attention and the block around it, pixel by pixel in the paper's order; slow, independent of hrseg."""

from __future__ import annotations

import torch
from torch import Tensor

Weights = dict[str, Tensor]


def psa_plain(x: Tensor, w: Weights, name: str, form: str) -> Tensor:
    """The attention called `name` on (B, C, h, w), in the "parallel" or the "sequential" form."""
    if form == "parallel":
        return _channels(x, w, name) + _pixels(x, w, name, softmax_of_answers=True)
    return _pixels(_channels(x, w, name), w, name, softmax_of_answers=False)


def psa_block_plain(x: Tensor, w: Weights, name: str, form: str, batch_statistics: bool = False) -> Tensor:
    """The basic block called `name` with the attention `deattn` in its middle."""

    def conv_bn(maps: Tensor, number: int) -> Tensor:
        weight = w[f"{name}.conv{number}.weight"]
        height, width = maps.shape[2:]
        padded = maps.new_zeros(*maps.shape[:2], height + 2, width + 2)
        padded[:, :, 1:-1, 1:-1] = maps
        out = torch.zeros_like(maps)
        for row in range(3):
            for column in range(3):
                window = padded[:, :, row : row + height, column : column + width]
                out = out + torch.einsum("oc,bchw->bohw", weight[:, :, row, column], window)
        norm = f"{name}.bn{number}"
        if batch_statistics:
            mean, var = out.mean((0, 2, 3)), out.var((0, 2, 3), unbiased=False)
        else:
            mean, var = w[f"{norm}.running_mean"], w[f"{norm}.running_var"]
        scale = w[f"{norm}.weight"] / (var + 1e-5).sqrt()
        shift = w[f"{norm}.bias"] - mean * scale
        return out * scale[:, None, None] + shift[:, None, None]

    inner = psa_plain(conv_bn(x, 1).clamp(min=0), w, f"{name}.deattn", form)
    return (x + conv_bn(inner, 2)).clamp(min=0)


def _conv1x1(pixel: Tensor, w: Weights, name: str) -> Tensor:
    out = w[f"{name}.weight"][:, :, 0, 0] @ pixel
    return out + w[f"{name}.bias"] if f"{name}.bias" in w else out


def _softmax(values: list[Tensor]) -> list[Tensor]:
    highest = max(value.item() for value in values)
    powers = [(value - highest).exp() for value in values]
    total = sum(powers, torch.zeros_like(powers[0]))
    return [power / total for power in powers]


def _sigmoid(x: Tensor) -> Tensor:
    return 1 / (1 + (-x).exp())


def _list_pixels(image: Tensor) -> list[Tensor]:
    _, height, width = image.shape
    return [image[:, row, column] for row in range(height) for column in range(width)]


def _channels(x: Tensor, w: Weights, name: str) -> Tensor:
    outs = []
    for image in x:
        pixels = _list_pixels(image)
        shares = _softmax([_conv1x1(pixel, w, f"{name}.conv_q_right")[0] for pixel in pixels])
        vector = torch.stack(
            [_conv1x1(pixel, w, f"{name}.conv_v_right") * share for pixel, share in zip(pixels, shares, strict=True)]
        ).sum(0)
        if f"{name}.conv_up.weight" in w:
            vector = _conv1x1(vector, w, f"{name}.conv_up")
        else:
            vector = _conv1x1(vector, w, f"{name}.conv_up.0")
            mean = vector.mean()
            deviation = ((vector - mean) ** 2).mean().add(1e-5).sqrt()
            scale, shift = (w[f"{name}.conv_up.1.{kind}"].flatten() for kind in ("weight", "bias"))
            vector = ((vector - mean) / deviation * scale + shift).clamp(min=0)
            vector = _conv1x1(vector, w, f"{name}.conv_up.3")
        outs.append(image * _sigmoid(vector)[:, None, None])
    return torch.stack(outs)


def _pixels(x: Tensor, w: Weights, name: str, softmax_of_answers: bool) -> Tensor:
    outs = []
    for image in x:
        pixels = _list_pixels(image)
        queries = [_conv1x1(pixel, w, f"{name}.conv_q_left") for pixel in pixels]
        query = sum(queries, torch.zeros_like(queries[0])) / len(queries)
        values = [_conv1x1(pixel, w, f"{name}.conv_v_left") for pixel in pixels]
        if not softmax_of_answers:
            maps = [_softmax([value[channel] for value in values]) for channel in range(len(query))]
            values = [torch.stack(pixel) for pixel in zip(*maps, strict=True)]
        answers = [(query * value).sum() for value in values]
        if softmax_of_answers:
            answers = _softmax(answers)
        mask = torch.stack([_sigmoid(answer) for answer in answers])
        outs.append(image * mask.reshape(image.shape[1:]))
    return torch.stack(outs)
