"""Sizes of scaled images, by the rules of the official code."""

from __future__ import annotations

import cv2
import numpy as np


def scaled_to(size: tuple[int, int], base_size: int | None, scale: float) -> tuple[int, int]:
    """The size of an image whose long side becomes `base_size * scale`, rounded half up, the short side after it.

    Args:
        size: (height, width) of the image.
        base_size: Length of the long side at scale 1; None for the image's own.
        scale: Factor on `base_size`.

    Returns:
        (height, width), at least 1 each.

    >>> scaled_to((1024, 2048), 2048, 0.6)
    (615, 1229)
    """
    height, width = size
    long_side = int((base_size or max(size)) * scale + 0.5)
    if height > width:
        return max(1, long_side), max(1, int(width * long_side / height + 0.5))
    return max(1, int(height * long_side / width + 0.5)), max(1, long_side)


def brought_to(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resizes an image bilinearly to a size whatever its aspect; an image of that size is returned as it is.

    Args:
        image: (H, W, 3) uint8.
        size: (height, width).
    """
    if image.shape[:2] == tuple(size):
        return image
    resized: np.ndarray = cv2.resize(image, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)
    return resized
