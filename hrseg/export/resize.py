"""OpenCV's bilinear resizing of uint8 images, bit by bit, in operations that every runtime has."""

from __future__ import annotations

import torch
from torch import Tensor

_WEIGHTS = 2048  # of a pixel and its neighbour, which are whole multiples of 1 / 2048


def resize_bilinear(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Resizes images as `cv2.resize` with INTER_LINEAR does, whose weights and sums are fixed-point numbers.

    Args:
        images: (N, C, H, W) float32 whole numbers from 0 to 255; H and W may be dynamic.
        size: (height, width).

    Returns:
        (N, C, height, width) float32 whole numbers.

    Source:
        opencv, modules/imgproc/src/resize.cpp: HResizeLinear, VResizeLinear and FixedPtCast of uint8.
    """
    left, right, weight = _positions(images.shape[3], size[1], images.device)
    # at the sides OpenCV takes the outermost column alone, which is the same as any mean of it with itself
    rows = images.index_select(3, left) * (1 - weight) + images.index_select(3, right) * weight
    rows = (rows * 128).floor() / 128
    top, bottom, weight = _positions(images.shape[2], size[0], images.device)
    weight = weight[:, None]
    quarters = _truncated(rows.index_select(2, top), 1 - weight) + _truncated(rows.index_select(2, bottom), weight)
    return ((quarters + 2) / 4).floor()


def _positions(source: int, target: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """For each target pixel, the indices of its two source pixels, and the weight of the second."""
    # (index + 0.5) * source / target + 0.5 in whole numbers, as float32 would round it
    ends = (2 * torch.arange(target, device=device) + 1) * source + target
    whole = torch.div(ends, 2 * target, rounding_mode="floor")
    before = (whole - 1).float()
    fraction = (ends - whole * (2 * target)).float() / (2 * target)
    weight = (((before + fraction) - before) * _WEIGHTS).round() / _WEIGHTS  # OpenCV adds in float32
    return (whole - 1).clamp(0, source - 1), whole.clamp(0, source - 1), weight


def _truncated(rows: Tensor, weight: Tensor) -> Tensor:
    """floor(4 * rows * weight); rows are multiples of 1 / 128, and float32 does not hold their 26-bit products."""
    high = (rows / 2).floor()
    low = rows - 2 * high
    return (8 * weight * high + (1024 * weight * low).floor() / 256).floor()
