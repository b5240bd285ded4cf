"""Scale-then-crop done the long way: resize everything, pad, crop."""

from __future__ import annotations

import numpy as np


def scaled_size(height: int, width: int, base_size: int, scale: float) -> tuple[int, int]:
    """The official rule: the long side is rounded first, the short side follows from the rounded long side."""
    long_side = int(base_size * scale + 0.5)
    if height > width:
        return long_side, int(width * long_side / height + 0.5)
    return int(height * long_side / width + 0.5), long_side


def bilinear(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bilinear resizing of (H, W, C) in float64, pixel centres at half integers, borders replicated; not rounded."""
    resized = image.astype(np.float64)
    for axis, length in enumerate(size):
        old = resized.shape[axis]
        position = np.clip((np.arange(length) + 0.5) * old / length - 0.5, 0, old - 1)
        lower = np.floor(position).astype(int)
        upper = np.minimum(lower + 1, old - 1)
        weight = (position - lower).reshape(-1, *[1] * (resized.ndim - 1 - axis))
        resized = resized.take(lower, axis) * (1 - weight) + resized.take(upper, axis) * weight
    return resized


def nearest(label: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Nearest-neighbour resizing in OpenCV's rule, pixel by pixel."""
    height, width = label.shape
    step_y, step_x = 1.0 / (size[0] / height), 1.0 / (size[1] / width)
    resized = np.zeros(size, label.dtype)
    for i in range(size[0]):
        for j in range(size[1]):
            resized[i, j] = label[min(int(i * step_y), height - 1), min(int(j * step_x), width - 1)]
    return resized


def padded_crop(array: np.ndarray, corner: tuple[int, int], size: tuple[int, int], fill: int) -> np.ndarray:
    """Pads to the right and at the bottom to at least `size`, then crops."""
    height, width = max(array.shape[0], size[0]), max(array.shape[1], size[1])
    padded = np.full((height, width, *array.shape[2:]), fill, array.dtype)
    padded[: array.shape[0], : array.shape[1]] = array
    return padded[corner[0] : corner[0] + size[0], corner[1] : corner[1] + size[1]]
