"""Writes scenes to files in the layout of Cityscapes."""

from __future__ import annotations

import json
import logging
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path

import cv2

from hrseg.data.datasets.street_scenes.scene import Scene, generate_scene
from hrseg.utils.files import writing
from hrseg.utils.locks import locked
from hrseg.utils.progress import track_progress

MARKER = "scenes.json"  # exists in complete folders only
_CITY_LENGTH = 50  # scenes per folder and sequence

_log = logging.getLogger(__name__)


def is_complete(root: Path) -> bool:
    """Whether `write_scenes` has finished a folder."""
    return (root / MARKER).is_file()


def write_scenes(root: Path, counts: Mapping[str, int], size: tuple[int, int] = (128, 256), seed: int = 0) -> None:
    """Writes scenes to a folder, atomically; a complete folder is kept.

    If several processes write the same folder, one of them draws while the others wait.

    Args:
        root: The folder to write: leftImg8bit/SPLIT/CITY/*_leftImg8bit.png, gtFine/SPLIT/CITY/*_gtFine_labelIds.png
            and *_gtFine_instanceIds.png.
        counts: Number of scenes per split; a longer split begins with the scenes of a shorter one.
        size: (height, width) of the images in pixels.
        seed: As for `generate_scene`.

    Raises:
        OutputError: A file cannot be written.
    """
    if is_complete(root):
        return
    with locked(root.with_name(f".{root.name}.lock")):
        if not is_complete(root):  # another process may have finished it meanwhile
            _draw(root, counts, size, seed)


def _draw(root: Path, counts: Mapping[str, int], size: tuple[int, int], seed: int) -> None:
    number = sum(counts.values())
    _log.info("drawing %d street scenes into %s", number, root)
    wanted = [(split, index) for split, count in counts.items() for index in range(count)]
    temporary = root.with_name(f".{root.name}.{uuid.uuid4().hex[:8]}")
    with writing(root):
        root.parent.mkdir(parents=True, exist_ok=True)
        try:
            for split, index in track_progress(wanted, "drawing street scenes", number):
                _write(temporary, split, index, generate_scene(seed, split, index, size))
            settings = {"counts": dict(counts), "size": list(size), "seed": seed}
            (temporary / MARKER).write_text(json.dumps(settings) + "\n")
            _move(temporary, root)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def _move(temporary: Path, root: Path) -> None:
    if root.exists() and not is_complete(root):
        shutil.rmtree(root)  # incomplete, or its marker was removed to draw the scenes again
    try:
        temporary.rename(root)
    except OSError:
        if not is_complete(root):  # else another process finished first, on a file system without locks
            raise


def _write(root: Path, split: str, index: int, scene: Scene) -> None:
    city = f"{split}{index // _CITY_LENGTH:02d}"
    stem = f"{city}_{index // _CITY_LENGTH:06d}_{index % _CITY_LENGTH:06d}"
    files = {
        f"leftImg8bit/{split}/{city}/{stem}_leftImg8bit.png": cv2.cvtColor(scene.image, cv2.COLOR_RGB2BGR),
        f"gtFine/{split}/{city}/{stem}_gtFine_labelIds.png": scene.label_ids,
        f"gtFine/{split}/{city}/{stem}_gtFine_instanceIds.png": scene.instance_ids,
    }
    for name, array in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not cv2.imwrite(str(path), array, [cv2.IMWRITE_PNG_COMPRESSION, 1]):
            raise OSError(f"OpenCV failed at {path.name}")
