"""The scores at the end of a validation or test: a table per class on the terminal, as CSV, JSON and a picture."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.trainer.states import TrainerFn
from rich.console import Console
from rich.table import Table
from torch import Tensor

from hrseg.data.labels import LabelTable
from hrseg.files import replacing, write_json
from hrseg.images import write_image
from hrseg.task import SegmentationTask
from hrseg.visualize import confusion_picture

_TITLES = {
    "pixel_accuracy": "pixel accuracy",
    "mean_accuracy": "mean accuracy",
    "fwiou": "frequency-weighted IoU",
    "category_miou": "mean of categories",
}

_ABSENT = {
    "skip": "classes that never occur are left out of the means",
    "zero": "classes that never occur count as 0, as in the official HRNet code",
}


class ScoreTables(Callback):
    """Writes `val/` and `test/` of a run's folder: `iou.csv` (a row per class), `scores.json` and `confusion.png`.

    The terminal shows the table after `validate` and `test`, and once at the end of a training.

    Args:
        folder: The run's folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._table: Table | None = None

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the files; prints the table unless more epochs follow."""
        if not trainer.sanity_checking:
            self._report(trainer, pl_module, "val", show=trainer.state.fn == TrainerFn.VALIDATING)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the files and prints the table."""
        self._report(trainer, pl_module, "test", show=True)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prints the table of the last validation."""
        if self._table is not None and trainer.is_global_zero:
            Console().print(self._table)

    def _report(self, trainer: Trainer, pl_module: LightningModule, stage: str, show: bool) -> None:
        assert isinstance(pl_module, SegmentationTask)
        scores = pl_module.metrics.compute()
        if not trainer.is_global_zero:
            return
        title = f"{pl_module.labels.name} {stage}\n{_ABSENT[pl_module.metrics.absent]}"
        self._table = score_table(scores, pl_module.labels, title)
        write_scores(self.folder / stage, scores, pl_module.labels)
        matrix = pl_module.metrics.matrix.cpu().numpy()
        write_image(self.folder / stage / "confusion.png", confusion_picture(matrix, pl_module.labels))
        if show:
            Console().print(self._table)
            print(f"scores: {self.folder / stage}")


def score_table(scores: dict[str, Tensor], labels: LabelTable, title: str) -> Table:
    """The table that the terminal shows; numbers in percent, a class that never occurs as a dash.

    Args:
        scores: What `SegmentationMetrics.compute` gave.
        labels: Gives the class names.
        title: Stands above the table.
    """
    table = Table(title=title, show_footer=True)
    table.add_column("class", footer="mIoU")
    table.add_column("IoU %", justify="right", footer=_percent(scores["miou"].item()))
    for name, value in zip(labels.class_names, scores["iou"].tolist(), strict=True):
        table.add_row(name, _percent(value))
    for name, value in scores.items():
        if value.ndim == 0 and name != "miou":
            table.columns[0].footer += f"\n{_TITLES.get(name, name)}"  # type: ignore[operator]
            table.columns[1].footer += f"\n{_percent(value.item())}"  # type: ignore[operator]
    return table


def write_scores(folder: Path, scores: dict[str, Tensor], labels: LabelTable) -> None:
    """Writes `iou.csv` and `scores.json`; numbers are fractions, a class that never occurs is empty or null.

    Args:
        folder: Where the files go.
        scores: What `SegmentationMetrics.compute` gave.
        labels: Gives the class names.
    """
    ious = dict(zip(labels.class_names, scores["iou"].tolist(), strict=True))
    with replacing(folder / "iou.csv") as temporary, temporary.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["train_id", "class", "iou", "pixels"])
        for train_id, (name, iou) in enumerate(ious.items()):
            writer.writerow([train_id, name, "" if math.isnan(iou) else iou, int(scores["pixels"][train_id])])
    summary: dict[str, Any] = {
        **{name: value.item() for name, value in scores.items() if value.ndim == 0},
        "classes": ious,
    }
    if labels.categories:
        summary["categories"] = dict(zip(labels.categories, scores["category_iou"].tolist(), strict=True))
    write_json(folder / "scores.json", summary)


def _percent(fraction: float) -> str:
    return "-" if math.isnan(fraction) else f"{100 * fraction:.2f}"
