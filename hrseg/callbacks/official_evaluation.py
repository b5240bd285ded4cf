"""The benchmark's own evaluator, after `test`."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from hrseg.callbacks.provenance import provenance
from hrseg.metrics import mean_iou
from hrseg.task import SegmentationTask
from hrseg.utils.files import write_json
from hrseg.utils.images import write_image
from hrseg.utils.threads import OrderedThreads

_TITLES = {"miou": "mIoU", "category_miou": "categories", "iiou": "iIoU", "category_iiou": "iIoU of categories"}


class OfficialEvaluation(Callback):
    """Writes test predictions as label ids, scores the files with the official evaluator and compares its mIoU.

    Writes `test/labels/NAME.png` and `test/EVALUATOR.json`.

    Args:
        folder: The run's folder.
        evaluator: Name of the evaluator.
        evaluate_files: Runs the evaluator; see `SegmentationDataModule.evaluate_files`.
    """

    def __init__(
        self, folder: Path, evaluator: str, evaluate_files: Callable[[Sequence[tuple[Path, Path]]], dict[str, Any]]
    ) -> None:
        self.folder = folder / "test"
        self.evaluator = evaluator
        self.evaluate_files = evaluate_files
        self._writing: OrderedThreads[None] | None = None

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Removes the predictions and scores of an earlier test."""
        if trainer.is_global_zero:
            shutil.rmtree(self.folder / "labels", ignore_errors=True)
            self._scores_file.unlink(missing_ok=True)
        trainer.strategy.barrier()
        self._writing = OrderedThreads()

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, _: int = 0
    ) -> None:
        """Writes one batch of predictions, later; raises the errors of earlier ones."""
        assert isinstance(pl_module, SegmentationTask)
        assert self._writing is not None
        for name, prediction in zip(batch["name"], outputs["prediction"], strict=True):
            self._writing.submit(write_image, self._label_file(name), pl_module.labels.decode(prediction.cpu().numpy()))

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Scores the files of all ranks, on rank 0."""
        assert isinstance(pl_module, SegmentationTask)
        assert self._writing is not None
        self._writing.finish()
        self._writing.close()
        trainer.strategy.barrier()
        matrix = pl_module.metrics.compute()["matrix"]
        if not trainer.is_global_zero:
            return
        samples = trainer.test_dataloaders.dataset.samples  # type: ignore[union-attr]  # there are loaders in a test
        # limit_test_batches may leave some out
        samples = [sample for sample in samples if self._label_file(sample.name).is_file()]
        if any(sample.holds_train_ids for sample in samples):
            print(f"{self.evaluator}: not run, as it scores files of label ids, and these labels are train ids")
            return
        official = self.evaluate_files([(self._label_file(sample.name), sample.label) for sample in samples])
        write_json(self._scores_file, official | provenance(trainer, pl_module, "test", self.folder.parent))
        scores = [f"{title} {100 * official[key]:.2f}" for key, title in _TITLES.items() if key in official]
        print(
            f"{self.evaluator}, from the files: {', '.join(scores)}; "
            f"its mIoU differs from ours by {abs(official['miou'] - mean_iou(matrix).item()):.0e}"
        )

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Ends the threads."""
        if self._writing is not None:
            self._writing.close()

    @property
    def _scores_file(self) -> Path:
        return self.folder / f"{self.evaluator}.json"

    def _label_file(self, name: str) -> Path:
        return self.folder / "labels" / f"{name}.png"
