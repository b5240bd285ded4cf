"""Options of `hrseg predict`, for a split of a data set and for any images."""

from __future__ import annotations

from typing import Any

TRUST = (
    "Build any class that the checkpoint and the config.yaml beside it name, which may run any code; otherwise only "
    "classes of known packages."
)
OPTIONS = {
    "--output": "Output folder: label ids in labels/NAME.png, colours with a legend in overlays/NAME.png; predict/ in "
    "the run's folder by default.",
    "--protocol": "whole, slide, cityscapes, ...; the run's test protocol by default.",
    "--device": "Such as cuda:1 or cpu; the GPU by default, if there is one.",
}


def trainer_options(device: str) -> dict[str, Any]:
    """Lightning's `accelerator` and `devices` for a torch device.

    >>> trainer_options("cuda:1"), trainer_options("cpu")
    ({'accelerator': 'cuda', 'devices': [1]}, {'accelerator': 'cpu', 'devices': 1})
    """
    kind, _, index = device.partition(":")
    return {"accelerator": kind, "devices": [int(index)] if index.isdecimal() and kind != "cpu" else 1}
