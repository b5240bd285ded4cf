"""From files to batches: samples are read, checked, augmented and collated here."""

from __future__ import annotations

import ctypes
import logging
import random
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import albumentations as A
import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from hrseg.data.labels import LabelTable
from hrseg.data.parallel import can_be_pickled
from hrseg.data.samplers import SampleKey
from hrseg.errors import ConfigError, DataFileError, HrsegError, TrainingError
from hrseg.utils import signals
from hrseg.utils.images import read_image, read_label
from hrseg.utils.sizes import brought_to

_log = logging.getLogger(__name__)


class Sample(NamedTuple):
    """One image and where its label is.

    Args:
        name: Unique in the data set; predictions are written under it.
        image: The image file.
        label: The label file; None where it is not wanted.
        holds_train_ids: The label file was mapped to train ids already.
    """

    name: str
    image: Path
    label: Path | None
    holds_train_ids: bool = False


def read_sample(sample: Sample, labels: LabelTable) -> dict[str, np.ndarray]:
    """Reads and checks the files of a sample.

    Args:
        sample: What to read.
        labels: The numbering, or the colours, of the label file.

    Returns:
        "image", (H, W, 3) uint8 RGB, and "mask", (H, W) uint8 train ids, unless the sample has no label.

    Raises:
        DataFileError: A file cannot be read, or their sizes differ.
        LabelRangeError: The label holds what is not in the table.
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
    """Reads the label of a sample that has one, (H, W) uint8 train ids; arguments and errors as for `read_sample`."""
    assert sample.label is not None
    table = labels.for_train_ids() if sample.holds_train_ids else labels
    return table.encode(read_label(sample.label, in_color=table.void_colors is not None), sample.label)


class SegmentationDataset(Dataset[dict[str, Any]]):
    """Reads, checks and augments samples.

    An item is a dict of "image", (3, H, W) uint8 RGB tensor with the channels innermost in memory; "target", (H, W)
    uint8 tensor of train ids and the ignore index, absent where the sample has no label; "name"; and "size", the
    (height, width) of the file.

    Args:
        samples: What to read.
        labels: The numbering of the label files.
        augment: Applied to image and label, with a random state that depends on seed, epoch and index alone; None
            for evaluation.
        seed: Decides the augmentation.
        on_error: Whether a file that cannot be used stops the run or is skipped: replaced by the next one in
            training, left out in evaluation. Each is logged once and marked in `skipped`.
        input_size: (height, width) that images are resized to, ignoring their aspect ratio; labels keep their size, at
            which they are scored. None leaves images as they are. In training `augment` resizes both.
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
        self.skipped.share_memory_()  # type: ignore[no-untyped-call]  # all worker processes see it

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: int | SampleKey) -> dict[str, Any]:
        """Loads one sample.

        Args:
            key: Its index, or epoch and index; an index alone stands for epoch 0.

        Raises:
            DataFileError: A file cannot be used, whatever `on_error` says.
        """
        key = key if isinstance(key, SampleKey) else SampleKey(0, key)
        sample = self.samples[key.position]
        arrays = read_sample(sample, self.labels)
        size = arrays["image"].shape[:2]
        if self.input_size is not None:
            arrays["image"] = brought_to(arrays["image"], self.input_size)
        if self.augment is not None:
            arrays = self._augmented(arrays, key, size)
        item: dict[str, Any] = {"image": torch.from_numpy(arrays["image"]).permute(2, 0, 1)}
        if "mask" in arrays:
            item["target"] = torch.from_numpy(arrays["mask"])
        return {**item, "name": sample.name, "size": size}

    def __getitems__(self, keys: list[int] | list[SampleKey]) -> list[dict[str, Any] | HrsegError | None]:
        """Loads a batch for `DataLoader` and applies `on_error`; None stands for a sample that is left out.

        Errors are returned: raised in a worker they would reach the user wrapped in that worker's traceback.
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
                # it would be lost, and the training wait for ever
                return TrainingError(f"{self.samples[position].image}: {type(error).__name__}: {error}")
        return DataFileError(f"none of the {len(self)} samples can be used; see the log") if is_training else None

    def _augmented(
        self, arrays: dict[str, np.ndarray], key: SampleKey, size_on_disk: tuple[int, ...]
    ) -> dict[str, np.ndarray]:
        # set_random_seed would give each transform the same stream, and so tie the flip to the scale
        assert self.augment is not None
        what = (self.seed, key.epoch, key.position, *(key.centre or ()))
        state = np.random.SeedSequence(what).generate_state(2, np.uint64)
        self.augment.set_random_state(np.random.default_rng(state[0]), random.Random(int(state[1])))
        # as shares of height and width, which a resize leaves alone
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


def collate(samples: Sequence[dict[str, Any] | HrsegError | None]) -> dict[str, Any] | HrsegError | None:
    """Makes a batch of what `SegmentationDataset` gives; top-level, so that workers can be spawned.

    Args:
        samples: Items, None for samples left out, or errors.

    Returns:
        "image" (B, 3, H, W) in channels_last memory format, "target" (B, H, W), either as a list where sizes differ;
        "name" and "size" as lists; the first error if there is one; None if nothing is left.
    """
    items: list[dict[str, Any]] = []
    for sample in samples:
        if isinstance(sample, HrsegError):
            return sample
        if sample is not None:
            items.append(sample)
    if not items:
        return None
    batch: dict[str, Any] = {key: [item[key] for item in items] for key in items[0]}
    if _have_one_size(batch["image"]):
        # stacked with the channels innermost, the batch is channels_last without a copy
        batch["image"] = torch.stack([image.permute(1, 2, 0) for image in batch["image"]]).permute(0, 3, 1, 2)
    if "target" in batch and _have_one_size(batch["target"]):
        batch["target"] = torch.stack(batch["target"])
    return batch


def _have_one_size(tensors: Sequence[torch.Tensor]) -> bool:
    return len({tensor.shape for tensor in tensors}) == 1


class SegmentationLoader(DataLoader[dict[str, Any]]):
    """A `DataLoader` that raises the errors that `collate` passes on, and leaves out batches without a sample.

    It waits for its workers up to `timeout`, also where PyTorch waits for ever: for a stopped one to hand over a batch
    that it has queued.
    """

    _batches: Any = None  # PyTorch's iterator, with the workers
    _gave_up = False

    def __iter__(self) -> Iterator[dict[str, Any]]:  # type: ignore[override]  # a generator does all that is needed
        with self._waiting():
            batches = self._batches = super().__iter__()
        while True:
            with self._waiting():
                batch: Any = next(batches, StopIteration)
            if batch is StopIteration:
                return
            if isinstance(batch, HrsegError):
                raise batch
            if batch is not None:
                yield batch

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        """Kills the workers if the block takes longer than the timeout.

        Raises:
            TrainingError: They were killed.
        """
        if self.timeout == 0:
            yield
            return
        timer = threading.Timer(self.timeout, self._give_up)
        timer.daemon = True
        timer.start()
        try:
            yield
        except Exception as error:  # in whatever PyTorch was doing
            if not self._gave_up and not str(error).startswith("DataLoader timed out"):
                raise
            self.end_workers()
            raise TrainingError(
                f"a dataloader worker has not answered for {self.timeout / 60:g} minutes (--timeout_minutes); it "
                "hangs, or was stopped. Look at the file system of the data, and start again with --run_dir to go on"
            ) from error
        finally:
            timer.cancel()

    def _give_up(self) -> None:
        self._gave_up = True
        self._kill_workers()

    def _kill_workers(self) -> None:
        for worker in self._batches._workers if self._batches is not None else ():
            worker.kill()

    def end_workers(self) -> None:
        """Ends the workers, stopped and hanging ones too, for which Python would wait at its end."""
        if self._batches is not None and self.num_workers:
            self._batches._shutdown_workers()  # or torch would complain of the kills
            self._kill_workers()
            for worker in self._batches._workers:
                worker.join()

    def state_dict(self) -> dict[str, Any]:
        """Nothing: what comes next follows from seed, epoch and step. That it exists tells Lightning so."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing."""


def start_worker(watched: ctypes.c_bool | None, worker_id: int) -> None:
    """Prepares a loading process: OpenCV's threads are off, since there are as many processes as cores already.

    Args:
        watched: See `signals.outlast_signals`.
        worker_id: From 0, of the `DataLoader`.
    """
    cv2.setNumThreads(0)
    signals.outlast_signals(watched)
