"""From uint8 images to what a network takes."""

from __future__ import annotations

from torch import Tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def normalize(images: Tensor, mean: Tensor, std: Tensor, channel_order: str = "rgb") -> Tensor:
    """Brings the channels to zero mean and unit deviation, in the order that the network expects.

    Args:
        images: (B, 3, H, W) RGB, 0 to 255, uint8 or float.
        mean: (1, 3, 1, 1), of values from 0 to 1, in the network's order.
        std: (1, 3, 1, 1), likewise.
        channel_order: The network's, "rgb" or "bgr".

    Returns:
        (B, 3, H, W) float32, in the memory format of `images`.
    """
    if channel_order == "bgr":
        images = images.flip(1)
    return (images.float() - 255 * mean) / (255 * std)
