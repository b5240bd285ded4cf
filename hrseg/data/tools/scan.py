"""Scans all files of a data set; results for unchanged files come from a cache."""

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

_VERSION = 1  # incremented whenever the same files give other results, which invalidates the cache


class Scan(NamedTuple):
    """The result of reading a sample.

    Args:
        digest: Hash of the image file; empty if it cannot be read.
        fault: Why the sample is unusable; empty if it is usable.
        is_range_fault: Whether the fault is a label value outside the table.
        pixels: (value, count) of the train ids and the ignore index in the label; empty without a label.
    """

    digest: str
    fault: str
    is_range_fault: bool
    pixels: list[tuple[int, int]]


def scan_samples(samples: Iterable[Sample], labels: LabelTable, root: Path) -> tuple[dict[Sample, Scan], int]:
    """Reads samples in parallel, or takes them from the cache if files and label table have not changed.

    Args:
        samples: The samples.
        labels: The table of the label files.
        root: The data set's folder, part of the cache key.

    Returns:
        The results, and the number of samples that were read.
    """
    settings = [_VERSION, *reading_settings(), str(root.absolute()), labels.to_dict()]
    scans, num_read = map_cached(partial(scan, labels=labels), samples, "verify", settings, f"reading {labels.name}")
    return {sample: Scan(*fields) for sample, fields in scans.items()}, num_read


def scan(sample: Sample, labels: LabelTable) -> Scan:
    """Reads one sample as in training."""
    try:
        data = read_file(sample.image)
    except DataFileError:  # `read_sample` reports it
        data = b""
    digest = hashlib.blake2b(data, digest_size=16).hexdigest() if data else ""
    try:
        arrays = read_sample(sample, labels)
    except DataFileError as error:
        return Scan(digest, str(error), isinstance(error, LabelRangeError), [])
    pixels = np.bincount(arrays["mask"].ravel()) if "mask" in arrays else np.zeros(0, np.int64)
    return Scan(digest, "", False, [(int(value), int(pixels[value])) for value in np.flatnonzero(pixels)])
