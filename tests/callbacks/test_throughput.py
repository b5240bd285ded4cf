from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from hrseg.callbacks import Throughput
from hrseg.callbacks.throughput import _batch_size


class Module:
    """Records logged values."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        self.logged: dict[str, float] = {}

    def log(self, name: str, value: float, prog_bar: bool) -> None:
        self.logged[name] = value

    def log_dict(self, values: dict[str, float]) -> None:
        self.logged |= values


def test_the_wait_for_data_and_the_speed_show(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    throughput, module = Throughput(), Module()
    trainer: Any = SimpleNamespace(world_size=2)
    batch = {"image": torch.zeros(3, 3, 1, 1)}
    throughput.on_train_epoch_start(trainer, module)  # type: ignore[arg-type]
    for waiting, computing in ((3.0, 1.0), (0.0, 2.0)):
        now += waiting
        throughput.on_train_batch_start(trainer, module, batch, 0)  # type: ignore[arg-type]
        now += computing
        throughput.on_train_batch_end(trainer, module, None, batch, 0)  # type: ignore[arg-type]
    assert module.logged["data_wait"] == pytest.approx(3 / 6)
    assert module.logged["images/s"] == pytest.approx(2 * 3 * 2 / 6)
    assert 0.01 < module.logged["peak_memory_gib"] < 1024

    # time between epochs counts as neither
    now += 1000
    throughput.on_train_epoch_start(trainer, module)  # type: ignore[arg-type]
    throughput.on_train_batch_start(trainer, module, batch, 0)  # type: ignore[arg-type]
    now += 1
    throughput.on_train_batch_end(trainer, module, None, batch, 0)  # type: ignore[arg-type]
    assert module.logged["data_wait"] == 0
    assert module.logged["images/s"] == pytest.approx(6)


@pytest.mark.parametrize(
    ("batch", "size"),
    [
        ({"image": torch.zeros(3, 3, 1, 1), "weight": torch.zeros(7)}, 3),
        ({"weight": torch.tensor(1.0), "pixels": torch.zeros(3, 3, 1, 1)}, 3),
        ((torch.zeros(3, 3, 1, 1), torch.zeros(3, 1, 1)), 3),
        ([{"name": ["a", "b", "c"]}, {"x": [torch.zeros(3, 1)]}], 3),
        (torch.zeros(3, 1), 3),
        ("abc", 0),
        (None, 0),
        ({}, 0),
    ],
)
def test_batches_of_any_structure_are_counted(batch: object, size: int) -> None:
    assert _batch_size(batch) == size
