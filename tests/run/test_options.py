from __future__ import annotations

from typing import Any

import pytest

from hrseg.errors import ConfigError
from hrseg.run.options import check_options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"accumulate_grad_batches": -1}, "accumulate_grad_batches is -1; expected 1 or more"),
        ({"check_val_every_n_epoch": 0}, "check_val_every_n_epoch is 0; expected 1 or more"),
        ({"log_every_n_steps": -1}, "log_every_n_steps is -1; expected 0 or more"),
        ({"num_sanity_val_steps": -5}, "num_sanity_val_steps is -5; expected -1 or more"),
        ({"gradient_clip_val": -1.0}, "gradient_clip_val is -1.0; expected 0 or more"),
        ({"val_check_interval": 0}, "val_check_interval is 0; expected steps from 1"),
        ({"barebones": True}, "barebones leaves out loggers"),
        ({"accelerator": "cpu", "devices": 99999999}, "devices is 99999999; expected 1 to"),
        ({"accelerator": "cpu", "devices": "99999999"}, "devices is 99999999; expected 1 to"),
        ({"num_nodes": 2}, "num_nodes is 2, but nothing says where the others are; start with srun or torchrun"),
    ],
)
def test_settings_that_lightning_takes_without_a_look(
    options: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(ConfigError, match=message):
        check_options(options)


def test_several_nodes_are_taken_where_their_place_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTER_ADDR", "node0")
    check_options({"num_nodes": 2, "devices": "auto", "accumulate_grad_batches": 4, "log_every_n_steps": 0})
