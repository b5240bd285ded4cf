"""Processes for tests, forked from a server that has imported hrseg: a new interpreter would take seconds for that."""

from __future__ import annotations

import multiprocessing
import os
import socket
import subprocess
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

PROJECT = Path(__file__).parents[1]
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["hrseg.cli.lightning"])


def meeting() -> dict[str, str]:
    """Environment variables by which the ranks on this machine find each other, with a free port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "NODE_RANK": "0"}


def start(script: str, number: int, folder: Path, output: Path | None = None) -> list[BaseProcess]:
    """Starts the ranks of Lightning's strategy "ddp" on this machine.

    Args:
        script: Python code that each runs.
        number: Number of ranks.
        folder: Working directory.
        output: File for what they print; None prints it.
    """
    place = meeting()
    with open(output or os.devnull, "ab") as file:
        sink = None if output is None else Connection(os.dup(file.fileno()), readable=False)
        return [_start(script, folder, {**place, "LOCAL_RANK": str(rank)}, sink, sink) for rank in range(number)]


def exit_codes(processes: list[BaseProcess], timeout: float) -> list[int | None]:
    """Waits for processes; those still running after `timeout` seconds are killed, with the code None."""
    deadline = time.monotonic() + timeout
    for process in processes:
        process.join(max(deadline - time.monotonic(), 0))
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    return codes


def run(script: str, folder: Path, timeout: float = 90) -> subprocess.CompletedProcess[str]:
    """Runs Python code in a process of its own.

    Raises:
        AssertionError: if it takes more than `timeout` seconds.
    """
    (stdout, out), (stderr, err) = (CONTEXT.Pipe(duplex=False) for _ in range(2))
    process = _start(script, folder, {}, out, err)
    out.close()
    err.close()
    with ThreadPoolExecutor() as pool:
        texts = pool.map(_read, (stdout, stderr))
        (code,) = exit_codes([process], timeout)
        done = subprocess.CompletedProcess(script, code, *texts)
    assert code is not None, done
    return done


def _start(
    script: str, folder: Path, environment: dict[str, str], stdout: Connection | None, stderr: Connection | None
) -> BaseProcess:
    environment = {**os.environ, **environment}
    environment.pop("HRSEG_RUN_DIR", None)  # of a run in this process
    arguments = script, folder, environment, stdout, stderr
    process = CONTEXT.Process(target=_run, args=arguments)
    process.start()
    return process


def _run(script: str, folder: Path, environment: dict[str, str], *outputs: Connection | None) -> None:
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    warnings.simplefilter("ignore")
    for descriptor, output in enumerate(outputs, 1):
        if output is not None:
            os.dup2(output.fileno(), descriptor)
    exec(compile(script, "<script>", "exec"), {"__name__": "__main__"})


def _read(pipe: Connection) -> str:
    with open(os.dup(pipe.fileno())) as file:
        return file.read()
