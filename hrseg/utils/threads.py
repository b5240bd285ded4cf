"""Bounded work in threads beside a loop: reading ahead of it, writing behind it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, TypeVar

from hrseg.utils.parallel import usable_cores

T = TypeVar("T")
R = TypeVar("R")

_MOST_THREADS = 4  # more would hold more images in memory; four keep up with a GPU


class OrderedThreads(Generic[R]):
    """Runs calls in threads and returns their results in the order of the calls.

    Args:
        threads: Number of threads, and of calls that may be unfinished or hold a result; None is one per available
            core, at most 4.
    """

    def __init__(self, threads: int | None = None) -> None:
        self._threads = threads or min(_MOST_THREADS, usable_cores())
        self._pool = ThreadPoolExecutor(self._threads)
        self._calls: deque[Future[R]] = deque()

    def submit(self, function: Callable[..., R], *arguments: Any) -> list[R]:
        """Submits a call; waits for the oldest calls while there are more than threads, and returns their results.

        Raises:
            Exception: What such a call raised.
        """
        self._calls.append(self._pool.submit(function, *arguments))
        return [self._calls.popleft().result() for _ in range(len(self._calls) - self._threads)]

    def finish(self) -> list[R]:
        """Waits for all calls, and returns their results.

        Raises:
            Exception: What a call raised.
        """
        return [self._calls.popleft().result() for _ in range(len(self._calls))]

    def close(self) -> None:
        """Cancels the calls that have not begun, and waits for the others."""
        self._calls.clear()
        self._pool.shutdown(cancel_futures=True)


def map_in_threads(function: Callable[[T], R], items: Iterable[T], threads: int | None = None) -> Iterator[R]:
    """Applies a function to items in threads, a few items ahead of the loop that takes the results.

    Items are taken in the thread of that loop: if they come from a generator that is a loop of its own, the function
    follows behind that loop.

    Args:
        function: Must be safe to call in threads.
        items: Its inputs.
        threads: As for `OrderedThreads`.

    Yields:
        The results in the order of the items.
    """
    calls = OrderedThreads[R](threads)
    try:
        for item in items:
            yield from calls.submit(function, item)
            del item  # it may be large
        yield from calls.finish()
    finally:
        calls.close()
