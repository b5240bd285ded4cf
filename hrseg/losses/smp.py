"""Losses of segmentation_models_pytorch (SMP) as a `SegmentationLoss`."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from hrseg.errors import ConfigError, UnknownNameError
from hrseg.losses.base import SegmentationLoss, require_scalar
from hrseg.utils.checks import is_number, require

_CLASSES = {name.lower(): f"{name}Loss" for name in ("Dice", "Focal", "Jaccard", "Lovasz", "Tversky")}
_REGION_LOSSES = ("dice", "jaccard", "tversky")
_OURS = ("mode", "ignore_index", "from_logits")  # fixed: multiclass, the label table's, logits


class SmpLoss(SegmentationLoss):
    """A loss of segmentation_models_pytorch in multiclass mode.

    Ignored pixels change neither its value nor its gradient. It is always computed in float32.

    `SegmentationLoss` describes the arguments that are not listed here.

    Args:
        name: "dice", "focal", "jaccard", "lovasz" or "tversky", or the name or import path of the class.
        options: Arguments of the SMP class by name, such as `{"smooth": 1.0}`.

    Raises:
        UnknownNameError: SMP has no such loss.
        ConfigError: The SMP class has no such option, it is fixed, or its value is invalid.

    Source:
        segmentation_models_pytorch.losses.
    """

    def __init__(
        self,
        name: str,
        options: Mapping[str, Any] | None = None,
        ignore_index: int = 255,
        align_corners: bool = False,
    ) -> None:
        import segmentation_models_pytorch.losses as smp_losses  # takes seconds

        options = {} if options is None else options
        require(isinstance(options, Mapping), "options", options, "arguments of the SMP loss by name")
        require(isinstance(name, str), "name", name, f"the name of an SMP loss: {', '.join(_CLASSES)}")
        super().__init__(options.get("class_weights"), ignore_index, align_corners)
        key = name.rsplit(".", 1)[-1].lower().removesuffix("loss")
        if key not in _CLASSES:
            raise UnknownNameError("SMP loss", name, _CLASSES)
        loss_class = getattr(smp_losses, _CLASSES[key])
        known = [option for option in inspect.signature(loss_class).parameters if option not in _OURS]
        unknown = sorted(set(options) - set(known))
        if unknown:
            raise ConfigError(f"option {', '.join(unknown)} of SMP loss {name!r}; its options are {', '.join(known)}")
        for option, value in options.items():
            require(not isinstance(value, float) or is_number(value), option, value, "a finite number")
        try:
            self.loss = loss_class(mode="multiclass", ignore_index=ignore_index, **options)
        except (TypeError, ValueError, AssertionError) as error:
            raise ConfigError(f"options {options} of SMP loss {name!r}: {error}") from error
        self._is_region_loss = key in _REGION_LOSSES
        # SMP keeps constants as plain attributes and copies them to the device in every step
        for attribute, value in list(vars(self.loss).items()):
            if isinstance(value, Tensor):
                delattr(self.loss, attribute)
                self.loss.register_buffer(attribute, value, persistent=False)

    def compute(self, logits: Tensor, target: Tensor) -> Tensor:
        """See `SegmentationLoss.compute`."""
        self.loss.ignore_index = self.ignore_index
        valid = target != self.ignore_index
        logits = self.upsample(logits, target)
        # SMP multiplies ignored pixels by zero, which keeps NaN; filling removes it forward and backward
        logits = logits.float().masked_fill(~valid.unsqueeze(1), 0.0)  # its Lovász loss is float32 only
        if not self._is_region_loss:
            # these select the valid pixels, and return NaN or no scalar for an image without any
            some = valid.flatten(1).any(1)
            if not some.any():
                return logits.sum() * 0.0
            logits, target = logits[some], target[some]
        return require_scalar(self.loss(logits, target), type(self.loss).__name__)
