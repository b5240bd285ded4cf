"""SLURM's environment variables and calls of scontrol; tests/slurm runs on a real cluster."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from hrseg.cli.lightning import _exit_code
from hrseg.run import slurm
from hrseg.utils.signals import Interrupted


@pytest.fixture(autouse=True)
def no_job(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)


def set_job(monkeypatch: pytest.MonkeyPatch, **more: str) -> None:
    for name, value in {"JOB_ID": "7", "JOB_NAME": "hrseg", **more}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)


@pytest.fixture
def scontrol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fake scontrol that prints the file `answer` and records its arguments."""
    set_job(monkeypatch)
    program = tmp_path / "scontrol"
    program.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n[ $1 = show ] && cat {tmp_path}/answer || exit 0\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return tmp_path


def test_the_number_of_a_job(monkeypatch: pytest.MonkeyPatch) -> None:
    assert slurm.job() is None
    set_job(monkeypatch)
    assert slurm.job() == "7"
    set_job(monkeypatch, ARRAY_JOB_ID="5", ARRAY_TASK_ID="2")
    assert slurm.job() == "5_2"
    set_job(monkeypatch, JOB_NAME="interactive")
    assert slurm.job() is None


def test_the_processes_that_srun_started(monkeypatch: pytest.MonkeyPatch) -> None:
    set_job(monkeypatch, NTASKS="8", NNODES="2")
    assert slurm.tasks() is None  # sbatch's script, not srun
    monkeypatch.setenv("SLURM_STEP_ID", "0")
    assert slurm.tasks() == (2, 4, "srun")
    set_job(monkeypatch, STEP_NUM_TASKS="4", STEP_NUM_NODES="1")  # a smaller step in a larger job
    assert slurm.tasks() == (1, 4, "srun")


@pytest.mark.parametrize(
    ("answer", "told", "asked"),
    [
        ("JobState=RUNNING Requeue=1", "SLURM job 7 requeued", ["show job 7", "requeue 7"]),
        ("JobState=RUNNING Requeue=0", "SLURM job 7 may not be requeued; sbatch --requeue allows it", ["show job 7"]),
        ("JobState=CANCELLED Requeue=1", "SLURM job 7 is CANCELLED, and not requeued", ["show job 7"]),
    ],
)
def test_a_job_is_requeued_where_it_may_be(scontrol: Path, answer: str, told: str, asked: list[str]) -> None:
    (scontrol / "answer").write_text(answer)
    assert slurm.requeue() == told
    assert (scontrol / "asked").read_text().splitlines() == asked


def test_leaving_a_job(scontrol: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (scontrol / "answer").write_text("JobState=RUNNING Requeue=1")
    assert _exit_code(Interrupted(signal.SIGTERM)) == 0
    assert capsys.readouterr().out == "SLURM job 7 requeued\n"
    assert _exit_code(Interrupted(signal.SIGINT)) == 130


def test_a_container_leaves_the_requeue_to_the_script_around_it(monkeypatch: pytest.MonkeyPatch) -> None:
    set_job(monkeypatch)
    monkeypatch.setenv("PATH", "")
    assert _exit_code(Interrupted(signal.SIGUSR1)) == 138
