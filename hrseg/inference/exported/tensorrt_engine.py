"""TensorRT engines (.engine): a description, then the engine as TensorRT serialises it.

The layout is 8 bytes `MAGIC`, the length of the description as 8 bytes, little-endian, the description as JSON in
UTF-8, and the engine.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hrseg.errors import ConfigError, WeightsError
from hrseg.inference.exported.description import IMAGES, LOGITS, ExportDescription, description_from_json
from hrseg.inference.exported.network import ExportedNetwork
from hrseg.utils.packages import require_packages

MAGIC = b"hrseg\0\0\1"
_MOST_BYTES = 2**24  # of the description
_TOLERANCE = 0.01  # grey levels; normalisation and its inverse are exact to 1e-4


def join_engine(description: ExportDescription, engine: bytes) -> bytes:
    """The content of a file."""
    text = description.to_json().encode()
    return MAGIC + len(text).to_bytes(8, "little") + text + engine


def split_engine(path: Path) -> tuple[str | None, bytes]:
    """The description of a file, and its engine; None and the whole content where there is no description."""
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            return None, b""
        length = int.from_bytes(file.read(8), "little")
        if length > _MOST_BYTES:
            raise WeightsError(f"{path} is damaged: a description of {length} bytes; export it again")
        return file.read(length).decode(errors="replace"), file.read()


def stored_description(path: Path) -> str | None:
    """See `read_description`."""
    return split_engine(path)[0]


def require_gpu() -> str:
    """Name and compute capability of the GPU.

    Raises:
        ConfigError: There is none.
    """
    if not torch.cuda.is_available():
        raise ConfigError(
            "TensorRT needs an NVIDIA GPU, and torch finds none; export with --to onnx or openvino for CPUs"
        )
    major, minor = torch.cuda.get_device_capability()
    return f"{torch.cuda.get_device_name()}, compute capability {major}.{minor}"


def open_file(path: Path, device: str | None, trust: bool) -> ExportedNetwork:
    """See `open_exported`."""
    text, engine = split_engine(path)
    description = description_from_json(text, path)
    if not trust:
        raise ConfigError(
            f"{path} holds machine code for GPUs; give --trust (trust=True) if you know where it comes from"
        )
    require_packages("tensorrt", "tensorrt")
    gpu = require_gpu()
    import tensorrt

    for what, found in (("gpu", gpu), ("tensorrt", tensorrt.__version__)):
        if (built := description.versions.get(what)) != found:
            raise WeightsError(f"{path} was built for {what} {built}; here is {found}: export it again on this machine")
    if device is not None and not re.fullmatch(r"cuda(:\d+)?", device):
        raise ConfigError(f"TensorRT cannot use device {device}; expected cuda, or cuda with a number")
    with torch.cuda.device(torch.device(device or "cuda")):
        runtime = tensorrt.Runtime(tensorrt.Logger(tensorrt.Logger.ERROR))
        loaded = runtime.deserialize_cuda_engine(engine)
        if loaded is None:
            raise WeightsError(f"{path} cannot be loaded by TensorRT {tensorrt.__version__}; export it again")
        context = loaded.create_execution_context()
    return _TensorRTNetwork(path, runtime, loaded, context, torch.device(device or "cuda"), description)


class _TensorRTNetwork(ExportedNetwork):
    def __init__(
        self,
        path: Path,
        runtime: Any,
        engine: Any,
        context: Any,
        device: torch.device,
        description: ExportDescription,
    ) -> None:
        super().__init__(path, description, f"TensorRT {description.versions['tensorrt']} on {device}")
        self._runtime = runtime  # both must outlive the context
        self._engine = engine
        self._context = context
        self._device = device

    def _run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        outputs = self._execute(images)
        return {name: outputs[name].cpu().numpy() for name in self.description.outputs}

    def _run_network(self, normalized: np.ndarray) -> np.ndarray:
        logits: np.ndarray = self._execute(denormalize(normalized, self.description))[LOGITS].cpu().numpy()
        return logits

    def _execute(self, images: np.ndarray) -> dict[str, Tensor]:
        """Runs the engine; float32 outputs but for the labels."""
        with torch.cuda.device(self._device):
            batch = torch.from_numpy(images).to(self._device)
            self._context.set_input_shape(IMAGES, tuple(batch.shape))
            self._context.set_tensor_address(IMAGES, batch.data_ptr())
            outputs: dict[str, Tensor] = {}
            for name in (*self.description.outputs, LOGITS):
                dtype = torch.uint8 if name == "labels" else torch.float32
                outputs[name] = torch.empty(
                    tuple(self._context.get_tensor_shape(name)), dtype=dtype, device=self._device
                )
                self._context.set_tensor_address(name, outputs[name].data_ptr())
            stream = torch.cuda.current_stream()
            if not self._context.execute_async_v3(stream.cuda_stream):
                raise ConfigError(
                    f"TensorRT cannot run {self.path} on images of shape {tuple(batch.shape)}; see its log"
                )
            stream.synchronize()
        return outputs


def denormalize(normalized: np.ndarray, description: ExportDescription) -> np.ndarray:
    """The images that were normalised, as the engine takes uint8 only.

    Args:
        normalized: (N, 3, H, W) float32, in the network's channel order.
        description: Mean, std and channel order.

    Returns:
        (N, H, W, 3) uint8 RGB.

    Raises:
        ConfigError: They are no whole grey levels, as those of scaled images.
    """
    mean, std = (np.array(values, np.float32).reshape(1, 3, 1, 1) for values in (description.mean, description.std))
    images = normalized * (255 * std) + 255 * mean
    levels = images.round()
    if np.abs(images - levels).max(initial=0) > _TOLERANCE or levels.min(initial=0) < 0 or levels.max(initial=0) > 255:
        raise ConfigError(
            "an engine takes uint8 images, so no protocol with scales; give --protocol whole, slide or lip, or export "
            "with --to onnx"
        )
    if description.channel_order == "bgr":
        levels = levels[:, ::-1]
    return np.ascontiguousarray(levels.transpose(0, 2, 3, 1).astype(np.uint8))
