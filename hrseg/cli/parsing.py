"""Settings as `hrseg fit` takes them, for other verbs too."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import (  # type: ignore[attr-defined]  # the first is documented, but not re-exported
    ActionConfigFile,
    ArgumentParser,
    Namespace,
    get_loader,
)

from hrseg import data as data_sets
from hrseg.cli.config_errors import as_config_error
from hrseg.data import SegmentationDataModule
from hrseg.errors import ConfigError
from hrseg.files import expanded
from hrseg.text_files import read_text, read_yaml

# imported here, so that `--data` takes a class by its name alone
_DATA_MODULES = [getattr(data_sets, name) for name in data_sets.__all__ if name.endswith("DataModule")]


def parse_data(arguments: Sequence[str]) -> SegmentationDataModule:
    """Makes the data module that `hrseg fit` would make of the same arguments.

    Args:
        arguments: `--config RECIPE`, of which only the data are read, `--data CLASS` and `--data.KEY VALUE`.

    Raises:
        ConfigError: A setting cannot be used, or none says what the data are.
    """
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action=_OnlyData)
    parser.add_subclass_arguments(SegmentationDataModule, "data", fail_untyped=False)  # as LightningCLI does
    with as_config_error():
        config = parser.parse_args(arguments)
        if config.data is None:
            raise ConfigError("the data set is not known; give --config with a recipe, or --data with a class")
        only_data = Namespace(data=config.data)  # type: ignore[no-untyped-call]
        data: SegmentationDataModule = parser.instantiate(only_data).data
        return data


class _OnlyData(ActionConfigFile):
    """`--config`, of which everything but `data` is left out: a recipe or the config.yaml of a run, whatever it has."""

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: str | None = None) -> None:
        """Adds the data of a file to the settings."""
        config = _of_json(values) if values.startswith("{") else read_config(values)
        data = json.dumps({"data": config["data"]} if "data" in config else {}, default=str)
        super().__call__(parser, cfg, data, option_string)  # type: ignore[no-untyped-call]


def _of_json(text: str) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"--config {text[:40]} is no JSON: {error}; give a recipe or RUN/config.yaml") from error
    return content


def read_config(path: str | Path) -> dict[str, Any]:
    """Reads a recipe, or the config.yaml of a run, as plain values.

    Raises:
        ConfigError: There is no such file, or it is no YAML with names of settings.
    """
    path = expanded(path)
    try:
        read_yaml(path)  # within limits, before jsonargparse's loader, which knows 1e-3 as a number, has none
        content = get_loader("yaml")(read_text(path))
    except ConfigError as error:
        raise ConfigError(f"the config {error}; give a recipe or RUN/config.yaml") from error
    if not isinstance(content, dict):
        found = "nothing" if content is None else f"a {type(content).__name__}"
        raise ConfigError(f"the config {path} holds {found}; expected settings such as `data:` and `model:`")
    return content
