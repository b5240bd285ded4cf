"""Signals that ask a training to stop at the next step boundary. The handlers only record them."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.sharedctypes import RawValue
from types import FrameType

# what a cluster sends, and a terminal that is closed; Windows has neither USR1 nor HUP
FROM_OUTSIDE = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR1", "SIGHUP") if hasattr(signal, name))
_SIGNALS = (signal.SIGINT, *FROM_OUTSIDE)

_received: signal.Signals | None = None
_watcher = 0  # the process that watches; those forked from it have its handlers, too
watched: ctypes.c_bool | None = None  # whether it does, for other processes: see `outlast_signals`


class Interrupted(BaseException):
    """A signal's end of a training, its state saved, or of another verb; no `except Exception` swallows it.

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
    """While the block runs, Ctrl-C, SIGTERM, SIGUSR1 and SIGHUP are noted instead of ending the process.

    SIGHUP stays ignored where it is, as under nohup. Ctrl-C a second time ends the process, as anywhere. Other threads
    than the main one cannot watch: there nothing changes.
    A block within another knows what came in that one before.

    Args:
        signals: Those to note, where it is not all of them.
    """
    global _received, _watcher, watched
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    outer = _watcher, watched
    if not is_watching():
        _received, _watcher = None, os.getpid()
    watched = RawValue(ctypes.c_bool, True)
    with _handled(signals, _note):
        try:
            yield
        finally:
            watched.value = False
            _watcher, watched = outer
            if not is_watching():
                _received = None


@contextmanager
def ending() -> Iterator[None]:
    """While the block runs, SIGTERM and SIGHUP raise `Interrupted`, so that what is half written is removed."""
    owner = os.getpid()

    def end(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:  # forked from it
            os._exit(128 + number)
        raise Interrupted(number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    with _handled([number for number in FROM_OUTSIDE if number.name != "SIGUSR1"], end):
        yield


def receive(number: int) -> None:
    """Answers a signal that was not sent, as SIGPIPE is not to Python: noted by who watches, else `Interrupted`."""
    if not is_watching():
        raise Interrupted(number)
    _note(number, None)


@contextmanager
def _handled(signals: Sequence[signal.Signals], handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Has signals handled while the block runs, but for SIGHUP where it is ignored, as under nohup."""
    before = {
        number: signal.signal(number, handler)
        for number in signals
        if number.name != "SIGHUP" or signal.getsignal(number) is not signal.SIG_IGN
    }
    try:
        yield
    finally:
        for number, known in before.items():
            signal.signal(number, known)


def outlast_signals(watched: ctypes.c_bool | None) -> None:
    """Ignores termination signals in a dataloader worker as long as the process that it works for watches.

    SLURM and a terminal send them to all processes of a training, and it needs its data up to the next step boundary. A
    DataLoader's workers would end with SIGTERM: PyTorch's own handler in them does so, unless their parent sent it.

    Args:
        watched: The other process's `signals.watched`, in memory that both see.
    """
    if watched is None or not watched.value:
        return

    def end_unless_watched(number: int, frame: FrameType | None) -> None:
        if not watched.value:
            os._exit(128 + number)

    for number in _SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
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
        with suppress(OSError):  # the terminal may be gone
            os.write(2, f"\n{_received.name}: stopping after this step or validation{_hint(_received)}\n".encode())


def _hint(received: signal.Signals) -> str:
    return "; Ctrl-C again stops at once" if received is signal.SIGINT else ""
