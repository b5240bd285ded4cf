from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Iterator

import pytest

from hrseg.utils.threads import OrderedThreads, map_in_threads


def test_results_come_in_the_order_of_the_items() -> None:
    def late(number: int) -> int:
        time.sleep(0.002 * (7 - number))  # the first is the last to be done
        return 10 * number

    assert list(map_in_threads(late, range(7), threads=3)) == [10 * number for number in range(7)]
    assert list(map_in_threads(late, [])) == []


def test_it_works_ahead_and_behind_but_only_a_few_items() -> None:
    """At a time, three items are read ahead, one is in the loop, and three are written; the others are no more."""
    alive: set[int] = set()
    most = 0

    class Image:
        def __init__(self, number: int) -> None:
            self.number = number
            alive.add(number)
            weakref.finalize(self, alive.discard, number)

    def in_the_loop() -> Iterator[Image]:
        nonlocal most
        for image in map_in_threads(Image, range(200), threads=3):
            most = max(most, len(alive))
            yield image

    written = list(map_in_threads(lambda image: image.number, in_the_loop(), threads=3))
    assert written == list(range(200))
    assert 3 < most <= 3 + 1 + 3 + 3  # threads may hold the arguments of a finished call until their next one


def test_reading_the_loop_and_writing_overlap() -> None:
    """Each waits for the two others, at different items; one after the other, they would wait forever."""
    meeting = threading.Barrier(3, timeout=30)

    def read(number: int) -> int:
        if number == 3:
            meeting.wait()
        return number

    def loop() -> Iterator[int]:
        for number in map_in_threads(read, range(6), threads=2):
            if number == 2:
                meeting.wait()
            yield number

    def write(number: int) -> int:
        if number == 1:
            meeting.wait()
        return number

    assert list(map_in_threads(write, loop(), threads=2)) == list(range(6))


def test_an_error_is_raised_at_its_turn_and_ends_the_threads() -> None:
    def fail_at_3(number: int) -> int:
        if number == 3:
            raise ValueError("three")
        return number

    before = threading.active_count()
    results = map_in_threads(fail_at_3, range(100), threads=2)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match="three"):
        next(results)
    assert threading.active_count() == before


def test_a_loop_that_stops_ends_the_threads() -> None:
    begun: list[int] = []
    before = threading.active_count()
    results = map_in_threads(begun.append, range(10**6), threads=2)
    next(results)
    results.close()
    assert threading.active_count() == before
    assert len(begun) < 10


def test_submitted_calls() -> None:
    calls = OrderedThreads[int](threads=2)
    assert calls.submit(int, "1") == calls.submit(int, "2") == []
    assert calls.submit(int, "3") == [1]
    assert calls.submit(int, "x") == [2]
    assert calls.submit(int, "5") == [3]
    with pytest.raises(ValueError, match="'x'"):
        calls.finish()
    calls.close()
