"""Networks rebuilt from training checkpoints: by name, or by class path and constructor arguments."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from torch import nn

from hrseg.errors import ConfigError, WeightsError
from hrseg.models.factory import create_model
from hrseg.models.networks.base import Network
from hrseg.models.weights.file import few, open_weights
from hrseg.utils.construct import NotDescribableError, build, describe
from hrseg.utils.trust import offline, require_trusted

_PREFIX = "network."  # of a task's network, in its checkpoints


def describe_network(network: nn.Module) -> dict[str, Any] | None:
    """Describes a network by plain values, for `rebuild_network`; None where that is impossible."""
    if isinstance(network, Network) and network.config:
        return network.config
    try:
        description: dict[str, Any] = offline(describe(network))
    except NotDescribableError:
        return None
    return description


def rebuild_network(content: Mapping[str, Any], path: str | os.PathLike[str], trust: bool = False) -> nn.Module:
    """Builds the network of a training checkpoint, with its weights.

    Args:
        content: What the checkpoint holds; under "hrseg" what `describe_network` returned, as "network".
        path: The checkpoint, for messages.
        trust: Allow classes of any package, whatever code that runs.

    Raises:
        ConfigError: A class is not of a known package, and the file is not trusted.
        WeightsError: There is no description, the network cannot be built of it, or the weights do not fit.
    """
    description = content["hrseg"].get("network")
    require_description(path, description)
    if not isinstance(description, Mapping) or "class_path" not in description:
        return create_model(from_file=open_weights(content, str(path)))
    if not trust:
        require_trusted(description, path, "network")
    arguments = description.get("init_args", {})
    if not isinstance(description["class_path"], str) or not isinstance(arguments, Mapping):
        raise WeightsError(
            f"{path} describes its network as {description!r:.100}; expected a class_path and init_args by name"
        )
    try:
        network = build(offline({"class_path": description["class_path"], "init_args": arguments}), nn.Module)
    except ConfigError as error:
        raise WeightsError(f"{path}: the network {description['class_path']} {error}") from error
    entries = content.get("state_dict")
    _load(network, entries if isinstance(entries, Mapping) else {}, path)
    return network


def require_description(path: str | os.PathLike[str], description: object) -> None:
    """Raises a `WeightsError` where a checkpoint does not describe its network."""
    if description is None:
        raise WeightsError(
            f"{path} holds a network that cannot be rebuilt from the file alone: its class or arguments were not "
            "known; build it, load its state dict and call Predictor(network, labels)"
        )


def _load(network: nn.Module, entries: Mapping[str, Any], where: str | os.PathLike[str]) -> None:
    own = {name.removeprefix(_PREFIX): entry for name, entry in entries.items() if str(name).startswith(_PREFIX)}
    expected = network.state_dict()
    faults = [f"missing {name}" for name in expected.keys() - own.keys()]
    faults += [f"unexpected {name}" for name in own.keys() - expected.keys()]
    faults += [
        f"{name} has another shape"
        for name in expected.keys() & own.keys()
        if getattr(expected[name], "shape", None) != getattr(own[name], "shape", None)
    ]
    if faults:
        raise WeightsError(f"{where} does not fit the network that it describes: {few(sorted(faults))}")
    network.load_state_dict(own)
