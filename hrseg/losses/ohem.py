"""Online hard example mining (OHEM): cross entropy on the hard pixels only."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hrseg.losses.base import SegmentationLoss
from hrseg.losses.cross_entropy import weighted_cross_entropy
from hrseg.utils.checks import is_number, is_whole, require

_IGNORED = 2.0  # the probability assigned to ignored pixels, above every real one


class OhemCrossEntropyLoss(SegmentationLoss):
    """Mean cross entropy of the pixels whose target class has a low probability.

    Pixels are kept whose probability of the target class is strictly below the larger of `threshold` and the
    (`min_kept` + 1)-smallest such probability among the batch's valid pixels (the largest, if there are fewer). Their
    class-weighted losses are divided by their number, not by the sum of their weights.

    `SegmentationLoss` describes the arguments that are not listed here.

    Args:
        threshold: Probability, 0 to 1; pixels below it are kept.
        min_kept: Minimum number of pixels to keep, per batch and rank, even if their probability is higher.

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
        self.min_kept = max(1, min_kept)  # as in the official code

    def compute(self, logits: Tensor, target: Tensor) -> Tensor:
        """See `SegmentationLoss.compute`."""
        target, valid = self.split_valid(target)
        probability = self._class_probability(logits.detach(), target).masked_fill_(~valid, _IGNORED)
        kept = probability < self._limit(probability)
        total = weighted_cross_entropy(logits, target, self.pixel_weights(target, kept), self.upsample)
        return self.mean(total, kept.sum())

    def _class_probability(self, logits: Tensor, target: Tensor) -> Tensor:
        """The probability of each pixel's target class, (B, H, W); image by image, as upsampled logits are large."""
        images = zip(torch.split(logits, 1), torch.split(target, 1), strict=True)
        return torch.cat([self.upsample(x, y).softmax(1).gather(1, y.unsqueeze(1)).squeeze(1) for x, y in images])

    def _limit(self, probability: Tensor) -> Tensor:
        """The probability below which pixels are kept, without a host sync for the number of valid pixels."""
        number = min(self.min_kept + 1, probability.numel())
        # topk, because kthvalue has no deterministic form on CUDA
        hardest = probability.flatten().topk(number, largest=False, sorted=False).values.max()
        easiest = probability.masked_fill(probability == _IGNORED, 0.0).max()
        return torch.where(hardest == _IGNORED, easiest, hardest).clamp_min(self.threshold)
