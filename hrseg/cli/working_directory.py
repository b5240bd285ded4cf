"""Imports from the working directory, where a user's own classes are."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import ClassVar


def find_modules_here() -> None:
    """Makes modules of the working directory importable, unless a library has their name.

    Folders without code are not packages: folders of runs and exports often have the names of libraries that are not
    installed (`wandb`, `onnx`).
    """
    try:
        _Finder.folder = os.getcwd()  # now: while a config is parsed, it is the config's folder
    except FileNotFoundError:
        return
    if _Finder not in sys.meta_path:
        sys.meta_path.append(_Finder)


class _Finder:
    """The last finder on `sys.meta_path`; see `importlib.abc.MetaPathFinder`."""

    folder: ClassVar[str]

    @classmethod
    def find_spec(cls, name: str, path: Sequence[str] | None = None, target: object = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(name, [cls.folder]) if path is None else None
        if spec is None or spec.loader is not None:
            return spec
        folders = list(spec.submodule_search_locations or ())  # of a package without __init__.py
        return spec if any(any(Path(folder).glob("*.py")) for folder in folders) else None
