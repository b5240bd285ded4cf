from __future__ import annotations

from typing import Any

import pytest

from hrseg.run.changes import changes

BEFORE: dict[str, Any] = {
    "experiment": "a",
    "seed_everything": 1,
    "model": {
        "network_args": None,
        "schedule": "poly",
        "optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}},
    },
    "data": {"class_path": "A", "init_args": {"root": "data", "crop_size": [32, 32], "num_workers": 0}},
}


@pytest.mark.parametrize(
    ("now", "told"),
    [
        ({}, ""),
        ({"experiment": "b"}, ""),
        ({"seed_everything": 2}, "seed_everything 1 -> 2 (without effect: the seed comes from the checkpoint)"),
        (
            {"model": {**BEFORE["model"], "network_args": {"dropout": 0.5}}},
            "model.network_args None -> {'dropout': 0.5}",
        ),
        (
            {"model": {**BEFORE["model"], "optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 1.0}}}},
            "model.optimizer.lr 0.1 -> 1.0 (without effect: the optimiser comes from the checkpoint)",
        ),
        (
            {"model": {**BEFORE["model"], "lr_factors": {"head": 2.0}}},
            "model.lr_factors None -> {'head': 2.0} (without effect: the optimiser comes from the checkpoint)",
        ),
        ({"model": {**BEFORE["model"], "schedule": "cosine"}}, "model.schedule poly -> cosine"),
        ({"data": {"class_path": "B", "init_args": {"root": "other"}}}, "data A -> B"),
        (
            {"data": {"class_path": "A", "init_args": {"root": "data", "crop_size": [64, 32], "num_workers": 8}}},
            "data.crop_size [32, 32] -> [64, 32]",
        ),
        ({f"option{i}": i for i in range(12)}, ", ".join(f"option{i} None -> {i}" for i in range(10)) + ", and 2 more"),
        ({"comment": 100 * "a"}, f"comment None -> {57 * 'a'}..."),
    ],
)
def test_settings_that_differ_are_reported_in_one_line(now: dict[str, Any], told: str) -> None:
    assert changes(BEFORE, {**BEFORE, **now}) == told


def test_arguments_of_a_schedule_stay_as_in_the_checkpoint() -> None:
    before, now = ({"model": {"schedule": {"class_path": "C", "init_args": {"T_max": n}}}} for n in (9, 10))
    told = "model.schedule.T_max 9 -> 10 (without effect: the schedule comes from the checkpoint)"
    assert changes(before, now) == told


def test_a_damaged_file_has_no_changes() -> None:
    assert changes({}, BEFORE) == ""
