from __future__ import annotations

import subprocess

import pytest

from experiments.benchmarks import ddp
from experiments.benchmarks.traffic import traffic_of
from hrseg.models.catalog import MODELS

NETWORK = "hrnetv2_w18_small_v1"


def test_two_ranks_send_what_is_counted_from_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hook counted the bytes in a training of two ranks."""
    answer = ddp._run_processes(NETWORK, 1, (64, 64), 1)
    assert tuple(answer[2]) == traffic_of(NETWORK).buckets
    monkeypatch.setattr(ddp, "_run_processes", lambda *_: answer)
    rows = ddp.measure_ddp(1, NETWORK, 1, (64, 64))
    case = f"{NETWORK} 1x3x64x64 a process"
    for what in (case, f"{case}, processor time"):
        times = [row for row in rows if row.case == what][:4]
        assert [row.side for row in times] == [ddp.ONE, ddp.TWO, ddp.APART, ddp.SENDING]
        assert all(row.value > 0 for row in times)
    values = {row.side: row.value for row in rows}
    assert values["gradients averaged in a step"] == 4e-6 * MODELS[NETWORK].parameters
    assert values["buffers broadcast in a step"] == 8e-6 * (3616 + 72)


def test_efficiency_and_what_is_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {ddp.ONE: [8.0, 8.0], ddp.TWO: [10.0, 10.0], ddp.APART: [9.0, 9.0], ddp.SENDING: [4.0, 2.0]}
    traffic = traffic_of(NETWORK)
    processor = {side: [2 * value for value in values] for side, values in seconds.items()}
    monkeypatch.setattr(ddp, "_run_processes", lambda *_: (seconds, processor, traffic.buckets, traffic.buffers))
    measured = ddp.measure_ddp(2, NETWORK)
    rows = {row.side: row for row in measured if not row.case.endswith("processor time")}
    assert [row.value for row in measured if row.case.endswith("processor time")] == [16, 20, 18, 6]
    assert (rows[ddp.TWO].ratio, rows[ddp.APART].ratio, rows[ddp.SENDING].ratio) == (0.8, 8 / 9, None)
    assert rows[ddp.KEPT].value == 0.9
    assert rows[ddp.HIDDEN].value == 0.625  # the median of 3/4 and 1/2


@pytest.mark.parametrize("what", ["gradients", "buffers"])
def test_other_bytes_than_counted_are_noticed(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    traffic = traffic_of(NETWORK)
    counted = ((*traffic.buckets, 4), traffic.buffers) if what == "gradients" else (traffic.buckets, 4)
    monkeypatch.setattr(ddp, "_run_processes", lambda *_: ({}, {}, *counted))
    with pytest.raises(AssertionError, match=f"bytes of {what}"):
        ddp.measure_ddp(1, NETWORK)


def test_a_rank_that_fails_does_not_hang_the_other() -> None:
    with pytest.raises(subprocess.CalledProcessError):
        ddp._run_processes("no_such_network", 1, (64, 64), 1)
