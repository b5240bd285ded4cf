"""Files of `hrseg export`: what they state about themselves, and the runtimes that run them."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from hrseg.errors import WeightsError
from hrseg.inference.exported.description import ExportDescription
from hrseg.inference.exported.network import ExportedNetwork

__all__ = ["SUFFIXES", "ExportDescription", "ExportedNetwork", "is_exported", "open_exported"]

# module with `open_file(path, device, trust) -> ExportedNetwork`, by the file's suffix
SUFFIXES = {".onnx": "onnx_runtime", ".xml": "openvino_runtime", ".pt2": "torch_program", ".engine": "tensorrt_engine"}


def is_exported(path: str | Path) -> bool:
    """Whether a name has the suffix of an exported file."""
    return Path(path).suffix in SUFFIXES


def open_exported(path: str | Path, device: str | None = None, trust: bool = False) -> ExportedNetwork:
    """Loads an exported file into its runtime.

    Args:
        path: A file of `hrseg export`; its suffix says for which runtime.
        device: Where to run; None is the best that the runtime has.
        trust: Whether to load machine code that a file holds (AOTInductor, TensorRT), which can do anything.

    Raises:
        ConfigError: The runtime is not installed, or the device cannot be used.
        WeightsError: The file is missing, damaged, or not of `hrseg export`.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise WeightsError(f"{path} is no exported file; expected one of {' '.join(SUFFIXES)}")
    if not path.is_file():
        raise WeightsError(f"no file {path}; `hrseg export` makes it")
    network: ExportedNetwork = import_module(f"{__name__}.{SUFFIXES[path.suffix]}").open_file(path, device, trust)
    return network
