from __future__ import annotations

import errno
import os
import re
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hrseg.errors import ConfigError, OutputError, WeightsError
from hrseg.run.folders import in_use, last_checkpoint, new_run_dir, remove_unused, results_dir_of, run_dir_of


@pytest.fixture(autouse=True)
def outside_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.delenv("SLURM_NTASKS", raising=False)
    monkeypatch.delenv("LOCAL_RANK", raising=False)


def test_runs_are_numbered(tmp_path: Path) -> None:
    assert new_run_dir(tmp_path, "a") == tmp_path / "a" / "0"
    assert new_run_dir(tmp_path, "a") == tmp_path / "a" / "1"
    assert new_run_dir(tmp_path, "b") == tmp_path / "b" / "0"


def test_the_next_number_follows_the_largest(tmp_path: Path) -> None:
    for name in ("9", "10", "notes"):
        (tmp_path / "a" / name).mkdir(parents=True)
    assert new_run_dir(tmp_path, "a").name == "11"


def test_tasks_of_a_slurm_job_share_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    monkeypatch.setenv("SLURM_NTASKS", "8")
    assert new_run_dir(tmp_path, "a") == new_run_dir(tmp_path, "a") == tmp_path / "a" / "4711"


@pytest.mark.parametrize("written", ["metrics.csv", "checkpoints/last.ckpt", "not_finite/batch.json"])
def test_a_run_that_wrote_nothing_leaves_no_folder(written: str, tmp_path: Path) -> None:
    empty, used = new_run_dir(tmp_path, "a"), new_run_dir(tmp_path, "a")
    for run in (empty, used):
        (run / "config.yaml").touch()
        (run / "events.out.tfevents.1").touch()
        (run / "checkpoints").mkdir()
    (used / written).parent.mkdir(exist_ok=True)
    (used / written).touch()
    for run in (empty, used, tmp_path / "none"):
        remove_unused(run)
    assert not empty.exists()
    assert (used / written).is_file()


def fail_in(run_dir: Path) -> None:
    with pytest.raises(ValueError, match="failed"), in_use(run_dir, is_training=True):
        raise ValueError("failed")


def test_a_failed_start_leaves_none_of_the_folders_that_it_made(tmp_path: Path) -> None:
    fail_in(new_run_dir(tmp_path / "runs", "a"))
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "runs").mkdir()  # by another program
    fail_in(tmp_path / "runs" / "b" / "c")
    assert list(tmp_path.rglob("*")) == [tmp_path / "runs"]
    fail_in(tmp_path / "runs")
    assert list(tmp_path.rglob("*")) == [tmp_path / "runs"]
    with pytest.raises(OutputError, match="cannot be written"):
        new_run_dir(tmp_path / "runs", "a/" + 300 * "b")
    assert list(tmp_path.rglob("*")) == [tmp_path / "runs"]


def test_other_ranks_leave_the_folder_to_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    fail_in(tmp_path / "run")
    assert (tmp_path / "run").is_dir()


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[int]:
    """A process that trains in tmp_path / "run" endlessly, and one of its dataloader workers."""
    ready = os.pipe()
    child = os.fork()
    if child == 0:
        with in_use(tmp_path / "run", is_training=True):
            os.fork()
            os.write(ready[1], b"1")
            time.sleep(3)
        os._exit(0)
    os.read(ready[0], 2)
    yield child
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    for end in ready:
        os.close(end)


def test_a_second_training_in_a_folder_is_refused_until_the_first_is_gone(
    holder: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    monkeypatch.setattr("hrseg.run.folders._LOCK_TIMEOUT", 0.1)
    name = rf"process {holder} on {re.escape(socket.gethostname())}; two in one folder would mix"
    message = rf"run is in use by another training, {name}.*or give another --run_dir$"
    with pytest.raises(ConfigError, match=message), in_use(run, is_training=True):
        pass
    with in_use(run, is_training=False):  # it may be scored
        pass
    with monkeypatch.context() as other_rank:
        other_rank.setenv("LOCAL_RANK", "1")
        with in_use(run, is_training=True):
            pass
    monkeypatch.setattr("hrseg.run.folders._LOCK_TIMEOUT", 10.0)
    os.kill(holder, signal.SIGKILL)
    with in_use(run, is_training=True):
        assert (run / ".lock").is_file()
    assert list(run.iterdir()) == []


def test_a_training_runs_where_the_file_system_cannot_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", refuse)
    with in_use(tmp_path / "run", is_training=True):
        pass
    assert list((tmp_path / "run").iterdir()) == []


def test_last_checkpoint(tmp_path: Path) -> None:
    assert last_checkpoint(tmp_path) is None
    path = tmp_path / "checkpoints" / "last.ckpt"
    path.parent.mkdir()
    path.touch()
    with pytest.raises(WeightsError, match=r"last.ckpt cannot be read .* give another --run_dir for a new run"):
        last_checkpoint(tmp_path)


def test_run_of_a_checkpoint(tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoints" / "best.ckpt"
    assert run_dir_of(checkpoint) is None
    (tmp_path / "config.yaml").touch()
    found = run_dir_of(checkpoint)
    assert found is not None
    assert found.resolve() == tmp_path.resolve()
    assert run_dir_of(tmp_path / "best.ckpt") is None


def test_exported_files_of_a_run_have_results_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for place in ("run/checkpoints", "run/export", "elsewhere/export"):
        Path(place).mkdir(parents=True)
    Path("run/config.yaml").touch()
    checkpoint, file = Path("run/checkpoints/best.ckpt"), Path("run/export/a.onnx")
    assert run_dir_of(checkpoint) == run_dir_of(file) == results_dir_of(checkpoint) == Path("run")
    assert results_dir_of(file) == Path("run/export/a.onnx.results")
    assert results_dir_of(tmp_path / file) == Path("run/export/a.onnx.results")
    for other in (Path("elsewhere/export/a.onnx"), Path("a.onnx"), Path("run/a.onnx")):
        assert run_dir_of(other) is results_dir_of(other) is None
