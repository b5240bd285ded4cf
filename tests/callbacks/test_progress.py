from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from pytorch_lightning import Callback, Trainer

from hrseg.callbacks import PlainProgress, TerminalProgress
from hrseg.data.datasets.camvid import CamVidDataModule
from hrseg.task import SegmentationTask


def fit(callback: Callback, root: Path, **options: Any) -> None:
    data = CamVidDataModule(root, batch_size=2, crop_size=(32, 32), num_workers=0)
    task = SegmentationTask("hrnetv2_w18_small_v1", data.labels)
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=2,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=[callback],
        **options,
    )
    trainer.fit(task, data)


def test_a_pipe_gets_plain_lines(camvid_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit(PlainProgress(seconds=1000), camvid_root)
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith("epoch 1/2  step 2/2  train/loss ")
    assert last.startswith("epoch 2/2  step 2/2  train/loss ")
    assert "val/miou 0." in last
    assert re.search(r"ETA 0:0\d:\d\d$", first)
    assert last.endswith("ETA 0:00:00")


def test_a_training_that_ends_within_an_epoch(camvid_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit(PlainProgress(seconds=1000), camvid_root, max_steps=1)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("epoch 1/2  step 1/2  train/loss ")


def test_every_batch_gets_a_line_where_each_takes_long(camvid_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit(PlainProgress(seconds=0), camvid_root)
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("epoch 1/2  step 1/2  ") for line in lines)
    assert any(re.match(r"validate \d/\d$", line) for line in lines)


def test_the_bar_shows_the_time_left(camvid_root: Path) -> None:
    class Recorder(TerminalProgress):
        shown: dict[str, Any]

        def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *args: Any) -> None:
            super().on_train_batch_end(trainer, pl_module, *args)
            self.shown = self.get_metrics(trainer, pl_module)

    bar = Recorder()
    fit(bar, camvid_root)
    assert {"train/loss", "val/miou", "ETA"} <= set(bar.shown)
    assert "v_num" not in bar.shown
    assert bar.shown["ETA"] == "0:00:00"
