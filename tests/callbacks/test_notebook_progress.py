from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import cv2
import IPython.display
import numpy as np
import pytest
from pytorch_lightning import Callback, Trainer

from hrseg.callbacks import MetricsCsv, NotebookProgress
from hrseg.callbacks.notebook_progress import draw_curves, running_mean
from hrseg.data.datasets.camvid import CamVidDataModule
from hrseg.errors import ConfigError
from hrseg.task import SegmentationTask


class Cell:
    """A fake cell output: records displays and their updates in order."""

    def __init__(self) -> None:
        self.shown: list[list[dict[str, Any]]] = []

    def display(self, content: dict[str, Any], raw: bool, display_id: bool) -> Any:
        assert raw
        assert display_id
        place = [content]
        self.shown.append(place)

        class Handle:
            def update(self, content: dict[str, Any], raw: bool) -> None:
                assert raw
                place.append(content)

        return Handle()


@pytest.fixture
def cell(monkeypatch: pytest.MonkeyPatch) -> Cell:
    cell = Cell()
    monkeypatch.setattr(IPython.display, "display", cell.display)
    return cell


def trainer_with(*callbacks: Callback, **options: Any) -> Trainer:
    options = {"max_epochs": 2, "logger": False, **options}
    return Trainer(
        accelerator="cpu",
        devices=1,
        enable_checkpointing=False,
        enable_model_summary=False,
        num_sanity_val_steps=1,
        callbacks=list(callbacks),
        **options,
    )


def data_and_task(root: Path) -> tuple[CamVidDataModule, SegmentationTask]:
    data = CamVidDataModule(root, batch_size=2, crop_size=(32, 32), num_workers=0)
    return data, SegmentationTask("hrnetv2_w18_small_v1", data.labels)


def size_of(png: bytes) -> tuple[int, ...]:
    return tuple(cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR).shape)


def test_a_bar_and_curves_are_redrawn_in_place(camvid_root: Path, cell: Cell) -> None:
    data, task = data_and_task(camvid_root)
    trainer_with(NotebookProgress(seconds=0)).fit(task, data)
    bar, picture = cell.shown
    texts = [content["text/plain"] for content in bar]
    assert texts[0].startswith("epoch 1/2 · step 1/2 · train/loss ")
    assert any(text.startswith("validate 2/2") for text in texts)
    assert texts[-1].startswith("step 4, after 0:")
    assert "val/miou" in texts[-1]
    assert all(text in content["text/html"] for text, content in zip(texts, bar, strict=True))
    assert picture[-1]["text/plain"] == "curves of train/loss, val/miou"
    (height, width, _), wider = size_of(picture[0]["image/png"]), size_of(picture[-1]["image/png"])
    assert wider[0] == height
    assert wider[1] == 2 * width  # before the first validation there is one curve


@pytest.fixture
def drawn(cell: Cell, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, list[tuple[int, float]]]]:
    """The curves of each picture."""
    drawn: list[dict[str, list[tuple[int, float]]]] = []

    def note(curves: dict[str, list[tuple[int, float]]]) -> bytes:
        drawn.append({name: list(points) for name, points in curves.items()})
        return b""

    monkeypatch.setattr("hrseg.callbacks.notebook_progress.draw_curves", note)
    return drawn


def test_curves_hold_every_step_and_every_validation(camvid_root: Path, drawn: list[dict[str, Any]]) -> None:
    data, task = data_and_task(camvid_root)
    trainer_with(NotebookProgress(["train/loss", "val/loss"], seconds=1000)).fit(task, data)
    assert [[step for step, _ in drawn[-1][name]] for name in ("train/loss", "val/loss")] == [[1, 2, 3, 4], [2, 4]]
    assert all(isinstance(value, float) for points in drawn[-1].values() for _, value in points)


@pytest.mark.parametrize(("every", "steps"), [(1, [1, 2, 3, 4]), (2, [2, 4]), (3, [3])])
def test_curves_of_a_run_that_resumes_are_those_of_one_that_was_not_stopped(
    every: int, steps: list[int], camvid_root: Path, drawn: list[dict[str, Any]], tmp_path: Path
) -> None:
    for epochs in (1, 2):
        data, task = data_and_task(camvid_root)
        options = {"max_epochs": epochs, "log_every_n_steps": every, "default_root_dir": tmp_path}
        logger = MetricsCsv(tmp_path / "metrics.csv")
        trainer = trainer_with(NotebookProgress(seconds=1000), logger=logger, **options)
        trainer.fit(task, data, ckpt_path=tmp_path / "1.ckpt" if epochs == 2 else None)
        trainer.save_checkpoint(tmp_path / f"{epochs}.ckpt")
    before, after = drawn[-3], drawn[-1]
    assert [step for step, _ in after["train/loss"]] == steps
    assert [step for step, _ in after["val/miou"]] == [2, 4]
    for name, points in before.items():
        assert [value for _, value in points] == pytest.approx([value for _, value in after[name][: len(points)]])


def test_a_second_training_starts_anew(camvid_root: Path, cell: Cell) -> None:
    progress = NotebookProgress(seconds=0)
    for _ in range(2):
        data, task = data_and_task(camvid_root)
        trainer_with(progress).fit(task, data)
    assert len(cell.shown) == 4
    assert cell.shown[2][0]["text/plain"].startswith("epoch 1/2 · step 1/2")


@pytest.mark.parametrize("verb", ["validate", "test"])
def test_other_verbs_have_a_bar_alone(verb: str, camvid_root: Path, cell: Cell) -> None:
    data, task = data_and_task(camvid_root)
    getattr(trainer_with(NotebookProgress(seconds=1000)), verb)(task, data, verbose=False)
    (bar,) = cell.shown
    assert bar[-1]["text/plain"] == f"{verb} 2/2"
    assert 'value="2" max="2"' in bar[-1]["text/html"]


def test_an_interruption_leaves_the_place(camvid_root: Path, cell: Cell) -> None:
    class Stop(Callback):
        def on_train_batch_start(self, trainer: Trainer, *args: Any) -> None:
            if trainer.global_step == 3:
                raise RuntimeError

    data, task = data_and_task(camvid_root)
    with pytest.raises(RuntimeError):
        trainer_with(NotebookProgress(seconds=0), Stop()).fit(task, data)
    assert cell.shown[0][-1]["text/plain"].startswith("stopped at step 3 ")


def test_the_bars_of_other_processes_show_nothing(camvid_root: Path, cell: Cell) -> None:
    class Other(Callback):
        def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
            progress.disable()

    progress = NotebookProgress(seconds=0)
    data, task = data_and_task(camvid_root)
    trainer_with(progress, Other()).fit(task, data)
    assert not cell.shown


def test_without_ipython_it_names_the_remedy(camvid_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "IPython", None)
    data, task = data_and_task(camvid_root)
    with pytest.raises(ConfigError, match="give PlainProgress"):
        trainer_with(NotebookProgress()).validate(task, data, verbose=False)


def test_running_mean_follows_a_jump() -> None:
    means = running_mean([0.0] * 50 + [1.0] * 50, smoothing=0.9)
    assert means[:50] == [0.0] * 50
    assert 0.09 < means[50] < 0.11
    assert means[-1] > 0.99
    assert running_mean([3.0]) == [3.0]


@pytest.mark.parametrize("number", [1, 31])
def test_curves_of_any_length_are_drawn(number: int) -> None:
    points = [(step, float(step)) for step in range(number)]
    assert size_of(draw_curves({"a": points}, height=160))[0] == 160
