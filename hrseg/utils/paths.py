"""Paths: the user's home, the cache directory, the files below a folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path


def cache_folder() -> Path:
    """The cache directory: `$HRSEG_HOME`, or `~/.cache/hrseg` if that is not set."""
    return expanded(os.environ.get("HRSEG_HOME") or "~/.cache/hrseg")


def expanded(path: str | os.PathLike[str]) -> Path:
    """Expands `~` to the user's home; `~NAME` of an unknown user is returned unchanged."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def files_below(folder: Path, is_left_out: Callable[[Path], bool] = lambda folder: False) -> Iterator[Path]:
    """Walks the files below a folder in sorted order; follows links once, skips hidden files and folders.

    Args:
        folder: May be missing, which yields nothing.
        is_left_out: Whether to skip a folder below it, too.
    """
    for place, folders, names in os.walk(folder, followlinks=True):
        here = Path(place)
        visible = sorted(name for name in folders if name[0] != ".")
        folders[:] = [name for name in visible if not _is_loop(here / name) and not is_left_out(here / name)]
        yield from (here / name for name in sorted(names) if name[0] != ".")


def _is_loop(folder: Path) -> bool:
    """Whether a folder is a link to one that contains it."""
    return folder.is_symlink() and any(folder.samefile(parent) for parent in folder.parents)
