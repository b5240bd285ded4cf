"""Losses of torch and of other libraries under our contract."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn

from hrseg.errors import ConfigError, HrsegError
from hrseg.losses.base import Criterion, SegmentationLoss, require_scalar
from hrseg.utils.checks import require


class ModuleLoss(SegmentationLoss):
    """A module of logits (B, K, H, W) and target (B, H, W) as a loss, such as `torch.nn.CrossEntropyLoss`.

    Logits are upsampled to the target's size. Ignored pixels get the module's own `ignore_index`; a module without one
    sees them as they stand in the target, and has to leave them out itself. A module's `weight` (K,) is taken for class
    weights.

    Args:
        module: The loss.
        ignore_index: Value of the pixels in the target that do not count.
        align_corners: How logits smaller than the target are upsampled; the network's own setting.

    Raises:
        ConfigError: A class weight is negative or not finite.
    """

    def __init__(self, module: nn.Module, ignore_index: int = 255, align_corners: bool = False) -> None:
        require(isinstance(module, nn.Module), "module", module, "a module of (logits, target)")
        weight = getattr(module, "weight", None)
        is_learnt = isinstance(weight, nn.Parameter)
        by_class = weight.tolist() if isinstance(weight, Tensor) and weight.ndim == 1 and not is_learnt else None
        super().__init__(by_class, ignore_index, align_corners)
        self.module = module

    def compute(self, logits: Tensor, target: Tensor) -> Tensor:
        """See `SegmentationLoss.compute`.

        Raises:
            ConfigError: The module gives no scalar.
        """
        logits = self.upsample(logits, target)
        known, valid = self.split_valid(target)
        # torch's losses divide by the number of valid pixels: where there is none, by all of them, times zero
        some = valid.any()
        loss = self.module(logits, torch.where(valid | ~some, known, self._ignored()))
        return require_scalar(loss, type(self.module).__name__) * some

    def probe(self, num_classes: int) -> None:
        """Calls the module with logits and a target of nothing.

        Raises:
            ConfigError: It does not take them, or gives no scalar.
        """
        target = torch.zeros(1, 64, 64, dtype=torch.int64)
        try:
            with torch.no_grad(), warnings.catch_warnings():
                warnings.filterwarnings("error", message="Using a target size")  # which torch would broadcast
                require_scalar(self.module(torch.zeros(1, num_classes, 64, 64), target), type(self.module).__name__)
        except HrsegError:
            raise
        except Exception as error:  # whatever a module of another kind raises or warns of
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise ConfigError(
                f"{type(self.module).__name__} is no loss of logits (B, K, H, W) and a target (B, H, W) of classes: "
                f"{reason}"
            ) from error

    def _ignored(self) -> int:
        """The value in place of ignored pixels."""
        if getattr(self.module, "ignore_index", self.ignore_index) is None:
            self.module.ignore_index = self.ignore_index  # type: ignore[assignment]
        value: int = getattr(self.module, "ignore_index", self.ignore_index)
        return value


def as_loss(loss: object) -> SegmentationLoss:
    """The loss itself, or a module of (logits, target) as one.

    Raises:
        ConfigError: It is neither.
    """
    if isinstance(loss, SegmentationLoss):
        return loss
    if isinstance(loss, nn.Module) and not isinstance(loss, Criterion):
        return ModuleLoss(loss)
    if isinstance(loss, type):
        raise ConfigError(f"the loss is the class {loss.__name__}; give an instance, {loss.__name__}(...)")
    raise ConfigError(
        f"the loss is {str(loss)[:60]!r} ({type(loss).__name__}); expected one of hrseg.losses, or a module of "
        "(logits, target) such as torch.nn.CrossEntropyLoss()"
    )
