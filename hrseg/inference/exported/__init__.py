"""Files of `hrseg export`: what they state about themselves, and the runtimes that run them."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from types import ModuleType

from hrseg.errors import WeightsError
from hrseg.inference.exported.description import ExportDescription, description_from_json
from hrseg.inference.exported.network import ExportedNetwork

__all__ = ["SUFFIXES", "ExportDescription", "ExportedNetwork", "is_exported", "open_exported", "read_description"]

# by suffix, the module with `open_file(path, device, trust)` and `stored_description(path)`, JSON or None
SUFFIXES = {".onnx": "onnx_runtime", ".xml": "openvino_runtime", ".pt2": "torch_program", ".engine": "tensorrt_engine"}


def is_exported(path: str | Path) -> bool:
    """Whether a name has the suffix of an exported file."""
    return Path(path).suffix in SUFFIXES


def open_exported(path: str | Path, device: str | None = None, trust: bool = False) -> ExportedNetwork:
    """Loads an exported file into its runtime.

    Args:
        path: A file of `hrseg export`; its suffix says for which runtime.
        device: Where to run; None is the best that the runtime has.
        trust: Whether to load files that hold code (.pt2, .engine), which can do anything.

    Raises:
        ConfigError: The runtime is not installed, the device cannot be used, or the file is not trusted.
        WeightsError: The file is missing, damaged, or not of `hrseg export`.
    """
    network: ExportedNetwork = _runtime_of(path).open_file(Path(path), device, trust)
    return network


def read_description(path: str | Path) -> ExportDescription:
    """Reads what an exported file states about itself, without running anything of it.

    Raises:
        ConfigError: The runtime is not installed.
        WeightsError: The file is missing, damaged, or not of `hrseg export`.
    """
    text: str | None = _runtime_of(path).stored_description(Path(path))
    return description_from_json(text, path)


def _runtime_of(path: str | Path) -> ModuleType:
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise WeightsError(f"{path} is no exported file; expected one of {' '.join(SUFFIXES)}")
    if not path.is_file():
        raise WeightsError(f"no file {path}; `hrseg export` makes it")
    return import_module(f"{__name__}.{SUFFIXES[path.suffix]}")
