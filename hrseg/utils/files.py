"""Atomic writes: after a kill or on a full disk, a file is there whole or not at all."""

from __future__ import annotations

import json
import logging
import math
import os
import secrets
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any
from zlib import crc32

from hrseg.errors import OutputError

_log = logging.getLogger(__name__)

TEMPORARY = ".hrseg-"  # what the names of unfinished files and folders begin with
_MOST_FOLDERS = 200
_SECONDS_LEFT_ALONE = 24 * 3600.0  # in which what is unfinished may still be worked on


def write_json(path: Path, content: Any) -> None:
    """Writes plain numbers, strings, lists and dicts as JSON; NaN, which JSON does not know, becomes null.

    Raises:
        OutputError: The system refuses; what stood at `path` before is intact.
    """
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(_without_nan(content), indent=2) + "\n")


def _without_nan(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _without_nan(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_without_nan(value) for value in content]
    return None if isinstance(content, float) and math.isnan(content) else content


def save_pickle(content: Any, path: Path) -> None:
    """As `torch.save`, down to the disk, with the error of the system where it refuses.

    Raises:
        OSError: The system refuses; the file may be left half written.
    """
    import torch  # not for what only reads

    with path.open("wb") as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:
            # torch closes its archive although a write was refused, and complains of that instead
            raise (error.__context__ if isinstance(error.__context__, OSError) else error) from None
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns what the system refuses while the block writes to `path` into an `OutputError` that names it."""
    try:
        if "\0" in str(path):
            raise OSError("its name holds a NUL")
        if len(path.parts) > _MOST_FOLDERS:  # which Python would make one within the call for the next
            raise OSError(f"it lies in more than {_MOST_FOLDERS} folders, one in another")
        yield
    except OSError as error:
        raise OutputError(
            f"{path} cannot be written: {error.strerror or error}; make room, or choose a place that can be written to"
        ) from error


def require_writable(folder: Path) -> None:
    """Makes a folder if it is missing, and tries it before work goes into what is to be written there.

    Raises:
        OutputError: The system refuses.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"\0")  # empty files can be made on a full disk, too


def require_file_or_nothing(path: Path) -> None:
    """Looks at a place before work goes into the file that is to take it.

    Raises:
        OutputError: A folder, a device or a pipe is there.
    """
    with writing(path):
        if not path.name or (path.exists() and not path.is_file()):  # replaced, a device would be gone
            raise OSError("it is a folder, a device or a pipe; expected the name of a file")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a temporary path beside `path`, which takes its place when the block ends well and is removed otherwise.

    The folder is made if it is missing. Writers in other processes, on whatever machine, do not meet: the temporary
    name is drawn by chance. What killed processes of this machine left in the folder is removed.

    Raises:
        OutputError: The system refuses; what stood at `path` before is intact.
    """
    with writing(path):
        require_file_or_nothing(path)
        # the suffix stays last: OpenCV and `open_weights` go by it; of a long name the end suffices
        temporary = path.with_name(f"{TEMPORARY}{_machine()}-{os.getpid()}-{secrets.token_hex(4)}.{path.name[-32:]}")
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_of_killed(path.parent.absolute())
        try:
            yield temporary
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@cache
def _machine() -> str:
    """Where the numbers of processes mean the same: a host, or a container on it."""
    name = socket.gethostname()
    with suppress(OSError):
        name += os.readlink("/proc/self/ns/pid")  # of Linux
    return f"{crc32(name.encode()):08x}"


@cache  # once a process for each folder
def _remove_of_killed(folder: Path) -> None:
    if os.name != "posix":  # elsewhere `os.kill` does kill
        return
    for path in folder.glob(f"{TEMPORARY}{_machine()}-*"):
        process = path.name.split("-")[2]
        if process.isdecimal() and not _is_alive(int(process)):
            with suppress(OSError):
                path.unlink()


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        return True
    return True


def remove_stale(folder: Path) -> None:
    """Removes what killed processes left unfinished in a folder and below, once it was not touched for a day.

    Several processes may do so at once; what is not theirs to remove stays.

    Args:
        folder: May be missing.
    """
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(parent, name)
            with suppress(OSError):
                if name.startswith(TEMPORARY) and time.time() - path.lstat().st_mtime > _SECONDS_LEFT_ALONE:
                    shutil.rmtree(path) if name in folders else path.unlink()
