"""Modules of the working directory, where a user's own classes are, for the command."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path


def find_modules_here() -> None:
    """Lets modules of the working directory be imported, where no library has their name.

    Folders without code are none: those of runs and exports are often named like libraries that are not installed
    (`wandb`, `onnx`), and would be taken for them.
    """
    if _Finder not in sys.meta_path:
        sys.meta_path.append(_Finder)


class _Finder:
    """The last finder of Python's import system; see `importlib.abc.MetaPathFinder`."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: object = None) -> ModuleSpec | None:
        spec = None
        if path is None:
            with suppress(FileNotFoundError):  # the working directory may be gone
                spec = PathFinder.find_spec(name, [os.getcwd()])
        if spec is None or spec.loader is not None:
            return spec
        folders = list(spec.submodule_search_locations or ())  # of a package without __init__.py
        return spec if any(any(Path(folder).glob("*.py")) for folder in folders) else None
