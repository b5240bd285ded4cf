from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from rich.console import Console

from hrseg.callbacks import LastCheckpoint, ScoreTables
from hrseg.callbacks.score_tables import score_table, write_scores
from hrseg.data.datasets.camvid import CamVidDataModule
from hrseg.data.labels import LabelTable
from hrseg.metrics import SegmentationMetrics
from hrseg.task import SegmentationTask

TABLE = LabelTable("toy", ("sky", "road", "train"), ((0, 0, 0),) * 3, categories={"outside": (0, 1), "vehicle": (2,)})


@pytest.fixture
def metrics() -> SegmentationMetrics:
    metrics = SegmentationMetrics(3, categories=TABLE.categories)
    metrics.update(torch.tensor([[0, 0, 1, 1]]), torch.tensor([[0, 1, 1, 255]]))
    return metrics


def test_files_hold_every_class(metrics: SegmentationMetrics, tmp_path: Path) -> None:
    write_scores(tmp_path / "val", metrics.compute(), TABLE)
    with (tmp_path / "val" / "iou.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == ["sky", "road", "train"]
    assert [row["iou"] for row in rows] == ["0.5", "0.5", ""]
    assert [row["pixels"] for row in rows] == ["1", "2", "0"]
    scores = json.loads((tmp_path / "val" / "scores.json").read_text())
    assert scores["miou"] == 0.5
    assert scores["classes"] == {"sky": 0.5, "road": 0.5, "train": None}
    assert scores["categories"] == {"outside": 1.0, "vehicle": None}


def test_the_table_shows_percent_and_a_dash_for_an_absent_class(metrics: SegmentationMetrics) -> None:
    text = io.StringIO()
    Console(file=text, width=100).print(score_table(metrics.compute(), TABLE, "toy val"))
    lines = [line.replace("│", "").split() for line in text.getvalue().splitlines()]
    assert ["sky", "50.00"] in lines
    assert ["train", "-"] in lines
    assert ["mIoU", "50.00"] in lines
    assert ["mean", "of", "categories", "100.00"] in lines


def scores_of(labels: LabelTable) -> dict[str, torch.Tensor]:
    metrics = SegmentationMetrics(labels.num_classes)
    metrics.update(torch.tensor([[0]]), torch.tensor([[0]]))
    return metrics.compute()


@pytest.mark.parametrize("name", ["a, b", 'the "best"', ":car:", "[/]", "[bold]sky[/bold]", "", "Straße", "=1+1"])
def test_any_class_name_stands_in_the_files_and_the_table_as_it_is(name: str, tmp_path: Path) -> None:
    labels = LabelTable(f"data of {name}", (name, "other"), ((0, 0, 0),) * 2)
    write_scores(tmp_path, scores_of(labels), labels)
    with (tmp_path / "iou.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == [name, "other"]
    assert [row["pixels"] for row in rows] == ["1", "0"]
    assert json.loads((tmp_path / "scores.json").read_text())["classes"] == {name: 1.0, "other": None}
    text = io.StringIO()
    Console(file=text, width=100).print(score_table(scores_of(labels), labels, labels.name))
    assert all(line in text.getvalue() for line in name.splitlines())


def test_two_classes_of_one_name_have_a_row_each(tmp_path: Path) -> None:
    labels = LabelTable("toy", ("road", "road"), ((0, 0, 0),) * 2)
    write_scores(tmp_path, scores_of(labels), labels)
    assert (tmp_path / "iou.csv").read_text().splitlines()[1:] == ["0,road,1.0,1", "1,road,,0"]


def test_a_single_class_is_scored(tmp_path: Path) -> None:
    labels = LabelTable("toy", ("road",), ((0, 0, 0),))
    write_scores(tmp_path, scores_of(labels), labels)
    assert (tmp_path / "iou.csv").read_text().splitlines()[1:] == ["0,road,1.0,1"]
    assert score_table(scores_of(labels), labels, "toy").row_count == 1


class OneConvolution(torch.nn.Conv2d):
    """The smallest network."""

    def __init__(self) -> None:
        super().__init__(3, 11, 1)


class Scores(SegmentationTask):
    """Has the given mIoU in each validation; the first is the sanity check's."""

    def on_validation_epoch_end(self) -> None:
        scores = self.metrics.compute()
        scores["miou"].fill_(self.given.pop(0))
        super().on_validation_epoch_end()

    given: list[float]


def a_trainer(folder: Path, **options: Any) -> Trainer:
    best = ModelCheckpoint(folder / "checkpoints", "best", monitor="val/miou", mode="max", enable_version_counter=False)
    return Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        default_root_dir=folder,
        callbacks=[ScoreTables(folder), best, LastCheckpoint()],
        **options,
    )


def scored(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "scores.json").read_text())  # type: ignore[no-any-return]


def test_after_a_training_the_table_and_the_files_are_those_of_the_best_checkpoint(
    camvid_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = CamVidDataModule(camvid_root, batch_size=2, crop_size=(32, 32), num_workers=0, test_split="train")
    task = Scores(OneConvolution(), data.labels)
    run = tmp_path / "run"
    for epochs, given in ((3, [0.25, 0.75, 0.5]), (4, [0.625])):  # the second time it resumes
        task.given = given
        last = run / "checkpoints" / "last.ckpt"
        a_trainer(run, max_epochs=epochs).fit(task, data, ckpt_path=last if epochs == 4 else None)
        shown = capsys.readouterr().out
        assert f"best validation: epoch 2, step 4, kept in {run}/checkpoints/best.ckpt; scores: {run}/val" in shown
        assert "75.00" in shown
        assert "CamVid val" in shown
        scores = scored(run / "val")
        assert (scores["miou"], scores["step"], scores["epoch"]) == (0.75, 4, 1)
        assert scores["checkpoint"] == "checkpoints/best.ckpt"
        assert torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)["global_step"] == 4

    for checkpoint, step in (("best", 4), ("last", 8)):
        path = run / "checkpoints" / f"{checkpoint}.ckpt"
        a_trainer(run).test(task, data, ckpt_path=path, verbose=False)
        scores = scored(run / "test")
        assert (scores["checkpoint"], scores["step"]) == (f"checkpoints/{checkpoint}.ckpt", step)
        assert (scores["split"], scores["images"], scores["data"]) == ("train", 5, "CamVid")
        assert (scores["network"], scores["protocol"]["scales"]) == ("OneConvolution", [1.0])
        assert set(scores["versions"]) == {"hrseg", "torch", "pytorch-lightning"}
    shown = capsys.readouterr().out
    assert "CamVid train" in shown  # and not the name of the verb
    assert "CamVid test" not in shown
    assert shown.count("they replace") == 1
    assert "they replace the scores of checkpoints/best.ckpt (step 4) on train, whole images; --run_dir keeps" in shown


@pytest.mark.parametrize("what", ["folder", "last checkpoint"])
def test_best_ckpt_is_that_of_the_table_where_a_run_was_moved(
    what: str, camvid_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A worse one used to replace it under the better one's table, as Lightning forgets its best."""
    data = CamVidDataModule(camvid_root, batch_size=2, crop_size=(32, 32), num_workers=0)
    task = Scores(OneConvolution(), data.labels)
    task.given = [0.75, 0.5, 0.25]
    a_trainer(tmp_path / "before", max_epochs=1).fit(task, data)
    run = tmp_path / "after"
    if what == "folder":
        (tmp_path / "before").rename(run)
        last = run / "checkpoints" / "last.ckpt"
    else:  # resumes in another run, without the previous run's best
        last = tmp_path / "before" / "checkpoints" / "last.ckpt"
    a_trainer(run, max_epochs=2).fit(task, data, ckpt_path=last)
    a_trainer(run, max_epochs=3).fit(task, data, ckpt_path=run / "checkpoints" / "last.ckpt")
    epoch, miou = (1, 0.75) if what == "folder" else (2, 0.5)
    assert f"best validation: epoch {epoch}, step {2 * epoch}, kept in {run}/checkpoints/best.ckpt" in (
        capsys.readouterr().out
    )
    assert scored(run / "val")["miou"] == miou
    assert torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)["epoch"] == epoch - 1


def test_scores_in_a_checkpoint_that_are_none_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    labels = LabelTable("toy", ("road", "sky"), ((0, 0, 0),) * 2)
    sound = {"scores": scores_of(labels), "facts": {"epoch": 1, "step": 2, "checkpoint": None, "split": "val"}}
    task = SimpleNamespace(labels=labels)
    tables = ScoreTables(tmp_path)
    for change in (
        None,
        5,
        {"scores": 1},
        {"facts": {**sound["facts"], "epoch": "x"}},
        {"facts": {}},
        *({"scores": {n: v for n, v in sound["scores"].items() if n != name}} for name in ("miou", "iou", "matrix")),
        {"scores": {**sound["scores"], "iou": torch.zeros(3)}},
    ):
        best = {**sound, **change} if isinstance(change, dict) else change or sound
        content = {"callbacks": {tables.state_key: {"best": best}}}
        trainer = SimpleNamespace(checkpoint_callbacks=[], ckpt_path="last.ckpt")
        tables.on_load_checkpoint(trainer, task, content)  # type: ignore[arg-type]
        assert bool(content["callbacks"]) == (change is None)
    assert "last.ckpt does not hold the scores of the best validation as hrseg writes them" in caplog.messages[0]


def test_a_run_that_was_begun_without_tables_shows_none_but_that_of_its_best_checkpoint(
    camvid_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = CamVidDataModule(camvid_root, batch_size=2, crop_size=(32, 32), num_workers=0)
    task = Scores(OneConvolution(), data.labels)
    last = tmp_path / "checkpoints" / "last.ckpt"
    for epochs, given in ((1, [0.75]), (2, [0.5]), (3, [0.875])):
        task.given = given
        trainer = a_trainer(tmp_path, max_epochs=epochs)
        if epochs == 1:
            trainer.callbacks = trainer.callbacks[1:]  # type: ignore[attr-defined]
        trainer.fit(task, data, ckpt_path=last if epochs > 1 else None)
        assert ("best validation" in capsys.readouterr().out) == (epochs == 3)


@pytest.mark.parametrize(
    "content", [b"\xff{", b"[" * 10**5, b"[1, 2]", b"{}", b'{"protocol": {"window": 3, "scales": "a"}, "step": []}']
)
def test_a_file_of_scores_that_cannot_be_read_is_replaced(
    content: bytes, camvid_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = CamVidDataModule(camvid_root, batch_size=2, crop_size=(32, 32), num_workers=0)
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "scores.json").write_bytes(content)
    a_trainer(tmp_path).test(SegmentationTask(OneConvolution(), data.labels), data, verbose=False)
    assert scored(tmp_path / "test")["checkpoint"] is None
    assert "the weights at hand on val, whole images; scores: " in capsys.readouterr().out
