"""Cross entropy on the hard pixels only (online hard example mining)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hrseg.losses.base import SegmentationLoss
from hrseg.losses.cross_entropy import weighted_cross_entropy
from hrseg.utils.checks import is_number, is_whole, require

_IGNORED = 2.0  # stands in for the probability of an ignored pixel: above every real one


class OhemCrossEntropyLoss(SegmentationLoss):
    """Mean cross entropy of the pixels whose true class is predicted with a low probability.

    Over the valid pixels of the batch, the `min_kept + 1` smallest probability of the true class (the largest, if there
    are not as many) and `threshold` are compared; pixels strictly below the larger of the two are kept. Their weighted
    losses are averaged without dividing by the weights.

    Args:
        threshold: Probability, 0 to 1; pixels below it are kept.
        min_kept: Number of pixels to keep even if their probability is higher, per batch on one device.
        class_weights: One weight per class, in train id order; None weighs all alike.
        ignore_index: Value of the pixels in the target that do not count.
        align_corners: How logits smaller than the target are upsampled; the network's own setting.

    Raises:
        ConfigError: The threshold is not a probability, or `min_kept` is negative.

    Source:
        HRNet-Semantic-Segmentation, lib/core/criterion.py; its Cityscapes recipes use 0.9 and 131072.
    """

    sums_over_pixels = True

    def __init__(
        self,
        threshold: float = 0.9,
        min_kept: int = 131072,
        class_weights: Sequence[float] | None = None,
        ignore_index: int = 255,
        align_corners: bool = False,
    ) -> None:
        super().__init__(class_weights, ignore_index, align_corners)
        require(is_number(threshold, 0) and threshold <= 1, "OHEM threshold", threshold, "a probability, such as 0.9")
        require(is_whole(min_kept, 0), "OHEM min_kept", min_kept, "a number of pixels, such as 131072")
        self.threshold = threshold
        self.min_kept = max(1, min_kept)  # as the official code has it

    def compute(self, logits: Tensor, target: Tensor) -> Tensor:
        """See `SegmentationLoss.compute`."""
        target, valid = self.split_valid(target)
        probability = self._class_probability(logits.detach(), target).masked_fill_(~valid, _IGNORED)
        kept = probability < self._limit(probability)
        total = weighted_cross_entropy(logits, target, self.pixel_weights(target, kept), self.upsample)
        return self.mean(total, kept.sum())

    def _class_probability(self, logits: Tensor, target: Tensor) -> Tensor:
        """The probability (B, H, W) of each pixel's class, image by image, since the upsampled logits are large."""
        images = zip(torch.split(logits, 1), torch.split(target, 1), strict=True)
        return torch.cat([self.upsample(x, y).softmax(1).gather(1, y.unsqueeze(1)).squeeze(1) for x, y in images])

    def _limit(self, probability: Tensor) -> Tensor:
        """The probability below which a pixel is kept, found without knowing on the host how many pixels are valid."""
        number = min(self.min_kept + 1, probability.numel())
        # topk, because kthvalue has no deterministic form on CUDA
        hardest = probability.flatten().topk(number, largest=False, sorted=False).values.max()
        easiest = probability.masked_fill(probability == _IGNORED, 0.0).max()
        return torch.where(hardest == _IGNORED, easiest, hardest).clamp_min(self.threshold)
