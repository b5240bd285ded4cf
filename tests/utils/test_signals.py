from __future__ import annotations

import errno
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from hrseg.utils import signals
from hrseg.utils.files import replacing


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP])
def test_signals_are_recorded_and_do_nothing_else(number: signal.Signals, capfd: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(number)
    with signals.watching():
        assert signals.received() is None
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), signal.SIGUSR1)
        assert signals.received() == number
    assert signal.getsignal(number) == before
    assert capfd.readouterr().err.count(number.name) == 1


def test_ctrl_c_again_stops_at_once() -> None:
    with signals.watching():
        os.kill(os.getpid(), signal.SIGINT)
        assert signals.received() == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signals.received() is None


def test_a_nested_block_sees_signals_of_the_outer_one() -> None:
    with signals.watching(signals.FROM_OUTSIDE):
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        with signals.watching():
            assert signals.received() == signal.SIGTERM
        assert signals.is_watching()
        os.kill(os.getpid(), signal.SIGUSR1)  # on the way out
        assert signals.received() == signal.SIGTERM
    assert signals.received() is None
    assert not signals.is_watching()


def test_forked_processes_ignore_signals_silently(capfd: pytest.CaptureFixture[str]) -> None:
    with signals.watching():
        worker = os.fork()
        if worker == 0:
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGINT)
            os._exit(0 if signals.received() is None else 1)
        assert os.waitpid(worker, 0)[1] == 0
    assert capfd.readouterr().err == ""


def test_a_worker_outlasts_signals_as_long_as_it_is_needed() -> None:
    ready = os.pipe()
    with signals.watching():
        worker = os.fork()
        if worker == 0:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)  # as PyTorch's handler does in a worker
            signals.outlast_signals(signals.watched)
            os.write(ready[1], b"1")
            while True:
                time.sleep(0.01)
        os.read(ready[0], 1)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            os.kill(worker, number)
            time.sleep(0.2)
        assert os.waitpid(worker, os.WNOHANG) == (0, 0)
    os.kill(worker, signal.SIGTERM)
    assert os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]) == 128 + signal.SIGTERM
    for end in ready:
        os.close(end)


def test_nothing_changes_in_a_worker_of_a_process_that_does_not_watch() -> None:
    before = signal.getsignal(signal.SIGTERM)
    signals.outlast_signals(signals.watched)
    assert signal.getsignal(signal.SIGTERM) == before


def test_another_thread_changes_nothing() -> None:
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    def watch() -> None:
        with signals.watching():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=watch)
    thread.start()
    thread.join()
    assert seen == [before]


def test_sighup_stays_ignored_under_nohup() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        for block in (signals.watching, signals.ending):
            with block():
                os.kill(os.getpid(), signal.SIGHUP)
                assert signals.received() is None
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_process_ended_by_a_signal_cleans_up(number: signal.Signals, tmp_path: Path) -> None:
    before = signal.getsignal(number)

    def write_half() -> None:
        with signals.ending(), replacing(tmp_path / "file") as temporary:
            temporary.touch()
            os.kill(os.getpid(), number)

    with pytest.raises(signals.Interrupted):
        write_half()
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(number) == before


def test_a_fork_ends_without_cleaning_up() -> None:
    with signals.ending():
        worker = os.fork()
        if worker == 0:
            os.kill(os.getpid(), signal.SIGTERM)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]) == 128 + signal.SIGTERM


def test_a_signal_is_recorded_after_the_terminal_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    def write(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with signals.watching():
        monkeypatch.setattr("hrseg.utils.signals.os.write", write)
        os.kill(os.getpid(), signal.SIGHUP)
        assert signals.received() == signal.SIGHUP
