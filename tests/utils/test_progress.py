from __future__ import annotations

import sys
import time

import pytest

from hrseg.utils.progress import track_progress


def test_lines_at_intervals(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    now = 0.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    for _ in track_progress(iter("abcde"), "drawing", 5, seconds=10):
        now += 6
    captured = capsys.readouterr()
    assert captured.err == "drawing 2/5\ndrawing 4/5\n"
    assert captured.out == ""


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert list(track_progress(iter("abc"), "drawing", 3)) == ["a", "b", "c"]
    assert "drawing" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["[/]", "[bold]"])
def test_markup_in_names_is_shown_as_it_is(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert list(track_progress(iter("abc"), f"fetching {name}", 3)) == ["a", "b", "c"]
    assert f"fetching {name}" in capsys.readouterr().err
