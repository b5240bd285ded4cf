"""Prediction of image files, whose reading and writing overlap with the network."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from hrseg.errors import ConfigError, DataFileError, OutputError
from hrseg.inference.predictor import Predictor
from hrseg.inference.writer import write_prediction
from hrseg.utils.images import read_image
from hrseg.utils.threads import map_in_threads


def predict_files(predictor: Predictor, images: Mapping[str, Path], output: Path) -> Iterator[str | None]:
    """Predicts image files one by one, and writes labels and overlays; see `write_prediction`.

    Threads read the next images while the network runs, and encode and write the previous ones; a few images are in
    memory at a time.

    Args:
        predictor: The network.
        images: The files by the name of their output.
        output: The folder of all outputs.

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

    def segment(name: str, pixels: np.ndarray | DataFileError) -> tuple[str, np.ndarray, np.ndarray] | str:
        if isinstance(pixels, DataFileError):
            return str(pixels)
        try:
            return name, pixels, predictor(pixels)
        except (ConfigError, DataFileError) as error:
            return f"{images[name]}: {error}"

    def write(segmented: tuple[str, np.ndarray, np.ndarray] | str) -> str | None:
        if isinstance(segmented, str):
            return segmented
        name, pixels, labels = segmented
        try:
            write_prediction(output, name, pixels, labels, predictor.labels)
        except OutputError as error:
            if not isinstance(error.__cause__, OSError) or error.__cause__.errno != errno.ENAMETOOLONG:
                raise  # the others cannot be written either
            return f"{images[name]}: its output has too long a name; rename it"
        return None

    yield from map_in_threads(write, (segment(*pair) for pair in map_in_threads(read, images)))
