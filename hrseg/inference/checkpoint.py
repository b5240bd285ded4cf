"""Checkpoints of runs: reading, checks (a file may come from a stranger), and networks rebuilt from them."""

from __future__ import annotations

import os
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import ConfigDict, Field, NonNegativeInt, StrictFloat, StrictInt, TypeAdapter, ValidationError
from torch import Tensor, nn
from typing_extensions import TypedDict

from hrseg.data.labels import LabelTable
from hrseg.errors import ConfigError, WeightsError
from hrseg.inference.preprocess import check_normalization
from hrseg.inference.protocol import Protocol, check_temperature
from hrseg.models import Network, create_model
from hrseg.models.weights.file import open_weights
from hrseg.models.weights.read import read_content
from hrseg.utils.checks import join_first
from hrseg.utils.construct import NotDescribableError, build, describe
from hrseg.utils.files import replacing, save_pickle
from hrseg.utils.resize import require_pixels
from hrseg.utils.trust import offline, require_trusted

_PREFIX = "network."  # of a task's network, in its checkpoints


class Checkpoint(NamedTuple):
    """A checkpoint of a run, read once per command; its content is cleared once Lightning has restored it."""

    path: Path
    content: dict[str, Any]


@dataclass(frozen=True)
class Description:
    """What a checkpoint states about its network beside the weights.

    Args:
        network: How to build it: the output of `describe_network`; `rebuild_network` checks it.
        labels: The classes.
        mean: Mean of the channels, for values from 0 to 1.
        std: Standard deviation of the channels.
        protocol: The protocol of `test`.
        crop_size: (height, width) of the training crops in pixels.
        input_size: (height, width) that every image is resized to; None for its own size.
        seed: Seed of dropout.
        temperature: Divides the logits of probabilities; see `Protocol.probabilities`.

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
    temperature: float = 1.0

    def __post_init__(self) -> None:
        check_temperature(self.temperature)
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
# what Lightning would restore unchecked
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
        verb: What it is restored for: "fit", or another verb, which needs the weights only.

    Raises:
        WeightsError: It cannot be read, lacks something, or holds a value of another type than Lightning writes.
    """
    content = read_content(path)
    needed = _OF_TRAINING if verb == "fit" else _OF_ALL
    if missing := [name for name in needed if name not in content]:
        raise WeightsError(
            f"{path} is not a {'training ' if verb == 'fit' else ''}checkpoint: it holds "
            f"{join_first(map(str, content)) or 'nothing'}, and no {missing[0]}; expected best.ckpt or last.ckpt of a "
            f"run, or start from its weights with --model.weights {path}"
        )
    check_checkpoint(content, path)
    if verb == "fit":
        _checked(TypeAdapter(_FitLoop), content["loops"].get("fit_loop"), "loops.fit_loop", f"{path} is {_FOREIGN}")
    return Checkpoint(path, content)


def check_checkpoint(content: Mapping[str, Any], where: object) -> Description | None:
    """Checks the types of all that Lightning restores or hrseg adds.

    Args:
        content: The file's content.
        where: The file, for messages.

    Returns:
        The description that hrseg adds; None for a checkpoint of another program.

    Raises:
        WeightsError: Something is of another type than Lightning or a task writes.
    """
    for name, kind in _PARTS.items():
        if name in content:
            _checked(kind, content[name], name, f"{where} is {_FOREIGN}")
    if "hrseg" not in content:
        return None
    complaint = f"{where} does not describe its classes and preprocessing"
    description: Description = _checked(_DESCRIPTION, content["hrseg"], "hrseg", complaint)
    return description


def write_temperature(path: Path, temperature: float) -> None:
    """Replaces the temperature that a checkpoint states, atomically; everything else in the file stays.

    Raises:
        OutputError: It cannot be written; the file is as it was.
        WeightsError: It is not a checkpoint of hrseg.
    """
    content = read_content(path)
    if check_checkpoint(content, path) is None:
        raise WeightsError(f"{path} is not a checkpoint of hrseg; {_EXPECTED}")
    content["hrseg"]["temperature"] = temperature
    with replacing(Path(os.path.realpath(path))) as temporary:  # the file, not a link to it
        save_pickle(content, temporary)


def describe_network(network: nn.Module) -> dict[str, Any] | None:
    """Describes a network by plain values, for `rebuild_network`; None where that is impossible."""
    if isinstance(network, Network) and network.config:
        return network.config
    try:
        description: dict[str, Any] = offline(describe(network))
    except NotDescribableError:
        return None
    return description


def rebuild_network(
    content: Mapping[str, Any], path: str | os.PathLike[str], trust: bool = False
) -> tuple[nn.Module, Description]:
    """Builds the network of a training checkpoint, with its weights.

    Args:
        content: The file's content.
        path: The file, for messages.
        trust: Whether to allow classes of any package, which runs their code.

    Returns:
        The network, and what the checkpoint states beside it.

    Raises:
        ConfigError: A class is of no known package, and the file is not trusted.
        WeightsError: There is no description, something is of another type than Lightning or a task writes, the network
            cannot be built, or the weights do not fit.
    """
    own = content.get("hrseg")
    if not isinstance(own, Mapping) or "network" not in own:
        raise WeightsError(f"{path} is not a checkpoint of hrseg; {_EXPECTED}")
    if own["network"] is None:
        raise WeightsError(
            f"{path} holds a network that cannot be rebuilt from the file alone: its class or arguments were not "
            "known; build it, load its state dict and call Predictor(network, labels)"
        )
    description = check_checkpoint(content, path)
    assert description is not None
    made = description.network
    if not isinstance(made, Mapping) or "class_path" not in made:
        return create_model(from_file=open_weights(content, str(path))), description
    if not trust:
        require_trusted(made, path, "network")
    arguments = made.get("init_args", {})
    if not isinstance(made["class_path"], str) or not isinstance(arguments, Mapping):
        raise WeightsError(
            f"{path} describes its network as {made!r:.100}; expected a class_path and init_args by name"
        )
    try:
        network = build(offline({"class_path": made["class_path"], "init_args": arguments}), nn.Module)
    except ConfigError as error:
        raise WeightsError(f"{path}: the network {made['class_path']} {error}") from error
    entries = content.get("state_dict", {})
    weights = {name.removeprefix(_PREFIX): entry for name, entry in entries.items() if name.startswith(_PREFIX)}
    load_entries(network, weights, path)
    return network, description


def load_entries(module: nn.Module, entries: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """`module.load_state_dict` with a one-line error.

    Raises:
        WeightsError: Keys or shapes do not fit.
    """
    try:
        module.load_state_dict(entries)
    except RuntimeError as error:
        raise WeightsError(f"{path} does not fit its description: {' '.join(str(error).split())[:500]}") from error


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
