"""`hrseg.fit`, in scripts and in a notebook's kernel."""

from __future__ import annotations

import csv
import json
import logging
import os
import re
import signal
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, LightningDataModule, LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint, TQDMProgressBar
from pytorch_lightning.plugins.environments import LightningEnvironment
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

import hrseg
from hrseg.callbacks import LastCheckpoint, PlainProgress
from hrseg.data.datasets.camvid import CamVidDataModule
from hrseg.errors import ConfigError
from hrseg.run.folders import shared_run_dir
from hrseg.utils import signals
from tests.callbacks.fake_logger import FakeLogger, lines

SMALL: dict[str, Any] = {"accelerator": "cpu", "devices": 1, "max_epochs": 2}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("SLURM_JOB_ID", "SLURM_NTASKS", "SLURM_STEP_ID", "HRSEG_RUN_DIR", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


@pytest.fixture
def data(camvid_root: Path) -> CamVidDataModule:
    return CamVidDataModule(camvid_root, batch_size=2, crop_size=(32, 32), num_workers=0)


def new_task(data: CamVidDataModule) -> hrseg.SegmentationTask:
    torch.manual_seed(0)
    return hrseg.SegmentationTask("hrnetv2_w18_small_v1", data.labels, {"init": "kaiming"})


def rows_of(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


class StopAt(Callback):
    """Sends this process a signal before a step."""

    def __init__(self, step: int, number: signal.Signals = signal.SIGINT) -> None:
        self.step = step
        self.number = number

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        if trainer.global_step == self.step:
            os.kill(os.getpid(), self.number)


def test_each_training_has_a_folder_with_what_the_command_writes(
    data: CamVidDataModule, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(2):
        trainer = hrseg.fit(new_task(data), data, experiment="a", **SMALL)
        run = Path("runs", "a", str(number))
        assert trainer.default_root_dir == str(run)
        for name in ("checkpoints/best.ckpt", "checkpoints/last.ckpt", "val/iou.csv", "val/confusion.png"):
            assert (run / name).is_file()
        assert [row["val/miou"] != "" for row in rows_of(run)].count(True) == 2
        assert list(run.glob("events.out.tfevents*"))
        assert Path(trainer.checkpoint_callback.best_model_path) == Path.cwd() / run / "checkpoints" / "best.ckpt"
    shown = capsys.readouterr().out
    assert "fit: hrnetv2_w18_small_v1 (1.54 M parameters, no weights, init kaiming) on CamVid, 11 classes; " in shown
    assert "1 x cpu; files in runs/a/1" in shown
    assert "epoch 2/2  step 2/2" in shown
    assert isinstance(trainer.progress_bar_callback, PlainProgress)
    assert hrseg.Predictor.from_checkpoint(run / "checkpoints" / "best.ckpt").labels == data.labels


def test_lightning_gives_no_advice_and_nothing_stays_changed(
    data: CamVidDataModule, capfd: pytest.CaptureFixture[str]
) -> None:
    before = logging.getLogger("pytorch_lightning").level, list(warnings.filters)
    hrseg.fit(new_task(data), data, **SMALL)
    assert (logging.getLogger("pytorch_lightning").level, list(warnings.filters)) == before
    assert capfd.readouterr().err == ""


def test_a_training_without_validation_is_not_warned_of_its_scores(
    data: CamVidDataModule, recwarn: pytest.WarningsRecorder
) -> None:
    hrseg.fit(new_task(data), data, **SMALL, limit_val_batches=0)
    assert [str(warning.message) for warning in recwarn if "val/miou" in str(warning.message)] == []


def test_an_interrupted_training_resumes_as_if_it_had_not_been(
    data: CamVidDataModule, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = hrseg.fit(new_task(data), data, run_dir="whole", **SMALL)
    with pytest.raises(KeyboardInterrupt):
        hrseg.fit(new_task(data), data, run_dir="stopped", callbacks=[StopAt(3)], **SMALL)
    assert "holds step 3. --run_dir stopped resumes from it" in capsys.readouterr().out
    assert not signals.is_watching()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    again = hrseg.fit(new_task(data), data, run_dir="stopped", **SMALL)
    assert again.global_step == whole.global_step == 4
    assert "resuming from stopped/checkpoints/last.ckpt\n" in capsys.readouterr().out
    for name, value in whole.lightning_module.state_dict().items():
        assert torch.equal(value, again.lightning_module.state_dict()[name]), name
    assert [row["step"] for row in rows_of(Path("stopped"))] == [row["step"] for row in rows_of(Path("whole"))]


def test_ctrl_c_twice_stops_at_once_and_the_process_lives(data: CamVidDataModule) -> None:
    class Twice(StopAt):
        def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        hrseg.fit(new_task(data), data, callbacks=[Twice(1)], **SMALL)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_stops_a_training_without_checkpoints_too(data: CamVidDataModule) -> None:
    """It used to run to its end, although it printed that it stops."""
    task = new_task(data)
    with pytest.raises(KeyboardInterrupt):
        hrseg.fit(task, data, callbacks=[StopAt(1)], enable_checkpointing=False, **SMALL)
    assert task.trainer.global_step == 1


def test_other_signals_reach_the_process_once_its_state_is_saved(data: CamVidDataModule) -> None:
    received: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
    try:
        with pytest.raises(signals.Interrupted):
            hrseg.fit(new_task(data), data, run_dir="a", callbacks=[StopAt(1, signal.SIGTERM)], **SMALL)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert received == [signal.SIGTERM]
    assert Path("a/checkpoints/last.ckpt").is_file()


@pytest.mark.parametrize("changed", ["labels", "input_size"])
def test_a_task_of_other_data_is_reported(changed: str, data: CamVidDataModule, camvid_root: Path) -> None:
    task = new_task(data)
    if changed == "labels":
        task.labels = replace(data.labels, name="others")
    else:
        data = CamVidDataModule(camvid_root, batch_size=2, crop_size=(32, 32), input_size=(64, 64))
    with pytest.raises(hrseg.HrsegError, match=f"give SegmentationTask {changed}=data.{changed}"):
        hrseg.fit(task, data, **SMALL)
    assert not Path("runs").exists()


def test_a_task_of_another_kind_is_reported(data: CamVidDataModule) -> None:
    """It used to be an AttributeError."""
    task: Any = LightningModule()
    with pytest.raises(ConfigError, match="the task is a LightningModule; expected a SegmentationTask, or an instance"):
        hrseg.fit(task, data, **SMALL)


def test_data_of_another_kind_are_reported(data: CamVidDataModule) -> None:
    """They used to be an AttributeError in Lightning."""
    loader: Any = DataLoader(TensorDataset(torch.zeros(2, 3)))
    with pytest.raises(ConfigError, match="the data are a DataLoader; expected a LightningDataModule, such as one of"):
        hrseg.fit(new_task(data), loader, **SMALL)
    assert not Path("runs").exists()


def test_a_training_that_cannot_start_leaves_no_folder(data: CamVidDataModule, folder: Path) -> None:
    data.root = folder / "nowhere"
    with pytest.raises(hrseg.HrsegError, match="no folder"):
        hrseg.fit(new_task(data), data, **SMALL)
    assert not Path("runs").exists()


def test_a_folder_that_was_there_stays(data: CamVidDataModule, folder: Path) -> None:
    (folder / "mine").mkdir()
    (folder / "mine" / "notes.txt").touch()
    data.root = folder / "nowhere"
    with pytest.raises(hrseg.HrsegError):
        hrseg.fit(new_task(data), data, run_dir="mine", **SMALL)
    assert (folder / "mine" / "notes.txt").is_file()


def test_a_custom_callback_replaces_that_of_the_run(data: CamVidDataModule) -> None:
    last, bar = LastCheckpoint(every_n_steps=1), TQDMProgressBar(refresh_rate=0)
    trainer = hrseg.fit(new_task(data), data, callbacks=[last, bar], plugins=LightningEnvironment(), **SMALL)
    assert [c for c in trainer.callbacks if isinstance(c, LastCheckpoint)] == [last]
    assert trainer.progress_bar_callback is bar


def test_files_and_bar_can_be_left_out(data: CamVidDataModule) -> None:
    off = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = hrseg.fit(new_task(data), data, run_dir="a", **off, **SMALL)
    assert not any(isinstance(c, ModelCheckpoint) for c in trainer.callbacks)
    assert trainer.progress_bar_callback is None
    assert sorted(path.name for path in Path("a").iterdir()) == ["config.yaml", "val"]


def test_a_trial_run_leaves_nothing_from_which_another_training_would_resume(data: CamVidDataModule) -> None:
    hrseg.fit(new_task(data), data, run_dir="a", fast_dev_run=True, **SMALL)
    assert not list(Path("a").glob("**/*.ckpt"))
    assert not Path("a/config.yaml").exists()


@pytest.mark.parametrize("wrong", ["max_epoch", "default_root_dir"])
def test_a_wrong_option_is_reported(wrong: str, data: CamVidDataModule) -> None:
    with pytest.raises(TypeError, match=wrong):
        hrseg.fit(new_task(data), data, **{wrong: 1})
    assert not Path("runs").exists()


def test_processes_of_one_machine_share_the_folder(data: CamVidDataModule, monkeypatch: pytest.MonkeyPatch) -> None:
    hrseg.fit(new_task(data), data, **SMALL)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert shared_run_dir("default") == Path("runs/default/0")


def test_fit_asks_srun_for_its_numbers(data: CamVidDataModule, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"JOB_ID": "7", "NTASKS": "2", "NNODES": "1", "STEP_ID": "0"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    with pytest.raises(ConfigError, match="devices is 1, but srun started 2 processes"):
        hrseg.fit(new_task(data), data, **SMALL)
    monkeypatch.delenv("SLURM_STEP_ID")
    with pytest.raises(ConfigError, match="SLURM job 7 has 2 tasks"):
        hrseg.fit(new_task(data), data, **SMALL)
    assert not Path("runs").exists()


class Pairs(LightningDataModule):
    """A custom data module; its batches are pairs of images and labels, or another structure made from them."""

    def __init__(self, form: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.form = form

    def train_dataloader(self) -> DataLoader[Any]:
        images, target = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8), torch.zeros(4, 32, 32).byte()
        return DataLoader(TensorDataset(images, target), 2, collate_fn=self.collate)

    val_dataloader = train_dataloader

    def collate(self, pairs: list[tuple[Tensor, Tensor]]) -> Any:
        return self.form(*(torch.stack(parts) for parts in zip(*pairs, strict=True)))


class OfPairs(hrseg.SegmentationTask):
    """Takes other batches, and returns no predictions."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return super().training_step(self.ours(batch), batch_idx)

    def validation_step(self, batch: Any, batch_idx: int) -> None:  # type: ignore[override]
        super().validation_step(self.ours(batch), batch_idx)

    def ours(self, batch: Any) -> dict[str, Any]:
        images, target = batch.values() if isinstance(batch, dict) else batch
        return {"image": images, "target": target}


@pytest.mark.parametrize("form", [lambda x, y: (x, y), lambda x, y: {"pixels": x, "mask": y}])
def test_batches_of_another_structure_break_none_of_what_a_run_has_beside(
    form: Callable[[Tensor, Tensor], Any], data: CamVidDataModule
) -> None:
    task = OfPairs(torch.nn.Conv2d(3, 11, 1), data.labels)
    hrseg.fit(task, Pairs(form), run_dir="a", log_every_n_steps=1, **SMALL)
    assert all(float(row["images/s"]) > 0 for row in rows_of(Path("a")) if row["images/s"])
    assert json.loads(Path("a/val/scores.json").read_text())["images"] == 4


def test_a_task_that_scores_in_its_own_way_is_trained(data: CamVidDataModule) -> None:
    class Own(OfPairs):
        def validation_step(self, batch: Any, batch_idx: int) -> None:  # type: ignore[override]
            self.log("val/miou", 0.5)

        def on_validation_epoch_end(self) -> None:
            pass

    hrseg.fit(Own(torch.nn.Conv2d(3, 11, 1), data.labels), Pairs(lambda x, y: [x, y]), run_dir="a", **SMALL)
    assert Path("a/checkpoints/best.ckpt").is_file()
    assert not Path("a/val").exists()


def test_the_scores_of_a_custom_task_are_not_replaced_by_those_of_no_image(data: CamVidDataModule) -> None:
    class Own(OfPairs):
        def validation_step(self, batch: Any, batch_idx: int) -> None:  # type: ignore[override]
            self.log("val/miou", 0.5, batch_size=len(batch[0]))
            self.log("val/loss", 0.25, batch_size=len(batch[0]))

    task = Own(torch.nn.Conv2d(3, 11, 1), data.labels)
    trainer = hrseg.fit(task, Pairs(lambda x, y: (x, y)), **SMALL)
    metrics = trainer.callback_metrics
    assert {name: float(metrics[name]) for name in metrics if name.startswith("val/")} == {
        "val/miou": 0.5,
        "val/loss": 0.25,
    }
    assert float(trainer.checkpoint_callback.best_model_score) == 0.5  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("form", "found"),
    [
        (lambda x, y: (x, y), "a batch is a tuple; "),
        (lambda x, y: {"image": x, "mask": y}, "a batch is a dict with image, mask; "),
    ],
)
def test_what_a_batch_holds_is_reported(
    form: Callable[[Tensor, Tensor], Any], found: str, data: CamVidDataModule
) -> None:
    task = hrseg.SegmentationTask(torch.nn.Conv2d(3, 11, 1), data.labels)
    expected = found + 'expected a dict with "image", (B, 3, H, W) uint8 RGB and "target", (B, H, W) uint8 train ids'
    with pytest.raises(ConfigError, match=re.escape(expected)):
        hrseg.fit(task, Pairs(form), num_sanity_val_steps=0, **SMALL)


def test_a_custom_logger_is_added_to_the_runs_own(data: CamVidDataModule) -> None:
    for epochs, ready in ((1, FakeLogger("other", "ready")), (2, FakeLogger("other", "second"))):
        ready.place.mkdir(parents=True, exist_ok=True)
        options = SMALL | {"max_epochs": epochs, "logger": [ready, partial(FakeLogger, project="streets")]}
        hrseg.fit(new_task(data), data, run_dir="a", log_every_n_steps=1, **options)
        assert lines(Path("other"), str(ready.id), "metrics")
    assert len(rows_of(Path("a"))) > 0
    assert list(Path("a").glob("events.out.tfevents*"))
    (parameters,) = lines(Path("a"), "run0", "hyperparameters")
    assert (parameters["model"]["network"], parameters["trainer"]["max_epochs"]) == ("hrnetv2_w18_small_v1", 1)
    assert [step for step, names in lines(Path("a"), "run0", "metrics") if "train/loss" in names] == [0, 1, 2, 3]


def test_a_profiler_tells_what_it_found(data: CamVidDataModule, caplog: pytest.LogCaptureFixture) -> None:
    hrseg.fit(new_task(data), data, profiler="simple", **SMALL)
    assert any("FIT Profiler Report" in message for message in caplog.messages)
