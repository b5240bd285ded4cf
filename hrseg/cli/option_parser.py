"""Option parser of the verbs that are not Lightning's."""

from __future__ import annotations

import argparse
import re
from typing import NoReturn

from hrseg.errors import ConfigError


class OptionParser(argparse.ArgumentParser):
    """An `ArgumentParser` that raises its errors, which are then reported in one line."""

    def error(self, message: str) -> NoReturn:
        """Raises a `ConfigError` instead of ending the process."""
        raise ConfigError(f"{message}; see {self.prog} --help")


def image_size(text: str) -> tuple[int, int]:
    """Reads (height, width) in pixels from an option, such as 512x1024.

    Raises:
        ArgumentTypeError: It is something else.
    """
    if not (sides := re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", text)):
        raise argparse.ArgumentTypeError(f"{text!r} is not HEIGHTxWIDTH, such as 512x1024")
    return int(sides[1]), int(sides[2])
