"""Scores of a validation or test: a table on the terminal, CSV, JSON and a picture of the confusion matrix."""

from __future__ import annotations

import csv
import json
import logging
import math
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.trainer.states import TrainerFn
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text
from torch import Tensor

from hrseg.callbacks.provenance import protocol_in_words, provenance
from hrseg.data.labels import LabelTable
from hrseg.metrics.segmentation import MEANS
from hrseg.task import SegmentationTask
from hrseg.utils.files import replacing, write_json
from hrseg.utils.images import write_image
from hrseg.utils.text_files import read_json
from hrseg.visualize import confusion_picture

_log = logging.getLogger(__name__)

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

_BEST = "checkpoints/best.ckpt"
_ORIGIN = ("checkpoint", "weights", "step", "split", "protocol")  # facts that identify what was scored


class ScoreTables(Callback):
    """Writes `val/` and `test/` of a run's folder: `iou.csv` (a row per class), `scores.json` and `confusion.png`.

    `validate` and `test` print the table and name the scores they replace. During training, `val/` holds the best
    validation so far by mIoU, over all restarts, as does `best.ckpt`; its table is printed at the end.

    Args:
        folder: The run's folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._best: dict[str, Any] | None = None  # "scores" and "facts" of the best validation

    def state_dict(self) -> dict[str, Any]:
        """The best validation so far."""
        return {"best": self._best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the best validation so far."""
        self._best = state_dict.get("best")

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Recognises `best.ckpt` in a run's folder that was moved; drops the best of another run."""
        keeper, states = _keeper_of_best(trainer), checkpoint.get("callbacks", {})
        best, labels = states.get(self.state_key, {}).get("best"), vars(pl_module).get("labels")
        if best is not None and labels is not None and not _is_best(best, labels):
            del states[self.state_key]
            _log.warning(
                "%s does not hold the scores of the best validation as hrseg writes them; they are left out "
                "of the tables",
                trainer.ckpt_path,
            )
        state = states.get(keeper.state_key) if keeper else None
        if keeper is None or state is None or state.get("dirpath") == keeper.dirpath:
            return
        folder = str(keeper.dirpath)
        if os.path.realpath(Path(str(trainer.ckpt_path)).parent) == folder and Path(folder, "best.ckpt").is_file():
            states[keeper.state_key] = _moved(state, folder)
        else:
            del states[keeper.state_key]
            states.pop(self.state_key, None)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the files and prints the table; in a training, writes files for the best validation only."""
        if trainer.sanity_checking:
            return
        assert isinstance(pl_module, SegmentationTask)
        if trainer.state.fn != TrainerFn.FITTING:
            self._report(trainer, pl_module, "val")
            return
        scores = pl_module.metrics.compute()
        if not scores["images"]:
            return  # a custom task may have other scores
        # compares as `ModelCheckpoint` does, so that table and file agree; it also knows the best score of a run that
        # started without this callback
        keeper = _keeper_of_best(trainer)
        before = self._best["scores"]["miou"] if self._best else keeper.best_model_score if keeper else None
        if before is None or _comparable(scores["miou"]) > _comparable(before):
            checkpoint = _BEST if keeper and not getattr(trainer, "fast_dev_run", False) else None
            facts = provenance(trainer, pl_module, "val", self.folder) | {"checkpoint": checkpoint}
            self._best = {"scores": scores, "facts": facts}
            if trainer.is_global_zero:
                write_scores(self.folder / "val", scores, pl_module.labels, facts)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the files and prints the table."""
        assert isinstance(pl_module, SegmentationTask)
        self._report(trainer, pl_module, "test")

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prints the table of the best validation."""
        if self._best is None or not trainer.is_global_zero:
            return
        assert isinstance(pl_module, SegmentationTask)
        scores, facts = self._best["scores"], self._best["facts"]
        write_scores(self.folder / "val", scores, pl_module.labels, facts)  # `validate` may have replaced them
        place = f"epoch {facts['epoch'] + 1}, step {facts['step']}"
        kept = f", kept in {self.folder / _BEST}" if facts["checkpoint"] else ""
        _show(scores, facts, pl_module, f"best validation: {place}{kept}; scores: {self.folder / 'val'}")

    def _report(self, trainer: Trainer, task: SegmentationTask, stage: str) -> None:
        scores = task.metrics.compute()
        if not trainer.is_global_zero or not scores["images"]:
            return
        facts = provenance(trainer, task, stage, self.folder)
        before = read_json(self.folder / stage / "scores.json")
        write_scores(self.folder / stage, scores, task.labels, facts)
        lines = [f"{_source(facts)}; scores: {self.folder / stage}"]
        if before and any(before.get(key) != json.loads(json.dumps(facts[key])) for key in _ORIGIN):
            lines.append(f"they replace the scores of {_source(before)}; --run_dir keeps both")
        _show(scores, facts, task, *lines)


def score_table(scores: dict[str, Tensor], labels: LabelTable, title: str) -> Table:
    """The table for the terminal: numbers in percent, a dash for a class that never occurs.

    Args:
        scores: The result of `SegmentationMetrics.compute`.
        labels: Gives the class names.
        title: Printed above the table.
    """
    table = Table(title=Text(title), show_footer=True)
    table.add_column("class", footer="mIoU")
    table.add_column("IoU %", justify="right", footer=_percent(scores["miou"].item()))
    for name, value in zip(labels.class_names, scores["iou"].view(-1).tolist(), strict=True):
        table.add_row(Text(name), _percent(value))
    for name in MEANS[1:]:
        if name in scores:
            table.columns[0].footer += f"\n{_TITLES[name]}"  # type: ignore[operator]
            table.columns[1].footer += f"\n{_percent(scores[name].item())}"  # type: ignore[operator]
    return table


def write_scores(
    folder: Path, scores: dict[str, Tensor], labels: LabelTable, facts: Mapping[str, Any] | None = None
) -> None:
    """Writes `iou.csv`, `scores.json` and `confusion.png`; numbers are fractions, an absent class is empty or null.

    Args:
        folder: Folder of the files.
        scores: The result of `SegmentationMetrics.compute`.
        labels: Gives the class names.
        facts: Further entries of `scores.json`, such as the checkpoint.
    """
    ious = scores["iou"].view(-1).tolist()
    with replacing(folder / "iou.csv") as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["train_id", "class", "iou", "pixels"])
        counted = zip(labels.class_names, ious, scores["pixels"].view(-1).tolist(), strict=True)
        for train_id, (name, iou, pixels) in enumerate(counted):
            writer.writerow([train_id, name, "" if math.isnan(iou) else iou, pixels])
    summary: dict[str, Any] = {
        **{name: scores[name].item() for name in MEANS if name in scores},
        **(facts or {}),
        "images": int(scores["images"]),
        "classes": dict(zip(labels.class_names, ious, strict=True)),
    }
    if labels.categories:
        summary["categories"] = dict(zip(labels.categories, scores["category_iou"].view(-1).tolist(), strict=True))
    write_json(folder / "scores.json", summary)
    write_image(folder / "confusion.png", confusion_picture(scores["matrix"].numpy(), labels))


def _show(scores: dict[str, Tensor], facts: Mapping[str, Any], task: SegmentationTask, *lines: str) -> None:
    """Prints the table and lines below it, as one output in a notebook."""
    table = score_table(scores, task.labels, f"{task.labels.name} {facts['split']}")
    below = Text("\n".join([_ABSENT[task.metrics.absent], *lines]), no_wrap=True, overflow="ignore")
    Console().print(Group(table, below), crop=False)


def _comparable(miou: Tensor) -> float:
    return miou.float().nan_to_num(nan=-math.inf).item()


def _keeper_of_best(trainer: Trainer) -> ModelCheckpoint | None:
    """The callback that writes `best.ckpt`."""
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.monitor == "val/miou" and callback.filename == "best":
            return callback
    return None


def _moved(state: Mapping[str, Any], folder: str) -> dict[str, Any]:
    """The state of a `ModelCheckpoint` whose files have moved to another folder."""

    def here(path: str) -> str:
        return os.path.join(folder, os.path.basename(path)) if path else path

    paths = {key: here(value) for key, value in state.items() if key.endswith("_path")}
    scores = {here(path): score for path, score in state.get("best_k_models", {}).items()}
    return {**state, **paths, "dirpath": folder, "best_k_models": scores}


def _is_best(best: Any, labels: LabelTable) -> bool:
    """Whether the state in a checkpoint is a best validation on these classes."""
    number = labels.num_classes
    try:
        scores, facts = best["scores"], best["facts"]
        sizes = {"iou": number, "pixels": number, **{name: 1 for name in ("miou", "images", *MEANS) if name in scores}}
        if labels.categories:
            sizes["category_iou"] = len(labels.categories)
        return (
            all(scores[name].numel() == size for name, size in sizes.items())
            and scores["matrix"].shape == (number, number + 1)
            and all(isinstance(facts[name], int) for name in ("epoch", "step"))
            and {"miou", "images"} <= scores.keys()
            and {"checkpoint", "split"} <= facts.keys()
        )
    except (AttributeError, KeyError, TypeError):
        return False


def _source(facts: Mapping[str, Any]) -> str:
    """What was scored, in words."""
    weights = facts.get("checkpoint") or facts.get("weights") or "the weights at hand"
    step = f" (step {facts['step']})" if facts.get("step") else ""
    protocol = ""
    with suppress(KeyError, IndexError, TypeError, ValueError):  # an edited file, or one from another version
        protocol = f", {protocol_in_words(facts['protocol'])}"
    return f"{weights}{step} on {facts.get('split', 'an unknown split')}{protocol}"


def _percent(fraction: float) -> str:
    return "-" if math.isnan(fraction) else f"{100 * fraction:.2f}"
