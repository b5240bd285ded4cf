"""PASCAL-Context: PASCAL VOC 2010 with every pixel labelled, 59 classes and background."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from hrseg.data.base import SegmentationDataModule
from hrseg.data.dataset import Sample
from hrseg.data.labels import LabelTable
from hrseg.errors import ConfigError, DataNotFoundError
from hrseg.utils.text_files import read_list

# a class per row, with its id in VOC-first order, its category in the JSON of the detail API, and its pixels per 1000
# (at least 1) in 40 images of the data set (from 2008_000002 on)
with Path(__file__).with_suffix(".csv").open(newline="", encoding="utf-8") as _file:
    _CLASSES = list(csv.DictReader(_file))

PASCAL_CONTEXT_60 = LabelTable(
    name="PASCAL-Context 60",
    class_names=tuple(row["name"] for row in _CLASSES),
    colors=tuple((int(row["red"]), int(row["green"]), int(row["blue"])) for row in _CLASSES),
    counts={"train": (4998, 4996), "val": (5105, 5104), "trainval": (10103, 10100)},
)
"""The classes of PASCAL-Context with background, in alphabetical order.

The original release labels 4,998 and 5,105 images, the detail API 4,996 and 5,104.

Source:
    Mottaghi et al., "The Role of Context" (CVPR 2014); order of the detail API; colours as in mmsegmentation,
    mmseg/datasets/pascal_context.py.
"""

PASCAL_CONTEXT_59 = replace(
    PASCAL_CONTEXT_60,
    name="PASCAL-Context 59",
    class_names=PASCAL_CONTEXT_60.class_names[1:],
    colors=PASCAL_CONTEXT_60.colors[1:],
    label_ids=tuple(range(1, 60)),
    void_ids=(0,),
)
"""The same files with the background ignored: label ids 1 to 59 are train ids 0 to 58."""

CATEGORY_IDS = [int(row["category_id"]) for row in _CLASSES]
"""The category id of each class in `trainval_merged.json` of the detail API, background first."""


class PascalContextDataModule(SegmentationDataModule):
    """PASCAL-Context as written by `hrseg prepare pascal-context`, in mmsegmentation's layout.

    Splits: train, val and trainval (both). Further arguments as for `SegmentationDataModule`.

    Args:
        root: The folder VOC2010, or its parent.
        batch_size: Training images per rank.
        crop_size: (height, width) of training crops in pixels.
        classes: 59 ignores the background, 60 makes it a class.
    """

    splits: ClassVar[tuple[str, ...]] = ("train", "val", "trainval")
    layout: ClassVar[str] = (
        "JPEGImages/ID.jpg, SegmentationClassContext/ID.png and ImageSets/SegmentationContext/SPLIT.txt"
    )
    origin: ClassVar[str] = (
        "Get VOCtrainval_03-May-2010.tar at http://host.robots.ox.ac.uk/pascal/VOC/voc2010 and make labels and lists "
        "with `hrseg prepare pascal-context`"
    )

    def __init__(
        self,
        root: str | Path,
        batch_size: int,
        crop_size: tuple[int, int],
        classes: Literal[59, 60] = 59,
        **kwargs: Any,
    ) -> None:
        tables = {59: PASCAL_CONTEXT_59, 60: PASCAL_CONTEXT_60}
        if classes not in tables:
            raise ConfigError(f"data.classes is {classes}; expected 59, or 60 with the background")
        self.labels = tables[classes]
        super().__init__(root, batch_size, crop_size, **kwargs)

    def find_samples(self, split: str) -> list[Sample]:
        """Lists a split in the order of its list."""
        if split == "trainval":
            return self.find_samples("train") + self.find_samples("val")
        root = self._voc_root
        list_file = root / "ImageSets" / "SegmentationContext" / f"{split}.txt"
        if not list_file.is_file():
            raise DataNotFoundError(f"no list {list_file}; expected {self.layout}. {self.origin}")
        images, labels = root / "JPEGImages", root / "SegmentationClassContext"
        samples = [Sample(name, images / f"{name}.jpg", labels / f"{name}.png") for name in read_list(list_file)]
        for sample in samples:
            if not sample.image.is_file():
                raise DataNotFoundError(f"list {list_file} names {sample.name}, but no {sample.image}. {self.origin}")
        return samples

    @property
    def _voc_root(self) -> Path:
        return self.root / "VOC2010" if (self.root / "VOC2010").is_dir() else self.root

    def check_counts(self, pixels_per_label_id: np.ndarray) -> list[str]:
        """Reports labels that seem to be in VOC-first order."""
        if not looks_voc_first(pixels_per_label_id[:60]):
            return []
        return [
            "the labels seem to be in VOC-first order (aeroplane, bicycle, bird, ...), as some tools write them; "
            "expected alphabetical order (aeroplane, bag, bed, ...). Rename SegmentationClassContext, and "
            f"`hrseg prepare pascal-context --root {self._voc_root} --voc_first RENAMED_FOLDER` renumbers the labels; "
            f"the new numbers of 0 to 59 are {' '.join(map(str, voc_first_permutation()))}"
        ]


def voc_first_permutation() -> list[int]:
    """Maps label ids in VOC-first order, which some tools write, to label ids; 60 entries.

    VOC-first is the order of the original list of the 59 classes: those of VOC, then the others.

    >>> voc_first_permutation()[:4]  # background, aeroplane, bicycle, bird
    [0, 1, 6, 7]
    """
    return sorted(range(60), key=lambda label_id: int(_CLASSES[label_id]["voc_first_id"]))


def looks_voc_first(counts: np.ndarray) -> bool:
    """Whether labels seem to be in VOC-first order, under which their class frequencies are likelier.

    Args:
        counts: (60,) pixels of each label id, in ten images or more.
    """
    log_shares = np.log([int(row["pixels_per_1000"]) for row in _CLASSES])
    return bool(counts @ (log_shares[voc_first_permutation()] - log_shares) > 0)
