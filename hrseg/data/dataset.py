"""`SegmentationDataset` reads, checks and augments samples."""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import albumentations as A
import numpy as np
import torch
from torch.utils.data import Dataset

from hrseg.data.labels import LabelTable
from hrseg.data.samplers import SampleKey
from hrseg.errors import ConfigError, DataFileError, HrsegError, TrainingError
from hrseg.utils.images import read_image, read_label
from hrseg.utils.parallel import can_be_pickled
from hrseg.utils.resize import resize_image

_log = logging.getLogger(__name__)


class Sample(NamedTuple):
    """An image file and its label file.

    Args:
        name: Unique in the data set; predictions are saved under it.
        image: The image file.
        label: The label file; None for prediction.
        holds_train_ids: Whether the label file holds train ids instead of label ids.
    """

    name: str
    image: Path
    label: Path | None
    holds_train_ids: bool = False


def read_sample(sample: Sample, labels: LabelTable) -> dict[str, np.ndarray]:
    """Reads and checks the files of a sample.

    Args:
        sample: The sample.
        labels: The table of the label file.

    Returns:
        "image", (H, W, 3) uint8 RGB, and "mask", (H, W) uint8 train ids, if the sample has a label.

    Raises:
        DataFileError: A file cannot be read, or their sizes differ.
        LabelRangeError: The label holds a value that is not in the table.
    """
    image = read_image(sample.image)
    if sample.label is None:
        return {"image": image}
    label = read_target(sample, labels)
    if label.shape != image.shape[:2]:
        raise DataFileError(
            f"{sample.label} is {label.shape[0]}x{label.shape[1]} and its image {sample.image} is "
            f"{image.shape[0]}x{image.shape[1]} (height x width); expected equal sizes"
        )
    return {"image": image, "mask": label}


def read_target(sample: Sample, labels: LabelTable) -> np.ndarray:
    """Reads the label of a labelled sample, (H, W) uint8 train ids; arguments and errors as for `read_sample`."""
    assert sample.label is not None
    table = labels.for_train_ids() if sample.holds_train_ids else labels
    return table.encode(read_label(sample.label, in_color=table.void_colors is not None), sample.label)


class SegmentationDataset(Dataset[dict[str, Any]]):
    """Reads, checks and augments samples.

    An item is a dict of "image", (3, H, W) uint8 RGB tensor in channels-last memory order; "target", (H, W) uint8
    tensor of train ids and the ignore index, absent if the sample has no label; "name"; and "size", the (height,
    width) of the file.

    Args:
        samples: The samples.
        labels: The table of the label files.
        augment: Augmentation of image and label, with a random state that depends on seed, epoch and index alone;
            None for evaluation.
        seed: Seed of the augmentation.
        on_error: Whether an unusable file stops the run or is skipped: replaced by the next sample in training, left
            out in evaluation. Each is logged once and marked in `skipped`.
        input_size: (height, width) to which images are resized, ignoring their aspect ratio; labels keep their size,
            at which they are scored. None leaves images as they are. In training `augment` resizes both.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        labels: LabelTable,
        augment: A.Compose | None = None,
        seed: int = 0,
        on_error: Literal["raise", "skip"] = "raise",
        input_size: tuple[int, int] | None = None,
    ) -> None:
        self.samples = samples
        self.labels = labels
        self.augment = augment
        self.seed = seed
        self.on_error = on_error
        self.input_size = input_size
        self.skipped = torch.zeros(len(samples), dtype=torch.bool)
        self.skipped.share_memory_()  # type: ignore[no-untyped-call]  # with the dataloader workers

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: int | SampleKey) -> dict[str, Any]:
        """Loads one sample.

        Args:
            key: Epoch and index; an index alone means epoch 0.

        Raises:
            DataFileError: A file is unusable, regardless of `on_error`.
        """
        key = key if isinstance(key, SampleKey) else SampleKey(0, key)
        sample = self.samples[key.position]
        arrays = read_sample(sample, self.labels)
        size = arrays["image"].shape[:2]
        if self.input_size is not None:
            arrays["image"] = resize_image(arrays["image"], self.input_size)
        if self.augment is not None:
            arrays = self._augmented(arrays, key, size)
        item: dict[str, Any] = {"image": torch.from_numpy(arrays["image"]).permute(2, 0, 1)}
        if "mask" in arrays:
            item["target"] = torch.from_numpy(arrays["mask"])
        return {**item, "name": sample.name, "size": size}

    def __getitems__(self, keys: list[int] | list[SampleKey]) -> list[dict[str, Any] | HrsegError | None]:
        """Loads a batch for `DataLoader` and applies `on_error`; None replaces a sample that is left out.

        Errors are returned, as `DataLoader` would wrap a worker's exception in the worker's traceback.
        """
        return [self._load(key) for key in keys]

    def _load(self, key: int | SampleKey) -> dict[str, Any] | HrsegError | None:
        key = key if isinstance(key, SampleKey) else SampleKey(0, key)
        is_training = self.augment is not None
        for offset in range(len(self) if is_training else 1):
            position = (key.position + offset) % len(self)
            try:
                return self[SampleKey(key.epoch, position) if offset else key]
            except DataFileError as error:
                if self.on_error == "raise":
                    return error
                if not self.skipped[position]:
                    self.skipped[position] = True
                    _log.warning("skipped: %s", error)
            except HrsegError as error:
                return error
            except BaseException as error:
                if can_be_pickled(error):
                    raise
                # an exception that cannot be pickled is lost, and the rank waits for ever
                return TrainingError(f"{self.samples[position].image}: {type(error).__name__}: {error}")
        return DataFileError(f"none of the {len(self)} samples can be used; see the log") if is_training else None

    def _augmented(
        self, arrays: dict[str, np.ndarray], key: SampleKey, size_on_disk: tuple[int, ...]
    ) -> dict[str, np.ndarray]:
        # set_random_seed gives all transforms the same stream, which makes the flip depend on the scale
        assert self.augment is not None
        entropy = (self.seed, key.epoch, key.position, *(key.centre or ()))
        state = np.random.SeedSequence(entropy).generate_state(2, np.uint64)
        self.augment.set_random_state(np.random.default_rng(state[0]), random.Random(int(state[1])))
        # relative to height and width, which a resize does not change
        centre = key.centre and tuple((at + 0.5) / n for at, n in zip(key.centre, size_on_disk, strict=True))
        augmented: dict[str, np.ndarray] = self.augment(**arrays, centre=centre)
        del augmented["centre"]
        for name, array in augmented.items():
            if array.dtype != np.uint8:
                raise ConfigError(
                    f"data.transforms turned the {name} into {array.dtype}; expected uint8 throughout: "
                    "leave out Normalize and ToTensorV2, normalisation is done on the device"
                )
        return augmented
