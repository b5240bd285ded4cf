"""From samples to batches: collation, dataloader workers, and their timeout."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import cv2
import torch
from torch.utils.data import DataLoader

from hrseg.errors import HrsegError, TrainingError
from hrseg.utils import signals


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
            with suppress(RuntimeError):  # of PyTorch's handler, where a worker was killed just now
                self._batches._shutdown_workers()  # or it would complain of the kills that follow
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
