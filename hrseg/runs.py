"""One run, one folder: `runs/EXPERIMENT/N`."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from hrseg import slurm, torchrun
from hrseg.files import writing


def new_run_dir(root: Path, experiment: str) -> Path:
    """Makes the next free folder `root/experiment/N`, N counting from 0.

    All processes of a SLURM job have the folder that its number names, however often it is requeued. Those that
    torchrun started have the one that the first of them makes, however often torchrun starts them again.

    Raises:
        OutputError: The folder cannot be made.
    """
    if (job := slurm.job()) is not None:
        with writing(root / experiment / job):
            (root / experiment / job).mkdir(parents=True, exist_ok=True)
        return root / experiment / job
    if torchrun.tasks() is not None:
        return Path(torchrun.agreed("hrseg/run_dir", lambda: str(_next_free(root / experiment))))
    return _next_free(root / experiment)


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
