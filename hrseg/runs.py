"""One run, one folder: `runs/EXPERIMENT/N`."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

from hrseg import slurm
from hrseg.files import writing

_KEY = "hrseg/run_dir"


def new_run_dir(root: Path, experiment: str) -> Path:
    """Makes the next free folder `root/experiment/N`, N counting from 0.

    All processes of a SLURM job have the folder that its number names, however often it is requeued. Those that
    torchrun started have the one that the first of them makes, however often torchrun starts them again.

    Raises:
        OutputError: The folder cannot be made.
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        return _shared_by_torchrun(partial(_next_free, root / experiment))
    if (job := slurm.job()) is not None:
        with writing(root / experiment / job):
            (root / experiment / job).mkdir(parents=True, exist_ok=True)
        return root / experiment / job
    return _next_free(root / experiment)


def _shared_by_torchrun(choose: Callable[[], Path]) -> Path:
    from torch import distributed  # not for other verbs

    store = distributed.TCPStore(  # type: ignore[attr-defined]  # documented, but not declared
        os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False
    )
    if os.environ["RANK"] == "0" and not store.check([_KEY]):
        store.set(_KEY, str(choose()))
    return Path(store.get(_KEY).decode())


def _next_free(folder: Path) -> Path:
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        number = max((int(entry.name) for entry in folder.iterdir() if entry.name.isdecimal()), default=-1) + 1
        while True:
            try:
                (folder / str(number)).mkdir()
            except FileExistsError:  # another run started at the same moment
                number += 1
            else:
                return folder / str(number)


def remove_unused(run_dir: Path) -> None:
    """Removes the folder of a run that ended before its first row and its first checkpoint."""
    if run_dir.is_dir() and not (run_dir / "metrics.csv").exists() and not (run_dir / "checkpoints").exists():
        shutil.rmtree(run_dir)


def last_checkpoint(run_dir: Path) -> Path | None:
    """The checkpoint that a restart in this folder goes on from, if there is one."""
    path = run_dir / "checkpoints" / "last.ckpt"
    return path if path.is_file() else None


def run_dir_of(checkpoint: Path) -> Path | None:
    """The run that a checkpoint belongs to: RUN/checkpoints/best.ckpt, with RUN/config.yaml beside it."""
    folder = checkpoint.absolute().parent
    if folder.name == "checkpoints" and (folder.parent / "config.yaml").is_file():
        return Path(os.path.relpath(folder.parent))
    return None
