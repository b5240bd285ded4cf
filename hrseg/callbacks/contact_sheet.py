"""The contact sheet of a test."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pytorch_lightning import Callback, LightningModule, Trainer

from hrseg.task import SegmentationTask
from hrseg.utils.images import write_image
from hrseg.utils.resize import resize_image
from hrseg.visualize import contact_sheet, panel


class ContactSheet(Callback):
    """Writes `test/contact_sheet.png`: image | truth | prediction | error of the first test images, and a legend.

    With several ranks, the images are rank 0's.

    Args:
        folder: The run's folder.
        number: Number of images.
        height: Maximum height in pixels; larger images are downsampled to it.
    """

    def __init__(self, folder: Path, number: int = 8, height: int = 256) -> None:
        self.path = folder / "test" / "contact_sheet.png"
        self.number = number
        self.height = height
        self._panels: list[np.ndarray] = []

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Empties the sheet."""
        self._panels = []

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, _: int = 0
    ) -> None:
        """Adds the batch's images until the sheet is full."""
        if not trainer.is_global_zero or len(self._panels) >= self.number:
            return
        self._panels += batch_panels(batch, outputs, pl_module, self.height)[: self.number - len(self._panels)]

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the file."""
        if self._panels:
            assert isinstance(pl_module, SegmentationTask)
            write_image(self.path, contact_sheet(self._panels, pl_module.labels))
            print(f"contact sheet: {self.path}")


def batch_panels(batch: Any, outputs: Any, task: LightningModule, height: int) -> list[np.ndarray]:
    """Draws image | truth | prediction | error of each image of a batch.

    Args:
        batch: "image" (B, 3, H, W) uint8 and "target" (B, H, W) uint8, tensors or lists of tensors.
        outputs: "prediction", (H, W) uint8 tensors of the targets' sizes.
        task: Gives the label table.
        height: Maximum height of a panel in pixels; larger ones are downsampled to it.

    Returns:
        B arrays (h, w, 3) uint8 RGB; an empty list for batches and outputs of another structure, such as a custom
        task's.
    """
    is_known = isinstance(batch, Mapping) and {"image", "target"} <= batch.keys()
    if not (is_known and isinstance(outputs, Mapping) and "prediction" in outputs):
        return []
    assert isinstance(task, SegmentationTask)
    pictures = []
    for image, target, prediction in zip(batch["image"], batch["target"], outputs["prediction"], strict=True):
        maps = (target.cpu().numpy(), prediction.cpu().numpy())
        pixels = resize_image(image.permute(1, 2, 0).cpu().numpy(), target.shape)
        picture = panel(pixels, *maps, task.labels)
        if (factor := height / picture.shape[0]) < 1:
            picture = cv2.resize(picture, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
        pictures.append(picture)
    return pictures
