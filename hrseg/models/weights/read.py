"""Reading of files of tensors, without running code that they hold, and diagnosis of files that cannot be read."""

from __future__ import annotations

import json
import os
import re
import shlex
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from numpy._core import multiarray
from safetensors import SafetensorError, safe_open

from hrseg.errors import WeightsError
from hrseg.utils.paths import expanded

OWN_KEY = "hrseg"  # key of our files' description, {"network": config}; in safetensors, JSON metadata

_EXPECTED = "expected weights as .safetensors, .pth or .ckpt"
# official checkpoints hold their best score as a numpy number, which torch refuses unless it is listed here
_NUMPY_NUMBERS: list[Any] = [
    (multiarray.scalar, "numpy.core.multiarray.scalar"),
    (multiarray.scalar, "numpy._core.multiarray.scalar"),
    np.dtype,
    *{type(np.dtype(code)) for code in f"?{np.typecodes['AllInteger']}{np.typecodes['AllFloat']}"},
]
_NAMES_LISTED = 8  # of foreign objects: a malicious file may hold any number

_UNPACK = "unpack it and give the file inside"
# pattern of the first bytes -> what the file is, and the remedy; the first match counts
_OTHER_FILES = {
    rb"\s*<": ("it is a web page", "download the file again, with a browser or a login where its link needs one"),
    rb"version https://git-lfs": ("it is a Git LFS pointer to the file", "run `git lfs pull` in its repository"),
    rb"\s*[{\[]": ("it is JSON", _EXPECTED),
    rb"\x1f\x8b": ("it is compressed with gzip", _UNPACK),
    rb"(?s).{257}ustar": ("it is a tar archive", _UNPACK),
}
_EXPORTED = (".onnx", ".xml", ".pt2", ".engine")  # of `hrseg export`
_PICKLE = rb"\x80[\x02-\x05]"
_TORCH = rb"(?s)PK\x03\x04|\x80[\x02-\x05].{0,11}l\xfc\x9cF\xf9 j\xa8P\x19"  # zip archive, or pickle before torch 1.6
_READ_PROTOCOL = 2  # of the pickles that torch.save writes
_TORCH_LOAD = "torch.load({}, weights_only=False)"
_PICKLE_LOAD = 'pickle.load(open({}, "rb"))'
_BEGINNING = 512  # bytes that the kind of a file is recognised by


def read_content(source: str | os.PathLike[str], values: bool = True) -> dict[str, Any]:
    """Reads a file of tensors, containers and numbers; nothing else in it is unpickled.

    Args:
        source: A file written by `torch.save`, or safetensors under any name; `~` is the user's home.
        values: Whether to read the values of the tensors. Without them, large files are read as fast as small ones,
            and the tensors are on the device "meta".

    Returns:
        What `torch.load` returns; for safetensors, the state dict, with the description of our own files under "hrseg".

    Raises:
        WeightsError: The file is missing, damaged or holds no weights, or cannot be unpickled without running code.
    """
    if not os.fspath(source):
        raise WeightsError(f"the name of the weights file is empty; {_EXPECTED}")
    path = expanded(source)
    try:
        content = _read_safetensors(path, values) if _is_safetensors(path) else _read_pickle(path, values)
    except Exception as error:  # damaged pickles raise anything
        raise WeightsError(_complaint(path, error)) from error
    if not isinstance(content, dict):
        raise WeightsError(f"{path} holds a {type(content).__name__}; expected a state dict")
    return content


def _is_safetensors(path: Path) -> bool:
    """Checks the suffix, or for the header: 8 bytes with the length of a JSON object, and the object."""
    beginning = _beginning(path)
    is_header = beginning[8:9] == b"{" and int.from_bytes(beginning[:8], "little") < path.stat().st_size
    return path.suffix == ".safetensors" or is_header


def _read_safetensors(path: Path, values: bool) -> dict[str, Any]:
    with safe_open(path, framework="pt") as file:
        entries = {
            name: file.get_tensor(name) if values else torch.empty(file.get_slice(name).get_shape(), device="meta")
            for name in file.keys()  # noqa: SIM118 (the file is not a mapping)
        }
        own = json.loads((file.metadata() or {}).get(OWN_KEY, "{}"))
    return entries | {OWN_KEY: own}


def _read_pickle(path: Path, values: bool) -> Any:
    with torch.serialization.safe_globals(_NUMPY_NUMBERS), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # files that cannot be read are reported as a one-line error
        return torch.load(path, map_location="cpu" if values else "meta", weights_only=True)


def _complaint(path: Path, error: Exception) -> str:
    """Why a file could not be read, and the remedy, in one line; never torch's advice to run code in the file."""
    if isinstance(error, FileNotFoundError):
        last = path.with_name("last.ckpt")  # the only checkpoint of a run before its first validation
        return f"no file {path}; {f'there is {last}' if last.is_file() else _EXPECTED}"
    if isinstance(error, IsADirectoryError):
        return f"{path} is a folder; {_EXPECTED}"
    if isinstance(error, OSError):
        return f"{path} cannot be read ({error.strerror or error}); give a file that you may read"
    if path.suffix in _EXPORTED:
        return (
            f"{path} is a network exported for another runtime, whose weights no network can load; give the checkpoint "
            "or weights that it comes from"
        )
    if foreign := _foreign_objects(path, error):
        named = ", ".join(foreign[:_NAMES_LISTED]) + (", ..." if len(foreign) > _NAMES_LISTED else "")
        loader = _TORCH_LOAD if _is_torch_file(path) else _PICKLE_LOAD
        return f"{path} holds a pickled {named}, which could run code when it is read; {_by_hand(path, loader)}"
    what, remedy = _kind(path, error)
    return f"{path} cannot be read ({what}); {remedy}"


def _foreign_objects(path: Path, error: Exception) -> Sequence[str]:
    """Names of all objects that unpickling would import, or of the first if they cannot be listed."""
    refused = re.search(r"GLOBAL (\S+)", str(error)) if isinstance(error, UnpicklingError) else None
    if refused is None:
        return ()
    try:
        with torch.serialization.safe_globals(_NUMPY_NUMBERS):
            return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path)) or (refused[1],)
    except Exception:  # not a zip archive, which torch.save writes since torch 1.6
        return (refused[1],)


def _kind(path: Path, error: Exception) -> tuple[str, str]:
    """Recognises a file that cannot be read; returns what it is, and the remedy."""
    beginning = _beginning(path)
    if not beginning:
        return "it is empty", "download or copy it again"
    for start, kind in _OTHER_FILES.items():
        if re.match(start, beginning):
            return kind
    members = _members(path)
    if "constants.pkl" in members:
        return "it is a TorchScript archive, which holds code", _by_hand(path, "torch.jit.load({})")
    if members and "data.pkl" not in members:
        return "it is a zip archive that torch.save did not make", _UNPACK
    if _is_torch_file(path):
        if path.suffix == ".safetensors":
            return "it was made by torch.save", "name it .pth"
        if isinstance(error, UnpicklingError) and (members or beginning[1] != _READ_PROTOCOL):
            return "it is pickled in a way that is not read safely", _by_hand(path, _TORCH_LOAD)
    elif re.match(_PICKLE, beginning):
        return "it is a pickle that torch.save did not make", _by_hand(path, _PICKLE_LOAD)
    elif not isinstance(error, (SafetensorError, json.JSONDecodeError)):
        return f"it starts with {beginning[:8].hex(' ')}, as no weights file does", _EXPECTED
    # torch's own message advises to read the file unsafely
    reason = "" if isinstance(error, UnpicklingError) else str(error).split("\n")[0].split(". ")[0]
    cut = f"it is damaged, or cut short at {path.stat().st_size} bytes"
    return f"{cut}: {reason}" if reason else cut, "download or copy it again"


def _members(path: Path) -> set[str]:
    """Names, without folders, of the files in a zip archive; empty for damaged archives and other files."""
    try:
        with zipfile.ZipFile(path) as archive:
            return {name.rpartition("/")[2] for name in archive.namelist()}
    except Exception:  # damaged archives raise anything
        return set()


def _is_torch_file(path: Path) -> bool:
    return re.match(_TORCH, _beginning(path)) is not None


def _beginning(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_BEGINNING)


def _by_hand(path: Path, loader: str) -> str:
    """The remedy for a file that must be trusted to be read: a command that saves its tensors alone."""
    loaded = loader.format(json.dumps(str(path), ensure_ascii=False))
    tensors = 'c.state_dict() if hasattr(c, "state_dict") else c.get("state_dict", c)'
    code = f'import pickle, torch; c = {loaded}; torch.save({tensors}, "tensors.pth")'
    return f"where you trust the file, save its tensors alone: python -c {shlex.quote(code)}"
