"""A short share of `make fuzz`."""

from __future__ import annotations

import pytest

from tests.fuzz.running import _fault
from tests.processes import PROJECT, run


def test_no_case_of_a_short_seeded_run_ends_in_a_traceback() -> None:
    arguments = ["--seed", "15", "--cases", "24", "--seconds", "200"]
    done = run(f"from tests.fuzz.running import main; raise SystemExit(main({arguments}))", PROJECT, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "24 cases of seed 15" in done.stdout


@pytest.mark.parametrize(
    ("code", "said", "fault"),
    [
        (0, "", None),
        (1, "left out: a.png", None),
        (2, "hrseg: no folder", None),
        (143, "", None),
        (2, "", "exit code 2 with 0 lines of what is wrong"),
        (0, "Traceback (most recent call last):\n", "a traceback"),
        (99, "", "a traceback"),
        (-9, "", "ended by SIGKILL"),
        (3, "", "exit code 3"),
    ],
)
def test_what_counts_as_a_fault(code: int, said: str, fault: str | None) -> None:
    assert _fault(code, said, may_be_long=False) == fault
