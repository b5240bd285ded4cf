"""Checkpoints of runs, checked before anything is built from them: the file may come from a stranger."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import ConfigDict, Field, NonNegativeInt, StrictFloat, StrictInt, TypeAdapter, ValidationError
from torch import Tensor
from typing_extensions import TypedDict

from hrseg.data.labels import LabelTable
from hrseg.errors import ConfigError, WeightsError
from hrseg.inference.preprocess import check_normalization
from hrseg.inference.protocol import Protocol
from hrseg.models.rebuild import require_description
from hrseg.models.weights.file import few
from hrseg.models.weights.read import read_content
from hrseg.utils.resize import require_pixels


class Checkpoint(NamedTuple):
    """A checkpoint of a run, read once for all that a command does with it; emptied when Lightning has restored it."""

    path: Path
    content: dict[str, Any]


@dataclass(frozen=True)
class Description:
    """What a checkpoint states about its network beside the weights.

    Args:
        network: How to build the network; `network_of_checkpoint` checks it.
        labels: The classes.
        mean: Mean of the channels, for values from 0 to 1.
        std: Standard deviation likewise.
        protocol: How images are scored in `test`.
        crop_size: (height, width) of the training crops in pixels.
        input_size: (height, width) that every image is resized to; None for its own size.
        seed: Of dropout and the like.

    Raises:
        ConfigError: A number is outside its range.
    """

    network: Any
    labels: LabelTable
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    protocol: Protocol
    crop_size: tuple[int, int] | None
    input_size: tuple[int, int] | None
    seed: NonNegativeInt | None = None

    def __post_init__(self) -> None:
        check_normalization(self.mean, self.std)
        for name in ("crop_size", "input_size"):
            size = getattr(self, name)
            if size is not None:
                if min(size) < 1:
                    raise ConfigError(f"{name} is {size}; expected 1 or more per side")
                require_pixels(size, f"an image of {name}")


class _ParameterGroup(TypedDict):
    params: list[int]


class _OptimizerState(TypedDict):
    state: dict[Any, Any]
    param_groups: list[_ParameterGroup]


class _Counts(TypedDict):
    total: dict[str, StrictInt]
    current: dict[str, StrictInt]


class _Schedule(TypedDict, total=False):
    last_epoch: StrictInt | StrictFloat
    _step_count: StrictInt | StrictFloat


_FitLoop = TypedDict("_FitLoop", {"epoch_progress": _Counts, "epoch_loop.batch_progress": _Counts})

_EXPECTED = (
    "expected best.ckpt or last.ckpt of a run. Other weights need their classes: --labels on the command line, or "
    "Predictor(create_model(from_file=...), labels)"
)
_FOREIGN = "not what Lightning writes"
_OF_ALL = ("pytorch-lightning_version", "state_dict")
_OF_TRAINING = (*_OF_ALL, "optimizer_states", "lr_schedulers", "loops", "callbacks", "global_step", "epoch")
_DESCRIPTION = TypeAdapter(Description)
# what Lightning would restore without a check of its own
_PARTS: Mapping[str, TypeAdapter[Any]] = {
    "state_dict": TypeAdapter(dict[str, Tensor], config=ConfigDict(arbitrary_types_allowed=True)),
    "pytorch-lightning_version": TypeAdapter(Annotated[str, Field(pattern=r"^\d+\.\d+")]),
    "epoch": TypeAdapter(NonNegativeInt),
    "global_step": TypeAdapter(NonNegativeInt),
    "optimizer_states": TypeAdapter(list[_OptimizerState]),
    "lr_schedulers": TypeAdapter(list[_Schedule]),
    "loops": TypeAdapter(dict[str, dict[str, Any]]),
    "callbacks": TypeAdapter(dict[str, dict[str, Any]]),
    "hyper_parameters": TypeAdapter(dict[str, Any]),
}


def read_checkpoint(path: Path, verb: str = "fit") -> Checkpoint:
    """Reads a checkpoint that Lightning is to restore.

    Args:
        path: The file.
        verb: What it is restored for: "fit", or another one, which needs the weights alone.

    Raises:
        WeightsError: It cannot be read, lacks something, or holds something of another type than Lightning writes.
    """
    content = read_content(path)
    needed = _OF_TRAINING if verb == "fit" else _OF_ALL
    if missing := [name for name in needed if name not in content]:
        raise WeightsError(
            f"{path} is not a {'training ' if verb == 'fit' else ''}checkpoint: it holds "
            f"{few(map(str, content)) or 'nothing'}, and no {missing[0]}; expected best.ckpt or last.ckpt of a run, or "
            f"use what it holds as --model.weights {path}"
        )
    check_checkpoint(content, path)
    if verb == "fit":
        _checked(TypeAdapter(_FitLoop), content["loops"].get("fit_loop"), "loops.fit_loop", f"{path} is {_FOREIGN}")
    return Checkpoint(path, content)


def check_checkpoint(content: Mapping[str, Any], where: object) -> None:
    """Checks the types of what Lightning restores, and the description of the network.

    Raises:
        WeightsError: Something is of another type than Lightning or a task writes.
    """
    for name, kind in _PARTS.items():
        if name in content:
            _checked(kind, content[name], name, f"{where} is {_FOREIGN}")
    if "hrseg" in content:
        _checked_description(content["hrseg"], where)


def describe_checkpoint(content: Mapping[str, Any], where: str | Path) -> Description:
    """Returns the description in the content of a run's checkpoint.

    Args:
        content: What the file holds.
        where: The file, for messages.

    Raises:
        WeightsError: There is none, or something is of another type than Lightning or a task writes.
    """
    own = content.get("hrseg")
    if not isinstance(own, Mapping) or "network" not in own:
        raise WeightsError(f"{where} is not a checkpoint of hrseg; {_EXPECTED}")
    require_description(where, own["network"])
    check_checkpoint(content, where)
    return _checked_description(own, where)


def _checked_description(own: object, where: object) -> Description:
    complaint = f"{where} does not describe its classes and preprocessing"
    description: Description = _checked(_DESCRIPTION, own, "hrseg", complaint)
    return description


def _checked(kind: TypeAdapter[Any], value: object, name: str, complaint: str) -> Any:
    try:
        return kind.validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, (name, *first["loc"])))
        reason = f"{place} is {reprlib.repr(first['input'])}: {first['msg'].lower()}"
    except ConfigError as error:
        reason = f"{name}: {error}"
    raise WeightsError(f"{complaint} ({reason}); {_EXPECTED}")
