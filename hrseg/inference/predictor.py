"""`Predictor`: label maps of single images."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar, overload

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from hrseg.data.labels import LabelTable
from hrseg.errors import ConfigError, DataFileError
from hrseg.inference.backend import runs_on
from hrseg.inference.checkpoint import rebuild_network
from hrseg.inference.cuda_graphs import graphed
from hrseg.inference.exported import ExportedNetwork, is_exported, open_exported
from hrseg.inference.preprocess import IMAGENET_MEAN, IMAGENET_STD, check_normalization, normalize
from hrseg.inference.protocol import Protocol, check_temperature, named_protocol, score_images
from hrseg.models import Segmenter, fold_batch_norm, fuse_for_cpu, outputs_of
from hrseg.models.weights.read import read_content
from hrseg.utils.checks import require
from hrseg.utils.images import as_rgb, read_image
from hrseg.utils.malloc import keep_freed_memory
from hrseg.utils.memory import available_memory
from hrseg.utils.resize import resize_image
from hrseg.utils.upsample import upsample, upsampled_argmax

T = TypeVar("T")

_WHOLE = Protocol()
# a lower bound for all networks of hrseg: the smallest took 100 (HRNetV1) and 204 (HRNetV2), in bf16 68 and 120.
# No bound for GPUs, which raise an error when they run out of memory, whereas Linux kills the process
_BYTES_PER_PIXEL = {"fp32": 90, "bf16": 60}
_PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_LARGEST_BLOCK_KEPT = 256 * 2**20  # more than a map of an image of 1024x2048 pixels


class Prediction(NamedTuple):
    """Labels and probabilities of one image.

    Args:
        labels: (H, W) uint8 train ids.
        probabilities: (K, H, W) float32, which sum to 1 over the classes.
    """

    labels: np.ndarray
    probabilities: np.ndarray

    @property
    def confidence(self) -> np.ndarray:
        """Probability of each pixel's label, (H, W) float32."""
        highest: np.ndarray = self.probabilities.max(0)
        return highest


class Predictor:
    """Segments single images of any size.

    On a CPU, up to 2 GiB of freed memory stay in this process, see `keep_freed_memory`.

    Args:
        network: Maps normalised images (B, 3, H, W) to logits (B, K, H, W).
        labels: The classes that the network was trained on.
        mean: Mean of the channels that the network expects, for values from 0 to 1, in its `channel_order`.
        std: Standard deviation of the channels, in the range and order of `mean`.
        device: Where to run, such as "cuda:1"; None is a GPU if there is one, else the CPU.
        protocol: How images are scored.
        input_size: (height, width) to which images are resized first, ignoring their aspect ratio; None keeps theirs.
        precision: Of the network's layers: "fp32", "bf16" or, on a GPU, "fp16". Half precision changes the labels of
            pixels between two classes. On a CPU, bf16 is faster only with AMX or AVX512_BF16.
        temperature: Divides the logits of probabilities; labels do not depend on it. `hrseg calibrate` fits it.

    Raises:
        ConfigError: The device cannot be used, or a number is outside its range.

    >>> predictor = Predictor.from_checkpoint("runs/camvid/0/checkpoints/best.ckpt")  # doctest: +SKIP
    >>> labels = predictor("street.jpg")  # doctest: +SKIP
    """

    def __init__(
        self,
        network: nn.Module,
        labels: LabelTable,
        mean: tuple[float, ...] = IMAGENET_MEAN,
        std: tuple[float, ...] = IMAGENET_STD,
        device: str | torch.device | None = None,
        protocol: Protocol = _WHOLE,
        input_size: tuple[int, int] | None = None,
        precision: str = "fp32",
        temperature: float = 1.0,
    ) -> None:
        check_normalization(mean, std)
        check_temperature(temperature)
        self.device = usable_device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        _check_precision(precision, self.device, network)
        self.precision = precision
        # networks of hrseg are copied with batch norm folded: the same results but for rounding, and faster
        if isinstance(network, Segmenter):
            network = fold_batch_norm(network)
            if self.device.type == "cpu":
                fuse_for_cpu(network)
        if self.device.type == "cpu":
            keep_freed_memory(_LARGEST_BLOCK_KEPT)
        network.eval()
        self.network = network.to(self.device).to(memory_format=torch.channels_last)
        if isinstance(network, Segmenter):  # faster than autocast, which converts weights and maps at each layer
            self.network.to(_PRECISIONS[precision])
        # not a method of this object, which would be kept by its own graphs
        self._outputs: Callable[[Tensor], dict[str, Tensor]] = partial(_outputs, self.network, _PRECISIONS[precision])
        if isinstance(network, Segmenter):  # others may compute what a CUDA graph cannot hold
            self._outputs = graphed(self._outputs, self.device)
        self.labels = labels
        self.protocol = protocol
        self.input_size = input_size
        self.temperature = temperature
        self._mean = torch.tensor(mean, device=self.device).view(1, 3, 1, 1)
        self._std = torch.tensor(std, device=self.device).view(1, 3, 1, 1)

    @classmethod
    def from_checkpoint(
        cls,
        path: str | Path,
        device: str | torch.device | None = None,
        protocol: str | Protocol | None = None,
        trust: bool = False,
        precision: str = "fp32",
    ) -> Predictor:
        """Rebuilds the network of a run's checkpoint (`best.ckpt`, `last.ckpt`).

        Args:
            path: The file.
            device: As for `Predictor`.
            protocol: How images are scored, a protocol or its name; None is the test protocol of the run.
            trust: Whether to allow a network of any class, which runs its code; otherwise only those of hrseg,
                torch.nn and segmentation_models_pytorch.
            precision: As for `Predictor`.

        Raises:
            ConfigError: The network is of another class, and the file is not trusted; or the device does not have the
                precision.
            WeightsError: The file is missing, cannot be read, or is not a checkpoint of hrseg.
            UnknownNameError: There is no protocol of that name.
        """
        network, description = rebuild_network(read_content(path), path, trust)
        if isinstance(protocol, str):
            protocol = named_protocol(protocol, description.crop_size)
        return cls(
            network,
            description.labels,
            description.mean,
            description.std,
            device,
            protocol or description.protocol,
            description.input_size,
            precision,
            description.temperature,
        )

    @classmethod
    def from_file(
        cls,
        path: str | Path,
        device: str | None = None,
        protocol: str | Protocol | None = None,
        trust: bool = False,
        precision: str = "fp32",
    ) -> Predictor:
        """Opens a run's checkpoint, or a file of `hrseg export`, which its own runtime then runs.

        Args:
            path: best.ckpt or last.ckpt of a run, or a file with the suffix .onnx, .xml, .pt2 or .engine.
            device: As for `Predictor`; an exported file runs where its runtime can.
            protocol: As for `from_checkpoint`. Under "whole", an exported file runs as it is, from the image to the
                labels; under other protocols, hrseg combines the logits of the file's network.
            trust: As for `from_checkpoint`; .pt2 and .engine files hold code, and always need it.
            precision: As for `Predictor`; an exported file has its own, and takes "fp32" only.

        Raises:
            ConfigError: The runtime is not installed, the device cannot be used, or the file is not trusted.
            WeightsError: The file is missing, damaged, or neither of the two.
            UnknownNameError: There is no protocol of that name.
        """
        if not is_exported(path):
            return cls.from_checkpoint(path, device, protocol, trust, precision)
        network = open_exported(path, device, trust)
        stated = network.description
        if isinstance(protocol, str):
            protocol = named_protocol(protocol, stated.crop_size)
        return cls(
            network,
            stated.labels,
            stated.mean,
            stated.std,
            "cpu",
            protocol or stated.protocol,
            stated.input_size,
            precision,
            stated.temperature,
        )

    @property
    def runs_on(self) -> str:
        """Runtime with its version, device and precision."""
        return runs_on(self.network, self.device, self.precision)

    @overload
    def __call__(
        self, image: str | Path | np.ndarray | Image.Image, probabilities: Literal[False] = False
    ) -> np.ndarray: ...

    @overload
    def __call__(self, image: str | Path | np.ndarray | Image.Image, probabilities: Literal[True]) -> Prediction: ...

    def __call__(
        self, image: str | Path | np.ndarray | Image.Image, probabilities: bool = False
    ) -> np.ndarray | Prediction:
        """Segments one image.

        Args:
            image: A file; an array (H, W, 3) uint8 RGB, (H, W, 4) with alpha, which is dropped, or (H, W) grey; or a
                Pillow image of a mode that `read_image` supports, whose EXIF orientation is applied.
            probabilities: Whether to return the probabilities of all classes, too.

        Returns:
            (H, W) uint8 train ids, at the image's own size; with `probabilities`, a `Prediction`.

        Raises:
            DataFileError: The file cannot be read; the image is none of these, such as an array of floats; or it is
                too large for the available memory.
        """
        labels, of_classes = self.segment(image, (lambda found: found.cpu().numpy()) if probabilities else None)
        return labels if of_classes is None else Prediction(labels, of_classes)

    def segment(
        self, image: str | Path | np.ndarray | Image.Image, reduce: Callable[[Tensor], T] | None = None
    ) -> tuple[np.ndarray, T | None]:
        """Segments one image, and takes what is wanted of its probabilities, which may be gigabytes, on the device.

        Args:
            image: As for a call.
            reduce: Takes the probabilities (K, H, W) float32; None if they are not wanted.

        Returns:
            (H, W) uint8 train ids, and the result of `reduce`.

        Raises:
            DataFileError: As for a call.
        """
        pixels = read_image(Path(image)) if isinstance(image, (str, Path)) else as_rgb(image)
        size = pixels.shape[:2]
        what = str(image) if isinstance(image, (str, Path)) else "the image"
        self._require_memory(size, self.input_size or size, what, reduce is not None)
        if isinstance(self.network, ExportedNetwork) and self.protocol.is_plain and reduce is None:
            return self.network.predict(pixels[None])["labels"][0], None
        if self.input_size is not None:
            pixels = resize_image(pixels, self.input_size)
        batch = torch.from_numpy(np.ascontiguousarray(pixels)).to(self.device).permute(2, 0, 1)[None]
        labels, probabilities = self._segment(batch, size, reduce is not None)
        reduced = None if reduce is None or probabilities is None else reduce(probabilities[0])
        return labels[0].cpu().numpy(), reduced

    def _require_memory(self, size: tuple[int, ...], seen: tuple[int, ...], what: str, probabilities: bool) -> None:
        """Raises a `DataFileError` if an image of `size`, resized to `seen`, does not fit into memory."""
        is_known = self.device.type == "cpu" and isinstance(self.network, Segmenter)
        per_pixel = _BYTES_PER_PIXEL[self.precision] if is_known else 0
        network = per_pixel * self.protocol.largest_view((seen[0], seen[1]))
        scores = 4 * self.labels.num_classes * size[0] * size[1]  # float32, as are probabilities
        needed = max(network, scores * (1 + probabilities)) / 2**30
        available = available_memory(self.device)
        if available is not None and needed > available:
            raise DataFileError(
                f"{what} has {size[0]}x{size[1]} pixels (height x width), which take {needed:.1f} GiB of memory or "
                f"more on {self.device}, where {available:.1f} GiB are available; cut it into tiles"
            )

    @torch.inference_mode()
    def _segment(self, images: Tensor, size: Sequence[int], probabilities: bool) -> tuple[Tensor, Tensor | None]:
        """Labels (B, *size) of images (B, 3, H, W) uint8 and, if wanted, probabilities (B, K, *size)."""
        align_corners = getattr(self.network, "align_corners", False)
        (outputs,) = score_images(
            self._outputs,
            normalize(images, self._mean, self._std, getattr(self.network, "channel_order", "rgb")),
            self.protocol,
            align_corners=align_corners,
            flip_permutation=self.labels.flip_permutation(),
            black=(-self._mean / self._std)[0],
            upsampled=probabilities or tuple(images.shape[-2:]) != tuple(size),
        )
        if not probabilities:
            return upsampled_argmax(outputs["out"], size, align_corners), None
        scores = upsample(outputs["out"], size, align_corners)
        return upsampled_argmax(scores, size, align_corners), self.protocol.probabilities(scores, self.temperature)


def _outputs(network: nn.Module, dtype: torch.dtype, images: Tensor) -> dict[str, Tensor]:
    """Outputs of a network, in float32, for images (B, 3, H, W) float32."""
    if isinstance(network, Segmenter):
        return outputs_of(network, images.to(dtype))
    with torch.autocast(images.device.type, dtype, enabled=dtype != torch.float32):
        return outputs_of(network, images)


def _check_precision(precision: str, device: torch.device, network: nn.Module) -> None:
    require(precision in _PRECISIONS, "precision", precision, "fp32, bf16 or fp16")
    if precision != "fp32" and isinstance(network, ExportedNetwork):
        raise ConfigError(
            f"precision is {precision}, but an exported file has its own, {network.description.precision}; "
            f"leave it out, or export with --precision {precision}"
        )
    if precision == "fp16" and device.type == "cpu":
        raise ConfigError("precision fp16 needs a GPU; a CPU takes fp32 and bf16")


def usable_device(device: str | torch.device) -> torch.device:
    """Returns the device after a trial allocation.

    Raises:
        ConfigError: There is no such device, or it cannot be used.
    """
    try:
        usable = torch.empty(0, device=device).device
        reason = "it holds no values" if usable.type == "meta" else ""
    except Exception as error:  # each backend raises its own
        reason = re.split(r"\n|\. ", str(error))[0] or type(error).__name__  # torch appends a list of all backends
    if reason:
        expected = ["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
        raise ConfigError(f"device {device} cannot be used ({reason}); expected {' or '.join(expected)}")
    return usable
