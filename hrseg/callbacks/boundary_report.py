"""Boundary IoU and trimap accuracy, after `test`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from hrseg.callbacks.provenance import provenance
from hrseg.metrics import BoundaryScores
from hrseg.task import SegmentationTask
from hrseg.utils.files import write_json


class BoundaryReport(Callback):
    """Writes Boundary IoU and trimap accuracy, mean and per class, to `test/boundary.json`.

    Args:
        boundary_share: Width of the band along mask contours that Boundary IoU compares, as a fraction of the image
            diagonal.
        trimap_width: Half-width of the trimap around label borders, in pixels.
    """

    def __init__(self, boundary_share: float = 0.02, trimap_width: int = 5) -> None:
        self.boundary_share = boundary_share
        self.trimap_width = trimap_width

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Resets the counts."""
        assert isinstance(pl_module, SegmentationTask)
        labels = pl_module.labels
        scores = BoundaryScores(labels.num_classes, labels.ignore_index, self.boundary_share, self.trimap_width)
        self._scores = scores.to(pl_module.device)

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, _: int = 0
    ) -> None:
        """Accumulates one batch."""
        for prediction, target in zip(outputs["prediction"], batch["target"], strict=True):
            self._scores.update(prediction, target)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the file and prints the means."""
        scores = self._scores.compute()
        if not trainer.is_global_zero:
            return
        assert isinstance(pl_module, SegmentationTask)
        names, folder = pl_module.labels.class_names, Path(trainer.default_root_dir)
        report: dict[str, Any] = {name: scores[name].item() for name in ("boundary_miou", "trimap_accuracy")}
        for name in ("boundary_iou", "trimap_accuracy_per_class"):
            report[name] = dict(zip(names, scores[name].view(-1).tolist(), strict=True))
        write_json(folder / "test" / "boundary.json", report | provenance(trainer, pl_module, "test", folder))
        print(
            f"borders: Boundary IoU {100 * scores['boundary_miou']:.2f}, accuracy within {self.trimap_width} pixels "
            f"{100 * scores['trimap_accuracy']:.2f}"
        )
