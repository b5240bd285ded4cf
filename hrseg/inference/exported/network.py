"""`ExportedNetwork`: an exported file in the place of a network."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from hrseg.errors import ConfigError, HrsegError
from hrseg.inference.exported.description import ExportDescription


class ExportedNetwork(nn.Module, ABC):
    """A file of `hrseg export`, to be run whole, or as a network without pre- and postprocessing for any protocol.

    Args:
        path: The file.
        description: The file's own.
        runs_on: Runtime with version, and device; the precision is the file's.

    Attributes:
        path: The file.
        description: The file's own.
        runs_on: Runtime with version, device and precision, for messages.
        num_classes: K, the channels of the logits.
        align_corners: How logits are upsampled.
        channel_order: What the network expects.
    """

    def __init__(self, path: Path, description: ExportDescription, runs_on: str) -> None:
        super().__init__()
        self.path = path
        self.description = description
        self.runs_on = f"{runs_on}, {description.precision}"
        self.num_classes = description.labels.num_classes
        self.align_corners = description.align_corners
        self.channel_order = description.channel_order

    @abstractmethod
    def _run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Maps images (N, H, W, 3) uint8 to the file's outputs."""

    @abstractmethod
    def _run_network(self, normalized: np.ndarray) -> np.ndarray:
        """Maps images (N, 3, H, W) float32 to logits (N, K, h, w) float32."""

    def predict(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Runs the whole file.

        Args:
            images: (N, H, W, 3) uint8 RGB.

        Returns:
            The outputs of `ExportDescription.outputs`.

        Raises:
            ConfigError: The file does not take images of this size.
        """
        self._check_size(images.shape[1:3])
        with self._as_config_error(images.shape):
            return self._run(np.ascontiguousarray(images))

    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        """Maps images (N, 3, H, W), float and normalised, to {"out": logits (N, K, h, w)}.

        Raises:
            ConfigError: The network does not take images of this size.
        """
        if self.description.input_size is None:
            self._check_size(images.shape[2:])
        elif tuple(images.shape[2:]) != self.description.input_size:
            raise self._refusal(images.shape[2:], self.description.input_size, "its input_size")
        with self._as_config_error(tuple(images.shape)):
            logits = self._run_network(images.float().contiguous().cpu().numpy())
        return {"out": torch.from_numpy(logits).to(images.device)}

    forward = outputs

    @contextmanager
    def _as_config_error(self, shape: tuple[int, ...]) -> Iterator[None]:
        """Converts errors of the runtime, whose classes are its own."""
        try:
            yield
        except (HrsegError, MemoryError):
            raise
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            what = f"images of shape {shape} ({self.runs_on})"
            raise ConfigError(f"{self.path} cannot be run on {what}: {reason}") from error

    def _check_size(self, size: tuple[int, ...]) -> None:
        fixed, multiple = self.description.size, self.description.multiple
        if fixed is not None and tuple(size) != fixed:
            raise self._refusal(size, fixed, "export it without --size")
        if size[0] % multiple or size[1] % multiple or min(size) < self.description.smallest:
            multiples = f", multiples of {multiple}" if multiple > 1 else ""
            raise ConfigError(
                f"an image of {size[0]}x{size[1]} (height x width); this file takes sides of "
                f"{max(self.description.smallest, multiple)} pixels or more{multiples}: pad or resize the image, or "
                "export with --size"
            )

    @staticmethod
    def _refusal(size: tuple[int, ...], expected: tuple[int, int], remedy: str) -> ConfigError:
        return ConfigError(
            f"an image of {size[0]}x{size[1]} (height x width); this file takes {expected[0]}x{expected[1]} only "
            f"({remedy}); other sizes, as under protocols with scales, need an export for any size"
        )
