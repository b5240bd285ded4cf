from __future__ import annotations

import errno
import json
import os
import threading
from functools import partial, wraps
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.tensorflow_stub.io.gfile import LocalFileSystem

from hrseg.callbacks.loggers import Events, made_loggers
from hrseg.cli import main
from tests.callbacks.fake_logger import FakeLogger, lines

FAKE = "tests.callbacks.fake_logger.FakeLogger"


class LikeMlflow(FakeLogger):
    def __init__(
        self, tracking_uri: str | None = None, artifact_location: str | None = None, run_id: str | None = None
    ) -> None:
        super().__init__(id=run_id)


def added(makers: list[tuple[Any, dict[str, Any]]], folder: Path) -> list[dict[str, Any]]:
    """Constructor arguments that are added to the user's."""
    found: list[dict[str, Any]] = []

    def recording(maker: Any, given: dict[str, Any]) -> Any:
        @wraps(maker, updated=())
        def make(**arguments: Any) -> FakeLogger:
            found.append({key: value for key, value in arguments.items() if given.get(key, make) != value})
            return FakeLogger()

        return partial(make, **given)

    made_loggers([recording(maker, given) for maker, given in makers], folder)
    return found


def test_files_go_into_the_runs_folder_and_the_run_resumes(tmp_path: Path) -> None:
    (tmp_path / "loggers.json").write_text(json.dumps({"FakeLogger": "a", "FakeLogger 1": "b", "LikeMlflow": "c"}))
    makers: list[Any] = [
        (FakeLogger, {"project": "p"}),
        (FakeLogger, {"save_dir": "elsewhere", "id": None, "resume": None}),
        (FakeLogger, {}),
        (LikeMlflow, {}),
    ]
    place = {"save_dir": str(tmp_path)}
    local = {"tracking_uri": f"sqlite:///{tmp_path}/mlflow.db", "artifact_location": f"{tmp_path}/mlflow"}
    assert added(makers, tmp_path) == [
        {**place, "id": "a"},
        {"id": "b", "resume": "allow"},
        place,
        {**local, "run_id": "c"},
    ]
    assert added([(LikeMlflow, {"tracking_uri": "http://server", "run_id": "mine"})], tmp_path) == [{}]
    assert added([(lambda: None, {})], tmp_path) == [{}]


@pytest.mark.parametrize("content", ["", "[]", '{"FakeLogger": 3}', "\x00"])
def test_a_damaged_list_of_identifiers_starts_anew(content: str, tmp_path: Path) -> None:
    (tmp_path / "loggers.json").write_text(content)
    assert added([(FakeLogger, {})], tmp_path) == [{"save_dir": str(tmp_path)}]


def test_loggers_are_given_ready_or_to_be_made(tmp_path: Path) -> None:
    ready = FakeLogger()
    assert made_loggers(ready, tmp_path) == [ready]
    first, second, third = made_loggers([partial(FakeLogger, project="p"), ready, FakeLogger], tmp_path)
    assert isinstance(first, FakeLogger)
    assert (first.project, first.place) == ("p", tmp_path / "fake")
    assert second is ready
    assert isinstance(third, FakeLogger)


@pytest.fixture
def fit(camvid_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    for name in ("HRSEG_RUN_DIR", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)

    def run(*options: str) -> int:
        return main([
            "fit", "--run_dir", "run", "--model.network", "hrnetv2_w18_small_v1",
            "--data", "hrseg.CamVidDataModule", "--data.root", str(camvid_root), "--data.batch_size", "2",
            "--data.crop_size", "[32, 32]", "--data.num_workers", "0", "--trainer.accelerator", "cpu",
            "--trainer.log_every_n_steps", "1", *options,
        ])  # fmt: skip

    return run


def test_a_logger_is_added_to_the_runs_own_and_continues_with_it(
    fit: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    logger = ("--trainer.logger", FAKE, "--trainer.logger.project", "streets")
    assert fit("--trainer.max_epochs", "1", *logger) == 0
    assert "TensorBoard: tensorboard --logdir run" in capsys.readouterr().out
    assert fit("--trainer.max_epochs", "2", *logger) == 0
    assert (run / "metrics.csv").is_file()
    assert json.loads((run / "loggers.json").read_text()) == {"FakeLogger": "run0"}
    assert [path.name for path in (run / "fake").iterdir()] == ["run0.jsonl"]
    (parameters,) = lines(run, "run0", "hyperparameters")
    assert parameters["model"]["network"] == "hrnetv2_w18_small_v1"
    assert parameters["trainer"]["max_epochs"] == 1
    assert [content[2] for content in lines(run, "run0", "image")] == [2, 2, 4, 4]
    steps = [step for step, names in lines(run, "run0", "metrics") if "train/loss" in names]
    assert steps == [0, 1, 2, 3]

    events = EventAccumulator(str(run)).Reload()
    assert events.Tags()["tensors"] == ["config/text_summary"]
    assert "hrnetv2_w18_small_v1" in events.Tensors("config/text_summary")[0].tensor_proto.string_val[0].decode()
    config = yaml.safe_load((run / "config.yaml").read_text())["trainer"]["logger"]  # repeats the run as a new one
    given = config[0] if isinstance(config, list) else config
    assert given["init_args"] == {"save_dir": ".", "id": None, "project": "streets", "broken": False}


def test_no_logger_means_none(fit: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fit("--trainer.max_epochs", "1", "--trainer.logger", "false") == 0
    assert "TensorBoard" not in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["checkpoints", "config.yaml", "val"]


def test_a_logger_that_cannot_start_is_reported_in_one_line(
    fit: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit("--trainer.max_epochs", "1", "--trainer.logger", FAKE, "--trainer.logger.broken", "true") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "hrseg: FakeLogger cannot start: no answer from the server; see trainer.logger"
    assert not (tmp_path / "run").exists()


def test_hyperparameters_are_a_text_in_the_event_file(tmp_path: Path) -> None:
    logger = Events(tmp_path, name="", version="")
    logger.log_hyperparams({"model": {"network": "a"}, "sizes": [1, 2]})
    logger.save()
    events = EventAccumulator(str(tmp_path)).Reload()
    (text,) = events.Tensors("config/text_summary")
    assert yaml.safe_load(text.tensor_proto.string_val[0])["model"] == {"network": "a"}


def test_a_full_disk_under_the_event_file_is_reported_without_a_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)  # restored after the test
    logger = Events(tmp_path, name="", version="")
    logger.log_metrics({"loss": 1.0}, 0)
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    monkeypatch.setattr(LocalFileSystem, "append", Mock(side_effect=full))
    logger.log_metrics({"loss": 1.0}, 1)
    with pytest.raises(OSError, match="No space left on device") as refused:
        logger.save()
    logger.experiment.file_writer.event_writer._async_writer._worker.join()
    assert refused.value.filename == str(tmp_path)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("package", ["wandb", "mlflow"])
def test_the_options_name_what_to_install(
    package: str, fit: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = Path(__file__).parents[2] / "experiments" / "options" / f"{package}.yaml"
    if find_spec(package) is not None:
        pytest.skip(f"{package} is installed")
    assert fit("--config", str(config), "--trainer.max_epochs", "1") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert package in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("package", "place"), [("wandb", "wandb"), ("mlflow", "mlflow.db")])
def test_the_options_log_into_the_runs_folder(package: str, place: str, fit: Any, tmp_path: Path) -> None:
    pytest.importorskip(package)
    config = Path(__file__).parents[2] / "experiments" / "options" / f"{package}.yaml"
    assert fit("--config", str(config), "--trainer.max_epochs", "1") == 0
    assert (tmp_path / "run" / place).exists()
    assert (tmp_path / "run" / "loggers.json").is_file()
