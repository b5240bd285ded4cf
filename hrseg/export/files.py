"""`export`: writes the files of an exported network, whole or not at all."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import get_args

from torch import nn

from hrseg.errors import ConfigError, WeightsError
from hrseg.export.onnx_writer import write_onnx
from hrseg.export.openvino_writer import write_openvino
from hrseg.export.quantization import Quantization
from hrseg.export.script import write_script
from hrseg.export.tensorrt_writer import write_tensorrt
from hrseg.export.torch_writer import write_torch
from hrseg.inference.exported import ExportDescription, open_exported
from hrseg.inference.exported.description import Precision, Runtime
from hrseg.utils.files import TEMPORARY, require_file_or_nothing, writing

_WRITERS: dict[str, Callable[..., ExportDescription]] = {
    "onnx": write_onnx,
    "openvino": write_openvino,
    "tensorrt": write_tensorrt,
    "torch": write_torch,
}
FILE_SUFFIXES = {"onnx": ".onnx", "openvino": ".xml", "tensorrt": ".engine", "torch": ".pt2"}
_PACKAGES = {
    "onnx": ("hrseg", "torch", "onnx", "onnxscript"),
    "openvino": ("hrseg", "torch", "openvino"),
    "tensorrt": ("hrseg", "torch", "onnx", "onnxscript"),
    "torch": ("hrseg", "torch"),
}
_REFUSED: dict[tuple[Runtime, Precision], str] = {
    ("onnx", "bf16"): "ONNX Runtime has no bf16 convolutions",
    ("tensorrt", "int8"): "hrseg quantises for OpenVINO and ONNX Runtime only",
    ("torch", "fp16"): "torch's fp16 convolutions take tens of times as long as fp32 on a CPU",
    ("torch", "int8"): "hrseg quantises for OpenVINO and ONNX Runtime only",
}
_ENOUGH = 2**20  # bytes; with less room left, a failed write is the disk's fault


def export(
    network: nn.Module,
    description: ExportDescription,
    path: Path,
    compiled: bool = False,
    quantization: Quantization | None = None,
) -> list[Path]:
    """Writes an exported network, and beside it a script that runs it without hrseg.

    The file is loaded into its runtime before it takes its name.

    Args:
        network: Maps normalised images to logits; in evaluation mode.
        description: What the file is to hold; the hash of the weights and versions are added.
        path: The file.
        compiled: Whether a file for torch gets machine code, too; see `write_torch`.
        quantization: Images to calibrate and to score with, for int8.

    Returns:
        The files, without the script.

    Raises:
        ConfigError: The network cannot be exported, or a package is missing.
        OutputError: The files cannot be written.
    """
    suffix = FILE_SUFFIXES[description.runtime]
    if path.suffix != suffix:
        raise ConfigError(f"{path} is to be a file for {description.runtime}; expected the suffix {suffix}")
    check_precision(description.runtime, description.precision)
    write = partial(write_torch, compiled=True) if compiled else _WRITERS[description.runtime]
    if description.precision == "int8":
        if quantization is None:
            raise ConfigError("int8 needs images to calibrate with")
        write = partial(write, quantization=quantization)
    versions = {name: version(name) for name in _PACKAGES[description.runtime]}
    description = description.replaced(weights=hash_of_weights(network), versions=versions)
    with writing(path):
        require_file_or_nothing(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=TEMPORARY, dir=path.parent) as folder:
            made = Path(folder, path.name)
            try:
                write(network, description, made)
                open_exported(made, trust=True)
            except (RuntimeError, OSError, WeightsError) as error:
                if shutil.disk_usage(folder).free > _ENOUGH:
                    raise
                raise OSError("no space left on the device") from error  # runtimes raise errors of their own
            files = sorted(Path(folder).iterdir(), key=lambda file: file.name == path.name)  # the weights first
            for file in files:
                os.replace(file, path.parent / file.name)
    write_script(description.runtime, path.parent)
    return [path.parent / file.name for file in files]


def check_precision(runtime: Runtime, precision: Precision) -> None:
    """Checks that a runtime can run a precision.

    Raises:
        ConfigError: It cannot.
    """
    if reason := _REFUSED.get((runtime, precision)):
        others = [other for other in get_args(Precision) if (runtime, other) not in _REFUSED]
        raise ConfigError(f"--precision {precision} with --to {runtime}: {reason}; expected {', '.join(others)}")


def hash_of_weights(network: nn.Module) -> str:
    """SHA-256 of the names and values of a network's state dict, in the order of the names."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
