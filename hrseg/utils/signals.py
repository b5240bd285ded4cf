"""Termination signals, recorded by the handlers for a stop at the next step boundary."""

from __future__ import annotations

import ctypes
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.sharedctypes import RawValue
from types import FrameType

# sent by clusters and by a closed terminal; Windows has neither USR1 nor HUP
FROM_OUTSIDE = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR1", "SIGHUP") if hasattr(signal, name))
_SIGNALS = (signal.SIGINT, *FROM_OUTSIDE)

_received: signal.Signals | None = None
_watcher = 0  # PID of the process that watches; its forks inherit the handlers
watched: ctypes.c_bool | None = None  # shared with other processes; see `outlast_signals`


class Interrupted(BaseException):
    """Raised when a signal ends a training, after its state was saved, or another verb; no subclass of `Exception`.

    Args:
        number: The signal, received by any rank.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.signal = signal.Signals(number)


def received() -> signal.Signals | None:
    """The first signal since `watching` began; None if there was none, and outside `watching`."""
    return _received


def is_watching() -> bool:
    """Whether signals are being recorded."""
    return _watcher == os.getpid()


@contextmanager
def watching(signals: Sequence[signal.Signals] = _SIGNALS) -> Iterator[None]:
    """Records Ctrl-C, SIGTERM, SIGUSR1 and SIGHUP in the block instead of ending the process.

    SIGHUP stays ignored where it is, as under nohup. A second Ctrl-C ends the process. In threads other than the main
    one nothing changes. A nested block sees the signals of the outer one.

    Args:
        signals: The signals to record.
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
    """Raises `Interrupted` at SIGTERM and SIGHUP in the block, so that unfinished files are removed."""
    owner = os.getpid()

    def end(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:  # a fork
            os._exit(128 + number)
        raise Interrupted(number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    with _handled([number for number in FROM_OUTSIDE if number.name != "SIGUSR1"], end):
        yield


def receive(number: int) -> None:
    """Handles a signal that Python does not receive, such as SIGPIPE: recorded in `watching`, else `Interrupted`."""
    if not is_watching():
        raise Interrupted(number)
    _note(number, None)


@contextmanager
def _handled(signals: Sequence[signal.Signals], handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Installs a signal handler for the block, except for SIGHUP where it is ignored, as under nohup."""
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
    """Ignores termination signals in a dataloader worker while its main process watches.

    SLURM and terminals send them to all processes of a training, which needs its data up to the next step boundary.
    PyTorch's own handler in the workers would end them at SIGTERM.

    Args:
        watched: `signals.watched` of the main process, in shared memory.
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
        # not print, which is not reentrant
        with suppress(OSError):  # the terminal may be gone
            hint = "; Ctrl-C again stops at once" if number == signal.SIGINT else ""
            os.write(2, f"\n{_received.name}: stopping after this step or validation{hint}\n".encode())
