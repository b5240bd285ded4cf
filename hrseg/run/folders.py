"""One run, one folder: `runs/EXPERIMENT/N`."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from hrseg.errors import ConfigError, OutputError, WeightsError
from hrseg.run import launch, slurm, torchrun
from hrseg.utils.files import require_writable, writing
from hrseg.utils.locks import locked

if TYPE_CHECKING:
    from hrseg.inference import Checkpoint

_LOCK = ".lock"
_EXPORT = "export"  # where `hrseg export` writes
_LOCK_TIMEOUT = 10.0  # seconds; dataloader workers of a killed training may hold its lock for five
_NO_RESULTS = ("config*.yaml", "events.out.tfevents.*", _LOCK)  # files of a run that failed before its first step

_made: set[Path] = set()  # folders created by this process


def new_run_dir(root: Path, experiment: str) -> Path:
    """Creates the next free folder `root/experiment/N`, N counting from 0.

    All ranks of a SLURM job share the folder named by its job id, also after a requeue. All ranks started by torchrun
    share the folder that rank 0 creates, also after a restart by torchrun.

    Raises:
        ConfigError: The experiment's name leads out of `root`.
        OutputError: The folder cannot be created.
    """
    if Path(experiment).is_absolute() or ".." in Path(experiment).parts:
        raise ConfigError(f"experiment {experiment} leads out of {root}/; give a name, or the whole path as run_dir")
    if (job := slurm.job()) is not None:
        _make(root / experiment / job)
        return root / experiment / job
    if torchrun.tasks() is not None:
        return Path(torchrun.agreed("hrseg/run_dir", lambda: str(_next_free(root / experiment))))
    return _next_free(root / experiment)


def _next_free(folder: Path) -> Path:
    _make(folder)
    with writing(folder):
        number = max((int(entry.name) for entry in folder.iterdir() if entry.name.isdecimal()), default=-1) + 1
        while True:
            try:
                (folder / str(number)).mkdir(parents=True)
            except FileExistsError:  # another run started at the same moment
                number += 1
            else:
                _made.add((folder / str(number)).absolute())
                return folder / str(number)


def _make(folder: Path) -> None:
    missing = [path for path in (folder.absolute(), *folder.absolute().parents) if not path.exists()]
    try:
        with writing(folder):
            for path in reversed(missing):
                with suppress(FileExistsError):  # another process was faster
                    path.mkdir()
                    _made.add(path)
    except OutputError:
        _remove_empty(missing)
        raise


def _remove_empty(folders: Sequence[Path]) -> None:
    """Removes empty folders that this process created, given innermost first."""
    with suppress(OSError):
        for folder in folders:
            if folder in _made:
                folder.rmdir()
                _made.discard(folder)


def shared_run_dir(experiment: str) -> Path:
    """The next free folder runs/EXPERIMENT/N, the same on all ranks of a training."""
    # rank 0 starts the other ranks of its machine with this variable
    if int(os.environ.get("LOCAL_RANK", "0")) > 0 and "HRSEG_RUN_DIR" in os.environ:
        return Path(os.environ["HRSEG_RUN_DIR"])
    folder = new_run_dir(Path("runs"), experiment)
    os.environ["HRSEG_RUN_DIR"] = str(folder)
    return folder


@contextmanager
def in_use(run_dir: Path, is_training: bool) -> Iterator[None]:
    """Creates a run's folder, and removes it again if the block fails before it holds a result.

    Args:
        run_dir: The folder.
        is_training: Whether to lock the folder against other trainings, which would mix their rows and checkpoints with
            this one's. Rank 0 holds the lock for all ranks; the lock of a killed training is released.

    Raises:
        OutputError: The folder cannot be written to.
        ConfigError: Another training is running in it.
    """
    _make(run_dir)
    with ExitStack() as stack:
        if launch.is_first_process():
            if is_training:
                _reserve(run_dir, stack)
            stack.push(lambda error, *_: remove_unused(run_dir) if error else None)
        require_writable(run_dir)
        yield


def _reserve(run_dir: Path, stack: ExitStack) -> None:
    """Locks a run's folder until the stack is closed."""
    lock = run_dir / _LOCK
    try:
        stack.enter_context(locked(lock, _LOCK_TIMEOUT))
    except TimeoutError:
        holder = ""
        with suppress(OSError):
            holder = f", {lock.read_text()}"
        raise ConfigError(
            f"{run_dir} is in use by another training{holder}; two in one folder would mix their rows and "
            "checkpoints: stop that one or wait for its end, or give another --run_dir"
        ) from None
    stack.callback(lock.unlink, missing_ok=True)
    with suppress(OSError):
        lock.write_text(f"process {os.getpid()} on {socket.gethostname()}")


def remove_unused(run_dir: Path) -> None:
    """Removes a run's folder and its parents if this process created them and they hold no result."""
    folder = run_dir.absolute()
    if folder not in _made or any(
        path.is_file() and not any(path.match(pattern) for pattern in _NO_RESULTS) for path in folder.rglob("*")
    ):
        return
    shutil.rmtree(folder)
    _remove_empty(folder.parents)


def last_checkpoint(run_dir: Path) -> Checkpoint | None:
    """Reads the checkpoint that a training in a folder resumes from, if there is one.

    Raises:
        WeightsError: It is damaged.
    """
    from hrseg.inference import read_checkpoint  # torch: not for other verbs

    path = run_dir / "checkpoints" / "last.ckpt"
    if not path.is_file():
        return None
    try:
        return read_checkpoint(path)
    except WeightsError as error:
        raise WeightsError(f"{error}. Otherwise give another --run_dir for a new run") from error


def is_of_run(checkpoint: Path, run_dir: Path) -> bool:
    """Whether a checkpoint belongs to a run's folder, so that resuming from it continues that run."""
    return checkpoint.resolve().parent.parent == run_dir.resolve()


def run_dir_of(file: Path) -> Path | None:
    """The folder RUN of a checkpoint in RUN/checkpoints or a file in RUN/export, if there is a RUN/config.yaml."""
    folder = file.absolute().parent
    if folder.name in ("checkpoints", _EXPORT) and (folder.parent / "config.yaml").is_file():
        return Path(os.path.relpath(folder.parent))
    return None


def results_dir_of(file: Path) -> Path | None:
    """Where scores and predictions of a run's checkpoint or exported file go: RUN, or RUN/export/NAME.results.

    Returns:
        None for a file of no run.
    """
    run_dir = run_dir_of(file)
    if run_dir is None or file.absolute().parent.name != _EXPORT:
        return run_dir
    return run_dir / _EXPORT / f"{file.name}.results"
