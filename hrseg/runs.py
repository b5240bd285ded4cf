"""One run, one folder: `runs/EXPERIMENT/N`."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from hrseg.files import writing


def new_run_dir(root: Path, experiment: str) -> Path:
    """Makes the next free folder `root/experiment/N`, N counting from 0.

    The tasks of one SLURM job share the folder named by its number, whichever of them comes first and however often
    the job is requeued.

    Raises:
        OutputError: The folder cannot be made.
    """
    job = os.environ.get("SLURM_JOB_ID") if os.environ.get("SLURM_NTASKS", "1") != "1" else None
    folder = root / experiment
    with writing(folder):
        if job is not None:
            (folder / job).mkdir(parents=True, exist_ok=True)
            return folder / job
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
