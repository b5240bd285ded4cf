from __future__ import annotations

import pytest
from pytorch_lightning.plugins.environments import LightningEnvironment

from hrseg.callbacks import AtomicCheckpointIO, NotebookProgress
from hrseg.run.trainer import plugins, progress_bar


@pytest.fixture(autouse=True)
def no_job(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_JOB_ID", "SLURM_NTASKS", "SLURM_STEP_ID"):
        monkeypatch.delenv(name, raising=False)


def test_a_notebook_gets_a_bar_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    assert isinstance(progress_bar(), NotebookProgress)


def test_a_job_that_srun_did_not_start_is_like_any_other_process(monkeypatch: pytest.MonkeyPatch) -> None:
    own = LightningEnvironment()
    for variables, expected in (
        ({}, [AtomicCheckpointIO]),
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "1"}, [LightningEnvironment, AtomicCheckpointIO]),
        ({"SLURM_STEP_ID": "0", "SLURM_NNODES": "1"}, [AtomicCheckpointIO]),  # and the others
    ):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        assert [type(plugin) for plugin in plugins(None)] == expected
        assert [plugin for plugin in plugins(own) if isinstance(plugin, LightningEnvironment)] == [own]
