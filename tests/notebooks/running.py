"""Executes notebooks; as a script it executes all of `notebooks/` and saves their outputs."""

from __future__ import annotations

import copy
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import nbformat
from jupyter_client import KernelManager
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def executed(
    notebook: Any, folder: Path, parameters: Mapping[str, object] | None = None, times: int = 1, timeout: int = 300
) -> Any:
    """A copy of a notebook with the outputs of its cells, run in a kernel of its own.

    Args:
        notebook: As nbformat reads it.
        folder: Where the kernel runs.
        parameters: Take the place of the values in the cell tagged "parameters".
        times: How often each cell is executed before the next one.
        timeout: Longest time for a cell, in seconds.

    Raises:
        CellExecutionError: A cell failed.
    """
    notebook = copy.deepcopy(notebook)
    for index, cell in reversed(list(enumerate(notebook.cells))):
        if "parameters" in cell.metadata.get("tags", ()) and parameters:
            cell.source = "\n".join(f"{name} = {value!r}" for name, value in parameters.items())
        if cell.cell_type == "code":
            notebook.cells[index : index + 1] = [copy.deepcopy(cell) for _ in range(times)]
    # not over TCP, whose ports another process may take first
    kernel = KernelManager(kernel_name="python3", transport="ipc", ip=str(folder / ".kernel"))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    client = NotebookClient(notebook, km=kernel, timeout=timeout, resources={"metadata": {"path": str(folder)}})
    client.record_timing = False
    client.coalesce_streams = True
    client.execute(env=environment, cleanup_kc=True)  # the manager that it was given it would leave alone
    return notebook


def save_all() -> None:
    """Executes all notebooks and writes them back, with their outputs and nothing that differs by machine."""
    for path in NOTEBOOKS:
        start = time.perf_counter()
        with TemporaryDirectory() as folder:
            notebook = executed(nbformat.read(path, as_version=4), Path(folder))
        notebook.metadata = {"kernelspec": notebook.metadata["kernelspec"], "language_info": {"name": "python"}}
        nbformat.write(notebook, path)
        print(f"{path.name}: {time.perf_counter() - start:.0f} s, {path.stat().st_size / 1e3:.0f} kB", flush=True)


if __name__ == "__main__":
    sys.exit(save_all())
