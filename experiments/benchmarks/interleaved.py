"""Interleaved timing of alternatives, and its result as rows."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median

import torch

HRSEG = "hrseg"  # the alternative that the others are compared with


@dataclass(frozen=True)
class Row:
    """One alternative of one comparison.

    Args:
        subject: Name of the comparison: "forward", "train", "data", ...
        case: Network and size of the input.
        side: The alternative: "hrseg", or what it is compared with.
        value: The median; for "scaling", a count or a prediction.
        unit: "s", "MiB", "samples/s", ...
        ratio: Cost relative to that of hrseg; for "ddp" and "scaling" the efficiency, the throughput per rank relative
            to that of a single rank. None if nothing is compared.
        target: Target of the ratio, such as ">= 1.6"; empty if there is none.
        met: Whether the target is met; None if there is none.
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
    """Times alternatives in turn, round after round, so that other load on the machine affects all alike.

    Args:
        sides: The alternatives by name; each runs once to warm up.
        repeats: Number of rounds that are timed.
        clock: Returns the time in seconds.

    Returns:
        The seconds of each alternative, one entry per round.
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
        costs: Time or memory of each alternative, one entry per round; "hrseg" is one of them.
        targets: Minimum ratio by name of the alternative.
        unit: Unit of the costs.

    Returns:
        A row for each alternative, whose ratio is the median over the rounds of its cost divided by that of hrseg.
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
    """Sets the number of intra-op threads of PyTorch for the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def default_device() -> torch.device:
    """The GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def require_close(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    """Checks that two results are equal except for rounding, as sums may be taken in another order.

    Raises:
        AssertionError: They differ.
    """
    tolerance = 1e-2 if ours.is_cuda else 1e-3  # convolutions on GPUs use TF32
    torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance * float(theirs.abs().max()))


def _wait_for_device() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
