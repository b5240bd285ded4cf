"""`SegmentationLoader`: collation, dataloader workers, and their timeout."""

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
    """Collates items of `SegmentationDataset`.

    Args:
        samples: Items, None for samples that are left out, or errors.

    Returns:
        "image" (B, 3, H, W) in channels_last memory format and "target" (B, H, W), as lists if sizes differ; "name" and
        "size" as lists. Or the first error; or None if no item is left.
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
        # stacking in channels-last order avoids a second copy
        batch["image"] = torch.stack([image.permute(1, 2, 0) for image in batch["image"]]).permute(0, 3, 1, 2)
    if "target" in batch and _have_one_size(batch["target"]):
        batch["target"] = torch.stack(batch["target"])
    return batch


def _have_one_size(tensors: Sequence[torch.Tensor]) -> bool:
    return len({tensor.shape for tensor in tensors}) == 1


class SegmentationLoader(DataLoader[dict[str, Any]]):
    """A `DataLoader` that raises the errors that `collate` returns, and leaves out empty batches.

    Its `timeout` also covers a wait that has none in PyTorch: for a worker that stops while it hands over a batch.
    """

    _batches: Any = None  # PyTorch's iterator, which owns the workers
    _gave_up = False

    def __iter__(self) -> Iterator[dict[str, Any]]:  # type: ignore[override]  # a generator suffices
        with self._waiting():
            batches = self._batches = super().__iter__()
        while True:
            with self._waiting():
                batch: Any = next(batches, StopIteration)
            if batch is StopIteration:
                return
            if isinstance(batch, HrsegError):
                self.end_workers()  # now: when the traceback is collected, PyTorch waits 5 s for each
                raise batch
            if batch is not None:
                yield batch

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        """Kills the workers if the block exceeds the timeout.

        Raises:
            TrainingError: It has exceeded the timeout.
        """
        if self.timeout == 0:
            yield
            return
        timer = threading.Timer(self.timeout, self._give_up)
        timer.daemon = True
        timer.start()
        try:
            yield
        except Exception as error:  # its kind depends on where PyTorch was interrupted
            if not self._gave_up and not str(error).startswith("DataLoader timed out"):
                raise
            self.end_workers()
            raise TrainingError(
                f"a dataloader worker has not answered for {self.timeout / 60:g} minutes (--timeout_minutes); it "
                "hangs or was stopped. Check the file system of the data, and resume with --run_dir"
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
        """Ends the workers; Python would wait at exit for those that are stopped or hang."""
        if self._batches is not None and self.num_workers:
            with suppress(RuntimeError):  # PyTorch's signal handler raises it after a worker was killed
                self._batches._shutdown_workers()  # before the kills, which it would report
            self._kill_workers()
            for worker in self._batches._workers:
                worker.join()
            self._iterator = None  # with persistent workers; the next iteration starts others

    def state_dict(self) -> dict[str, Any]:
        """Empty, as seed, epoch and step determine the batches; without it Lightning warns."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores nothing; see `state_dict`."""


def start_worker(watched: ctypes.c_bool | None, worker_id: int) -> None:
    """`worker_init_fn`: no OpenCV threads, as each core has a worker; signals as in the main process.

    Args:
        watched: See `signals.outlast_signals`.
        worker_id: Index of the worker.
    """
    cv2.setNumThreads(0)
    signals.outlast_signals(watched)
