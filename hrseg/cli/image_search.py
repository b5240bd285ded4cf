"""The files found by `hrseg predict --images`, and the names of their outputs."""

from __future__ import annotations

import glob
import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from hrseg.errors import DataNotFoundError
from hrseg.utils.images import IMAGE_SUFFIXES
from hrseg.utils.paths import files_below

# the folders that `hrseg.inference.write_prediction` makes: always, and if asked to
_OUTPUTS, _MORE_OUTPUTS = ("labels", "overlays"), ("confidence", "probabilities")


def find_images(places: Sequence[str], output: Path) -> tuple[dict[str, Path], list[str]]:
    """Finds the images to predict.

    Skips hidden files, and files written by hrseg: runs, and predictions in `output` or elsewhere.

    Args:
        places: Files; folders, searched recursively; and globs, unless a file or folder has that very name.
        output: The folder for predictions.

    Returns:
        The files by the name of their output: the path below the given folder, without suffix; with suffix or folder
        name if several files would share a name. And lines for the user on skipped and renamed files.

    Raises:
        DataNotFoundError: A place does not exist, or no place holds an image.
    """
    files: dict[str, Path] = {}  # as given, by absolute path
    names: dict[str, list[str]] = {}  # candidates of each, the shortest first
    skipped: Counter[str] = Counter()
    written_by_us: list[Path] = []

    def is_output(folder: Path) -> bool:
        if _is_output(folder, output):
            written_by_us.append(folder)
            return True
        return False

    for place in places:
        roots = [Path(place)] if os.path.lexists(place) else sorted(map(Path, glob.glob(place, recursive=True)))
        if not roots:
            raise DataNotFoundError(f"no file or folder {place}, nor any that matches it as a glob")
        for root in roots:
            for path in files_below(root, is_output) if root.is_dir() else [root]:
                if path.suffix.lower() in IMAGE_SUFFIXES:
                    relative = path.relative_to(root) if root.is_dir() else Path(path.name)
                    absolute = os.path.abspath(path)
                    if files.setdefault(absolute, path) is path:
                        names[absolute] = _names(Path(absolute), relative, root)
                else:
                    skipped[path.suffix.lower() or "without suffix"] += 1
    kinds = ", ".join(f"{number} {suffix}" for suffix, number in skipped.most_common(5))
    others = f"{skipped.total()} other files ({kinds})"
    if not names:
        found = f", but {others}" * bool(skipped)
        raise DataNotFoundError(f"no image at {' '.join(places)}{found}; expected {' '.join(IMAGE_SUFFIXES)}")
    chosen, num_renamed = _shortest_names(names)
    notes = []
    if skipped:
        notes.append(f"skipped {others}")
    if written_by_us:
        notes.append(f"skipped files written by hrseg: {', '.join(map(str, sorted(set(written_by_us))[:5]))}")
    if num_renamed:
        notes.append(
            f"{num_renamed} images share their name with another; their outputs are named with suffix or folder"
        )
    return {name: files[absolute] for name, absolute in chosen.items()}, notes


def _is_output(folder: Path, output: Path) -> bool:
    """Whether a folder is a run, or holds predictions."""
    if folder.name in (*_OUTPUTS, *_MORE_OUTPUTS):
        is_given = output.is_dir() and folder.parent.samefile(output)
        return is_given or all((folder.parent / name).is_dir() for name in _OUTPUTS)
    return (folder / "checkpoints").is_dir() and any(
        (folder / name).is_file() for name in ("config.yaml", "metrics.csv")
    )


def _names(absolute: Path, relative: Path, root: Path) -> list[str]:
    place = Path(os.path.abspath(root)).name if root.is_dir() else absolute.parent.name
    candidates = (relative.with_suffix(""), relative, Path(place) / relative, absolute.relative_to(absolute.anchor))
    return [candidate.as_posix() for candidate in candidates]


def _shortest_names(names: Mapping[str, list[str]]) -> tuple[dict[str, str], int]:
    """Assigns each file the first of its names that no other file has; counts the files with a later one."""
    chosen = dict.fromkeys(names, 0)
    while True:
        files: defaultdict[str, list[str]] = defaultdict(list)
        for file, which in chosen.items():
            files[names[file][which]].append(file)
        # the last name, the whole path, is unique
        shared = [file for group in files.values() if len(group) > 1 for file in group]
        longer = [file for file in shared if chosen[file] + 1 < len(names[file])]
        if not longer:
            return {name: file for name, (file,) in files.items()}, sum(map(bool, chosen.values()))
        for file in longer:
            chosen[file] += 1
