"""Panels of a few validation images in TensorBoard and other loggers, each epoch the same ones."""

from __future__ import annotations

from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from hrseg.callbacks.contact_sheet import batch_panels
from hrseg.callbacks.loggers import log_picture


class PanelPictures(Callback):
    """Sends image | truth | prediction | error of the first validation images to the loggers, such as TensorBoard.

    With several processes, of the first images of the first one.

    Args:
        number: How many images.
        height: Larger images are reduced to this height, in pixels.
    """

    def __init__(self, number: int = 4, height: int = 256) -> None:
        self.number = number
        self.height = height
        self._shown = 0

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts again at the first image."""
        self._shown = 0

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Draws the batch's images while panels are missing."""
        if trainer.sanity_checking or not trainer.is_global_zero or self._shown >= self.number:
            return
        for picture in batch_panels(batch, outputs, pl_module, self.height)[: self.number - self._shown]:
            log_picture(trainer, f"val/{self._shown}", picture)
            self._shown += 1
