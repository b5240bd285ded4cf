"""Atomic writes: even after a kill or on a full disk, a file is complete or absent."""

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

TEMPORARY = ".hrseg-"  # prefix of unfinished files and folders
_MOST_FOLDERS = 200
_SECONDS_LEFT_ALONE = 24 * 3600.0  # in which an unfinished file may still be in use


def write_json(path: Path, content: Any) -> None:
    """Writes JSON atomically; NaN, which JSON lacks, becomes null.

    Raises:
        OutputError: The file cannot be written; the previous one is intact.
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
    """`torch.save` with fsync, and with the system's error instead of PyTorch's.

    Raises:
        OSError: The file cannot be written; a part of it may be left.
    """
    import torch  # heavy, and not needed by the other functions

    with path.open("wb") as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:
            # after a failed write torch closes its archive, and reports that failure instead
            raise (error.__context__ if isinstance(error.__context__, OSError) else error) from None
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Converts an OSError in the block, which writes to `path`, to an `OutputError` that names it."""
    try:
        if "\0" in str(path):
            raise OSError("its name holds a NUL")
        if len(path.parts) > _MOST_FOLDERS:  # Python creates them recursively
            raise OSError(f"it is nested in more than {_MOST_FOLDERS} folders")
        yield
    except OSError as error:
        raise OutputError(
            f"{path} cannot be written: {error.strerror or error}; make room, or choose a place that can be written to"
        ) from error


def require_writable(folder: Path) -> None:
    """Creates a folder if it is missing, and writes a test file in it.

    Raises:
        OutputError: The folder cannot be written to.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"\0")  # an empty file can be created on a full disk


def require_file_or_nothing(path: Path) -> None:
    """Checks that a path can be replaced by a file.

    Raises:
        OutputError: It is a folder, a device or a pipe.
    """
    with writing(path):
        if not path.name or (path.exists() and not path.is_file()):  # replacing a device would remove it
            raise OSError("it is a folder, a device or a pipe; expected the name of a file")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Atomic write: yields a temporary path that replaces `path` if the block succeeds and is removed otherwise.

    Creates the folder if it is missing. The temporary name is random, so that processes on any machines do not
    conflict. Temporary files that killed processes of this machine left in the folder are removed.

    Raises:
        OutputError: The file cannot be written; the previous one is intact.
    """
    with writing(path):
        require_file_or_nothing(path)
        # OpenCV and `open_weights` need the suffix; the end of a long name suffices
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
    """Identifies the PID namespace: a host, or a container on it."""
    name = socket.gethostname()
    with suppress(OSError):
        name += os.readlink("/proc/self/ns/pid")  # Linux
    return f"{crc32(name.encode()):08x}"


@cache  # once per process and folder
def _remove_of_killed(folder: Path) -> None:
    if os.name != "posix":  # elsewhere `os.kill(pid, 0)` kills
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
    except OSError:  # a process of another user
        pass
    return True


def remove_stale(folder: Path) -> None:
    """Removes unfinished files of killed processes below a folder, if they are older than a day.

    Several processes may do this at once; files that this process may not remove stay.

    Args:
        folder: May be missing.
    """
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(parent, name)
            with suppress(OSError):
                if name.startswith(TEMPORARY) and time.time() - path.lstat().st_mtime > _SECONDS_LEFT_ALONE:
                    shutil.rmtree(path) if name in folders else path.unlink()
