from __future__ import annotations

from pathlib import Path

import pytest

from hrseg.runs import last_checkpoint, new_run_dir, remove_unused, run_dir_of


@pytest.fixture(autouse=True)
def outside_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.delenv("SLURM_NTASKS", raising=False)


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


@pytest.mark.parametrize("written", ["metrics.csv", "checkpoints/last.ckpt"])
def test_a_run_that_wrote_nothing_leaves_no_folder(written: str, tmp_path: Path) -> None:
    empty, used = new_run_dir(tmp_path, "a"), new_run_dir(tmp_path, "a")
    for run in (empty, used):
        (run / "config.yaml").touch()
        (run / "events.out.tfevents.1").touch()
    (used / written).parent.mkdir(exist_ok=True)
    (used / written).touch()
    for run in (empty, used, tmp_path / "none"):
        remove_unused(run)
    assert not empty.exists()
    assert (used / written).is_file()


def test_last_checkpoint(tmp_path: Path) -> None:
    assert last_checkpoint(tmp_path) is None
    path = tmp_path / "checkpoints" / "last.ckpt"
    path.parent.mkdir()
    path.touch()
    assert last_checkpoint(tmp_path) == path


def test_run_of_a_checkpoint(tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoints" / "best.ckpt"
    assert run_dir_of(checkpoint) is None
    (tmp_path / "config.yaml").touch()
    found = run_dir_of(checkpoint)
    assert found is not None
    assert found.resolve() == tmp_path.resolve()
    assert run_dir_of(tmp_path / "best.ckpt") is None
