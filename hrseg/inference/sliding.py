"""Sliding-window inference."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import Literal

import torch
from torch import Tensor

from hrseg.errors import ConfigError

LastWindow = Literal["pad", "shift"]


def sliding_window(
    scores_of: Callable[[Tensor], Tensor],
    images: Tensor,
    window: tuple[int, int],
    stride: tuple[int, int],
    last_window: LastWindow = "pad",
    fill: Tensor | float = 0.0,
    batch_size: int = 4,
) -> Tensor:
    """Averages a network's scores over overlapping windows.

    Scores are summed in place, on the images' device: memory holds the result and one batch of windows.

    Args:
        scores_of: Maps windows (N, C, h, w) to scores (N, K, h, w).
        images: (B, C, H, W), of any size.
        window: (height, width) of the windows in pixels.
        stride: (vertical, horizontal) stride in pixels, at most the window.
        last_window: Treatment of the last row and column: "pad" pads windows that reach over the border, so that all
            have one size; "shift" moves them back to the border, and takes smaller windows if the image is smaller.
        fill: Padding value, a number or one per channel, (C, 1, 1).
        batch_size: Windows per forward pass; windows at one place in all images of the batch always share one.

    Returns:
        (B, K, H, W), of the scores' type.

    Raises:
        ConfigError: The stride is longer than the window, or a number is below 1.

    Source:
        HRNet-Semantic-Segmentation, lib/datasets/base_dataset.py (pad) and cityscapes.py (shift),
        multi_scale_inference.
    """
    if min(stride) < 1 or stride[0] > window[0] or stride[1] > window[1] or batch_size < 1:
        raise ConfigError(
            f"windows of {window} with a stride of {stride}, {batch_size} at a time; "
            "expected a stride of 1 to the window's size, and 1 window or more"
        )
    number, _, height, width = images.shape
    rows = list(_spans(height, window[0], stride[0], last_window))
    columns = list(_spans(width, window[1], stride[1], last_window))
    places = list(product(rows, columns))
    at_once = max(1, batch_size // number)
    total: Tensor | None = None
    for first in range(0, len(places), at_once):
        chunk = places[first : first + at_once]
        windows = [images[..., top:bottom, left:right] for (top, bottom), (left, right) in chunk]
        if last_window == "pad":
            windows = [_filled(x, window, fill) for x in windows]
        scores = scores_of(torch.cat(windows))
        if total is None:
            total = _zeros(scores, (number, scores.shape[1], height, width))
        for ((top, bottom), (left, right)), part in zip(chunk, torch.split(scores, number), strict=True):
            total[..., top:bottom, left:right] += part[..., : bottom - top, : right - left]
        del scores, part  # frees them before the next windows
    assert total is not None
    return total.div_(_counts(rows, height, total)[:, None] * _counts(columns, width, total))


def _spans(length: int, window: int, stride: int, last_window: LastWindow) -> Iterator[tuple[int, int]]:
    """Start of each window along an axis, and its end inside the image."""
    for index in range(max(0, math.ceil((length - window) / stride)) + 1):
        end = min(index * stride + window, length)
        yield (max(0, end - window) if last_window == "shift" else index * stride), end


def _filled(window: Tensor, size: tuple[int, int], fill: Tensor | float) -> Tensor:
    if window.shape[-2:] == size:
        return window
    filled = torch.as_tensor(fill).to(window).expand(*window.shape[:2], *size).clone()
    filled[..., : window.shape[-2], : window.shape[-1]] = window
    return filled


def _zeros(like: Tensor, shape: Sequence[int]) -> Tensor:
    """Zeros of a type and memory format; a sum of two formats takes several times as long."""
    is_channels_last = like.is_contiguous(memory_format=torch.channels_last)
    memory_format = torch.channels_last if is_channels_last else torch.contiguous_format
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=memory_format).zero_()


def _counts(spans: list[tuple[int, int]], length: int, like: Tensor) -> Tensor:
    """Number of windows over each pixel of an axis, (length,)."""
    counts = like.new_zeros(length)
    for start, end in spans:
        counts[start:end] += 1
    return counts
