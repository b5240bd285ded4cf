from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from typing import Any

import albumentations as A
import cv2
import numpy as np
import pytest

from hrseg.data.dataset import Sample, SegmentationDataset
from hrseg.data.loader import SegmentationLoader, collate, start_worker
from hrseg.errors import TrainingError
from hrseg.utils import signals
from hrseg.utils.images import write_image
from tests.data.test_dataset import TABLE, augment, batches


def test_images_of_different_sizes_share_a_batch_as_a_list(samples: list[Sample]) -> None:
    write_image(samples[1].image, np.zeros((30, 60, 3), np.uint8))
    dataset = SegmentationDataset([sample._replace(label=None) for sample in samples], TABLE)
    batch = next(iter(SegmentationLoader(dataset, batch_size=2, collate_fn=collate)))
    assert [tuple(image.shape) for image in batch["image"]] == [(3, 40, 60), (3, 30, 60)]
    assert batch["size"] == [(40, 60), (30, 60)]


def test_workers_run_opencv_on_one_thread() -> None:
    before = cv2.getNumThreads()
    try:
        start_worker(signals.watched, 0)
        assert cv2.getNumThreads() == 1
    finally:
        cv2.setNumThreads(before)


class Failing(A.ImageOnlyTransform):
    """Calls a function in the process that transforms an image."""

    def __init__(self, what: Callable[[], None]) -> None:
        super().__init__(p=1.0)
        self.what = what

    def apply(self, image: np.ndarray, **_: Any) -> np.ndarray:
        self.what()
        return image


def test_a_stopped_worker_ends_the_training_within_the_timeout(samples: list[Sample]) -> None:
    before = multiprocessing.active_children()
    stopped = SegmentationDataset(samples, TABLE, augment(Failing(lambda: os.kill(os.getpid(), signal.SIGSTOP))))
    with pytest.raises(TrainingError, match=r"a dataloader worker has not answered for 0.05 minutes"):
        batches(stopped, workers=1, method="fork", timeout=3)
    assert set(multiprocessing.active_children()) <= set(before)


@pytest.mark.parametrize("moment", ["between two epochs", "with batches that it has queued"])
def test_a_worker_stopped_from_outside_ends_the_training_too(moment: str, samples: list[Sample]) -> None:
    """Regression: PyTorch waited for ever for the file descriptors of tensors queued by a stopped worker."""
    loader = SegmentationLoader(
        SegmentationDataset(samples, TABLE),
        num_workers=1,
        collate_fn=collate,
        multiprocessing_context="fork",
        persistent_workers=True,
        timeout=3,
    )
    found = iter(loader)
    next(found)
    (worker,) = loader._batches._workers
    if moment == "between two epochs":
        assert len(list(found)) == 5
        found = iter(loader)
    else:
        while loader._batches._data_queue.qsize() < 2:
            time.sleep(0.01)
    os.kill(worker.pid, signal.SIGSTOP)
    with pytest.raises(TrainingError, match=r"a dataloader worker has not answered for 0.05 minutes"):
        list(found)
    assert not worker.is_alive()


def test_an_exception_that_cannot_be_pickled_is_reported_with_its_image(samples: list[Sample]) -> None:
    class PanicException(BaseException):
        pass

    def panic() -> None:
        raise PanicException("index out of bounds")

    panicking = SegmentationDataset(samples, TABLE, augment(Failing(panic)))
    with pytest.raises(TrainingError, match=r"\.png: PanicException: index out of bounds"):
        batches(panicking, workers=1, method="fork", timeout=60)
