"""From uint8 images to what a network takes."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from hrseg.checks import is_number, require

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def check_normalization(mean: Sequence[float], std: Sequence[float]) -> None:
    """Looks at mean and standard deviation of the channels.

    Raises:
        ConfigError: They are not three finite numbers each, or a standard deviation is not above 0.
    """
    for name, values, above in (("mean", mean, ""), ("std", std, ", above 0")):
        is_right = isinstance(values, Sequence) and len(values) == 3 and all(is_number(value) for value in values)
        require(is_right and (not above or min(values) > 0), name, values, f"three numbers{above}")


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
