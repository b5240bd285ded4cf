"""Cross entropy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from hrseg.losses.base import SegmentationLoss


class CrossEntropyLoss(SegmentationLoss):
    """Cross entropy of the softmax over classes.

    Args:
        class_weights: One weight per class, in train id order; None weighs all alike.
        divide_by: What the sum of the weighted pixel losses is divided by: "weights", the summed weights of the valid
            pixels, as `torch.nn.CrossEntropyLoss` and the official HRNet code do; or "pixels", the number of all
            pixels, ignored ones included, as the official code does for the auxiliary output beside OHEM.
        ignore_index: Value of the pixels in the target that do not count.
        align_corners: How logits smaller than the target are upsampled; the network's own setting.

    Source:
        HRNet-Semantic-Segmentation, lib/core/criterion.py.
    """

    def __init__(
        self,
        class_weights: Sequence[float] | None = None,
        divide_by: Literal["weights", "pixels"] = "weights",
        ignore_index: int = 255,
        align_corners: bool = False,
    ) -> None:
        super().__init__(class_weights, ignore_index, align_corners)
        self.divide_by = divide_by

    def compute(self, logits: Tensor, target: Tensor) -> Tensor:
        """See `SegmentationLoss.compute`."""
        target, valid = self.split_valid(target)
        weights = self.pixel_weights(target, valid)
        total = -(class_log_probability(logits, target, valid) * weights).sum()
        return total / target.numel() if self.divide_by == "pixels" else divide(total, weights.sum())


def class_log_probability(logits: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """The log probability of each pixel's class, (B, H, W); zero where the pixel does not count.

    Unlike `F.cross_entropy` it is deterministic on CUDA, and its backward pass takes one map of the logits' size less.
    """
    picked: Tensor = _PickedLogSoftmax.apply(logits, target.unsqueeze(1))
    return picked.squeeze(1).masked_fill(~valid, 0.0)


class _PickedLogSoftmax(torch.autograd.Function):
    """Log softmax over dimension 1 at one index a pixel.

    Autograd would scatter the gradient into a map of zeros, and take that through the log softmax into a second map.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, index: Tensor) -> Tensor:
        log_probability = F.log_softmax(logits, dim=1)
        ctx.save_for_backward(log_probability, index)
        return log_probability.gather(1, index)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        log_probability, index = ctx.saved_tensors
        total: Tensor = log_probability.exp().mul_(-gradient)
        return total.scatter_(1, index, total.gather(1, index) + gradient), None


def divide(total: Tensor, count: Tensor) -> Tensor:
    """The mean from a sum; the sum itself, zero, where nothing was counted."""
    return total / torch.where(count > 0, count, 1)
