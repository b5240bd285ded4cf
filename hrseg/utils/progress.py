"""Progress of long loops: a bar on a terminal, otherwise lines at intervals."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.markup import escape
from rich.progress import track

T = TypeVar("T")


def track_progress(items: Iterable[T], what: str, total: int, seconds: float = 15.0) -> Iterator[T]:
    """Yields items and reports progress on the standard error.

    Args:
        items: Any iterable.
        what: Description of the task, such as "predicting".
        total: Number of items.
        seconds: Minimum interval between two lines, without a terminal.
    """
    if sys.stderr is not None and sys.stderr.isatty():  # None where it is closed
        yield from track(items, escape(what), total, console=Console(stderr=True))
        return
    last = time.perf_counter()
    for number, item in enumerate(items, 1):
        yield item
        if time.perf_counter() - last >= seconds:
            last = time.perf_counter()
            print(f"{what} {number}/{total}", file=sys.stderr, flush=True)
