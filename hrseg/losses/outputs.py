"""Combinations of losses: one per output of a network, or several on one output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from hrseg.errors import ConfigError
from hrseg.losses.base import Criterion, SegmentationLoss, require_weights
from hrseg.losses.module_loss import as_loss
from hrseg.utils.checks import is_number, require


class WeightedOutputsLoss(Criterion):
    """The weighted sum of one loss per output of a network; outputs without a loss are ignored.

    HRNet + OCR is trained with weight 1 for "out" and 0.4 for "aux", and with OHEM, if at all, on "out" only.

    Args:
        losses: Loss by output name; modules of (logits, target) are wrapped in a `ModuleLoss`.
        weights: Weight >= 0 by output name; 1 for outputs that are not named.

    Raises:
        ConfigError: There is no loss, a weight is negative or not finite, or it is of an output without a loss.

    Source:
        HRNet-Semantic-Segmentation, branch HRNet-OCR, lib/core/criterion.py (BALANCE_WEIGHTS).
    """

    def __init__(
        self, losses: Mapping[str, SegmentationLoss | nn.Module], weights: Mapping[str, float] | None = None
    ) -> None:
        super().__init__()
        weights = {} if weights is None else weights
        require(isinstance(losses, Mapping), "losses", losses, "one loss per output, such as {'out': ..., 'aux': ...}")
        require(isinstance(weights, Mapping), "weights", weights, "one weight per output, such as {'aux': 0.4}")
        unknown = sorted(set(weights) - set(losses))
        if not losses or unknown:
            raise ConfigError(f"weights for outputs {unknown}, losses for {sorted(losses)}; give each output its loss")
        for name, weight in weights.items():
            require(is_number(weight, 0), f"the weight of output {name!r}", weight, "a finite number from 0")
        self.losses = nn.ModuleDict({name: as_loss(loss) for name, loss in losses.items()})
        self.weights = {name: float(weights.get(name, 1.0)) for name in losses}

    def forward(self, outputs: Mapping[str, Tensor], target: Tensor) -> Tensor:
        """The loss of one batch.

        Args:
            outputs: Logits (B, K, h, w) by output name, as the network's `outputs` method returns them.
            target: (B, H, W) uint8 or int64, train ids and the ignore index.

        Returns:
            Scalar.

        Raises:
            ConfigError: In training, an output that has a loss is missing. In evaluation, in which some networks return
                fewer outputs, the sum is over those that there are.
        """
        return torch.stack(list(self.terms(outputs, target).values())).sum()

    def terms(self, outputs: Mapping[str, Tensor], target: Tensor) -> dict[str, Tensor]:
        """The weighted loss of each output by name; arguments and errors as for `forward`, which sums them."""
        missing = [name for name in self.losses if name not in outputs]
        if missing and self.training:
            raise ConfigError(
                f"a loss for output {missing[0]!r}, but the network gives {', '.join(outputs)}; "
                "remove the loss, or choose a network with that output"
            )
        present = {name: loss for name, loss in self.losses.items() if name not in missing}
        return {name: self.weights[name] * loss(outputs[name], target) for name, loss in present.items()}


class SumLoss(SegmentationLoss):
    """The weighted sum of several losses on the same output, such as cross entropy and Dice.

    `ignore_index` and `align_corners` are set in all of them; see `SegmentationLoss`.

    Args:
        losses: The losses; modules of (logits, target) are wrapped in a `ModuleLoss`.
        weights: One weight >= 0 per loss; None is 1 for all.

    Raises:
        ConfigError: There is no loss, or not one weight per loss, or a weight is negative or not finite.
    """

    sums_over_pixels = True  # `bind` also checks each of the losses

    def __init__(
        self,
        losses: Sequence[SegmentationLoss | nn.Module],
        weights: Sequence[float] | None = None,
        ignore_index: int = 255,
        align_corners: bool = False,
    ) -> None:
        super().__init__(None, ignore_index, align_corners)
        require(isinstance(losses, Sequence), "losses", losses, "a list of losses")
        weights = [1.0] * len(losses) if weights is None else require_weights("weights", weights, "loss")
        if not losses or len(weights) != len(losses):
            raise ConfigError(f"{len(losses)} losses and {len(weights)} weights; expected one weight per loss")
        self.losses = nn.ModuleList(as_loss(loss) for loss in losses)
        self.weights = weights
        self.bind(ignore_index, align_corners)

    def compute(self, logits: Tensor, target: Tensor) -> Tensor:
        """See `SegmentationLoss.compute`."""
        terms = [loss.compute(logits, target) for loss in cast(Sequence[SegmentationLoss], self.losses)]
        return torch.stack([weight * term for weight, term in zip(self.weights, terms, strict=True)]).sum()
