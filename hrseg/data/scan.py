"""Reading every file of a data set, but those only that have changed since the last time."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hrseg.data.dataset import Sample, read_sample
from hrseg.data.labels import LabelTable
from hrseg.data.parallel import map_in_processes
from hrseg.errors import DataFileError, LabelRangeError, OutputError
from hrseg.files import cache_folder, replacing

_VERSION = 1  # goes up whenever the same files give other results, so that what is in the cache is read again

_log = logging.getLogger(__name__)


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
    """Reads samples in parallel, and keeps the results in a cache; what stands in it is not read again.

    A result is taken from the cache if the paths, sizes and times of change of its files, the label table and the
    root are the same. Ctrl-C loses nothing that was read.

    Args:
        samples: What to read.
        labels: The table that the labels are read with.
        root: The data set's folder; each has a cache of its own.

    Returns:
        The results, and how many of them were read just now.
    """
    keys = {sample: _key(sample) for sample in samples}
    settings = json.dumps([_VERSION, str(root.absolute()), labels.to_dict()], sort_keys=True)
    cache = cache_folder() / "verify" / f"{hashlib.blake2b(settings.encode(), digest_size=8).hexdigest()}.json"
    known = _load(cache)
    missing = [sample for sample, key in keys.items() if key not in known]
    try:
        if missing:
            scans = map_in_processes(partial(scan, labels=labels), missing, f"reading {labels.name}")
            for sample, result in zip(missing, scans, strict=True):
                known[keys[sample]] = result
    finally:
        if missing:
            _store(cache, {key: known[key] for key in keys.values() if key in known})
    return {sample: known[key] for sample, key in keys.items()}, len(missing)


def scan(sample: Sample, labels: LabelTable) -> Scan:
    """Reads one sample as training would."""
    try:
        data = sample.image.read_bytes()
    except OSError:  # `read_sample` says it better
        data = b""
    digest = hashlib.blake2b(data, digest_size=16).hexdigest() if data else ""
    try:
        arrays = read_sample(sample, labels)
    except DataFileError as error:
        return Scan(digest, str(error), isinstance(error, LabelRangeError), [])
    pixels = np.bincount(arrays["mask"].ravel()) if "mask" in arrays else np.zeros(0, np.int64)
    return Scan(digest, "", False, [(int(value), int(pixels[value])) for value in np.flatnonzero(pixels)])


def _key(sample: Sample) -> str:
    return json.dumps([sample.holds_train_ids, *(_state(path) for path in (sample.image, sample.label) if path)])


def _state(path: Path) -> str:
    try:
        status = path.stat()
    except OSError:
        return f"{path.absolute()} missing"
    return f"{path.absolute()} {status.st_size} {status.st_mtime_ns}"


def _load(cache: Path) -> dict[str, Scan]:
    try:
        return {key: Scan(*fields) for key, fields in json.loads(cache.read_text()).items()}
    except (OSError, ValueError, TypeError, AttributeError):  # none there, or no longer whole
        return {}


def _store(cache: Path, scans: dict[str, Scan]) -> None:
    try:
        with replacing(cache) as temporary:
            temporary.write_text(json.dumps(scans))
    except OutputError as error:
        _log.warning("%s; the next time all files will be read again", error)
