"""Cross entropy, computed one image at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from hrseg.losses.base import SegmentationLoss
from hrseg.utils.checks import require

Upsample = Callable[[Tensor, Tensor], Tensor]


class CrossEntropyLoss(SegmentationLoss):
    """Cross entropy of the softmax over classes.

    `SegmentationLoss` describes the arguments that are not listed here.

    Args:
        divide_by: What the sum of the weighted pixel losses is divided by: "weights", the summed weights of the valid
            pixels, as `torch.nn.CrossEntropyLoss` and the official HRNet code do; or "pixels", the number of all
            pixels, ignored ones included, as the official code does for the auxiliary output beside OHEM.

    Raises:
        ConfigError: An argument is outside its range.

    Source:
        HRNet-Semantic-Segmentation, lib/core/criterion.py.
    """

    sums_over_pixels = True

    def __init__(
        self,
        class_weights: Sequence[float] | None = None,
        divide_by: Literal["weights", "pixels"] = "weights",
        ignore_index: int = 255,
        align_corners: bool = False,
    ) -> None:
        super().__init__(class_weights, ignore_index, align_corners)
        require(divide_by in ("weights", "pixels"), "divide_by", divide_by, "weights or pixels")
        self.divide_by = divide_by

    def compute(self, logits: Tensor, target: Tensor) -> Tensor:
        """See `SegmentationLoss.compute`."""
        target, valid = self.split_valid(target)
        weights = self.pixel_weights(target, valid)
        total = weighted_cross_entropy(logits, target, weights, self.upsample)
        return total / target.numel() if self.divide_by == "pixels" else self.mean(total, weights.sum())


def weighted_cross_entropy(logits: Tensor, target: Tensor, weights: Tensor, upsample: Upsample) -> Tensor:
    """Sums the weighted cross entropy over all pixels.

    Upsamples one image at a time and computes its gradient in the forward pass, so that no map of the target's size is
    kept. Unlike `F.cross_entropy` this is deterministic on CUDA.

    Args:
        logits: (B, K, h, w).
        target: (B, H, W) int64, every value a class.
        weights: (B, H, W), of the logits' type; zero where a pixel does not count.
        upsample: Upsamples logits to the size of a target; see `SegmentationLoss.upsample`.

    Returns:
        Scalar.
    """
    total: Tensor = _WeightedCrossEntropy.apply(logits, target, weights, upsample)
    return total


class _WeightedCrossEntropy(torch.autograd.Function):
    """See `weighted_cross_entropy`."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor, weights: Tensor, upsample: Upsample) -> Tensor:
        needs_gradient = ctx.needs_input_grad[0]
        sums, gradients = [], []
        images = (torch.split(x, 1) for x in (logits, target.unsqueeze(1), weights.unsqueeze(1)))
        for small, index, weight in zip(*images, strict=True):
            with torch.set_grad_enabled(needs_gradient):
                small = small.detach().requires_grad_(needs_gradient)
                large = upsample(small, index.squeeze(1))
            log_probability = F.log_softmax(large.detach(), dim=1)
            sums.append(-(log_probability.gather(1, index).masked_fill_(weight == 0, 0.0) * weight).sum())
            if needs_gradient:
                gradient = log_probability.exp_().mul_(weight)
                gradient.scatter_(1, index, gradient.gather(1, index) - weight)
                gradients += torch.autograd.grad(large, small, gradient)
        if needs_gradient:
            ctx.save_for_backward(torch.cat(gradients))
        return torch.stack(sums).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (for_logits,) = ctx.saved_tensors
        return gradient * for_logits, None, None, None
