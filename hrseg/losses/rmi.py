"""Region mutual information (RMI) loss with binary cross entropy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from hrseg.errors import ConfigError
from hrseg.losses.base import SegmentationLoss
from hrseg.utils.checks import is_number, is_whole, require

_PROBABILITY_OFFSET = 1e-6
_DIAGONAL_OFFSET = 1e-8
_CLASSES_AT_ONCE = 4  # at 1024 x 2048 pixels they take 0.5 to 0.8 GB; the 19 of Cityscapes together take 2 GB


class RMILoss(SegmentationLoss):
    """Binary cross entropy (BCE) and the negative lower bound of the mutual information of regions, per class.

    The loss is `bce_weight` * BCE + (1 - `bce_weight`) * RMI. BCE is summed over classes and valid pixels and
    divided by the number of valid pixels plus one. For RMI, the probabilities and the one-hot labels
    of a class, zero where the target is ignored, are pooled; each region of `radius` x `radius` pooled pixels is then
    a point of as many dimensions, among the probabilities P and among the labels Y. RMI is half the log-determinant,
    divided by the number of dimensions, of

        YY' - YP' (PP' + alpha I)^-1 PY' + alpha I

    where YP' is the sum over the points of (y - mean)(p - mean)'. It is summed over all classes, even those absent from
    the image, and averaged over all images, even those without a valid pixel, as in the official code.

    The loss may be negative: RMI falls towards half the logarithm of alpha for each class.

    The defaults are NVIDIA's; openseg's setting is `pooling="max", pool_size=3, alpha=1e-3`. With `bce_weight=1` the
    loss is BCE alone, NVIDIA's loss of the auxiliary output.

    `SegmentationLoss` describes the arguments that are not listed here.

    Args:
        num_classes: Number of channels that the logits must have; None accepts any.
        radius: Side of a region in pooled pixels.
        pooling: How the maps are downsampled: "average", where the padding counts as zero, or "max".
        pool_size: Side and stride of the pooling in pixels; every side is padded by half of it, rounded down.
        bce_weight: Weight of the BCE, 0 to 1 (lambda in the paper); that of RMI is the rest.
        alpha: Added to the diagonal of both scatter matrices, above 0.

    Raises:
        ConfigError: A number is outside its range.

    Source:
        Zhao et al., "Region Mutual Information Loss for Semantic Segmentation", NeurIPS 2019;
        NVIDIA/semantic-segmentation, loss/rmi.py; openseg.pytorch, lib/loss/rmi_loss.py.
    """

    def __init__(
        self,
        num_classes: int | None = None,
        radius: int = 3,
        pooling: Literal["average", "max"] = "average",
        pool_size: int = 4,
        bce_weight: float = 0.5,
        alpha: float = 5e-4,
        ignore_index: int = 255,
        align_corners: bool = False,
    ) -> None:
        super().__init__(None, ignore_index, align_corners)
        classes_known = num_classes is None or is_whole(num_classes)
        require(classes_known, "RMI num_classes", num_classes, "a number from 1, or nothing")
        require(is_whole(radius, 1, 31), "RMI radius", radius, "a number of pixels from 1 to 31, such as 3")
        require(is_whole(pool_size, 1, 64), "RMI pool_size", pool_size, "a number of pixels from 1 to 64, such as 4")
        require(pooling in ("average", "max"), "RMI pooling", pooling, "average or max")
        is_share = is_number(bce_weight, 0) and bce_weight <= 1
        require(is_share, "RMI bce_weight", bce_weight, "a share from 0 to 1, such as 0.5")
        require(is_number(alpha, 0, 1e30) and alpha > 0, "RMI alpha", alpha, "a small number above 0, such as 5e-4")
        self._num_classes = num_classes
        self.radius = radius
        self.pooling = pooling
        self.pool_size = pool_size
        self.bce_weight = bce_weight
        self.alpha = alpha

    @property
    def num_classes(self) -> int | None:
        """Number of channels that the logits must have; None if it was not given."""
        return self._num_classes

    def compute(self, logits: Tensor, target: Tensor) -> Tensor:
        """See `SegmentationLoss.compute`.

        Raises:
            ConfigError: The logits do not have `num_classes` channels, or the pooled maps are smaller than a region.
        """
        channels = logits.shape[1]
        if self.num_classes not in (None, channels):
            raise ConfigError(
                f"RMI loss for {self.num_classes} classes, but logits of {channels}; give num_classes={channels}"
            )
        valid = target != self.ignore_index
        for_bce = self.bce_weight / (valid.sum(dtype=torch.float64) + 1)
        for_rmi = (1 - self.bce_weight) / len(target)

        def part(small: Tensor, image: int, first_class: int) -> Tensor:
            """The contribution of some classes (1, k, h, w) of one image to the loss, float64."""
            inside = valid[image].expand(1, small.shape[1], -1, -1)
            classes = torch.arange(first_class, first_class + small.shape[1], device=target.device)
            labels = ((target[image] == classes.view(1, -1, 1, 1)) & inside).to(small.dtype)
            # filled instead of multiplied, since infinity times zero is not zero
            large = self.upsample(small, target[image : image + 1]).masked_fill(~inside, 0.0)
            bce = F.binary_cross_entropy_with_logits(large, labels, inside.to(small.dtype), reduction="sum")
            loss = for_bce * bce.double()
            if self.bce_weight < 1:
                loss = loss + for_rmi * self._rmi(large.sigmoid() * inside, labels).sum()
            return loss

        total: Tensor = _SumOverParts.apply(logits, part)
        return total.to(logits.dtype)

    def _rmi(self, probability: Tensor, labels: Tensor) -> Tensor:
        """RMI (k,) float64 of the maps (1, k, H, W) of one image."""
        pool = F.avg_pool2d if self.pooling == "average" else F.max_pool2d
        size = self.pool_size
        probability = pool(probability + _PROBABILITY_OFFSET, size, size, size // 2)
        labels = pool(labels, size, size, size // 2)
        if min(labels.shape[-2:]) < self.radius:
            height, width = labels.shape[-2:]
            raise ConfigError(
                f"RMI regions of {self.radius} x {self.radius} in maps pooled to {height} x {width}; "
                "give larger crops, or a smaller radius or pool_size"
            )
        regions = F.unfold(torch.cat([probability, labels]).transpose(0, 1).double(), self.radius)
        regions = regions - regions.mean(-1, keepdim=True)
        scatter = regions @ regions.mT
        dimensions = self.radius**2
        diagonal = torch.full_like(scatter[0, 0], self.alpha).diag()
        # The formula's matrix is the Schur complement of PP' + alpha I in the joint matrix of P and Y, so its Cholesky
        # factor is the last block of the joint one. That inverts nothing, and cannot fail: no eigenvalue is below
        # alpha, far above float64's rounding. `cholesky` without `_ex` would wait for the device to report just that.
        factor = torch.linalg.cholesky_ex(scatter + diagonal).L
        roots = factor.diagonal(dim1=-2, dim2=-1)[:, dimensions:]
        information: Tensor = (roots + _DIAGONAL_OFFSET).log().sum(-1) / dimensions
        return information


Part = Callable[[Tensor, int, int], Tensor]


class _SumOverParts(torch.autograd.Function):
    """Sums a loss over images and groups of classes; computes each part's gradient in the forward pass.

    No map of the target's size is kept. `part` takes logits (1, k, h, w), the image's index in the batch and the first
    of the k classes.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, part: Part) -> Tensor:
        needs_gradient = ctx.needs_input_grad[0]
        gradient = torch.zeros_like(logits) if needs_gradient else None
        values = []
        for image in range(logits.shape[0]):
            for first in range(0, logits.shape[1], _CLASSES_AT_ONCE):
                place = slice(image, image + 1), slice(first, first + _CLASSES_AT_ONCE)
                with torch.set_grad_enabled(needs_gradient):
                    small = logits[place].detach().requires_grad_(needs_gradient)
                    value = part(small, image, first)
                values.append(value.detach())
                if gradient is not None:
                    (gradient[place],) = torch.autograd.grad(value, small)
        if gradient is not None:
            ctx.save_for_backward(gradient)
        return torch.stack(values).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None]:
        (for_logits,) = ctx.saved_tensors
        return gradient * for_logits, None
