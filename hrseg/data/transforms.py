"""Augmentations as albumentations transforms, uint8 to uint8."""

from __future__ import annotations

import math
from typing import Any

import albumentations as A
import cv2
import numpy as np
from albumentations.core.type_definitions import Targets

from hrseg.utils.resize import scaled_to


class RandomScaleCrop(A.DualTransform):
    """Randomly scales and crops image and label in one step that resizes only the crop.

    The result equals that of resizing the whole image (image bilinear, label nearest), padding it at the right and
    bottom, and cropping: labels exactly, images to one level of 255 (to four before OpenCV 5, which rounded positions
    to 1/32 of a pixel). Scale 1 copies.

    With `centre`, (y, x) relative to height and width, the crop is centred there, as far as the image's borders allow.

    Args:
        crop_size: (height, width) of the crop in pixels.
        base_size: Long side at scale 1, in pixels; None for the image's own. The aspect ratio is kept.
        scale_range: Smallest and largest scale, both included.
        scale_step: Step between the scales, each equally likely.
        aspect_range: Smallest and largest factor on width / height, uniformly distributed; the area is kept.
        ignore_index: Padding of the label; the image is padded with zeros.
        p: Probability of applying the transform.

    Source:
        HRNet-Semantic-Segmentation, lib/datasets/base_dataset.py: multi_scale_aug, rand_crop. There the short side
        follows from the rounded long side, both rounded half up.
    """

    _targets = (Targets.IMAGE, Targets.MASK)

    def __init__(
        self,
        crop_size: tuple[int, int],
        base_size: int | None = None,
        scale_range: tuple[float, float] = (0.5, 2.1),
        scale_step: float = 0.1,
        aspect_range: tuple[float, float] = (1.0, 1.0),
        ignore_index: int = 255,
        p: float = 1.0,
    ) -> None:
        super().__init__(p=p)
        self.crop_size = (crop_size[0], crop_size[1])  # a list, where the transform was serialised
        self.base_size = base_size
        self.scale_range = (scale_range[0], scale_range[1])
        self.scale_step = scale_step
        self.aspect_range = (aspect_range[0], aspect_range[1])
        self.ignore_index = ignore_index

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        """Samples the scale, then the window."""
        low, high = self.scale_range
        steps = math.floor((high - low) / self.scale_step + 1e-6)
        scale = round(low + self.scale_step * self.py_random.randint(0, steps), 6)  # 0.5 + 0.1 * 7 is not quite 1.2
        scaled_size = scaled_to(params["shape"][:2], self.base_size, scale)
        if self.aspect_range != (1.0, 1.0):
            factor = math.sqrt(self.py_random.uniform(*self.aspect_range))
            scaled_size = max(1, round(scaled_size[0] / factor)), max(1, round(scaled_size[1] * factor))
        rooms = [max(0, length - crop) for length, crop in zip(scaled_size, self.crop_size, strict=True)]
        if data.get("centre") is None:
            corner = [self.py_random.randint(0, room) for room in rooms]
        else:
            axes = zip(data["centre"], scaled_size, self.crop_size, rooms, strict=True)
            corner = [min(max(0, round(share * scaled - crop / 2)), room) for share, scaled, crop, room in axes]
        return {"scaled_size": scaled_size, "corner": tuple(corner)}

    def apply(
        self, img: np.ndarray, scaled_size: tuple[int, int], corner: tuple[int, int], **params: Any
    ) -> np.ndarray:
        """Resizes the window of the image."""
        return self._padded(resized_window(img, scaled_size, corner, self.crop_size), 0)

    def apply_to_mask(
        self, mask: np.ndarray, scaled_size: tuple[int, int], corner: tuple[int, int], **params: Any
    ) -> np.ndarray:
        """Resizes the window of the label by nearest neighbour."""
        return self._padded(nearest_window(mask, scaled_size, corner, self.crop_size), self.ignore_index)

    def _padded(self, window: np.ndarray, fill: int) -> np.ndarray:
        if window.shape[:2] == self.crop_size:
            return window
        padded = np.full((*self.crop_size, *window.shape[2:]), fill, window.dtype)
        padded[: window.shape[0], : window.shape[1]] = window
        return padded


class HorizontalFlip(A.DualTransform):
    """Flips image and label horizontally; swaps left and right classes in the label.

    Args:
        flip_pairs: Pairs of train ids to swap (left arm, right arm), as in `LabelTable.flip_pairs`.
        p: Probability of applying the transform.
    """

    _targets = (Targets.IMAGE, Targets.MASK)

    def __init__(self, flip_pairs: tuple[tuple[int, int], ...] = (), p: float = 0.5) -> None:
        super().__init__(p=p)
        self.flip_pairs = tuple((left, right) for left, right in flip_pairs)
        self._mirrored_id = np.arange(256, dtype=np.uint8)
        for left, right in flip_pairs:
            self._mirrored_id[[left, right]] = right, left

    def apply(self, img: np.ndarray, **params: Any) -> np.ndarray:
        """Flips the image."""
        return _mirrored(img)

    def apply_to_mask(self, mask: np.ndarray, **params: Any) -> np.ndarray:
        """Flips the label and swaps the paired classes."""
        return _mirrored(cv2.LUT(mask, self._mirrored_id) if self.flip_pairs else mask)

    def apply_to_centre(self, centre: tuple[float, float], **params: Any) -> tuple[float, float]:
        """Flips the position on which a later crop is centred."""
        return centre[0], 1 - centre[1]

    @property
    def targets(self) -> dict[str, Any]:
        """The method for each key of a sample."""
        return {**super().targets, "centre": self.apply_to_centre}


class BrightnessShift(A.ImageOnlyTransform):
    """Adds a random integer to all channels of all pixels, clipped to 0 to 255.

    Args:
        limit: The integer is uniformly distributed from -limit to limit, both included; 1 to 255.
        p: Probability of applying the transform.

    Source:
        HRNet-Semantic-Segmentation, branch HRNet-OCR, lib/datasets/base_dataset.py (RANDOM_BRIGHTNESS).
    """

    def __init__(self, limit: int = 10, p: float = 0.5) -> None:
        super().__init__(p=p)
        self.limit = limit

    def get_params(self) -> dict[str, int]:
        """Samples the shift."""
        return {"shift": self.py_random.randint(-self.limit, self.limit)}

    def apply(self, img: np.ndarray, shift: int = 0, **params: Any) -> np.ndarray:
        """Shifts the image."""
        return cv2.LUT(img, np.clip(np.arange(256) + shift, 0, 255).astype(np.uint8))


def resized_window(
    image: np.ndarray, scaled_size: tuple[int, int], corner: tuple[int, int], size: tuple[int, int]
) -> np.ndarray:
    """Crops a window of the bilinearly resized image without resizing the rest.

    Args:
        image: (H, W, 3) uint8.
        scaled_size: (height, width) of the whole resized image.
        corner: (top, left) of the window in the resized image.
        size: (height, width) of the window; it is cut off at the resized image's borders.

    Returns:
        The window, no larger than `size`.
    """
    top, left, bottom, right = _bounds(scaled_size, corner, size)
    if image.shape[:2] == scaled_size:
        return image[top:bottom, left:right]
    (y0, y1, y_step, y_shift), (x0, x1, x_step, x_shift) = (
        _source_span(length, scaled, start, stop)
        for length, scaled, start, stop in zip(image.shape[:2], scaled_size, (top, left), (bottom, right), strict=True)
    )
    span = cv2.cvtColor(image[y0:y1, x0:x1], cv2.COLOR_RGB2RGBA)  # OpenCV warps four channels twice as fast as three
    resized = cv2.warpAffine(
        span,
        np.array([[x_step, 0, x_shift], [0, y_step, y_shift]]),
        (right - left, bottom - top),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    window: np.ndarray = cv2.cvtColor(resized, cv2.COLOR_RGBA2RGB)
    return window


def nearest_window(
    label: np.ndarray, scaled_size: tuple[int, int], corner: tuple[int, int], size: tuple[int, int]
) -> np.ndarray:
    """Crops a window of the label resized by nearest neighbour; arguments as for `resized_window`."""
    top, left, bottom, right = _bounds(scaled_size, corner, size)
    if label.shape[:2] == scaled_size:
        return label[top:bottom, left:right]
    rows = _nearest(label.shape[0], scaled_size[0], top, bottom)
    columns = _nearest(label.shape[1], scaled_size[1], left, right)
    window: np.ndarray = label.take(rows, axis=0).take(columns, axis=1)
    return window


def _mirrored(array: np.ndarray) -> np.ndarray:
    mirrored: np.ndarray = cv2.flip(array, 1)  # 40 times faster than NumPy's [:, ::-1]
    return mirrored


def _bounds(scaled_size: tuple[int, int], corner: tuple[int, int], size: tuple[int, int]) -> tuple[int, int, int, int]:
    (top, left), (height, width) = corner, size
    return top, left, min(top + height, scaled_size[0]), min(left + width, scaled_size[1])


def _source_span(length: int, scaled: int, start: int, stop: int) -> tuple[int, int, float, float]:
    """The source pixels of one axis of a resized window: first, end, and the step and shift from window to span.

    Pixel i of the resized axis is at (i + 0.5) * length / scaled - 0.5 in the source. The span is one pixel wider than
    the interpolation reaches, so that only the border of the image itself is replicated.
    """
    step = length / scaled
    first = max(0, math.floor((start + 0.5) * step - 0.5) - 1)
    last = min(length, math.ceil((stop - 0.5) * step - 0.5) + 2)
    return first, last, step, (start + 0.5) * step - 0.5 - first


def _nearest(length: int, scaled: int, start: int, stop: int) -> np.ndarray:
    """Source indices of an axis as in OpenCV, whose rounding differs from i * length // scaled."""
    indices = np.floor(np.arange(start, stop) * (1 / (scaled / length))).astype(np.intp)
    nearest: np.ndarray = np.minimum(indices, length - 1)
    return nearest
