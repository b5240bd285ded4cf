"""The official test protocols in numpy and OpenCV: one image, one scale, one window, one view after the other."""

from __future__ import annotations

import math
from collections.abc import Callable

import cv2
import numpy as np
import torch
import torch.nn.functional as F

Network = Callable[[torch.Tensor], torch.Tensor]  # (1, C, h, w) -> logits at any stride


def enlarged(x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    return F.interpolate(x, size, mode="bilinear", align_corners=False)


def one_view(network: Network, image: np.ndarray, flip: bool, swap: list[int] | None = None) -> np.ndarray:
    """exp of the logits (h, w, K) of an image (h, w, C), averaged with those of its mirror image."""

    def logits(pixels: np.ndarray) -> np.ndarray:
        batch = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))[None]
        return enlarged(network(batch), pixels.shape[:2])[0].numpy().transpose(1, 2, 0)

    result = logits(image)
    if flip:
        mirrored = logits(image[:, ::-1])[:, ::-1]
        if swap is not None:
            mirrored = mirrored[..., swap]
        result = 0.5 * (result + mirrored)
    return np.exp(result)


def rescaled(image: np.ndarray, base_size: int, scale: float) -> np.ndarray:
    height, width = image.shape[:2]
    long_side = int(base_size * scale + 0.5)
    if height > width:
        new = (long_side, int(width * long_side / height + 0.5))
    else:
        new = (int(height * long_side / width + 0.5), long_side)
    return cv2.resize(image, (new[1], new[0]), interpolation=cv2.INTER_LINEAR)


def filled(image: np.ndarray, size: tuple[int, int], black: np.ndarray) -> np.ndarray:
    result = np.broadcast_to(black.astype(image.dtype), (*size, image.shape[2])).copy()
    result[: image.shape[0], : image.shape[1]] = image
    return result


def base_protocol(
    network: Network,
    image: np.ndarray,
    scales: list[float],
    base_size: int,
    crop: tuple[int, int],
    black: np.ndarray,
    flip: bool,
) -> np.ndarray:
    """PASCAL-Context: windows two thirds of their size apart, the last one filled up; scores (H, W, K) are added up."""
    total = 0.0
    for scale in scales:
        scaled = rescaled(image, base_size, scale)
        height, width = scaled.shape[:2]
        if max(height, width) <= min(crop):
            scores = one_view(network, filled(scaled, crop, black), flip)[:height, :width]
        else:
            area = filled(scaled, (max(height, crop[0]), max(width, crop[1])), black)
            stride = (int(crop[0] * 2.0 / 3.0), int(crop[1] * 2.0 / 3.0))
            counts, [*size] = 0, area.shape[:2]
            steps = [math.ceil((size[axis] - crop[axis]) / stride[axis]) + 1 for axis in (0, 1)]
            scores, counts = 0.0, np.zeros((*size, 1))
            for row in range(steps[0]):
                for column in range(steps[1]):
                    top, left = row * stride[0], column * stride[1]
                    part = area[top : top + crop[0], left : left + crop[1]]
                    seen = one_view(network, filled(part, crop, black), flip)
                    whole = np.zeros((*size, seen.shape[2]))
                    whole[top : top + crop[0], left : left + crop[1]] = seen[: part.shape[0], : part.shape[1]]
                    scores = scores + whole
                    counts[top : top + crop[0], left : left + crop[1]] += 1
            scores = (scores / counts)[:height, :width]
        total = total + to_size(scores, image.shape[:2])
    return total


def cityscapes_protocol(
    network: Network,
    image: np.ndarray,
    scales: list[float],
    base_size: int,
    crop: tuple[int, int],
    flip: bool,
) -> np.ndarray:
    """Cityscapes: whole images up to scale 1, above it tiles of which the last ones are moved back."""
    total = 0.0
    for scale in scales:
        scaled = rescaled(image, base_size, scale)
        height, width = scaled.shape[:2]
        if scale <= 1:
            scores = one_view(network, scaled, flip)
        else:
            summed, counts = 0.0, np.zeros((height, width, 1))
            for row in range(math.ceil((height - crop[0]) / crop[0]) + 1):
                for column in range(math.ceil((width - crop[1]) / crop[1]) + 1):
                    bottom, right = min((row + 1) * crop[0], height), min((column + 1) * crop[1], width)
                    top, left = max(bottom - crop[0], 0), max(right - crop[1], 0)
                    seen = one_view(network, scaled[top:bottom, left:right], flip)
                    whole = np.zeros((height, width, seen.shape[2]))
                    whole[top:bottom, left:right] = seen
                    summed = summed + whole
                    counts[top:bottom, left:right] += 1
            scores = summed / counts
        total = total + to_size(scores, image.shape[:2])
    return total


def to_size(scores: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    batch = torch.from_numpy(scores.transpose(2, 0, 1).copy())[None]
    return enlarged(batch, size)[0].numpy().transpose(1, 2, 0)
