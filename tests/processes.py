"""Several processes that train or score together, for tests."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).parents[1]


def meeting() -> dict[str, str]:
    """The variables by which processes of this machine find each other, at a port that is free."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "NODE_RANK": "0"}


def start(script: str, number: int, folder: Path, output: Path | None = None) -> list[subprocess.Popen[bytes]]:
    """Starts processes that Lightning, under its strategy "ddp", takes for those of one machine.

    Args:
        script: What they run, in Python.
        number: How many.
        folder: Where they run.
        output: The file for what they print; None prints it.
    """
    environment = {**os.environ, **meeting(), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(PROJECT)}
    command = [sys.executable, "-W", "ignore", "-c", script]
    sink = None if output is None else output.open("wb")
    ranks = [
        subprocess.Popen(command, env={**environment, "LOCAL_RANK": str(rank)}, cwd=folder, stdout=sink, stderr=sink)
        for rank in range(number)
    ]
    if sink is not None:
        sink.close()
    return ranks
