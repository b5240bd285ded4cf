"""Base classes of the losses: prepared inputs, ignored pixels, class weights."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor, distributed, nn

from hrseg.errors import ConfigError
from hrseg.utils.checks import is_number, is_whole, require
from hrseg.utils.construct import RecordsArguments
from hrseg.utils.upsample import upsample

LossReduction = Literal["per_rank", "global"]

_LARGEST = 3e38  # of float32


class Criterion(nn.Module, RecordsArguments):
    """Base class of losses and of combinations of losses."""

    def bind(self, ignore_index: int, align_corners: bool, loss_reduction: LossReduction = "per_rank") -> None:
        """Sets what data, network and task determine, in this loss and in all that it combines.

        Args:
            ignore_index: Value of the pixels that do not count, from the data's label table.
            align_corners: How the network upsamples.
            loss_reduction: See `SegmentationTask`.

        Raises:
            ConfigError: `loss_reduction` is unknown, or a loss does not support it.
        """
        if loss_reduction not in get_args(LossReduction):
            choices = ", ".join(get_args(LossReduction))
            raise ConfigError(f"loss_reduction is {loss_reduction!r}; expected one of {choices}")
        for module in self.modules():
            if isinstance(module, SegmentationLoss):
                if loss_reduction == "global" and not module.sums_over_pixels:
                    raise ConfigError(
                        f"loss_reduction is global, but {type(module).__name__} is not a sum over pixels that could be "
                        "divided by those of all ranks; leave it at per_rank"
                    )
                module.ignore_index = ignore_index
                module.align_corners = align_corners
                module.loss_reduction = loss_reduction

    @property
    def num_classes(self) -> int | None:
        """Number of class weights; None without any.

        Raises:
            ConfigError: Combined losses have class weights of different lengths.
        """
        losses = [module for module in self.modules() if isinstance(module, SegmentationLoss)]
        lengths = {len(loss.class_weights) for loss in losses if loss.class_weights is not None}
        if len(lengths) > 1:
            raise ConfigError(f"class weights for {sorted(lengths)} classes in one loss; give one weight per class")
        return lengths.pop() if lengths else None


class SegmentationLoss(Criterion, ABC):
    """A loss on the logits of one output; a subclass implements `compute`.

    The arguments below mean the same in every loss that has them.

    Args:
        class_weights: One weight per class, in train id order; None weighs all equally.
        ignore_index: Value of the pixels in the target that do not count.
        align_corners: How logits smaller than the target are upsampled; the network's own setting.

    Raises:
        ConfigError: A class weight is negative or not finite, none is above 0, or another argument is invalid.
    """

    sums_over_pixels: ClassVar[bool] = False  # whether it is a sum over pixels that `mean` divides
    loss_reduction: LossReduction = "per_rank"
    class_weights: Tensor | None

    def __init__(
        self,
        class_weights: Sequence[float] | None = None,
        ignore_index: int = 255,
        align_corners: bool = False,
    ) -> None:
        super().__init__()
        require(is_whole(ignore_index, -(2**31), 2**31), "ignore_index", ignore_index, "a number such as 255")
        require(isinstance(align_corners, bool), "align_corners", align_corners, "true or false")
        self.ignore_index = ignore_index
        self.align_corners = align_corners
        weights = (
            None
            if class_weights is None
            else torch.tensor(require_weights("class_weights", class_weights), dtype=torch.float32)
        )
        self.register_buffer("class_weights", weights, persistent=False)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """The loss of one batch.

        Args:
            logits: (B, K, h, w) of any float type; upsampled bilinearly where h, w are not the target's.
            target: (B, H, W) uint8 or int64, train ids and the ignore index.

        Returns:
            Scalar float32 (float64 for float64 logits); zero, and still differentiable, where no pixel counts.

        Raises:
            ConfigError: The number of class weights is not that of the logits' channels.
        """
        if self.class_weights is not None and len(self.class_weights) != logits.shape[1]:
            raise ConfigError(
                f"{len(self.class_weights)} class weights for logits of {logits.shape[1]} classes; give one per class"
            )
        # upsampling in half precision would shift the decision borders
        return self.compute(logits.to(torch.promote_types(logits.dtype, torch.float32)), target.long())

    @abstractmethod
    def compute(self, logits: Tensor, target: Tensor) -> Tensor:
        """The loss of prepared inputs; most losses begin with `logits = self.upsample(logits, target)`.

        Args:
            logits: (B, K, h, w) float32 or float64, at the network's own size.
            target: (B, H, W) int64, train ids and the ignore index.

        Returns:
            Scalar; zero, and still differentiable, where no pixel counts.
        """

    def upsample(self, logits: Tensor, target: Tensor) -> Tensor:
        """Upsamples logits (B, K, h, w) to the size of the target (B, H, W)."""
        if logits.shape[-2:] == target.shape[-2:]:
            return logits
        logits = logits.contiguous()  # while small: a softmax over channels_last would copy the upsampled ones
        return upsample(logits, target.shape[-2:], self.align_corners)

    def split_valid(self, target: Tensor) -> tuple[Tensor, Tensor]:
        """The target with class 0 for ignored pixels, and the mask of the pixels that count, (B, H, W) bool."""
        valid = target != self.ignore_index
        return target.masked_fill(~valid, 0), valid

    def pixel_weights(self, target: Tensor, valid: Tensor) -> Tensor:
        """The weight of each pixel's class, (B, H, W) float32; zero where the target is ignored."""
        return valid.float() if self.class_weights is None else self.class_weights[target] * valid

    def mean(self, total: Tensor, count: Tensor) -> Tensor:
        """The mean from a sum over the pixels of the batch; zero if no pixel was counted.

        Under "global" reduction it is the rank's share, scaled so that the mean over ranks, which DDP takes of the
        gradients, is the mean over all pixels.
        """
        world_size = 1
        if self.loss_reduction == "global" and self.training and distributed.is_initialized():
            count = count.clone()
            distributed.all_reduce(count)
            world_size = distributed.get_world_size()
        return total * world_size / torch.where(count > 0, count, 1)


def require_weights(name: str, weights: object, of: str = "class") -> list[float]:
    """Returns the weights as a list of numbers.

    Raises:
        ConfigError: They are no list of finite numbers >= 0, or all are 0.
    """
    listed = _plain(weights)
    if isinstance(listed, list | tuple):
        listed = [_plain(weight) for weight in listed]
    if not isinstance(listed, list) or not all(is_number(weight, 0, _LARGEST) for weight in listed):
        raise ConfigError(f"{name} {str(listed)[:200]}; expected one finite number >= 0 per {of}")
    if not any(listed):
        raise ConfigError(f"{name} {str(listed)[:200]}; expected at least one above 0, as nothing is learnt otherwise")
    return listed


def _plain(value: object) -> object:
    """The numbers of an array or a tensor; other values are returned as they are."""
    return value.tolist() if hasattr(value, "tolist") else value


def require_scalar(loss: object, name: str) -> Tensor:
    """Returns the loss.

    Raises:
        ConfigError: It is not a scalar tensor.
    """
    if isinstance(loss, Tensor) and loss.ndim == 0:
        return loss
    found = f"of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else f"that is a {type(loss).__name__}"
    raise ConfigError(f"{name} gives a loss {found}; expected one number, as with reduction='mean'")
