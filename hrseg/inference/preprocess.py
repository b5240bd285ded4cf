"""From uint8 images to what a network takes."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from hrseg.errors import ConfigError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def check_normalization(mean: Sequence[float], std: Sequence[float]) -> None:
    """Looks at mean and standard deviation of the channels.

    Raises:
        ConfigError: They are not three finite numbers each, or a standard deviation is not above 0.
    """
    for name, values, is_right in (
        ("mean", mean, all(map(math.isfinite, mean))),
        ("std", std, all(0 < value < math.inf for value in std)),
    ):
        if len(values) != 3 or not is_right:
            raise ConfigError(f"{name} is {values}; expected three numbers{', above 0' if name == 'std' else ''}")


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
