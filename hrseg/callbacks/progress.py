"""Progress of a run: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from abc import abstractmethod
from datetime import timedelta
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ProgressBar, RichProgressBar


class Eta:
    """Estimates the time left from the optimiser steps done since this start."""

    def __init__(self, trainer: Trainer) -> None:
        self._start = time.perf_counter()
        self._first = trainer.global_step
        self._total = trainer.estimated_stepping_batches

    def __call__(self, trainer: Trainer) -> str:
        """The time left as H:MM:SS; "-" before the first step or without a known end."""
        done = trainer.global_step - self._first
        if done <= 0 or self._total == float("inf"):
            return "-"
        left = (time.perf_counter() - self._start) / done * (self._total - trainer.global_step)
        return str(timedelta(seconds=round(left)))


class TerminalProgress(RichProgressBar):
    """Lightning's Rich progress bar with an ETA for the whole training."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the timer."""
        super().on_train_start(trainer, pl_module)
        self._eta = Eta(trainer)

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> Any:
        """The metrics of the bar and the ETA."""
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        if trainer.training and hasattr(self, "_eta"):
            metrics["ETA"] = self._eta(trainer)
        return metrics


class TimedProgress(ProgressBar):
    """Base class of progress bars with a minimum refresh interval.

    Args:
        seconds: Minimum time between two updates.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds
        self._last = time.perf_counter()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the timer."""
        self._eta = Eta(trainer)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Updates the count of batches."""
        if trainer.testing:
            verb, total = "test", trainer.num_test_batches[0]
        elif trainer.predicting:
            verb, total = "predict", trainer.num_predict_batches[0]
        else:
            verb, total = "validate", trainer.num_val_batches[0]
        if not trainer.sanity_checking:
            self._show_count(batch_idx + 1, total, f"{verb} {batch_idx + 1}/{total}")

    on_test_batch_end = on_predict_batch_end = on_validation_batch_end

    @abstractmethod
    def _show_count(self, done: int, total: int | float, text: str) -> None:
        """Shows the number of finished batches of a validation, test or prediction."""

    def _is_time(self) -> bool:
        return time.perf_counter() - self._last >= self._seconds

    def _training(self, trainer: Trainer, pl_module: LightningModule, batches: int) -> list[str]:
        """Epoch, step, metrics of the bar and ETA."""
        epochs = trainer.max_epochs if trainer.max_epochs and trainer.max_epochs > 0 else "?"
        return [
            f"epoch {trainer.current_epoch + 1}/{epochs}",
            f"step {batches}/{trainer.num_training_batches}",
            *self._logged(trainer, pl_module),
            f"ETA {self._eta(trainer)}",
        ]

    def _logged(self, trainer: Trainer, pl_module: LightningModule) -> list[str]:
        metrics = self.get_metrics(trainer, pl_module).items()
        return [f"{name} {x:.4g}" for name, x in metrics if isinstance(x, (int, float)) and name != "v_num"]


class PlainProgress(TimedProgress):
    """Prints a line every few seconds and after each epoch, for files and pipes.

    Args:
        seconds: Minimum time between two lines within an epoch.
    """

    def __init__(self, seconds: float = 15.0) -> None:
        super().__init__(seconds)
        self._batches = 0  # finished in this epoch

    def enable(self) -> None:
        """Does nothing; lines are always printed."""

    def disable(self) -> None:
        """Does nothing; printing checks the rank itself."""

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Prints a line if the last one is older than `seconds`."""
        self._batches = batch_idx + 1
        if self._is_time():
            self._print("  ".join(self._training(trainer, pl_module, self._batches)))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prints the last line of the epoch."""
        self._print("  ".join(self._training(trainer, pl_module, self._batches)))

    def _show_count(self, done: int, total: int | float, text: str) -> None:
        if self._is_time():
            self._print(text)

    def _print(self, line: str) -> None:
        self._last = time.perf_counter()
        if self.trainer.is_global_zero:
            print(line, flush=True)
