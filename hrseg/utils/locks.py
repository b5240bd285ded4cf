"""File locks between processes, on one machine or several."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_log = logging.getLogger(__name__)


@contextmanager
def locked(lock: Path, seconds: float = -1) -> Iterator[None]:
    """Holds a file lock while the block runs, across processes and machines.

    The lock of a killed process is released. The block runs without a lock if the file system does not support locks or
    the lock's folder cannot be written to.

    Args:
        lock: The lock file, which is not removed.
        seconds: Timeout; -1 waits indefinitely.

    Raises:
        TimeoutError: Another process still holds the lock.
    """
    from filelock import FileLock, Timeout  # not needed for reading

    file_lock = FileLock(lock)
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        try:
            file_lock.acquire(timeout=0)
        except Timeout:
            _log.info("waiting for another process, which works in %s", lock.parent)
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
