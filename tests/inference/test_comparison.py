"""Predictors in processes of their own answer; how fast they are is not tested."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_lightning import Trainer

from hrseg.data.datasets.camvid import CAMVID
from hrseg.errors import ConfigError, DataFileError
from hrseg.inference import Predictor, comparison
from hrseg.inference.comparison import Contender, MeasurementError, PredictorProcess
from hrseg.task import SegmentationTask


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run") / "best.ckpt"
    torch.manual_seed(0)
    trainer = Trainer(accelerator="cpu", devices=1, logger=False, enable_progress_bar=False)
    trainer.strategy.connect(SegmentationTask("hrnetv2_w18_small_v1", CAMVID, weights=None))
    trainer.save_checkpoint(path)
    return path


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("images")
    generator = np.random.default_rng(0)
    paths = [folder / "a.npy", folder / "b.npy"]
    for path in paths:
        np.save(path, generator.integers(0, 256, (32, 48, 3), np.uint8))
    return paths


@pytest.mark.process
def test_a_process_answers(checkpoint: Path, images: list[Path], tmp_path: Path) -> None:
    with PredictorProcess(Contender(str(checkpoint), device="cpu"), images) as process:
        opened = process.open()
        assert opened["runs_on"].startswith("torch")
        assert opened["threads"] >= 1
        process.predict(tmp_path)
        seconds = process.time(0.0)
        assert len(seconds) == 1
        assert seconds[0] > 0
        assert len(process.time(3 * seconds[0])) >= 2
        assert 0.05 < process.peak_gib() < 16
    predictor = Predictor.from_checkpoint(checkpoint, "cpu", "whole")
    for index, path in enumerate(images):
        assert np.array_equal(np.load(tmp_path / f"{index}.npy"), predictor(np.load(path)))


@pytest.mark.process
def test_a_process_that_ends(checkpoint: Path, images: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "false")  # ends with exit code 1
    with (
        PredictorProcess(Contender(str(checkpoint), device="cpu"), images) as process,
        pytest.raises(MeasurementError, match="exit code 1"),
    ):
        process.time(0.0)


def answers(contender: Contender, images: list[Path], monkeypatch: pytest.MonkeyPatch, *questions: Any) -> list[Any]:
    """What the process would print, without starting one."""
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{json.dumps(question)}\n" for question in questions)))
    return list(comparison._answers(contender, images))


def test_a_file_that_cannot_be_used_is_the_users_error(images: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    (answer,) = answers(Contender("nothing.ckpt"), images, monkeypatch)
    assert "nothing.ckpt" in answer["error"]


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (DataFileError("the image takes 3 GiB"), "the image takes 3 GiB"),
        (ConfigError("this file takes 512x1024 only"), "this file takes 512x1024 only"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried"), "out of memory"),
        (RuntimeError("not implemented\nand more"), "RuntimeError: not implemented"),
    ],
)
def test_what_cannot_run_is_a_failure(
    error: Exception, failure: str, checkpoint: Path, images: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(predictor: Predictor, image: np.ndarray) -> np.ndarray:
        raise error

    monkeypatch.setattr(Predictor, "__call__", fail)
    opened, timed, peak = answers(
        Contender(str(checkpoint), device="cpu"), images, monkeypatch, ["time", 0.0], ["peak"]
    )
    assert "result" in opened
    assert timed == {"failure": failure}
    assert peak["result"] > 0


def test_errors_reach_the_caller(images: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    process = PredictorProcess.__new__(PredictorProcess)
    lines = ['{"error": "no such file"}\n', '{"failure": "out of memory"}\n', '{"result": 3}\n']
    monkeypatch.setattr(process, "_process", type("Fake", (), {"stdout": io.StringIO("".join(lines))}), raising=False)
    with pytest.raises(ConfigError, match="no such file"):
        process.open()
    with pytest.raises(MeasurementError, match="out of memory"):
        process.open()
    assert process.open() == 3
