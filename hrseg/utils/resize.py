"""Resizing of images and labels, and sizes of scaled images as in the official code."""

from __future__ import annotations

import cv2
import numpy as np

from hrseg.errors import ConfigError
from hrseg.utils.image_formats import MAX_PIXELS_VARIABLE, max_pixels


def scaled_to(size: tuple[int, int], base_size: int | None, scale: float) -> tuple[int, int]:
    """The size of an image whose long side is scaled to `base_size * scale`, rounded half up; the short side follows.

    Args:
        size: (height, width) of the image.
        base_size: Long side at scale 1; None for the image's own.
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


def require_pixels(size: tuple[int, int], what: str) -> None:
    """Checks the size of an image before it is allocated.

    Args:
        size: (height, width).
        what: What the image is, for the message.

    Raises:
        ConfigError: It would have more pixels than `$HRSEG_MAX_PIXELS`.
    """
    if size[0] * size[1] > max_pixels():
        raise ConfigError(
            f"{what} would have {size[0]}x{size[1]} pixels (height x width), more than the {max_pixels()} of "
            f"{MAX_PIXELS_VARIABLE}; lower the size or the scales"
        )


def resize_image(image: np.ndarray, size: tuple[int, int], interpolation: int = cv2.INTER_LINEAR) -> np.ndarray:
    """Resizes an image or a label, ignoring its aspect ratio; one of that size is returned as it is.

    Args:
        image: (H, W, 3) or (H, W) uint8.
        size: (height, width).
        interpolation: OpenCV's; `cv2.INTER_NEAREST` for labels.

    Raises:
        ConfigError: The size has more pixels than `$HRSEG_MAX_PIXELS`.
    """
    if image.shape[:2] == tuple(size):
        return image
    require_pixels(size, "an image resized to input_size")
    resized: np.ndarray = cv2.resize(image, (size[1], size[0]), interpolation=interpolation)
    return resized
