"""Panels of the same few validation images after every epoch, in TensorBoard and other loggers."""

from __future__ import annotations

from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from hrseg.callbacks.contact_sheet import batch_panels
from hrseg.callbacks.loggers import log_picture


class PanelPictures(Callback):
    """Logs image | truth | prediction | error panels of the first validation images.

    With several ranks, the images are rank 0's.

    Args:
        number: Number of images.
        height: Maximum height in pixels; larger panels are downsampled to it.
    """

    def __init__(self, number: int = 4, height: int = 256) -> None:
        self.number = number
        self.height = height
        self._shown = 0

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Resets the count of logged images."""
        self._shown = 0

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, _: int = 0
    ) -> None:
        """Logs panels of the batch until `number` are logged."""
        if trainer.sanity_checking or not trainer.is_global_zero or self._shown >= self.number:
            return
        for picture in batch_panels(batch, outputs, pl_module, self.height)[: self.number - self._shown]:
            log_picture(trainer, f"val/{self._shown}", picture)
            self._shown += 1
