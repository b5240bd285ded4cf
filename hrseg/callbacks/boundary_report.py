"""What a test says of the borders between classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from hrseg.files import write_json
from hrseg.metrics import BoundaryScores
from hrseg.task import SegmentationTask


class BoundaryReport(Callback):
    """Writes `test/boundary.json`: Boundary IoU and the accuracy in a trimap, in the mean and per class.

    Args:
        boundary_share: Distance from a mask's border that Boundary IoU looks at, as a share of the image's diagonal.
        trimap_width: Distance from a border of the labels up to which a pixel is in the trimap, in pixels.
    """

    def __init__(self, boundary_share: float = 0.02, trimap_width: int = 5) -> None:
        self.boundary_share = boundary_share
        self.trimap_width = trimap_width

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the counts at zero."""
        assert isinstance(pl_module, SegmentationTask)
        labels = pl_module.labels
        scores = BoundaryScores(labels.num_classes, labels.ignore_index, self.boundary_share, self.trimap_width)
        self._scores = scores.to(pl_module.device)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Counts one batch."""
        for prediction, target in zip(outputs["prediction"], batch["target"], strict=True):
            self._scores.update(prediction, target)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the file and says the means."""
        scores = self._scores.compute()
        if not trainer.is_global_zero:
            return
        assert isinstance(pl_module, SegmentationTask)
        names = pl_module.labels.class_names
        report = {
            name: value.item() if value.ndim == 0 else dict(zip(names, value.tolist(), strict=True))
            for name, value in scores.items()
        }
        write_json(Path(trainer.default_root_dir) / "test" / "boundary.json", report)
        print(
            f"borders: Boundary IoU {100 * scores['boundary_miou']:.2f}, accuracy within {self.trimap_width} pixels "
            f"{100 * scores['trimap_accuracy']:.2f}"
        )
