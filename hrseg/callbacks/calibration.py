"""Fitting a temperature to a validation split, and calibration scores without and with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from hrseg.callbacks.provenance import provenance
from hrseg.metrics import CalibrationScores, TemperatureFit
from hrseg.task import SegmentationTask


class Calibration(Callback):
    """In a first validation, fits the temperature and scores the probabilities without one; in a second, with it.

    Args:
        folder: The run's folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.temperature: float | None = None
        self.scores: list[dict[str, Tensor]] = []  # results of `CalibrationScores.compute`: without, with temperature
        self.facts: dict[str, Any] = {}  # of the first validation, see `provenance`

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Resets the metrics, and begins to watch the logits."""
        assert isinstance(pl_module, SegmentationTask)
        device = "cpu" if pl_module.device.type == "mps" else pl_module.device  # which has no float64
        self._counts = CalibrationScores(pl_module.labels.num_classes, pl_module.labels.ignore_index).to(device)
        self._fit = TemperatureFit().to(device)
        pl_module.observe_logits = self._observe

    def _observe(self, logits: Tensor, target: Tensor) -> None:
        logits, target = (values.to(self._counts.device) for values in (logits, target))
        self._counts.update(logits / (self.temperature or 1.0), target)
        if self.temperature is None:
            self._fit.update(logits, target)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Computes the scores of all ranks."""
        assert isinstance(pl_module, SegmentationTask)
        pl_module.observe_logits = None
        self.scores.append(self._counts.compute())
        if self.temperature is None:
            self.temperature = self._fit.compute().item()
            self.facts = provenance(trainer, pl_module, "val", self.folder)
