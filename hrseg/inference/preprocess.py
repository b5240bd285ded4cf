"""From uint8 images to what a network takes."""

from __future__ import annotations

from torch import Tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def normalize(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Brings RGB channels to zero mean and unit deviation.

    Args:
        images: (B, 3, H, W), 0 to 255, uint8 or float.
        mean: (1, 3, 1, 1), of values from 0 to 1.
        std: (1, 3, 1, 1), likewise.

    Returns:
        (B, 3, H, W) float32, in the memory format of `images`.
    """
    return (images.float() - 255 * mean) / (255 * std)
