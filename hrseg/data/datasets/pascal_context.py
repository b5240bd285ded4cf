"""PASCAL-Context: the images of PASCAL VOC 2010 labelled throughout, 59 classes and background."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from hrseg.data.base import SegmentationDataModule
from hrseg.data.dataset import Sample
from hrseg.data.labels import LabelTable
from hrseg.errors import ConfigError, DataNotFoundError
from hrseg.utils.text_files import read_list

# name, colour, and pixels per 1000 (at least 1) in 40 images of the data set (from 2008_000002 on)
_CLASSES = (
    ("background", (120, 120, 120), 69),
    ("aeroplane", (180, 120, 120), 3),
    ("bag", (6, 230, 230), 1),
    ("bed", (80, 50, 50), 1),
    ("bedclothes", (4, 200, 3), 16),
    ("bench", (120, 120, 80), 4),
    ("bicycle", (140, 140, 140), 11),
    ("bird", (204, 5, 255), 1),
    ("boat", (230, 230, 230), 18),
    ("book", (4, 250, 7), 1),
    ("bottle", (224, 5, 255), 1),
    ("building", (235, 255, 7), 94),
    ("bus", (150, 5, 61), 19),
    ("cabinet", (120, 120, 70), 15),
    ("car", (8, 255, 51), 47),
    ("cat", (255, 6, 82), 41),
    ("ceiling", (143, 255, 140), 2),
    ("chair", (204, 255, 4), 25),
    ("cloth", (255, 51, 7), 32),
    ("computer", (204, 70, 3), 1),
    ("cow", (0, 102, 200), 2),
    ("cup", (61, 230, 250), 1),
    ("curtain", (255, 6, 51), 1),
    ("dog", (11, 102, 255), 26),
    ("door", (255, 7, 71), 1),
    ("fence", (255, 9, 224), 5),
    ("floor", (9, 7, 230), 19),
    ("flower", (220, 220, 220), 1),
    ("food", (255, 9, 92), 1),
    ("grass", (112, 9, 255), 44),
    ("ground", (8, 255, 214), 78),
    ("horse", (7, 255, 224), 31),
    ("keyboard", (255, 184, 6), 1),
    ("light", (10, 255, 71), 1),
    ("motorbike", (255, 41, 10), 2),
    ("mountain", (7, 255, 255), 1),
    ("mouse", (224, 255, 8), 1),
    ("person", (102, 8, 255), 27),
    ("plate", (255, 61, 6), 1),
    ("platform", (255, 194, 7), 3),
    ("pottedplant", (255, 122, 8), 1),
    ("road", (0, 255, 20), 23),
    ("rock", (255, 8, 41), 1),
    ("sheep", (255, 5, 153), 1),
    ("shelves", (6, 51, 255), 1),
    ("sidewalk", (235, 12, 255), 6),
    ("sign", (160, 150, 20), 1),
    ("sky", (0, 163, 255), 117),
    ("snow", (140, 140, 140), 2),
    ("sofa", (250, 10, 15), 3),
    ("table", (20, 255, 0), 6),
    ("track", (31, 255, 0), 1),
    ("train", (255, 31, 0), 14),
    ("tree", (255, 224, 0), 81),
    ("truck", (153, 255, 0), 1),
    ("tvmonitor", (0, 0, 255), 15),
    ("wall", (255, 71, 0), 56),
    ("water", (0, 235, 255), 31),
    ("window", (0, 173, 255), 4),
    ("wood", (31, 0, 255), 1),
)

PASCAL_CONTEXT_60 = LabelTable(
    name="PASCAL-Context 60",
    class_names=tuple(name for name, _, _ in _CLASSES),
    colors=tuple(color for _, color, _ in _CLASSES),
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

# the order of the original list of the 59: the classes of VOC, then the others
_VOC_FIRST = """
    background aeroplane bicycle bird boat bottle bus car cat chair cow table dog horse motorbike person pottedplant
    sheep sofa train tvmonitor bag bed bench book building cabinet ceiling cloth computer cup door fence floor
    flower food grass ground keyboard light mountain mouse curtain platform sign plate road rock shelves sidewalk
    sky snow bedclothes track tree truck wall water window wood
"""


class PascalContextDataModule(SegmentationDataModule):
    """PASCAL-Context as made by `hrseg prepare pascal-context`, in mmsegmentation's layout.

    Splits: train, val and trainval (both). Arguments beside these are as for `SegmentationDataModule`.

    Args:
        root: The folder VOC2010, or the one above it.
        batch_size: Training images per rank.
        crop_size: (height, width) of training crops in pixels.
        classes: 59 ignores the background, 60 makes it a class.
        predict_split: Split segmented by `predict`.
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
        predict_split: str = "val",
        **kwargs: Any,
    ) -> None:
        tables = {59: PASCAL_CONTEXT_59, 60: PASCAL_CONTEXT_60}
        if classes not in tables:
            raise ConfigError(f"data.classes is {classes}; expected 59, or 60 with the background")
        self.labels = tables[classes]
        super().__init__(root, batch_size, crop_size, predict_split=predict_split, **kwargs)

    def find_samples(self, split: str) -> list[Sample]:
        """Lists a split in its list's order."""
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
    """The label id of each label id in VOC-first order, which some tools write; 60 entries.

    >>> voc_first_permutation()[:4]  # background, aeroplane, bicycle, bird
    [0, 1, 6, 7]
    """
    return [PASCAL_CONTEXT_60.class_names.index(name) for name in _VOC_FIRST.split()]


def looks_voc_first(counts: np.ndarray) -> bool:
    """Whether labels seem to be in VOC-first order: it makes their class frequencies likelier.

    Args:
        counts: (60,) pixels of each label id, in ten images or more.
    """
    log_shares = np.log([share for _, _, share in _CLASSES])
    return bool(counts @ (log_shares[voc_first_permutation()] - log_shares) > 0)
