"""LIP (Look Into Person): single persons, 20 classes of clothes and body parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from hrseg.data.base import SegmentationDataModule
from hrseg.data.dataset import Sample
from hrseg.data.labels import LabelTable
from hrseg.errors import DataNotFoundError
from hrseg.utils.text_files import read_list

_CLASSES = {  # name: colour
    "background": (0, 0, 0),
    "hat": (128, 0, 0),
    "hair": (255, 0, 0),
    "glove": (0, 85, 0),
    "sunglasses": (170, 0, 51),
    "upper clothes": (255, 85, 0),
    "dress": (0, 0, 85),
    "coat": (0, 119, 221),
    "socks": (85, 85, 0),
    "pants": (0, 85, 85),
    "jumpsuits": (85, 51, 0),
    "scarf": (52, 86, 128),
    "skirt": (0, 128, 0),
    "face": (0, 0, 255),
    "left arm": (51, 170, 221),
    "right arm": (0, 255, 255),
    "left leg": (85, 255, 170),
    "right leg": (170, 255, 85),
    "left shoe": (255, 255, 0),
    "right shoe": (255, 170, 0),
}

LIP = LabelTable(
    name="LIP",
    class_names=tuple(_CLASSES),
    colors=tuple(_CLASSES.values()),
    flip_pairs=((14, 15), (16, 17), (18, 19)),
    counts={"train": 30462, "val": 10000, "trainval": 40462, "test": 10000},
)
"""The classes of LIP; left and right are the person's own.

Source:
    Gong et al., "Look into Person" (CVPR 2017); names and colours as in mmsegmentation, mmseg/datasets/lip.py.
"""


class LIPDataModule(SegmentationDataModule):
    """LIP in its original layout; arguments as for `SegmentationDataModule`.

    Every image is first resized to `input_size`, 473x473 in the HRNet paper, ignoring its aspect ratio; its logits are
    resized back. The folder of flipped labels is not needed: flips swap left and right classes.

    Splits: train, val, trainval (both), and test, whose labels are not public. A split consists of the images in its
    list, or without a list of all in its folder. Lists are `train_id.txt`, an id per line, as in the original release,
    or `trainList.txt`, image and label per line, as in the official HRNet code; in the root, its folder `lists`, or
    `TrainVal_images`.
    """

    labels = LIP
    splits: ClassVar[tuple[str, ...]] = ("train", "val", "trainval", "test")
    unlabelled_splits: ClassVar[tuple[str, ...]] = ("test",)
    layout: ClassVar[str] = (
        "TrainVal_images/SPLIT_images/*.jpg with TrainVal_parsing_annotations/SPLIT_segmentations/*.png "
        "(Testing_images/testing_images for test)"
    )
    origin: ClassVar[str] = (
        "Get the single-person data of LIP at https://sysu-hcp.net/lip and extract its archives there"
    )

    def __init__(
        self,
        root: str | Path,
        batch_size: int,
        crop_size: tuple[int, int] = (473, 473),
        input_size: tuple[int, int] | None = (473, 473),
        **kwargs: Any,
    ) -> None:
        super().__init__(root, batch_size, crop_size, input_size=input_size, **kwargs)

    def find_samples(self, split: str) -> list[Sample]:
        """Lists a split in the order of its list, or sorted by name without one."""
        if split == "trainval":
            return self.find_samples("train") + self.find_samples("val")
        images, labels = self.root / "TrainVal_images", self.root / "TrainVal_parsing_annotations"
        in_images, in_labels = f"{split}_images", f"{split}_segmentations"
        if split == "test":
            images, in_images = self.root / "Testing_images", "testing_images"
        list_file = self._list_file(split)
        if list_file is None:
            lines = sorted(image.stem for image in (images / in_images).glob("*.jpg"))
        else:
            lines = read_list(list_file)
        samples = []
        for line in lines:
            # an id; or image and label, and two more columns in the official code's training lists
            columns = line.split()
            image, label = columns[:2] if len(columns) > 1 else (f"{in_images}/{line}.jpg", f"{in_labels}/{line}.png")
            samples.append(Sample(Path(image).stem, images / image, labels / label))
        missing = [sample.image for sample in samples if not sample.image.is_file()]
        if missing:
            raise DataNotFoundError(
                f"{len(missing)} of {len(samples)} images that {list_file} names are missing, "
                f"the first is {missing[0]}; expected {self.layout}. {self.origin}"
            )
        return samples

    def _list_file(self, split: str) -> Path | None:
        for folder in (self.root, self.root / "lists", self.root / "TrainVal_images"):
            for name in (f"{split}_id.txt", f"{split}List.txt"):
                if (folder / name).is_file():
                    return folder / name
        return None
