"""Loading of training batches from PNG files on one core."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from experiments.benchmarks.interleaved import HRSEG, Row, compare, time_interleaved, torch_threads
from hrseg import CityscapesDataModule, LabelTable, StreetScenesDataModule
from hrseg.data import Sample, SegmentationDataset
from hrseg.data.loader import collate
from hrseg.data.samplers import SampleKey
from hrseg.errors import DataNotFoundError
from hrseg.inference import IMAGENET_MEAN, IMAGENET_STD, normalize

WHOLE = "imread, resize whole, pad, crop, flip, normalise"
SPEEDUP = 1.4  # target over `WHOLE`

_MEAN, _STD = (np.array(values, np.float32) for values in (IMAGENET_MEAN, IMAGENET_STD))
_BATCHES = 4  # per round; each of another epoch, and so with other crops
_BATCH_SIZE = 4
# largest difference between the interpolations, in levels of 255: see `RandomScaleCrop`
_TOLERANCE = 1 if int(cv2.__version__.split(".")[0]) >= 5 else 4


class Cut(NamedTuple):
    """A crop: (height, width) of the resized image, (top, left) in it, and whether it is flipped."""

    scaled_size: tuple[int, int]
    corner: tuple[int, int]
    is_mirrored: bool


def measure_data(
    repeats: int = 10,
    cityscapes: Path | None = None,
    size: tuple[int, int] = (1024, 2048),
    crop_size: tuple[int, int] = (512, 1024),
) -> list[Row]:
    """Measures training samples per second and core, with the augmentation of the Cityscapes recipes.

    Both alternatives end with the normalised batch, which for hrseg includes what a GPU would do. CPU time is measured,
    so that other processes on the core do not count.

    Args:
        repeats: Number of rounds.
        cityscapes: Root of Cityscapes; None generates street scenes instead.
        size: (height, width) of the generated scenes.
        crop_size: (height, width) of the training crops.

    Raises:
        DataNotFoundError: The root is missing, or holds no training images.
    """
    with TemporaryDirectory() as folder, torch_threads(1), _opencv_on_one_thread():
        data = _data_module(cityscapes, folder, size, crop_size)
        samples = data.find_samples("train")[:_BATCH_SIZE]
        if not samples:
            raise DataNotFoundError(f"no training image in {data.root}; expected {data.layout}. {data.origin}")
        dataset = SegmentationDataset(samples, data.labels, data.augmentation())
        epochs = [[SampleKey(epoch, index) for index in range(len(samples))] for epoch in range(_BATCHES)]
        cuts = [_cuts(dataset, keys) for keys in epochs]

        def ours() -> list[tuple[Tensor, Tensor]]:
            return [_batch(dataset, keys) for keys in epochs]

        def straightforward() -> list[tuple[Tensor, Tensor]]:
            return [_straightforward_batch(samples, of_epoch, data) for of_epoch in cuts]

        for one, other in zip(ours(), straightforward(), strict=True):
            _require_same(one, other)
        costs = time_interleaved({HRSEG: ours, WHOLE: straightforward}, repeats, clock=time.process_time)
        height, width = dataset[0]["size"]
    case = f"{data.labels.name} {height}x{width}, crops {crop_size[0]}x{crop_size[1]}"
    number = len(samples) * len(epochs)
    return [
        replace(row, value=number / row.value, unit="samples/s")
        for row in compare("data", case, costs, {WHOLE: SPEEDUP})
    ]


def _data_module(
    cityscapes: Path | None, folder: str, size: tuple[int, int], crop_size: tuple[int, int]
) -> CityscapesDataModule:
    scales = (0.5, 2.1)
    if cityscapes is not None:
        data = CityscapesDataModule(cityscapes, 1, crop_size, base_size=2048, scale_range=scales, num_workers=0)
    else:
        data = StreetScenesDataModule(
            folder, 1, crop_size, size, _BATCH_SIZE, num_val=1, num_test=1, scale_range=scales, num_workers=0
        )
    data.prepare_data()
    return data


def _batch(dataset: SegmentationDataset, keys: Sequence[SampleKey]) -> tuple[Tensor, Tensor]:
    batch = collate([dataset[key] for key in keys])
    assert isinstance(batch, dict)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return normalize(batch["image"], mean, std), batch["target"]


def _cuts(dataset: SegmentationDataset, keys: Sequence[SampleKey]) -> list[Cut]:
    """The crops of these keys, as the transforms of the data set record them."""
    assert dataset.augment is not None
    scale_crop, mirror = dataset.augment.transforms
    cuts = []
    for key in keys:
        dataset[key]
        cuts.append(Cut(scale_crop.params["scaled_size"], scale_crop.params["corner"], bool(mirror.params)))
    return cuts


def _straightforward_batch(
    samples: Sequence[Sample], cuts: Sequence[Cut], data: CityscapesDataModule
) -> tuple[Tensor, Tensor]:
    images, targets = [], []
    for sample, cut in zip(samples, cuts, strict=True):
        image, target = _straightforward(sample, cut, data.crop_size, data.labels)
        images.append(image)
        targets.append(target)
    return torch.stack(images), torch.stack(targets)


def _straightforward(sample: Sample, cut: Cut, crop_size: tuple[int, int], labels: LabelTable) -> tuple[Tensor, Tensor]:
    """Every step on the whole image, as in most training code."""
    image, label = cv2.imread(str(sample.image)), cv2.imread(str(sample.label), cv2.IMREAD_UNCHANGED)
    assert image is not None
    assert label is not None
    image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    height, width = cut.scaled_size
    image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    label = cv2.resize(label, (width, height), interpolation=cv2.INTER_NEAREST)
    padding = (0, max(0, crop_size[0] - height), 0, max(0, crop_size[1] - width))  # top, bottom, left, right
    if any(padding):
        image = cv2.copyMakeBorder(image, *padding, cv2.BORDER_CONSTANT, value=(0, 0, 0))
        label = cv2.copyMakeBorder(label, *padding, cv2.BORDER_CONSTANT, value=labels.ignore_index)
    rows, columns = (slice(start, start + length) for start, length in zip(cut.corner, crop_size, strict=True))
    image, label = image[rows, columns], label[rows, columns]
    if cut.is_mirrored:
        image, label = image[:, ::-1], label[:, ::-1]
    to_train_id = np.full(256, labels.ignore_index, np.uint8)
    on_disk = range(labels.num_classes) if sample.holds_train_ids else labels.label_ids
    to_train_id[list(on_disk or ())] = range(labels.num_classes)
    target = to_train_id[label]
    image = (image.astype(np.float32) / 255 - _MEAN) / _STD
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))), torch.from_numpy(target)


def _require_same(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> None:
    """Raises an AssertionError unless labels are equal, and images up to the rounding of their interpolation."""
    level = torch.from_numpy(1 / (255 * _STD)).view(1, 3, 1, 1)
    torch.testing.assert_close(one[0] / level, other[0] / level, rtol=0, atol=_TOLERANCE + 0.01)
    torch.testing.assert_close(one[1], other[1], rtol=0, atol=0)


@contextmanager
def _opencv_on_one_thread() -> Iterator[None]:
    before = cv2.getNumThreads()
    cv2.setNumThreads(0)
    try:
        yield
    finally:
        cv2.setNumThreads(before)
