"""How far a long loop is: a bar on a terminal, a line now and then elsewhere."""

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
    """Passes items on, and tells on the standard error how many are done.

    Args:
        items: What to go through.
        what: What is being done, such as "predicting".
        total: Number of items.
        seconds: Least time between two lines, where there is no terminal for a bar.
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
