"""`load_weights` and `save_weights`: weights of any known layout into a network, checked before anything changes."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from hrseg.errors import WeightsError
from hrseg.models.networks.base import Network
from hrseg.models.networks.hrformer import HRFormer
from hrseg.models.networks.window_attention import resize_bias_tables
from hrseg.models.weights.file import FUNCTIONAL, WeightsFile, few, open_weights
from hrseg.models.weights.identify import HEADS
from hrseg.models.weights.layouts import Entries
from hrseg.models.weights.read import OWN_KEY
from hrseg.utils.files import replacing

logger = logging.getLogger(__name__)

_SIZE = r"w\d+(?:_small_v\d)?"


@dataclass(frozen=True)
class LoadReport:
    """What `load_weights` did.

    Args:
        origin: The kind of file.
        matched: Names of the network's entries that were loaded.
        dropped: Names in the file that were not used, each with the reason.
        initialised: Names of the network's entries that keep their own values: the head's where the file is of a
            trunk, and those of attention inside the trunk where the file is of a plain one.
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
            parts.append(f"{len(self.initialised)} left at their initialisation ({few(self.initialised)})")
        return f"{self.origin}: {', '.join(parts)}"


def load_weights(
    network: Network,
    source: str | os.PathLike[str] | Mapping[str, Any] | WeightsFile,
    *,
    strict: bool = True,
    reinit_head: bool = False,
) -> LoadReport:
    """Loads weights into a network, which stays untouched if they do not fit.

    Known are the files of the official code for segmentation, classification, pose and detection in all their wrappers,
    of HRFormer, PSA, NVIDIA, openseg, timm, segmentation-models-pytorch and OpenMMLab, and our own: safetensors, state
    dicts and Lightning checkpoints. Files of classifiers and of trunks leave the head at its initialisation. Batch
    norm's counters (`num_batches_tracked`), which old files lack, may be missing.

    What travels with weights unsaid is checked too: in which order the channels come, and, of networks for
    segmentation, whether corners are aligned and how maps are enlarged. Where the file itself does not say it, its
    layout does; arguments that `create_model` was given override the layout with a warning, never the file itself.

    Args:
        network: Changed in place.
        source: A file, what `torch.load` would return for one, or what `open_weights` made of either.
        strict: Refuse entries that the network does not know, heads of which a part is missing, and weights of networks
            that compute something else. If not, these are dropped, left at their initialisation, and warned of; and a
            plain head is taken for the auxiliary head of OCR, as in the official code. The entries of the trunk must
            all fit in any case.
        reinit_head: Leave the head at its initialisation, whatever the file holds for it.

    Returns:
        What was loaded, dropped, and left; the same is logged.

    Raises:
        WeightsError: The file cannot be read or is of no known layout; it needs more than tensors and numbers to be
            unpickled; or it does not fit the network. The message names the constructor arguments that would fit.
    """
    network = _bare(network)
    file = open_weights(source)
    title = f"{file.where} ({file.origin})"
    wanted = network.state_dict()
    found, dropped = file.converted(wanted.__contains__)
    facts = file.facts(found)
    head = {name for name in wanted if _part(name) in network.head_names}

    if not strict:
        _seed_aux_head(found, wanted)
    if reinit_head:  # the file's head may be of another kind than the network's
        heads = [name for name in found if name in head or (name not in wanted and _part(name) in HEADS)]
        _drop(found, heads, dropped, "the head starts anew, as asked")
    coarser = [name for name in found if name not in wanted and _is_of_coarser_maps(name, wanted)]
    _drop(found, coarser, dropped, "coarser maps, which the network does not make")
    if isinstance(network, HRFormer) and not any(name in head for name in found):
        found = resize_bias_tables(found, network.window_size)

    unknown = [name for name in found if name not in wanted]
    misfits = {name: text for name in wanted if (text := _misfit(name, found, wanted))}
    startable = _startable(found, misfits, head, strict)
    trunk_misfits = [text for name, text in misfits.items() if name not in head and name not in startable]
    if trunk_misfits:
        raise WeightsError(
            f"{title}: {len(trunk_misfits)} of {len(wanted) - len(head)} trunk entries do not fit: "
            f"{few(trunk_misfits)}. {_remedy(file, network)}"
        )
    if unknown and strict:
        raise WeightsError(
            f"{title}: {len(unknown)} entries unknown to the network: {few(unknown)}. {_remedy(file, network)}; "
            "strict=False drops them"
        )
    head_misfits = [text for name, text in misfits.items() if name not in startable]
    if head_misfits:
        raise WeightsError(
            f"{title}: the head does not fit: {few(head_misfits)}. {_remedy(file, network)}, "
            "or start its head anew with reinit_head=True (--model.reinit_head true)"
        )
    # the trunk of a network for poses or detection is trained further, and gets used to how its maps are enlarged
    if not reinit_head and not any(name in head for name in found):
        facts = {name: value for name, value in facts.items() if name not in ("fuse_mode", "align_corners")}
    _check_facts(facts, network, file, strict)
    _drop(found, unknown, dropped, "unknown to the network")
    network.load_state_dict(found, strict=False)
    network.loaded_from = file.where
    report = LoadReport(file.origin, tuple(found), dropped, tuple(misfits))
    logger.info("%s: %s", file.where, report)
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
    with replacing(path) as temporary:
        write_weights(network, temporary)


def write_weights(network: Network, path: Path) -> None:
    """As `save_weights`, in place of what stands at `path`, which may be left half written."""
    tensors = {name: tensor.detach().contiguous() for name, tensor in network.state_dict().items()}
    write_tensors(tensors, path, {"format": "pt", OWN_KEY: json.dumps({"network": network.config})})


def write_tensors(tensors: Entries, path: Path, metadata: dict[str, str] | None = None) -> None:
    """Writes safetensors in place of what stands at `path`.

    Raises:
        OSError: The system refuses.
    """
    try:
        save_file(tensors, path, metadata)
    except SafetensorError as error:  # what it makes of the system's errors
        raise OSError(str(error)) from error


def _part(name: str) -> str:
    """The attribute of the network that an entry belongs to."""
    return name.split(".")[0]


def _drop(found: Entries, names: Iterable[str], dropped: dict[str, str], reason: str) -> None:
    for name in names:
        del found[name]
        dropped[name] = reason


def _is_of_coarser_maps(name: str, wanted: Mapping[str, object]) -> bool:
    """Whether it belongs to a fusion that an HRNetV1 leaves out, of which only the finest map is used."""
    match = re.match(r"(stage4\.\d+\.fuse_layers)\.[1-3]\.", name)
    return match is not None and f"{match[1]}.0.1.0.weight" in wanted


def _check_facts(facts: Mapping[str, Any], network: Network, file: WeightsFile, strict: bool) -> None:
    """Refuses weights that were trained with other arguments that change the network's function unnoticed."""
    ours = {name: getattr(network, name, FUNCTIONAL[name]) for name in facts}
    differing = [name for name, value in facts.items() if ours[name] != value]
    for name in _overrides(file, network):
        if name in differing:
            differing.remove(name)
            usually = f"{file.origin} are usually made with {name}={facts[name]!r}"
            logger.warning("%s: files of %s; taken with %r, as given", file.where, usually, ours[name])
    if not differing:
        return
    title = f"{file.where} ({file.origin})"
    fitting = ", ".join(f"{name}={facts[name]!r}" for name in differing)
    message = f"{title} was made with {fitting}; the network has {', '.join(f'{n}={ours[n]!r}' for n in differing)}"
    if strict:
        raise WeightsError(f"{message}. Build it with {fitting}, or load the weights all the same with strict=False")
    logger.warning("%s. It will compute something else", message)


def _overrides(file: WeightsFile, network: Network) -> frozenset[str]:
    """The arguments given by the user, which override what a layout is usually made with, not what a file states."""
    return frozenset() if file.config else network.given & FUNCTIONAL.keys()


def _startable(found: Entries, misfits: Mapping[str, str], head: set[str], strict: bool) -> set[str]:
    """The entries that may stay at their initialisation where they are missing."""
    missing = {name for name in misfits if name not in found}
    if not any(name in head for name in found):
        # attention inside the blocks of a trunk that was trained without
        inside = set() if any(".deattn." in name for name in found) else {n for n in missing if ".deattn." in n}
        # an HRNetV1's last fusion makes the finest map alone
        coarser = {name for name in missing if re.match(r"stage4\.\d+\.fuse_layers\.[1-3]\.", name)}
        return head | inside | coarser
    return set() if strict else missing & head


def _remedy(file: WeightsFile, network: Network) -> str:
    """Which constructor arguments would fit the file."""
    fitting = file.description()
    if fitting.get("name", "").endswith("_cls") and network.head_names != ("classifier",):  # it is of use as a trunk
        del fitting["num_classes"]
        fitting["name"] = re.sub(_SIZE, re.findall(_SIZE, fitting["name"])[0], network.config["name"])
    kept = _overrides(file, network)
    differing = {k: value for k, value in fitting.items() if network.config.get(k, ...) != value and k not in kept}
    name = differing.pop("name", None)
    arguments = [repr(name)] if name else []
    arguments += [f"{key}={value!r}" for key, value in differing.items() if key in network.config or name]
    if not arguments:
        return "Is the file damaged, or of a network that hrseg does not have?"
    return f"Build the network with {', '.join(arguments)}"


def _misfit(name: str, found: Entries, wanted: Mapping[str, torch.Tensor]) -> str:
    """Says what is wrong with the entry of that name; empty if nothing is."""
    if name not in found:
        return "" if name.endswith("num_batches_tracked") else f"{name} is missing"
    if not isinstance(found[name], torch.Tensor):
        return f"{name} is a {type(found[name]).__name__}"
    entry, ours = found[name], wanted[name]
    if entry.shape != ours.shape:
        return f"{name} has shape {tuple(entry.shape)} instead of {tuple(ours.shape)}"
    of_one_kind = entry.is_floating_point() >= ours.is_floating_point() and entry.is_meta <= ours.is_meta
    if not of_one_kind or entry.is_complex() or entry.is_quantized or entry.layout != torch.strided:
        return f"{name} is {entry.layout} {entry.dtype} on {entry.device} instead of {ours.dtype}".replace("torch.", "")
    return "" if entry.is_meta or bool(entry.isfinite().all()) else f"{name} holds values that are not finite"


def _bare(network: Network) -> Network:
    """The network inside the wrappers of torch."""
    while (inner := getattr(network, "_orig_mod", None) or _inside_parallel(network)) is not None:
        network = inner
    return network


def _inside_parallel(network: nn.Module) -> Network | None:
    return network.module if isinstance(network, nn.DataParallel | DistributedDataParallel) else None


def _seed_aux_head(found: Entries, wanted: Mapping[str, torch.Tensor]) -> None:
    """Renames a plain head to the auxiliary head that has its place and shape."""
    for name in [name for name in found if name.startswith("last_layer.") and name not in wanted]:
        ours = name.replace("last_layer.", "aux_head.")
        if ours in wanted and ours not in found and found[name].shape == wanted[ours].shape:
            found[ours] = found.pop(name)
