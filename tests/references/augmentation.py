"""The training samples of the official code done the long way, for given draws."""

from __future__ import annotations

import cv2
import numpy as np

from tests.references.resize import nearest, padded_crop

LIP_PAIRS = ((14, 15), (16, 17), (18, 19))

Pair = tuple[np.ndarray, np.ndarray]


def gen_sample(image: np.ndarray, label: np.ndarray, size: tuple[int, int], corner: tuple[int, int], crop: int) -> Pair:
    """Resizes everything, pads to the right and at the bottom, crops; lib/datasets/base_dataset.py before its flip."""
    image = cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)
    label = nearest(label, size)
    return padded_crop(image, corner, (crop, crop), 0), padded_crop(label, corner, (crop, crop), 255)


def plain(
    image: np.ndarray, label: np.ndarray, flip: bool, size: tuple[int, int], corner: tuple[int, int], crop: int
) -> Pair:
    """Crops, then mirrors: Cityscapes and PASCAL-Context."""
    image, label = gen_sample(image, label, size, corner, crop)
    return (image[:, ::-1], label[:, ::-1]) if flip else (image, label)


def lip(
    image: np.ndarray, label: np.ndarray, flip: bool, size: tuple[int, int], corner: tuple[int, int], crop: int
) -> Pair:
    """Mirrors and swaps left and right, resizes to the crop's size, then crops; lib/datasets/lip.py."""
    if flip:
        image, label = np.ascontiguousarray(image[:, ::-1]), label[:, ::-1].copy()
        for left, right in LIP_PAIRS:
            was_left, was_right = label == left, label == right
            label[was_left], label[was_right] = right, left
    image = cv2.resize(image, (crop, crop), interpolation=cv2.INTER_LINEAR)
    return gen_sample(image, nearest(label, (crop, crop)), size, corner, crop)
