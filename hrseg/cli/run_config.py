"""The config.yaml beside a checkpoint; other verbs take its harmless settings, as it may come from a stranger."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hrseg.cli.arguments import inline
from hrseg.cli.output import say
from hrseg.errors import ConfigError
from hrseg.run.folders import run_dir_of
from hrseg.utils.checks import as_list
from hrseg.utils.text_files import read_settings
from hrseg.utils.trust import is_trusted, offline, require_trusted

# taken over by verbs that score or predict; folders and checkpoints must come from the user
_SETTINGS = ("seed_everything", "experiment", "timeout_minutes", "model", "data")
_NOT_OF_TRAINER = ("logger", "profiler", "default_root_dir")
_OF_TRAINING = ("hrseg.callbacks.", "pytorch_lightning.", "lightning.pytorch.")  # without effect in other verbs


def config_of_run(checkpoint: Path, arguments: Sequence[str]) -> list[str]:
    """Returns `--config RUN/config.yaml` for the checkpoint of a run, to be put before the user's own arguments.

    Raises:
        ConfigError: There is no such file, and the user gives no data settings either; or see `read_run_config`.
    """
    home = run_dir_of(checkpoint)
    if home is None:
        given = {re.split("[=.]", argument)[0] for argument in arguments}
        if not given & {"--config", "-c", "--data"}:
            raise ConfigError(
                f"no config.yaml of its run lies beside {checkpoint}; give --config with what it was trained on"
            )
        return []
    config, left_out = read_run_config(home / "config.yaml", "--trust" in arguments)
    if left_out:
        say(f"left out of {home / 'config.yaml'}, as only --trust builds any class: {', '.join(left_out)}")
    return ["--config", config]


def read_run_config(path: Path, trust: bool = False) -> tuple[str, list[str]]:
    """Reads the config.yaml of a run that is scored or predicts.

    Args:
        path: The file.
        trust: Whether to use all of it; it may name any class, whose code then runs.

    Returns:
        An argument for `--config`, and the settings that were left out although they may matter.

    Raises:
        ConfigError: It cannot be read, or names a class for model or data that is not in a known package.
    """
    config = read_settings(path)
    if trust:
        return str(path), []
    kept: dict[str, Any] = {name: config[name] for name in _SETTINGS if name in config}
    trainer = config.get("trainer")
    trainer = dict(trainer) if isinstance(trainer, dict) else {}
    callbacks = as_list(trainer.get("callbacks"))
    kept["trainer"] = {
        name: value for name, value in trainer.items() if name not in _NOT_OF_TRAINER and not _names_classes(value)
    } | {"callbacks": [callback for callback in callbacks if is_trusted(_path(callback))]}
    for name in ("model", "data", "trainer"):
        require_trusted(kept.get(name), path, name)
    left_out = [f"trainer.callbacks {_path(one)}" for one in callbacks if not _path(one).startswith(_OF_TRAINING)]
    left_out += [f"trainer.{name}" for name in ("strategy", "plugins") if _names_classes(trainer.get(name))]
    return inline(offline(kept)), left_out


def _names_classes(value: Any) -> bool:
    return any(isinstance(one, dict) for one in as_list(value))


def _path(callback: Any) -> str:
    return str(callback.get("class_path") if isinstance(callback, dict) else callback)
