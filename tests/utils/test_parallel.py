from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from hrseg.errors import DataFileError
from hrseg.utils.parallel import map_in_processes


def crash_at_3(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return 10 * number


def crash_once(job: tuple[int, Path]) -> int:
    number, marker = job
    if number == 3 and not marker.exists():
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return 10 * number


def test_an_item_that_ends_its_process_is_named() -> None:
    """A label map that crashes scipy's reader was a BrokenProcessPool."""
    results = map_in_processes(crash_at_3, range(8), "reading", 2)
    assert [next(results) for _ in range(3)] == [0, 10, 20]
    with pytest.raises(DataFileError, match=r"^a process ended while reading, at 3: [^\n]*$"):
        next(results)


def test_after_a_process_was_killed_the_others_are_done_one_by_one(tmp_path: Path) -> None:
    jobs = [(number, tmp_path / "marker") for number in range(8)]
    assert list(map_in_processes(crash_once, jobs, "reading", 2)) == [10 * number for number in range(8)]


def panic(number: int) -> None:
    class PanicException(BaseException):
        pass

    raise PanicException("index out of bounds")


def test_an_exception_that_cannot_be_pickled_is_reported_with_the_item() -> None:
    with pytest.raises(DataFileError, match=r"^7: PanicException: index out of bounds$"):
        list(map_in_processes(panic, [7], "reading", 1))
