"""Losses of torch and other libraries as a `SegmentationLoss`."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn

from hrseg.errors import ConfigError, HrsegError
from hrseg.losses.base import Criterion, SegmentationLoss, require_scalar
from hrseg.utils.checks import require


class ModuleLoss(SegmentationLoss):
    """Wraps a module of logits (B, K, H, W) and target (B, H, W), such as `torch.nn.CrossEntropyLoss`.

    Logits are upsampled to the target's size. Ignored pixels are set to the module's own `ignore_index`; a module
    without one receives the target as it is and has to ignore them itself. A buffer `weight` (K,) is taken as class
    weights.

    `SegmentationLoss` describes the arguments that are not listed here.

    Args:
        module: The wrapped loss.

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
            ConfigError: The module does not return a scalar.
        """
        logits = self.upsample(logits, target)
        known, valid = self.split_valid(target)
        # torch's losses divide by the number of valid pixels; if there are none, count all of them and multiply by zero
        some = valid.any()
        if getattr(self.module, "ignore_index", self.ignore_index) is None:
            self.module.ignore_index = self.ignore_index  # type: ignore[assignment]
        ignored: int = getattr(self.module, "ignore_index", self.ignore_index)
        loss = self.module(logits, torch.where(valid | ~some, known, ignored))
        return require_scalar(loss, type(self.module).__name__) * some

    def probe(self, num_classes: int) -> None:
        """Calls the module once with zeros.

        Raises:
            ConfigError: The call fails or does not return a scalar.
        """
        target = torch.zeros(1, 64, 64, dtype=torch.int64)
        try:
            with torch.no_grad(), warnings.catch_warnings():
                warnings.filterwarnings("error", message="Using a target size")  # torch would broadcast it
                require_scalar(self.module(torch.zeros(1, num_classes, 64, 64), target), type(self.module).__name__)
        except HrsegError:
            raise
        except Exception as error:  # modules that are no such losses raise anything
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise ConfigError(
                f"{type(self.module).__name__} is no loss of logits (B, K, H, W) and a target (B, H, W) of classes: "
                f"{reason}"
            ) from error


def as_loss(loss: object) -> SegmentationLoss:
    """Returns a `SegmentationLoss` as it is and wraps any other module of (logits, target).

    Raises:
        ConfigError: `loss` is neither of them.
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
