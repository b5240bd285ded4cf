"""`create_model`: networks by name, with weights."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from os import PathLike
from pathlib import Path
from re import fullmatch
from typing import Any

from hrseg.errors import ConfigError, UnknownNameError, WeightsError
from hrseg.models.networks.base import Network
from hrseg.models.registry import BUILDERS
from hrseg.models.weights.file import WeightsFile, open_weights
from hrseg.models.weights.load import load_weights
from hrseg.models.weights.published import ZOO
from hrseg.models.weights.zoo import NAMED_WEIGHTS, fetch_weights, get_weights
from hrseg.utils.checks import require


def create_model(
    name: str | None = None,
    num_classes: int | None = None,
    weights: str | PathLike[str] | None = None,
    *,
    from_file: str | PathLike[str] | Mapping[str, Any] | WeightsFile | None = None,
    reinit_head: bool = False,
    **parameters: Any,
) -> Network:
    """Builds a network by its name, or the one that a file of weights belongs to.

    Args:
        name: One of `list_models()`.
        num_classes: K, the channels of the logits; by default the weights' own, or 19.
        weights: None, the name of pretrained weights ("imagenet", or one that `hrseg models` or `hrseg weights list`
            shows), or a file that `load_weights` reads. Weights of the network itself also supply arguments that are
            not given. `init` is by default "official" with weights, as in the official training from ImageNet weights,
            and "kaiming" without.
        from_file: What `load_weights` takes, or a name in `hrseg weights list`; supplies weights, and all arguments
            not given that follow from the file or its layout. A file that holds only a backbone needs a name.
        reinit_head: Load the backbone's weights only, for other classes.
        parameters: Any other constructor parameter of the network, such as `fuse_mode` or `align_corners`. They
            override the defaults of the weights' layout, never what the file itself states.

    Returns:
        The network, in training mode; its `config` holds the name and every constructor argument.

    Raises:
        UnknownNameError: No model, or no parameter of this model, has that name.
        ConfigError: A parameter's value is outside its range, or two contradict each other.
        WeightsError: The weights are not available, or do not fit the network.
    """
    if (name is None and from_file is None) or (weights is not None and from_file is not None):
        raise ConfigError("create_model takes the name of a model, with or without weights=, or from_file=")
    if weights is not None:
        require(isinstance(weights, str | PathLike), "weights", weights, "the name of weights or the path of a file")
    given: dict[str, Any] = {k: v for k, v in (("name", name), ("num_classes", num_classes)) if v is not None}
    given |= parameters
    if name is not None:
        _require_known(name, [*given][1:])  # before anything is downloaded
    file = None
    file_arguments: dict[str, Any] = {}
    if from_file is not None:
        if isinstance(from_file, str) and (from_file in ZOO or _is_mistyped(from_file)):
            from_file = get_weights(from_file)
        file = open_weights(from_file)
        file_arguments = _arguments(file, name)
    elif weights is not None:
        assert name is not None
        file = open_weights(_weights_file(name, weights))
        file_arguments = _arguments(file, name) if file.description().get("name") == name else {"name": name}
    if file is not None and "init" in _signature(file_arguments["name"]).parameters:
        file_arguments.setdefault("init", "official")
    network = _build(**file_arguments | given)
    network.given = frozenset(given)
    if file is not None:
        load_weights(network, file, reinit_head=reinit_head)
    return network


def _arguments(file: WeightsFile, name: str | None) -> dict[str, Any]:
    """Name and arguments of the network that a file belongs to; `name` is that of the user, if any."""
    found = file.description()
    title = f"{file.where} ({file.origin})"
    if not found:
        raise WeightsError(f"{title} has an unknown backbone: hrseg has none of its width and depth")
    found_name = found.get("name", name)
    if found_name is None:
        raise WeightsError(f"{title} holds only a backbone; name the model and give the file as weights=")
    if name not in (None, found_name):
        raise WeightsError(
            f"{title} holds weights of {found_name}, not {name}; leave the name out, or give the file as weights="
        )
    known = _signature(found_name).parameters
    return {"name": found_name, **{key: value for key, value in found.items() if key in known}}


def _is_mistyped(name: str) -> bool:
    """Whether this is rather a misspelt name than a missing file."""
    file_arguments = Path(name).suffix in (".safetensors", ".pth", ".pt", ".ckpt", ".bin")
    return bool(fullmatch(r"hr\w+(\.\w+)?", name)) and not file_arguments and not Path(name).exists()


def _weights_file(model: str, weights: str | PathLike[str]) -> Path:
    if weights in NAMED_WEIGHTS or weights in ZOO:
        return fetch_weights(model, str(weights))
    path = Path(weights)
    if not path.suffix and not path.exists():
        raise UnknownNameError("weights", str(weights), [*NAMED_WEIGHTS, "a file"])
    return path


def _signature(name: str) -> inspect.Signature:
    if not isinstance(name, str) or name not in BUILDERS:
        raise UnknownNameError("model", name, BUILDERS)
    return inspect.signature(BUILDERS[name])


def _require_known(name: str, parameters: Iterable[str]) -> None:
    known = _signature(name).parameters
    for parameter in parameters:
        if parameter == "num_classes" and parameter not in known:
            raise ConfigError(
                f"{name} returns feature maps and takes no num_classes; `hrseg models` lists the segmentation networks"
            )
        if parameter not in known:
            raise UnknownNameError(f"parameter of {name}", parameter, known)


def _build(name: str, **parameters: Any) -> Network:
    _require_known(name, parameters)
    bound = _signature(name).bind(**parameters)
    bound.apply_defaults()
    network: Network = BUILDERS[name](*bound.args, **bound.kwargs)
    # lists for tuples, as from JSON or YAML
    plain = {key: list(value) if isinstance(value, tuple) else value for key, value in bound.arguments.items()}
    network.config = {"name": name, **plain}
    return network
