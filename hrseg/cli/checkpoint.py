"""Weights of Lightning's verbs: `--ckpt_path`, or `--model.weights` to score pretrained ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from jsonargparse import Namespace

from hrseg.cli.arguments import value_of
from hrseg.errors import ConfigError
from hrseg.inference import Checkpoint, read_checkpoint
from hrseg.models.weights.file import open_weights
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
    """Raises a `ConfigError` where a verb that scores gets neither a checkpoint nor `--model.weights`."""
    # a recipe's own weights do not count: they are what its training starts from
    if all(value_of(f"--model.{key}", arguments) is None for key in ("weights", "init_args.weights")):
        raise ConfigError(
            f"hrseg {verb} needs trained weights; {_GIVE}, or --config and --model.weights with a published "
            "file or its name in `hrseg weights list`"
        )


def require_whole_network(network: object, weights: str | None, reinit_head: bool | None) -> None:
    """Raises a `ConfigError` where the head would be random: it is reinitialised, or the weights are a backbone's."""
    if reinit_head:
        raise ConfigError(
            f"model.reinit_head leaves the head of {network} at random; give --model.reinit_head=false, or "
            f"{_GIVE.removeprefix('give ')}"
        )
    of_file = _description(network, weights) if weights else {}
    if "name" not in of_file:
        raise ConfigError(f"model.weights is {weights or None}, which leaves the head of {network} at random; {_GIVE}")
    if of_file["name"] != network:
        raise ConfigError(f"model.weights {weights} is of {of_file['name']}; give --model.network {of_file['name']}")


def _description(network: object, weights: str) -> Mapping[str, object]:
    """What is known of weights, by their name before they are fetched; no "name" if they have no head of ours."""
    if weights in ZOO:
        return {} if ZOO[weights].tag.startswith("imagenet") else {"name": ZOO[weights].network}
    if expanded(weights).is_file():
        return open_weights(weights).description()
    return {} if weights.startswith("imagenet") else {"name": network}


def drop_weights(checkpoint: Checkpoint, model: Namespace) -> None:
    """Removes initial weights, which the checkpoint's replace, from the settings; what they say of the network stays.

    Args:
        checkpoint: What is restored.
        model: The settings of the task; changed in place.
    """
    model = model.get("init_args", model)
    network = model.get("network")
    if isinstance(network, Namespace) and network.get("init_args.encoder_weights"):  # of segmentation_models_pytorch
        network.init_args.encoder_weights = None
    if model.get("weights") is None:
        return
    own = checkpoint.content.get("hrseg")
    stored = own.get("network") if isinstance(own, Mapping) else None
    if isinstance(stored, Mapping) and stored.get("name") == network:
        described = {
            key: value for key, value in stored.items() if key not in ("name", "num_classes", "checkpoint_stages")
        }
        model.network_args = described | (model.get("network_args") or {})
    model.weights, model.reinit_head = None, False
