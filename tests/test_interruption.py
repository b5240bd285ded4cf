from __future__ import annotations

import os
import signal
import threading

import pytest

from hrseg import interruption


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_signals_are_noted_and_do_nothing_else(number: signal.Signals, capfd: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(number)
    with interruption.watching():
        assert interruption.received() is None
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), signal.SIGUSR1)
        assert interruption.received() == number
    assert signal.getsignal(number) == before
    assert capfd.readouterr().err.count(number.name) == 1


def test_ctrl_c_again_stops_at_once() -> None:
    with interruption.watching():
        os.kill(os.getpid(), signal.SIGINT)
        assert interruption.received() == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert interruption.received() is None


def test_processes_forked_from_it_go_on_and_say_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    with interruption.watching():
        worker = os.fork()
        if worker == 0:
            for _ in range(2):
                os.kill(os.getpid(), signal.SIGINT)
            os._exit(0 if interruption.received() is None else 1)
        assert os.waitpid(worker, 0)[1] == 0
    assert capfd.readouterr().err == ""


def test_another_thread_changes_nothing() -> None:
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    def watch() -> None:
        with interruption.watching():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=watch)
    thread.start()
    thread.join()
    assert seen == [before]
