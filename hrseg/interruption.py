"""What the system asks a training to do: stop at the next safe point. The handlers only take note of it."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.sharedctypes import RawValue
from types import FrameType

# what a cluster sends; Windows has no USR1
OF_CLUSTERS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name))
_SIGNALS = (signal.SIGINT, *OF_CLUSTERS)

_received: signal.Signals | None = None
_watcher = 0  # the process that watches; those forked from it have its handlers, too
watched: ctypes.c_bool | None = None  # whether it does, for other processes: see `outlast_signals`


class Interrupted(BaseException):
    """A training left at a safe point, its state saved; not an error, so that no `except Exception` swallows it.

    Args:
        number: Of the signal that asked for it, in whichever process.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.signal = signal.Signals(number)


def received() -> signal.Signals | None:
    """The first signal that came since `watching` began; None if none did, or nobody is watching."""
    return _received


def is_watching() -> bool:
    """Whether signals are noted at present."""
    return _watcher == os.getpid()


@contextmanager
def watching(signals: Sequence[signal.Signals] = _SIGNALS) -> Iterator[None]:
    """While the block runs, Ctrl-C, SIGTERM and SIGUSR1 are noted instead of ending the process.

    Ctrl-C a second time ends it, as anywhere. Other threads than the main one cannot watch: there nothing changes.
    A block within another knows what came in that one before.

    Args:
        signals: Those to note, where it is not all three.
    """
    global _received, _watcher, watched
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    outer = _watcher, watched
    if not is_watching():
        _received, _watcher = None, os.getpid()
    before = {number: signal.signal(number, _note) for number in signals}
    watched = RawValue(ctypes.c_bool, True)
    try:
        yield
    finally:
        watched.value = False
        _watcher, watched = outer
        if not is_watching():
            _received = None
        for number, handler in before.items():
            signal.signal(number, handler)


def outlast_signals(watched: ctypes.c_bool | None) -> None:
    """Lets signals not end this process, which works for one that watches, as long as that one does.

    SLURM and a terminal send them to all processes of a training, and it needs its data up to its next safe point. A
    DataLoader's workers would end with SIGTERM: PyTorch's own handler in them does so, unless their parent sent it.

    Args:
        watched: The other process's `interruption.watched`, in memory that both see.
    """
    if watched is None or not watched.value:
        return

    def end_unless_watched(number: int, frame: FrameType | None) -> None:
        if not watched.value:
            os._exit(128 + number)

    for number in _SIGNALS:
        signal.signal(number, end_unless_watched)


def _note(number: int, frame: FrameType | None) -> None:
    global _received
    if not is_watching():
        return
    if number == signal.SIGINT and _received is not None:
        raise KeyboardInterrupt
    if _received is None:
        _received = signal.Signals(number)
        # not print, whose buffer the main program may be filling at this moment
        os.write(2, f"\n{_received.name}: stopping after this step or validation{_hint(_received)}\n".encode())


def _hint(received: signal.Signals) -> str:
    return "; Ctrl-C again stops at once" if received is signal.SIGINT else ""
