"""Work on many files in as many processes as there are cores."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from typing import TypeVar

import cv2

from hrseg.errors import DataFileError
from hrseg.utils.progress import track_progress

# How processes are started. On Linux Python 3.14 has a server fork them: a signal to all processes of a job ends it and
# those that load data, which should outlast that. Each of them would import PyTorch anew, too.
CONTEXT = multiprocessing.get_context("fork" if sys.platform == "linux" else None)

T = TypeVar("T")
R = TypeVar("R")


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def map_in_processes(
    function: Callable[[T], R], items: Sequence[T], what: str, processes: int | None = None
) -> Iterator[R]:
    """Applies a function in other processes, and tells how far it is.

    Args:
        function: To be found at the top level of a module.
        items: What it is applied to.
        what: What is being done, such as "reading".
        processes: How many; None for one per core that may be used.

    Returns:
        The results in the order of the items.

    Raises:
        DataFileError: The process of an item ended without an answer, when it was alone, too: a library crashed on
            what the item holds, or there was no memory for it. Or it raised what cannot be passed on.
    """
    yield from track_progress(_results(function, items, what, processes), what, len(items))


def _results(function: Callable[[T], R], items: Sequence[T], what: str, processes: int | None) -> Iterator[R]:
    number = 0
    pool = ProcessPoolExecutor(processes or usable_cores(), CONTEXT, initializer=_prepare)
    try:
        for result in pool.map(partial(_call, function), items, chunksize=4):
            number += 1
            yield result
    except BrokenProcessPool:
        yield from _one_by_one(function, items[number:], what)
    finally:
        pool.shutdown(cancel_futures=True)


def _one_by_one(function: Callable[[T], R], items: Sequence[T], what: str) -> Iterator[R]:
    """Applies a function in one other process, so that an item that ends it is known."""
    with ProcessPoolExecutor(1, CONTEXT, initializer=_prepare) as pool:
        for item in items:
            try:
                yield pool.submit(_call, function, item).result()
            except BrokenProcessPool as error:
                raise DataFileError(
                    f"a process ended while {what}, at {_name(item)}: it crashes the library that reads it, or there "
                    "is no memory for it; copy or extract the file again"
                ) from error


def _call(function: Callable[[T], R], item: T) -> R:
    try:
        return function(item)
    except BaseException as error:
        if can_be_pickled(error):
            raise
        raise DataFileError(f"{_name(item)}: {type(error).__name__}: {error}") from None


def can_be_pickled(error: BaseException) -> bool:
    """Whether an exception can be passed on to another process, as one of a library in Rust cannot."""
    try:
        pickle.dumps(type(error))
    except Exception:  # PicklingError, AttributeError, or whatever else a class makes of it
        return False
    return True


def _name(item: object) -> object:
    return item[0] if isinstance(item, tuple) else item


def _prepare() -> None:
    cv2.setNumThreads(0)  # there is a process for each core already
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the main process, which then ends these
