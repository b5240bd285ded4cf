"""The official Cityscapes evaluator, after `test`."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from hrseg.callbacks.provenance import provenance
from hrseg.metrics import mean_iou
from hrseg.metrics.cityscapesscripts import evaluate_files
from hrseg.task import SegmentationTask
from hrseg.utils.files import write_json
from hrseg.utils.images import write_image


class CityscapesEvaluation(Callback):
    """Writes test predictions as label ids, scores the files with cityscapesscripts and compares the mIoU with ours.

    Writes `test/labels/NAME.png` and `test/cityscapesscripts.json`.

    Args:
        folder: The run's folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "test"

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Removes the predictions and scores of an earlier test."""
        if trainer.is_global_zero:
            shutil.rmtree(self.folder / "labels", ignore_errors=True)
            (self.folder / "cityscapesscripts.json").unlink(missing_ok=True)
        trainer.strategy.barrier()

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Writes one batch of predictions."""
        assert isinstance(pl_module, SegmentationTask)
        for name, prediction in zip(batch["name"], outputs["prediction"], strict=True):
            write_image(self._path(name), pl_module.labels.decode(prediction.cpu().numpy()))

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Scores the files of all ranks, on rank 0."""
        assert isinstance(pl_module, SegmentationTask)
        trainer.strategy.barrier()
        matrix = pl_module.metrics.compute()["matrix"]
        if not trainer.is_global_zero:
            return
        samples = trainer.test_dataloaders.dataset.samples  # type: ignore[union-attr]  # there are loaders in a test
        samples = [
            sample for sample in samples if self._path(sample.name).is_file()
        ]  # limit_test_batches may leave some out
        if any(sample.holds_train_ids for sample in samples):
            print("cityscapesscripts: not run, as it scores labelIds files only, and these are labelTrainIds")
            return
        official = evaluate_files([(self._path(sample.name), sample.label) for sample in samples])
        facts = provenance(trainer, pl_module, "test", self.folder.parent)
        write_json(self.folder / "cityscapesscripts.json", official | facts)
        ours = mean_iou(matrix).item()
        names = {"miou": "mIoU", "category_miou": "categories", "iiou": "iIoU", "category_iiou": "iIoU of categories"}
        scores = [f"{title} {100 * official[key]:.2f}" for key, title in names.items() if key in official]
        print(
            f"cityscapesscripts, from the files: {', '.join(scores)}; "
            f"its mIoU differs from ours by {abs(official['miou'] - ours):.0e}"
        )

    def _path(self, name: str) -> Path:
        return self.folder / "labels" / f"{name}.png"
