"""torchrun's environment variables and store; tests/cli/test_launchers.py trains with it."""

from __future__ import annotations

import os

import pytest
from torch import distributed

from hrseg.run import torchrun
from tests.processes import meeting


def test_the_processes_that_torchrun_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    assert torchrun.tasks() is None
    for name, value in {"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4"}.items():
        monkeypatch.setenv(name, value)
    assert torchrun.tasks() == (2, 4, "torchrun")


def test_the_first_choice_holds_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in meeting().items():
        monkeypatch.setenv(name, value)
    store = distributed.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=True)
    monkeypatch.setenv("RANK", "0")
    assert torchrun.agreed("name", lambda: "first") == "first"
    assert torchrun.agreed("name", lambda: "started again") == "first"
    monkeypatch.setenv("RANK", "1")
    assert torchrun.agreed("name", lambda: "not asked") == "first"
    del store
