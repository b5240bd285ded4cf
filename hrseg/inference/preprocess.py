"""Normalisation of uint8 images."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from hrseg.utils.checks import is_number, require

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def check_normalization(mean: Sequence[float], std: Sequence[float]) -> None:
    """Checks mean and standard deviation of the channels.

    Raises:
        ConfigError: They are not three numbers each, or one is far outside the range for values from 0 to 1.
    """
    for name, values, least, most, above in (("mean", mean, -1e3, 1e3, ""), ("std", std, 1e-6, 1e6, ", above 0")):
        is_right = isinstance(values, Sequence) and len(values) == 3 and all(is_number(x, least) for x in values)
        expected = f"three numbers{above}, from {least:g} to {most:g}: of images with values from 0 to 1"
        require(is_right and max(values) <= most, name, values, expected)


def normalize(images: Tensor, mean: Tensor, std: Tensor, channel_order: str = "rgb") -> Tensor:
    """Normalises the channels to zero mean and unit standard deviation, in the order that the network expects.

    Args:
        images: (B, 3, H, W) RGB, 0 to 255, uint8 or float.
        mean: (1, 3, 1, 1), for values from 0 to 1, in the network's channel order.
        std: (1, 3, 1, 1), in the range and order of `mean`.
        channel_order: The network's, "rgb" or "bgr".

    Returns:
        (B, 3, H, W) float32, in the memory format of `images`.
    """
    if channel_order == "bgr":
        images = images.flip(1)
    return (images.float() - 255 * mean) / (255 * std)
