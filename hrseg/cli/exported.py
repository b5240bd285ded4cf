"""Exported files for Lightning's verbs: `--ckpt_path model.onnx`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jsonargparse import Namespace

from hrseg.cli.arguments import value_of
from hrseg.errors import ConfigError
from hrseg.inference import IMAGENET_MEAN, IMAGENET_STD
from hrseg.inference.exported import ExportedNetwork, open_exported
from hrseg.run.folders import run_dir_of
from hrseg.utils.paths import expanded

# arguments of a task that build or train a network, and what turns each off
_OF_OTHER_NETWORKS: dict[str, Any] = {
    "network_args": None,
    "weights": None,
    "reinit_head": False,
    "checkpoint_stages": None,
    "lr_factors": None,
    "freeze": None,
    "compile": False,
}
_DEFAULTS = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}


def open_for(verb: str, path: str, arguments: Sequence[str]) -> ExportedNetwork:
    """Loads an exported file for one of Lightning's verbs.

    Args:
        verb: The verb.
        path: The file.
        arguments: The command line, with `--device` and `--trust`.

    Raises:
        ConfigError: The verb trains, or see `open_exported`.
        WeightsError: See `open_exported`.
    """
    if verb == "fit":
        raise ConfigError(f"{path} is an exported file, which cannot be trained; give the checkpoint it comes from")
    return open_exported(expanded(path), value_of("--device", arguments), "--trust" in arguments)


def use_exported(network: ExportedNetwork, config: Namespace, model: str, arguments: Sequence[str]) -> None:
    """Puts an exported file in the place of the network in a verb's settings, with the preprocessing that it states.

    Args:
        network: The file.
        config: The settings; changed in place.
        model: The key of the task's arguments.
        arguments: The command line.

    Raises:
        ConfigError: The task is of a class without a network among its arguments.
    """
    task = config[model]
    if "network" not in task:
        raise ConfigError(f"the task takes no network, and so not {network.path}; give a checkpoint")
    stated = network.description
    for name, default in _DEFAULTS.items():
        if tuple(task.get(name) or default) == default:  # other values must be the file's, which the task checks
            task[name] = getattr(stated, name)
    for name, off in _OF_OTHER_NETWORKS.items():
        if name in task:
            task[name] = off
    task.network = network
    is_given = any(value_of(option, arguments) for option in ("--protocol", f"--{model}.test_protocol"))
    if run_dir_of(network.path) is None and not is_given and task.get("test_protocol") == "whole":
        task.test_protocol = stated.protocol
    # images are on the host, as the runtime takes them
    if not {"--trainer.accelerator", "--trainer"} & {argument.partition("=")[0] for argument in arguments}:
        config.trainer.accelerator = "cpu"
