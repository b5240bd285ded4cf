"""What `hrseg predict` writes of the probabilities of an image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor


class Certainty(NamedTuple):
    """Arrays of one image; None if they are not wanted.

    Args:
        confidence: (H, W) uint8 or uint16, the probability of each pixel's label times 255 or 65535, rounded.
        probabilities: (K, H, W) float16, of all classes.
    """

    confidence: np.ndarray | None = None
    probabilities: np.ndarray | None = None


@dataclass(frozen=True)
class CertaintyOptions:
    """Which files of certainty are written.

    Args:
        confidence: Bits per pixel of the PNG with the probability of each pixel's label; None for no such file.
        probabilities: Whether to write the probabilities of all classes.
    """

    confidence: Literal[8, 16] | None = None
    probabilities: bool = False

    @property
    def is_needed(self) -> bool:
        """Whether there is anything to write."""
        return self.confidence is not None or self.probabilities

    def reduce(self, probabilities: Tensor) -> Certainty:
        """Takes what is written from the probabilities of one image, (K, H, W) float32, on their device."""
        confidence = all_classes = None
        if self.confidence is not None:
            levels = (probabilities.amax(0) * (2**self.confidence - 1)).round_().to(torch.int32)
            confidence = levels.cpu().numpy().astype(f"uint{self.confidence}")
        if self.probabilities:
            all_classes = probabilities.half().cpu().numpy()
        return Certainty(confidence, all_classes)
