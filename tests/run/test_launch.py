"""Launchers and numbers of processes; tests/cli/test_launchers.py and tests/slurm start real ones."""

from __future__ import annotations

import os

import pytest

from hrseg.errors import ConfigError
from hrseg.run import launch

BATCH = {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "hrseg", "SLURM_NTASKS": "8", "SLURM_NNODES": "2"}
SRUN = {**BATCH, "SLURM_STEP_ID": "0"}
TORCHRUN = {"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}


@pytest.fixture(autouse=True)
def started_by_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("SLURM_") or name in TORCHRUN]:
        monkeypatch.delenv(name)


def set_variables(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, None),
        (BATCH, None),
        (SRUN, (2, 4, "srun")),
        (TORCHRUN, (2, 2, "torchrun")),
        ({**SRUN, **TORCHRUN}, (2, 2, "torchrun")),  # srun started one torchrun on each node
    ],
)
def test_tasks(
    variables: dict[str, str], expected: tuple[int, int, str] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_variables(monkeypatch, variables)
    assert launch.tasks() == expected
    assert launch.processes({}) == ({} if expected is None else {"num_nodes": expected[0], "devices": expected[1]})


@pytest.mark.parametrize("given", [{"devices": 4}, {"devices": "4", "num_nodes": "2"}, {"devices": "auto"}])
def test_the_same_numbers_or_none_are_fine(given: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    set_variables(monkeypatch, SRUN)
    assert launch.processes(given) == {"num_nodes": 2, "devices": 4}


@pytest.mark.parametrize(
    ("variables", "given", "message"),
    [
        (SRUN, {"devices": 3}, "trainer.devices is 3, but srun started 4 .* 2 nodes.*--nodes, --ntasks-per-node"),
        (SRUN, {"num_nodes": "1"}, "trainer.num_nodes is 1, but srun started 4 processes on each of 2 nodes"),
        (TORCHRUN, {"devices": [0]}, r"trainer.devices is \[0\], but torchrun .*--nnodes, --nproc-per-node"),
    ],
)
def test_other_numbers(
    variables: dict[str, str], given: dict[str, object], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_variables(monkeypatch, variables)
    with pytest.raises(ConfigError, match=message):
        launch.processes(given)


@pytest.mark.parametrize(
    "variables", [{}, SRUN, {**BATCH, **TORCHRUN}, {**BATCH, "SLURM_NTASKS": "1"}, {**BATCH, "SLURM_JOB_NAME": "bash"}]
)
def test_srun_is_there_or_not_needed(variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    set_variables(monkeypatch, variables)
    launch.require_srun()


def test_srun_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    set_variables(monkeypatch, BATCH)
    with pytest.raises(ConfigError, match=r"SLURM job 7 has 8 tasks, but srun, .* write srun before"):
        launch.require_srun()


def test_srun_in_an_interactive_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning ignores a job that `salloc` gave this name; with another name it is an ordinary job."""
    set_variables(monkeypatch, {**SRUN, "SLURM_STEP_NUM_TASKS": "8", "SLURM_JOB_NAME": "interactive"})
    with pytest.raises(ConfigError, match="srun started 8 processes in an interactive job"):
        launch.require_srun()
    monkeypatch.setenv("SLURM_JOB_NAME", "hrseg")
    launch.require_srun()
