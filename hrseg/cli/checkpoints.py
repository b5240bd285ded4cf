"""What the verbs of Lightning take weights from: a checkpoint and the config.yaml of its run, or a file of weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jsonargparse import Namespace

from hrseg.cli.arguments import value_of
from hrseg.cli.found import found_config
from hrseg.cli.output import say
from hrseg.errors import ConfigError
from hrseg.inference import read_checkpoint
from hrseg.models.weights.file import open_weights
from hrseg.models.weights.published import ZOO
from hrseg.run.folders import run_dir_of
from hrseg.utils.paths import expanded

_GIVE = "give --ckpt_path runs/NAME/N/checkpoints/best.ckpt"


def usable_checkpoint(verb: str, checkpoint: str) -> dict[str, Any]:
    """What a checkpoint holds, the values of its tensors left out, once it is known that Lightning can take it.

    Raises:
        ConfigError: There is no such file.
        WeightsError: It is damaged, or not Lightning's.
    """
    if not checkpoint:
        raise ConfigError(f"no checkpoint at an empty name; {_GIVE}")
    if not expanded(checkpoint).exists():
        last = expanded(checkpoint).with_name("last.ckpt")  # all that there is before the first validation
        raise ConfigError(f"no checkpoint at {checkpoint}; {f'give --ckpt_path {last}' if last.is_file() else _GIVE}")
    return read_checkpoint(expanded(checkpoint), verb)


def config_of_run(verb: str, arguments: Sequence[str]) -> list[str]:
    """`--config RUN/config.yaml` for a checkpoint of a run that is used; the user's settings stand on top."""
    if verb == "fit" or {"-h", "--help"} & set(arguments):
        return []
    checkpoint = value_of("--ckpt_path", arguments)
    if checkpoint is None:
        # a recipe's own weights are what its training starts from; those to be scored are given by the user
        if all(value_of(f"--model.{key}", arguments) is None for key in ("weights", "init_args.weights")):
            raise ConfigError(
                f"hrseg {verb} needs trained weights; {_GIVE}, or --config and --model.weights with a published "
                "file or its name in `hrseg weights list`"
            )
        return []
    usable_checkpoint(verb, checkpoint)
    home = run_dir_of(expanded(checkpoint))
    if home is None:
        given = {argument.partition("=")[0].partition(".")[0] for argument in arguments}
        if not given & {"--config", "-c", "--data"}:
            raise ConfigError(
                f"no config.yaml of its run lies beside {checkpoint}; give --config with what it was trained on"
            )
        return []
    config, left_out = found_config(home / "config.yaml", "--trust" in arguments)
    if left_out:
        say(f"left out of {home / 'config.yaml'}, as only --trust builds any class: {', '.join(left_out)}")
    return ["--config", config]


def leave_weights_to(checkpoint: Mapping[str, Any], model: Namespace) -> None:
    """Fetches and reads no weights that those of the checkpoint replace; the description of the network stays."""
    model = model.get("init_args", model)
    network = model.get("network")
    if isinstance(network, Namespace) and network.get("init_args.encoder_weights"):  # of segmentation_models_pytorch
        network.init_args.encoder_weights = None
    if model.get("weights") is None:
        return
    own = checkpoint.get("hrseg")
    stored = own.get("network") if isinstance(own, Mapping) else None
    if isinstance(stored, Mapping) and stored.get("name") == network:
        described = {
            key: value for key, value in stored.items() if key not in ("name", "num_classes", "checkpoint_stages")
        }
        model.network_args = described | (model.get("network_args") or {})
    model.weights, model.reinit_head = None, False


def require_whole_network(network: object, weights: str | None, reinit_head: bool | None) -> None:
    """Raises a `ConfigError` where a head would score at random: it starts anew, or weights are of a trunk alone."""
    if reinit_head:
        raise ConfigError(
            f"model.reinit_head leaves the head of {network} at random; give --model.reinit_head=false, or "
            f"{_GIVE.removeprefix('give ')}"
        )
    of_file = _of_weights(network, weights) if weights else {}
    if "name" not in of_file:
        raise ConfigError(f"model.weights is {weights or None}, which leaves the head of {network} at random; {_GIVE}")
    if of_file["name"] != network:
        raise ConfigError(f"model.weights {weights} is of {of_file['name']}; give --model.network {of_file['name']}")


def _of_weights(network: object, weights: str) -> Mapping[str, object]:
    """What is known of weights, by their name before they are fetched; no "name" if they have no head of ours."""
    if weights in ZOO:
        return {} if ZOO[weights].tag.startswith("imagenet") else {"name": ZOO[weights].network}
    if expanded(weights).is_file():
        return open_weights(weights).description()
    return {} if weights.startswith("imagenet") else {"name": network}
