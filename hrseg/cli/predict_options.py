"""Options of `hrseg predict`, for a split of a data set and for any images."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import TYPE_CHECKING, Any, Literal, get_args

if TYPE_CHECKING:
    from hrseg.inference.certainty import CertaintyOptions

TRUST = (
    "Build any class that the checkpoint and the config.yaml beside it name, which may run any code; otherwise only "
    "classes of known packages."
)
# by name, arguments of `add_argument`
OPTIONS: dict[str, dict[str, Any]] = {
    "--output": {
        "help": "Output folder: label ids in labels/NAME.png, colours with a legend in overlays/NAME.png; predict/ in "
        "the run's folder by default."
    },
    "--protocol": {"help": "whole, slide, cityscapes, ...; the run's test protocol by default."},
    "--device": {"help": "Such as cuda:1 or cpu; the GPU by default, if there is one."},
    "--precision": {
        "help": "bf16, which is faster on CPUs with AMX or AVX512_BF16 and on GPUs, or fp16, on GPUs; changes labels "
        "between two classes; fp32 by default.",
        "type": Literal["fp32", "bf16", "fp16"],
    },
    "--confidence": {
        "help": "Also write the probability of each pixel's label, times 255, to confidence/NAME.png, and draw it "
        "beside the overlay; --confidence 16 writes 16 bits, times 65535.",
        "type": Literal[8, 16],
        "nargs": "?",
        "const": 8,
    },
    "--probabilities": {
        "help": "npz: also write the probabilities of all classes to probabilities/NAME.npz, an array "
        "`probabilities` (classes, height, width) of float16: 2 bytes per pixel and class.",
        "type": Literal["npz"],
    },
}


def add_predict_options(parser: ArgumentParser) -> None:
    """Adds `OPTIONS` to a parser of the standard library, which has choices instead of `Literal`."""
    for option, settings in OPTIONS.items():
        choices = get_args(settings.get("type"))
        of_choices = {"choices": choices, "type": type(choices[0])} if choices else {}
        parser.add_argument(option, **settings | of_choices)


def certainty_options(confidence: Literal[8, 16] | None, probabilities: str | None) -> CertaintyOptions:
    """The values of `--confidence` and `--probabilities` as `write_prediction` takes them."""
    from hrseg.inference.certainty import CertaintyOptions  # torch: not for --help

    return CertaintyOptions(confidence, probabilities is not None)


TRAINER_PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}  # Lightning's names


def trainer_options(device: str) -> dict[str, Any]:
    """Lightning's `accelerator` and `devices` for a torch device.

    >>> trainer_options("cuda:1"), trainer_options("cpu")
    ({'accelerator': 'cuda', 'devices': [1]}, {'accelerator': 'cpu', 'devices': 1})
    """
    kind, _, index = device.partition(":")
    return {"accelerator": kind, "devices": [int(index)] if index.isdecimal() and kind != "cpu" else 1}
