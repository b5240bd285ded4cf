"""Prediction of image files, whose reading and writing overlap with the network."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hrseg.errors import ConfigError, DataFileError, OutputError
from hrseg.inference.certainty import Certainty, CertaintyOptions
from hrseg.inference.predictor import Predictor
from hrseg.inference.writer import write_prediction
from hrseg.utils.images import image_size, read_image
from hrseg.utils.threads import map_in_threads

_NONE = CertaintyOptions()
_HUGE = 50_000_000  # pixels


def predict_files(
    predictor: Predictor, images: Mapping[str, Path], output: Path, certainty: CertaintyOptions = _NONE
) -> Iterator[str | None]:
    """Predicts image files one by one, and writes labels, overlays and certainty; see `write_prediction`.

    Threads read the next images while the network runs, and encode and write the previous ones; a few images are in
    memory at a time, fewer if the largest file is huge.

    Args:
        predictor: The network.
        images: The files by the name of their output.
        output: The folder of all outputs.
        certainty: What to write beside labels and overlays.

    Yields:
        For each image, in their order, None once its files are written, or why it was left out: it cannot be read, it
        is too small for the network or too large for memory, or the names of its files would be too long.

    Raises:
        OutputError: The files cannot be written.
    """

    def read(name: str) -> tuple[str, np.ndarray | DataFileError]:
        try:
            return name, read_image(images[name])
        except DataFileError as error:
            return name, error

    def segment(name: str, pixels: np.ndarray | DataFileError) -> _Segmented | str:
        if isinstance(pixels, DataFileError):
            return str(pixels)
        try:
            return _Segmented(name, pixels, *predictor.segment(pixels, reduce))
        except (ConfigError, DataFileError) as error:
            return f"{images[name]}: {error}"

    def write(segmented: _Segmented | str) -> str | None:
        if isinstance(segmented, str):
            return segmented
        name, pixels, prediction, found = segmented
        try:
            write_prediction(output, name, pixels, prediction, predictor.labels, found or Certainty())
        except OutputError as error:
            if not isinstance(error.__cause__, OSError) or error.__cause__.errno != errno.ENAMETOOLONG:
                raise  # the others cannot be written either
            return f"{images[name]}: its output has too long a name; rename it"
        return None

    reduce = certainty.reduce if certainty.is_needed else None
    threads = _threads(images.values())
    segmented = (segment(*pair) for pair in map_in_threads(read, images, threads))
    yield from map_in_threads(write, segmented, 1 if certainty.probabilities else threads)  # they are large


def _threads(paths: Iterable[Path]) -> int | None:
    """Number of threads for each of reading and writing, fewer for huge images; None for the default."""
    try:
        height, width = image_size(max(paths, key=lambda path: path.stat().st_size, default=Path()))
    except (OSError, DataFileError):  # reported when its turn comes
        return None
    return 1 if height * width > _HUGE else None


class _Segmented(NamedTuple):
    name: str
    image: np.ndarray
    prediction: np.ndarray
    certainty: Certainty | None
