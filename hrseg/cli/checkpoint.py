"""Weights for Lightning's verbs: `--ckpt_path`, or `--model.weights` to score pretrained weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from jsonargparse import Namespace
from torch import nn

from hrseg.cli.arguments import value_of
from hrseg.errors import ConfigError
from hrseg.inference import Checkpoint, read_checkpoint
from hrseg.models import Network
from hrseg.models.weights.published import ZOO
from hrseg.utils.paths import expanded

_GIVE = "give --ckpt_path runs/NAME/N/checkpoints/best.ckpt"


def open_checkpoint(verb: str, path: str) -> Checkpoint:
    """Reads a checkpoint that Lightning can restore for a verb.

    Raises:
        ConfigError: There is no such file.
        WeightsError: It is damaged, or not Lightning's.
    """
    if not path:
        raise ConfigError(f"no checkpoint at an empty name; {_GIVE}")
    if not expanded(path).exists():
        last = expanded(path).with_name("last.ckpt")  # the only one before the first validation
        raise ConfigError(f"no checkpoint at {path}; {f'give --ckpt_path {last}' if last.is_file() else _GIVE}")
    return read_checkpoint(expanded(path), verb)


def require_weights(verb: str, arguments: Sequence[str]) -> None:
    """Raises a `ConfigError` if a verb that scores gets neither a checkpoint nor `--model.weights`."""
    # a recipe's own weights do not count: its training starts from them
    if all(value_of(f"--model.{key}", arguments) is None for key in ("weights", "init_args.weights")):
        raise ConfigError(
            f"hrseg {verb} needs trained weights; {_GIVE}, or --config and --model.weights with a published "
            "file or its name in `hrseg weights list`"
        )


def require_head(network: object, weights: str | None, reinit_head: bool | None) -> None:
    """Raises a `ConfigError` if the head would be random: it is reinitialised, or the weights are a backbone's.

    Files are read only once, and checked by `require_loaded_head`.
    """
    if reinit_head:
        raise ConfigError(
            f"model.reinit_head leaves the head of {network} at random; give --model.reinit_head=false, or "
            f"{_GIVE.removeprefix('give ')}"
        )
    published = ZOO.get(weights or "")
    tag = published.tag if published else weights
    if not tag or (tag.startswith("imagenet") and not expanded(tag).is_file()):
        raise _random_head(weights, network)
    if published and published.network != network:
        raise ConfigError(
            f"model.weights {weights} is of {published.network}; give --model.network {published.network}"
        )


def require_loaded_head(network: nn.Module) -> None:
    """Raises a `ConfigError` if a file of weights left a part of the network at random."""
    if isinstance(network, Network) and network.initialised:
        raise _random_head(network.loaded_from, network.config["name"])


def _random_head(weights: str | None, network: object) -> ConfigError:
    return ConfigError(f"model.weights is {weights or None}, which leaves the head of {network} at random; {_GIVE}")


def drop_weights(checkpoint: Checkpoint, model: Namespace) -> None:
    """Removes initial weights, which the checkpoint replaces, from the settings; the network that they imply stays.

    Args:
        checkpoint: The checkpoint to restore.
        model: The task's settings; changed in place.
    """
    model = model.get("init_args", model)
    network = model.get("network")
    if isinstance(network, Namespace) and network.get("init_args.encoder_weights"):  # segmentation_models_pytorch
        network.init_args.encoder_weights = None
    if model.get("weights") is None:
        return
    own = checkpoint.content.get("hrseg")
    stored = own.get("network") if isinstance(own, Mapping) else None
    if isinstance(stored, Mapping) and stored.get("name") == network:
        not_arguments = ("name", "num_classes", "checkpoint_stages")
        described = {key: value for key, value in stored.items() if key not in not_arguments}
        model.network_args = described | (model.get("network_args") or {})
    model.weights, model.reinit_head = None, False
