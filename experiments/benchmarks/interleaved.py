"""Sides that take turns, and what is reported of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median

import torch

HRSEG = "hrseg"  # the side that the others are compared with


@dataclass(frozen=True)
class Row:
    """One side of one comparison.

    Args:
        subject: What `hrseg benchmark` calls it: "forward", "train", "data", ...
        case: On what it was measured.
        side: What was measured; "hrseg", or something beside it.
        value: The median; of "scaling", which measures nothing, what is counted or predicted.
        unit: "s", "MiB", "samples/s", ...
        ratio: How many times as good hrseg is; of "ddp" and "scaling" the efficiency, what a process achieves beside
            others over what it achieves alone. None where nothing is compared.
        target: What hrseg set itself, such as ">= 1.6"; empty where there is none.
        met: Whether the target is met; None where there is none.
    """

    subject: str
    case: str
    side: str
    value: float
    unit: str
    ratio: float | None = None
    target: str = ""
    met: bool | None = None


def time_interleaved(
    sides: Mapping[str, Callable[[], object]], repeats: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Times the sides one after the other, again and again, so that whatever else the machine does meets all alike.

    Args:
        sides: What to run, by name; each runs once before anything is timed.
        repeats: Number of rounds that are timed.
        clock: Tells the time in seconds.

    Returns:
        The seconds of each side, one entry a round.
    """
    for run in sides.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, run in sides.items():
            _wait_for_device()
            start = clock()
            run()
            _wait_for_device()
            seconds[name].append(clock() - start)
    return seconds


def compare(
    subject: str, case: str, costs: Mapping[str, list[float]], targets: Mapping[str, float], unit: str = "s"
) -> list[Row]:
    """Makes the rows of a comparison.

    Args:
        subject: As in `Row`.
        case: As in `Row`.
        costs: What each side takes, one entry a round, less being better; "hrseg" is one of the sides.
        targets: How many times as good as a side hrseg has to be, by that side's name.
        unit: Of the costs.

    Returns:
        A row for each side. Its ratio is the median over the rounds of this side's cost over that of hrseg.
    """
    rows = []
    for side, values in costs.items():
        ratio = median(theirs / ours for theirs, ours in zip(values, costs[HRSEG], strict=True))
        target = targets.get(side)
        rows.append(
            Row(
                subject,
                case,
                side,
                median(values),
                unit,
                ratio,
                target="" if target is None else f">= {target}",
                met=None if target is None else ratio >= target,
            )
        )
    return rows


@contextmanager
def torch_threads(number: int) -> Iterator[None]:
    """Lets torch compute with this many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def default_device() -> torch.device:
    """The GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def require_close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    """Makes sure that two sides compute the same, but for the rounding of sums taken in another order.

    Raises:
        AssertionError: They do not.
    """
    tolerance = 1e-2 if ours.is_cuda else 1e-3  # GPUs round the factors of convolutions to TF32
    torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance * float(theirs.abs().max()))


def _wait_for_device() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
