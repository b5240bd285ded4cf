"""`load_weights` and `save_weights`: weights of any known layout into a network, checked before anything changes.

Files are never unpickled beyond tensors, containers and numbers: a file of weights may come from anywhere.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from numpy._core import multiarray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from hrseg.errors import WeightsError
from hrseg.files import replacing
from hrseg.models.layouts import LAYOUTS, Entries, Layout, recognise, unwrapped
from hrseg.models.network import Network

logger = logging.getLogger(__name__)

OWN_KEY = "hrseg"  # of what our files hold besides the entries: {"network": config}; in safetensors as JSON metadata
# arguments that change results without changing shapes
FUNCTIONAL = ("fuse_mode", "align_corners", "channel_order")

# official training files hold their best score as a numpy number, which torch refuses unless it is named here
_NUMPY_NUMBERS: list[Any] = [
    (multiarray.scalar, "numpy.core.multiarray.scalar"),
    (multiarray.scalar, "numpy._core.multiarray.scalar"),
    np.dtype,
    *(type(np.dtype(number)) for number in (np.float32, np.float64, np.int64)),
]


@dataclass(frozen=True)
class LoadReport:
    """What `load_weights` did.

    Args:
        origin: The kind of file.
        matched: Names of the network's entries that were loaded.
        dropped: Names in the file that were not used, each with the reason.
        initialised: Names of the network's entries that keep their own values; only ever the head's.
    """

    origin: str
    matched: tuple[str, ...]
    dropped: Mapping[str, str]
    initialised: tuple[str, ...]

    def __str__(self) -> str:
        reasons = list(self.dropped.values())
        parts = [f"{len(self.matched)} entries loaded"]
        parts += [f"{reasons.count(reason)} dropped ({reason})" for reason in dict.fromkeys(reasons)]
        if self.initialised:
            parts.append(f"{len(self.initialised)} left at their initialisation ({_few(self.initialised)})")
        return f"{self.origin}: {', '.join(parts)}"


def load_weights(
    network: Network,
    source: str | os.PathLike[str] | Mapping[str, Any],
    *,
    strict: bool = True,
    reinit_head: bool = False,
) -> LoadReport:
    """Loads weights into a network, which stays untouched if they do not fit.

    Known are the official segmentation and ImageNet files in all their wrappers, timm's, and our own: safetensors,
    state dicts and Lightning checkpoints. Files of classifiers, and of trunks, leave the head at its initialisation.
    Batch norm's counters (`num_batches_tracked`), which old files lack, may be missing.

    Args:
        network: Changed in place.
        source: A file, or what `torch.load` would return for one.
        strict: Refuse entries that the network does not know. The entries of the trunk must all fit in any case.
        reinit_head: Leave the head at its initialisation, whatever the file holds for it.

    Returns:
        What was loaded, dropped, and left; the same is logged.

    Raises:
        WeightsError: The file cannot be read or is of no known layout; it needs more than tensors and numbers to be
            unpickled; its entries do not fit the network; or it was made with another `fuse_mode` or `align_corners`.
    """
    where = "the given state dict" if isinstance(source, Mapping) else str(source)
    content = source if isinstance(source, Mapping) else _read(Path(source))
    config = _config(content)
    _check_config(config, network, where)
    entries, beside = unwrapped(_entries(content))
    layout = _recognise(entries, where)
    found, dropped = layout.convert(entries)
    dropped |= {name: layout.reason_to_drop(name) or "beside the network" for name in beside}

    wanted = network.state_dict()
    head = {name for name in wanted if name.split(".")[0] in network.head_names}
    unknown = [name for name in found if name not in wanted]
    unused = [name for name in found if name in head] if reinit_head else []
    for name in (*unknown, *unused):
        del found[name]
        dropped[name] = "the head starts anew, as asked" if name in head else "unknown to the network"

    misfits = {name: text for name in wanted if (text := _misfit(name, found, wanted))}
    trunk_misfits = [text for name, text in misfits.items() if name not in head]
    if trunk_misfits:
        raise WeightsError(
            f"{where} ({layout.origin}): {len(trunk_misfits)} of {len(wanted) - len(head)} trunk entries do not fit: "
            f"{_few(trunk_misfits)}. Is it of another width or depth?"
        )
    if unknown and strict:
        raise WeightsError(
            f"{where} ({layout.origin}): {len(unknown)} entries unknown to the network: {_few(unknown)}. "
            "Is it of another model? strict=False drops them"
        )
    if misfits and any(name in found for name in head):
        raise WeightsError(
            f"{where} ({layout.origin}): the head does not fit: {_few(misfits.values())}. "
            "Build the network with the file's num_classes, or start its head anew with reinit_head=True"
        )
    network.load_state_dict(found, strict=False)
    report = LoadReport("hrseg" if config else layout.origin, tuple(found), dropped, tuple(misfits))
    logger.info("%s: %s", where, report)
    return report


def save_weights(network: Network, path: str | os.PathLike[str]) -> None:
    """Saves a network's weights and its `config` as safetensors; the file appears whole or not at all.

    Args:
        network: To be saved; any device, memory format, or type.
        path: Ends in .safetensors; missing folders are made.

    Raises:
        WeightsError: The path has another ending.
        OutputError: The file cannot be written; what stood there before is intact.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise WeightsError(f"{path}: weights are saved as safetensors; give a name that ends in .safetensors")
    tensors = {name: tensor.detach().contiguous() for name, tensor in network.state_dict().items()}
    metadata = {"format": "pt", OWN_KEY: json.dumps({"network": network.config})}
    with replacing(path) as temporary:
        try:
            save_file(tensors, temporary, metadata)
        except SafetensorError as error:  # what it makes of the system's errors
            raise OSError(str(error)) from error


def read_config(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads name and constructor arguments of the network that one of our files was saved from.

    Raises:
        WeightsError: The file cannot be read, or holds no such description.
    """
    config = _config(_read(Path(path)))
    if not config:
        raise WeightsError(f"{path} does not say which network it is of; name the model and give the file as weights=")
    return config


def _read(path: Path) -> Entries:
    """The content of a file as `torch.load` returns it; of safetensors, the entries and the config among them."""
    if not path.is_file():
        raise WeightsError(f"no file {path}; expected weights as .safetensors, .pth or .ckpt")
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                entries = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (the file is no mapping)
                own = json.loads((file.metadata() or {}).get(OWN_KEY, "{}"))
            return entries | {OWN_KEY: own}
        with torch.serialization.safe_globals(_NUMPY_NUMBERS):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged pickles raise whatever they like
        needed = re.search(r"GLOBAL (\S+)", str(error)) if isinstance(error, UnpicklingError) else None
        if needed:
            raise WeightsError(
                f"{path} holds a pickled {needed[1]}, which could run code when it is read; "
                "save the state dict alone, where you trust the file"
            ) from error
        reason = str(error).split("\n")[0] or type(error).__name__
        raise WeightsError(f"{path} cannot be read ({reason}); is it complete, and a file of weights?") from error
    if not isinstance(content, dict):
        raise WeightsError(f"{path} holds a {type(content).__name__}; expected a state dict")
    return content


def _entries(content: Mapping[str, Any]) -> Entries:
    """The entries, out of what training scripts put around them."""
    for key in ("state_dict", "model", "model_state"):
        # some files hold a mere name under "model"
        if isinstance(content.get(key), Mapping):
            content = content[key]
            break
    return {name: entry for name, entry in content.items() if name != OWN_KEY}


def _config(content: Mapping[str, Any]) -> dict[str, Any]:
    """The `config` of the network in a file of ours; empty if there is none."""
    return (content.get(OWN_KEY) or {}).get("network") or {}


def _recognise(entries: Entries, where: str) -> Layout:
    if layout := recognise(entries):
        return layout
    known = ", ".join(dict.fromkeys(layout.origin for layout in LAYOUTS))
    raise WeightsError(f"{where}: no known layout; found entries {_few(entries) or '(none)'}; known: {known}")


def _check_config(config: Mapping[str, Any], network: Network, where: str) -> None:
    """Refuses weights that were trained with other arguments that change the network's function unnoticed."""
    differing = [
        key for key in FUNCTIONAL if key in config and key in network.config and config[key] != network.config[key]
    ]
    if differing:
        fitting = ", ".join(f"{key}={config[key]!r}" for key in differing)
        found = ", ".join(f"{key}={network.config[key]!r}" for key in differing)
        raise WeightsError(f"{where} was made with {fitting}; the network has {found}. Build it with {fitting}")


def _misfit(name: str, found: Entries, wanted: Mapping[str, torch.Tensor]) -> str:
    """Says what is wrong with the entry of that name; empty if nothing is."""
    if name not in found:
        return "" if name.endswith("num_batches_tracked") else f"{name} is missing"
    if not isinstance(found[name], torch.Tensor):
        return f"{name} is a {type(found[name]).__name__}"
    shape, expected = tuple(found[name].shape), tuple(wanted[name].shape)
    return "" if shape == expected else f"{name} has shape {shape} instead of {expected}"


def _few(texts: Iterable[str], number: int = 3) -> str:
    """The first few of many texts, for a message of one line."""
    texts = list(texts)
    return ", ".join(texts[:number]) + (f" and {len(texts) - number} more" if len(texts) > number else "")
