"""Option parser of the verbs that are not Lightning's."""

from __future__ import annotations

import argparse
from typing import NoReturn

from hrseg.errors import ConfigError


class OptionParser(argparse.ArgumentParser):
    """An `ArgumentParser` that raises its errors, which are then reported in one line."""

    def error(self, message: str) -> NoReturn:
        """Raises a `ConfigError` instead of ending the process."""
        raise ConfigError(f"{message}; see {self.prog} --help")
