"""Upsampling of logits and feature maps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

_MIXED = 255  # label of pixels that are to be interpolated
_LEAST_GAIN = 2  # pixels per logit
_MOST_MIXED = 0.15  # share of cells from which interpolating all pixels is as fast
_CHUNK = 2**14  # pixels that are interpolated at once, to stay in the cache


def upsample(maps: Tensor, size: Sequence[int], align_corners: bool, mode: str = "bilinear") -> Tensor:
    """Upsamples (or downsamples) maps (B, C, h, w) to (B, C, *size).

    Args:
        maps: Floating point. Maps that have the size already are returned as they are, not copied.
        size: (height, width).
        align_corners: See `torch.nn.functional.interpolate`; "nearest" ignores it.
        mode: "bilinear" or "nearest".
    """
    # a graph for any size must not depend on whether two sizes are equal
    is_traced = torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined,no-untyped-call]
    if not is_traced and tuple(maps.shape[-2:]) == tuple(size):
        return maps
    return F.interpolate(maps, size, mode=mode, align_corners=align_corners if mode == "bilinear" else None)


def upsampled_argmax(logits: Tensor, size: Sequence[int], align_corners: bool) -> Tensor:
    """The class of the largest logit of each pixel after bilinear upsampling, without logits of the full size.

    Where the four logits around a pixel have the same largest class, so does every convex combination of them; only the
    other pixels are interpolated. On other devices than the CPU, and where few pixels are larger or many are mixed, all
    are.

    Args:
        logits: (B, K, h, w) floating point.
        size: (height, width).
        align_corners: See `torch.nn.functional.interpolate`.

    Returns:
        (B, height, width) uint8, equal to `upsample(logits, size, align_corners).argmax(1)` but for ties within
        rounding.

    >>> upsampled_argmax(torch.tensor([[[[0.0, 0.0, 9.0]], [[3.0, 3.0, 0.0]]]]), (1, 6), align_corners=False)
    tensor([[[1, 1, 1, 0, 0, 0]]], dtype=torch.uint8)
    """
    number, classes, height, width = logits.shape
    is_suited = logits.device.type == "cpu" and logits.dtype == torch.float32 and classes < _MIXED
    if not is_suited or size[0] * size[1] < _LEAST_GAIN * height * width:
        return _largest(upsample(logits, size, align_corners))
    logits = logits.contiguous(memory_format=torch.channels_last)
    best = _largest(logits)
    differs = torch.zeros_like(best, dtype=torch.bool)  # a cell by its upper left pixel: does any other differ from it
    differs[:, :, :-1] = best[:, :, :-1] != best[:, :, 1:]
    differs[:, :-1] |= differs[:, 1:] | (best[:, :-1] != best[:, 1:])
    if differs.count_nonzero() > _MOST_MIXED * differs.numel():
        return _largest(upsample(logits, size, align_corners))
    top, down = _cells(height, size[0], align_corners)
    left, along = _cells(width, size[1], align_corners)
    labels = best.masked_fill_(differs, _MIXED).index_select(1, top).index_select(2, left)
    # each row holds a pixel and the next, which at the right border is not used; a pixel more follows the last one
    pixels = torch.cat([logits.permute(0, 2, 3, 1).reshape(-1, classes), logits.new_zeros(1, classes)])
    pairs = pixels.as_strided((number * height * width, 2 * classes), (classes, 1))
    for mixed in torch.split((labels == _MIXED).nonzero(), _CHUNK):
        image, i, j = mixed.unbind(1)
        above = (image * height + top[i]) * width + left[j]
        below = (image * height + (top[i] + 1).clamp_(max=height - 1)) * width + left[j]
        both = pairs.index_select(0, above).lerp_(pairs.index_select(0, below), down[i, None])
        interpolated = both[:, :classes].lerp(both[:, classes:], along[j, None])
        labels[image, i, j] = interpolated.max(1).indices.to(torch.uint8)
    return labels


def _largest(scores: Tensor) -> Tensor:
    """Index of the largest of the scores (B, K, h, w), (B, h, w) uint8."""
    # torch 2.14's argmax is three times slower on a CPU
    indices = scores.max(1).indices if scores.device.type == "cpu" else scores.argmax(1)
    return indices.to(torch.uint8)


def _cells(length: int, upsampled: int, align_corners: bool) -> tuple[Tensor, Tensor]:
    """For each upsampled pixel of an axis the index of the pixel before it, and the weight of the pixel after that."""
    pixels = torch.arange(upsampled, dtype=torch.float32)
    if align_corners:
        position = pixels * ((length - 1) / max(upsampled - 1, 1))
    else:
        position = ((pixels + 0.5) * (length / upsampled) - 0.5).clamp_(min=0)
    index = position.long().clamp_(max=length - 1)
    return index, (position - index).masked_fill_(index == length - 1, 0)
