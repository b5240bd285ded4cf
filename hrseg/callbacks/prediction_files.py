"""Files written by `hrseg predict` for a split."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from hrseg.inference.writer import IMAGES, write_prediction, written_files
from hrseg.task import SegmentationTask
from hrseg.utils.resize import resize_image


class PredictionFiles(Callback):
    """Writes label ids and overlays, batch by batch.

    Args:
        folder: Parent of the folders `labels` and `overlays`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Removes the record of `--images`: their predictions with a sample's name are overwritten."""
        if trainer.is_global_zero:
            (self.folder / IMAGES).unlink(missing_ok=True)

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, _: int = 0
    ) -> None:
        """Writes the files of one batch."""
        assert isinstance(pl_module, SegmentationTask)
        for name, image, prediction in zip(batch["name"], batch["image"], outputs["prediction"], strict=True):
            pixels = resize_image(image.permute(1, 2, 0).cpu().numpy(), prediction.shape)
            write_prediction(self.folder, name, pixels, prediction.cpu().numpy(), pl_module.labels)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prints where the files are."""
        if trainer.is_global_zero:
            print(written_files(self.folder), flush=True)
