"""`--config` and `--data` as in `hrseg fit`, for verbs that need only the data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jsonargparse import (  # type: ignore[attr-defined]  # the first is documented, but not re-exported
    ActionConfigFile,
    ArgumentParser,
    Namespace,
)

import hrseg
from hrseg.cli.arguments import inline, with_stdin_read
from hrseg.cli.config_errors import as_config_error
from hrseg.data import SegmentationDataModule
from hrseg.errors import ConfigError
from hrseg.utils.text_files import read_settings

# imported so that `--data` takes a class by its mere name
_DATA_MODULES = [getattr(hrseg, name) for name in dir(hrseg) if name.endswith("DataModule")]


def parse_data(arguments: Sequence[str]) -> SegmentationDataModule:
    """Builds the data module that `hrseg fit` would build from the same arguments.

    Args:
        arguments: `--config RECIPE`, which is read for its data alone, `--data CLASS` and `--data.KEY VALUE`.

    Raises:
        ConfigError: A setting cannot be used, or no data set is given.
    """
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", "-c", action=_OnlyData)
    parser.add_subclass_arguments(SegmentationDataModule, "data", fail_untyped=False)  # as LightningCLI does
    with as_config_error():
        config = parser.parse_args(with_stdin_read(arguments))
        if config.data is None:
            raise ConfigError("the data set is not known; give --config with a recipe, or --data with a class")
        only_data = Namespace(data=config.data)  # type: ignore[no-untyped-call]
        data: SegmentationDataModule = parser.instantiate(only_data).data
        return data


class _OnlyData(ActionConfigFile):
    """`--config` that reads only the key `data` of a recipe or a run's config.yaml."""

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: str | None = None) -> None:
        """Adds a file's data settings."""
        data = {name: value for name, value in read_settings(values).items() if name == "data"}
        super().__call__(parser, cfg, inline(data), option_string)  # type: ignore[no-untyped-call]
