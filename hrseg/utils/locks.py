"""File locks between processes, on one machine or several."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_log = logging.getLogger(__name__)


@contextmanager
def locked(lock: Path, seconds: float = -1) -> Iterator[None]:
    """Keeps other processes that ask for the same lock waiting while the block runs, on whatever machine they are.

    A process that is killed gives it back. Where the file system cannot lock, or the lock's folder cannot be written
    to, the block runs all the same.

    Args:
        lock: A file, which stays; its content does not matter.
        seconds: How long to wait; -1 for as long as it takes.

    Raises:
        TimeoutError: Another process still holds the lock.
    """
    from filelock import FileLock, Timeout  # not for what only reads

    file_lock = FileLock(lock)
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        try:
            file_lock.acquire(timeout=0)
        except Timeout:
            _log.info("waiting for another process, which is at work in %s", lock.parent)
            file_lock.acquire(timeout=seconds)
    except Timeout:
        raise
    except (OSError, NotImplementedError):
        yield
        return
    try:
        yield
    finally:
        file_lock.release()
