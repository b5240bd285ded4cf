"""`verify` checks every file of a data set and counts its classes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from os.path import isfile  # unlike pathlib's, it takes names that are too long
from pathlib import Path
from typing import Any

import numpy as np

from hrseg.data.base import SegmentationDataModule
from hrseg.data.dataset import Sample
from hrseg.data.labels import LabelTable
from hrseg.data.tools.frequencies import ClassCounts
from hrseg.data.tools.scan import Scan, scan_samples
from hrseg.errors import DataFileError, DataNotFoundError

_UNION = "trainval"  # the union of train and val in every data set


@dataclass(frozen=True)
class Report:
    """The result of `verify`.

    Args:
        labels: The label table.
        train_split: The split whose class frequencies give the class weights.
        num_images: Images per split.
        counts: Class frequencies of each labelled split.
        findings: One line per problem, by kind; empty if there is none.
        remarks: One line per oddity that may be intended: classes that never occur, labels that are ignored entirely.
        num_files: Number of images in all splits.
        num_read: Number of images that were read, with their labels; the others were in the cache.
    """

    labels: LabelTable
    train_split: str
    num_images: dict[str, int]
    counts: dict[str, ClassCounts]
    findings: dict[str, list[str]]
    remarks: list[str]
    num_files: int
    num_read: int

    def class_weights(self) -> dict[str, list[float]]:
        """Class weights for the losses, in train id order, by rule; empty without training labels."""
        counts = self.counts.get(self.train_split)
        if counts is None:
            return {}
        rules = {
            "inverse log frequency": counts.inverse_log_weights(),
            "median frequency balancing": counts.median_frequency_weights(),
        }
        return {rule: weights.round(4).tolist() for rule, weights in rules.items()}

    def to_dict(self) -> dict[str, Any]:
        """The report as a JSON-serialisable dict."""
        splits: dict[str, dict[str, Any]] = {split: {"images": number} for split, number in self.num_images.items()}
        for split, counts in self.counts.items():
            columns = zip(self.labels.class_names, counts.pixels.tolist(), counts.images.tolist(), strict=True)
            splits[split]["classes"] = {name: {"pixels": pixels, "images": images} for name, pixels, images in columns}
        return {
            "data": self.labels.name,
            "splits": splits,
            "class_weights": self.class_weights(),
            "findings": self.findings,
            "remarks": self.remarks,
        }


def verify(data: SegmentationDataModule) -> Report:
    """Reads all images and labels of all splits as in training; results for unchanged files come from a cache.

    Splits that are only predicted may lack labels.

    Args:
        data: The data set.

    Raises:
        DataNotFoundError: There is no image.
        DataFileError: There is no image because the lists are unusable.
    """
    data.prepare_data()
    samples, missing, unusable = _find(data)
    missing += [f"{path} has no image" for path in data.stray_labels()]
    distinct = dict.fromkeys(sample for members in samples.values() for sample in members)
    scans, num_read = scan_samples(distinct, data.labels, data.root)
    histograms = {sample: _histogram(scan) for sample, scan in scans.items() if scan.pixels}
    findings = {
        "lists that cannot be used": unusable,
        "missing files": missing,
        "files that cannot be used": [scan.fault for scan in scans.values() if scan.fault and not scan.is_range_fault],
        "labels with values outside the table": [scan.fault for scan in scans.values() if scan.is_range_fault],
        "images in several splits": _duplicates(samples, scans),
        "doubts about the numbering": data.check_counts(_per_label_id(histograms.values(), data.labels)),
    }
    labelled = {split: [s for s in members if s in histograms] for split, members in samples.items()}
    counts = {
        split: ClassCounts.of(np.stack([histograms[s] for s in members])[:, : data.num_classes])
        for split, members in labelled.items()
        if members
    }
    unused = {
        split: [s for s in members if not histograms[s][: data.num_classes].any()]
        for split, members in labelled.items()
    }
    names = ", ".join(data.labels.class_names)
    findings["splits in which every pixel is ignored"] = [
        f"{split}: all {len(labelled[split])} labels hold ignored pixels only, such as {members[0].label}: there is "
        f"nothing to train on or to score. Are classes among the ignored ids? The classes are {names}"
        for split, members in unused.items()
        if members and len(members) == len(labelled[split])
    ]
    num_images = {split: len(members) for split, members in samples.items()}
    return Report(
        data.labels,
        data.train_split,
        num_images,
        counts,
        {kind: messages for kind, messages in findings.items() if messages},
        _remarks(data, counts, labelled, unused, num_images),
        len(distinct),
        num_read,
    )


def _remarks(
    data: SegmentationDataModule,
    counts: Mapping[str, ClassCounts],
    labelled: Mapping[str, list[Sample]],
    unused: Mapping[str, list[Sample]],
    num_images: Mapping[str, int],
) -> list[str]:
    remarks = [
        f"{split}: {len(members)} of {len(labelled[split])} labels hold ignored pixels only, such as {members[0].label}"
        for split, members in unused.items()
        if 0 < len(members) < len(labelled[split])
    ]
    occurring = {
        split: [name for name, pixels in zip(data.labels.class_names, found.pixels, strict=True) if pixels]
        for split, found in counts.items()
    }
    train = occurring.get(data.train_split, [])
    absent = [name for name in data.labels.class_names if train and name not in train]
    if absent:
        scored = [name for name in absent if name in occurring.get(data.val_split, [])]
        remarks.append(
            f"{data.train_split}: {len(absent)} of {data.num_classes} classes never occur and cannot be learnt: "
            f"{', '.join(absent)}" + f"; in {data.val_split} there are {', '.join(scored)}" * bool(scored)
        )
    if len(train) == 1:
        remarks.append(
            f"{data.train_split}: every pixel that is not ignored is {train[0]}: there is nothing to tell apart. "
            "Should the background be a class, too?"
        )
    has_no_test = "test" in data.splits and "test" not in (*data.unlabelled_splits, *num_images)
    if data.test_split == data.val_split and has_no_test:
        remarks.append(f"`hrseg test` scores {data.val_split}, as validation does")
    return remarks


def _find(data: SegmentationDataModule) -> tuple[dict[str, list[Sample]], list[str], list[str]]:
    """The samples of each split, without missing labels; messages on missing files; messages on unusable lists."""
    samples: dict[str, list[Sample]] = {}
    missing: list[str] = []
    unusable: list[str] = []
    is_origin_asked = False
    for split in data.splits:
        if split == _UNION and split != data.train_split:
            continue
        try:
            found = data.find_samples(split)
        except DataNotFoundError as error:
            missing.append(str(error))
            continue
        except DataFileError as error:
            unusable.append(str(error))
            continue
        is_scored = split in (data.train_split, data.val_split, data.test_split)
        if is_scored and not found:
            missing.append(f"no image of split {split}; expected {data.layout}")
        has_labels = split not in data.unlabelled_splits and (is_scored or any(map(_has_label, found)))
        if has_labels:
            lacking = [sample for sample in found if not _has_label(sample)]
            missing += [f"{sample.image} has no label; expected {sample.label}" for sample in lacking]
            is_origin_asked |= len(lacking) == len(found)
        if found:
            samples[split] = [s if has_labels and _has_label(s) else s._replace(label=None) for s in found]
    if not samples and unusable:
        raise DataFileError(unusable[0])
    if not samples:
        raise DataNotFoundError(
            f"no image of {data.labels.name} in {data.root.absolute()}; expected {data.layout}. {data.origin}"
        )
    if missing and is_origin_asked and data.origin not in missing[0]:
        missing[0] += f". {data.origin}"  # the first is always shown
    return samples, list(dict.fromkeys(missing)), list(dict.fromkeys(unusable))


def _has_label(sample: Sample) -> bool:
    return sample.label is not None and isfile(sample.label)


def _duplicates(samples: Mapping[str, list[Sample]], scans: Mapping[Sample, Scan]) -> list[str]:
    images: dict[str, dict[str, Path]] = {}  # digest: {split: file}
    for split, members in samples.items():
        for sample in members if split != _UNION else ():
            if digest := scans[sample].digest:
                images.setdefault(digest, {})[split] = sample.image
    several = [files for files in images.values() if len(files) > 1]
    return [
        "the same image: " + " and ".join(f"{path} ({split})" for split, path in files.items()) for files in several
    ]


def _histogram(scan: Scan) -> np.ndarray:
    """Pixels of each train id and of the ignore index, (256,) int64."""
    histogram = np.zeros(256, np.int64)
    for value, number in scan.pixels:
        histogram[value] = number
    return histogram


def _per_label_id(histograms: Iterable[np.ndarray], labels: LabelTable) -> np.ndarray:
    """Pixels of each label id over all images, (256,) int64."""
    counts = np.zeros(256, np.int64)
    np.add.at(counts, labels.decode(np.arange(256, dtype=np.uint8)).ravel(), sum(histograms, np.zeros(256, np.int64)))
    return counts
