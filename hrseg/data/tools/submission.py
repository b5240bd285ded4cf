"""Packs predictions for a benchmark server."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from hrseg.data.base import SegmentationDataModule
from hrseg.errors import DataFileError, DataNotFoundError
from hrseg.utils.files import replacing
from hrseg.utils.images import image_size, read_label
from hrseg.utils.progress import track_progress


def write_submission(
    data: SegmentationDataModule, predictions: Path, archive: Path, others: Mapping[str, str] | None = None
) -> int:
    """Checks the predictions of `data.predict_split` and packs them in the format of the benchmark server.

    Args:
        data: The data module, which lists the images and names the files in the archive.
        predictions: Folder of `NAME.png`, label ids, as written by `hrseg predict`.
        archive: The zip file, written atomically.
        others: Images by the name of their prediction, where these may be others than the split's.

    Returns:
        The number of predictions in the archive.

    Raises:
        DataNotFoundError: The split has no images, or a prediction is missing.
        DataFileError: A prediction cannot be read, is of another image, has another size than its image, or holds a
            value that is no class.
        OutputError: The archive cannot be written.
    """
    data.setup("predict")
    samples = data.find_samples(data.predict_split)
    files = {sample.name: predictions / f"{sample.name}.png" for sample in samples}
    missing = [file for file in files.values() if not file.is_file()]
    if missing:
        raise DataNotFoundError(
            f"{len(missing)} of {len(files)} images of {data.labels.name} {data.predict_split} have no prediction, the "
            f"first would be {missing[0]}; run hrseg predict on the whole split"
        )
    for sample in samples:
        image = (others or {}).get(sample.name)
        if image not in (None, os.path.realpath(sample.image)):
            raise DataFileError(
                f"{files[sample.name]} is of {image}, by hrseg predict --images; expected {sample.image}: run hrseg "
                "predict on the whole split again"
            )
    with replacing(archive) as temporary, zipfile.ZipFile(temporary, "w") as packed:
        for sample in track_progress(samples, "packing", len(samples)):
            _check(files[sample.name], sample.image, data)
            packed.write(files[sample.name], data.submission_name(sample.name))
    return len(samples)


def _check(file: Path, image: Path, data: SegmentationDataModule) -> None:
    prediction = read_label(file)
    with file.open("rb") as content:
        if not content.read(8).startswith(b"\x89PNG"):
            raise DataFileError(f"{file} is no PNG by its content; expected what hrseg predict writes: predict again")
    expected = image_size(image)
    if prediction.shape != expected:
        raise DataFileError(
            f"{file} is {prediction.shape[0]}x{prediction.shape[1]} and {image} is {expected[0]}x{expected[1]} "
            "(height x width); expected equal sizes: predict this split again"
        )
    ids = data.labels.decode(np.arange(data.labels.num_classes, dtype=np.uint8)[None])
    strange = np.setdiff1d(prediction, ids)
    if len(strange):
        raise DataFileError(
            f"{file} holds {strange[:5].tolist()}; expected label ids of {data.labels.name}: {ids[0].tolist()}. "
            "Were train ids written?"
        )
