"""Reading every file of a data set, but those only that have changed since the last time."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hrseg.data.cache import map_cached
from hrseg.data.dataset import Sample, read_sample
from hrseg.data.labels import LabelTable
from hrseg.errors import DataFileError, LabelRangeError
from hrseg.utils.image_formats import reading_settings
from hrseg.utils.images import read_file

_VERSION = 1  # goes up whenever the same files give other results, so that what is in the cache is read again


class Scan(NamedTuple):
    """What reading a sample gave.

    Args:
        digest: Hash of the image file's bytes; empty if there are none.
        fault: Why the sample cannot be used; empty if it can.
        is_range_fault: Whether that is a label value outside the table.
        pixels: (value, pixels) for the train ids in the label and the ignore index; empty without a label.
    """

    digest: str
    fault: str
    is_range_fault: bool
    pixels: list[tuple[int, int]]


def scan_samples(samples: Iterable[Sample], labels: LabelTable, root: Path) -> tuple[dict[Sample, Scan], int]:
    """Reads samples in parallel; a cache answers for those whose files and label table have not changed.

    Args:
        samples: What to read.
        labels: The table that the labels are read with.
        root: The data set's folder; each has a cache of its own.

    Returns:
        The results, and how many of them were read just now.
    """
    settings = [_VERSION, *reading_settings(), str(root.absolute()), labels.to_dict()]
    scans, num_read = map_cached(partial(scan, labels=labels), samples, "verify", settings, f"reading {labels.name}")
    return {sample: Scan(*fields) for sample, fields in scans.items()}, num_read


def scan(sample: Sample, labels: LabelTable) -> Scan:
    """Reads one sample as training would."""
    try:
        data = read_file(sample.image)
    except DataFileError:  # `read_sample` says it again
        data = b""
    digest = hashlib.blake2b(data, digest_size=16).hexdigest() if data else ""
    try:
        arrays = read_sample(sample, labels)
    except DataFileError as error:
        return Scan(digest, str(error), isinstance(error, LabelRangeError), [])
    pixels = np.bincount(arrays["mask"].ravel()) if "mask" in arrays else np.zeros(0, np.int64)
    return Scan(digest, "", False, [(int(value), int(pixels[value])) for value in np.flatnonzero(pixels)])
