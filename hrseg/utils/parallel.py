"""Parallel processing of many files, with a process per core."""

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

# The start method. On Linux, Python 3.14 defaults to forkserver: a signal to all processes of a job would end its
# server and the dataloader workers, which must outlast it; and each worker would import PyTorch anew.
CONTEXT = multiprocessing.get_context("fork" if sys.platform == "linux" else None)

T = TypeVar("T")
R = TypeVar("R")


def usable_cores() -> int:
    """Number of cores available to this process."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def map_in_processes(
    function: Callable[[T], R], items: Sequence[T], what: str, processes: int | None = None
) -> Iterator[R]:
    """Applies a function to items in parallel processes, with a progress bar.

    Args:
        function: Defined at the top level of a module.
        items: Its inputs.
        what: For the progress bar, such as "reading".
        processes: Number of processes; None for one per available core.

    Returns:
        The results in the order of the items.

    Raises:
        DataFileError: The process of an item died, even when it was the only one: a library crashed on the file, or
            memory ran out. Or it raised an exception that cannot be pickled.
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
    """Applies a function in a single process, so that the item that kills it is known."""
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
    """Whether an exception can be pickled, which those of libraries in Rust cannot."""
    try:
        pickle.dumps(type(error))
    except Exception:  # PicklingError, AttributeError, or any other that a class raises
        return False
    return True


def _name(item: object) -> object:
    return item[0] if isinstance(item, tuple) else item


def _prepare() -> None:
    cv2.setNumThreads(0)  # there is a process per core
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # on Ctrl-C the main process ends its workers
