"""`load_weights`: weights of any known layout into a network, checked before anything changes."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from hrseg.errors import WeightsError
from hrseg.models.networks.base import Network
from hrseg.models.registry import FAMILIES
from hrseg.models.weights.file import FUNCTIONAL, WeightsFile, open_weights
from hrseg.models.weights.identify import identify
from hrseg.models.weights.layouts import Entries
from hrseg.utils.checks import join_first

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadReport:
    """What `load_weights` did.

    Args:
        origin: The kind of file.
        matched: Keys of the network that were loaded.
        dropped: Keys of the file that were not used, each with the reason.
        initialised: Keys of the network that keep their initialisation: the head's where the file holds a backbone,
            and those of modules that the file's kind of backbone lacks.
    """

    origin: str
    matched: tuple[str, ...]
    dropped: Mapping[str, str]
    initialised: tuple[str, ...]

    def __str__(self) -> str:
        reasons = list(self.dropped.values())
        parts = [f"{len(self.matched)} keys loaded"]
        parts += [f"{reasons.count(reason)} dropped ({reason})" for reason in dict.fromkeys(reasons)]
        if self.initialised:
            parts.append(f"{len(self.initialised)} left at their initialisation ({join_first(self.initialised)})")
        return f"{self.origin}: {', '.join(parts)}"


def load_weights(
    network: Network,
    source: str | os.PathLike[str] | Mapping[str, Any] | WeightsFile,
    *,
    strict: bool = True,
    reinit_head: bool = False,
) -> LoadReport:
    """Loads weights into a network, which stays unchanged if they do not fit.

    Supported are the files of the official code for segmentation, classification, pose and detection in all their
    wrappers, of HRFormer, PSA, NVIDIA, openseg, timm, segmentation-models-pytorch and OpenMMLab, and our own:
    safetensors, state dicts and Lightning checkpoints. Files of classifiers and backbones leave the head at its
    initialisation. `num_batches_tracked` of batch norm, which old files lack, may be missing.

    Settings that change the result but no shape are checked too: the order of the channels and, for segmentation,
    `align_corners` and `fuse_mode`. They are read from the file where it states them, else from its layout's defaults;
    arguments that `create_model` was given override the layout with a warning, never the file itself.

    Args:
        network: Changed in place.
        source: A file, what `torch.load` would return for one, or the result of `open_weights`.
        strict: Refuse unexpected keys, heads with missing keys, and weights of networks with other settings. Otherwise
            these are dropped, left at their initialisation and warned of, and a plain head is loaded into the auxiliary
            head of OCR, as in the official code. The backbone's keys must match in any case.
        reinit_head: Leave the head at its initialisation, whatever the file holds.

    Returns:
        What was loaded, dropped and left; the same is logged.

    Raises:
        WeightsError: The file cannot be read without running code, has no known layout, or does not fit the network.
            The message names the constructor arguments that would fit.
    """
    network = _unwrapped(network)
    file = open_weights(source)
    title = f"{file.where} ({file.origin})"
    expected = network.state_dict()
    found, dropped = file.converted(expected.__contains__)
    facts = file.facts(found)
    head = {key for key in expected if _part(key) in network.head_names}
    families = [family for family in FAMILIES.values() if isinstance(network, family.network)]

    if not strict:
        _load_into_aliases(found, expected, network.head_aliases)
    if reinit_head:  # the file's head may be of another kind than the network's
        parts = {name for family in FAMILIES.values() for name in family.head_names}
        heads = [key for key in found if key in head or (key not in expected and _part(key) in parts)]
        _drop(found, heads, dropped, "head, discarded by reinit_head")
    unused = "|".join(pattern for family in families for pattern in family.unused_keys)
    if unused:
        keys = [key for key in found if key not in expected and re.match(unused, key)]
        _drop(found, keys, dropped, "not used by the network")
    has_head = any(key in head for key in found)
    if not has_head:
        found = network.adapt_backbone(found)

    unexpected = [key for key in found if key not in expected]
    misfits = {key: text for key in expected if (text := _misfit(key, found, expected))}
    missing = {key for key in misfits if key not in found}
    if not has_head:
        backbones = [family.backbone for family in families if family.backbone is not None]
        patterns = [pattern for backbone in backbones for pattern in backbone.optional_keys]
        optional = head | _missing_together(missing, found, patterns)
    else:
        optional = set() if strict else missing & head
    backbone_misfits = [text for key, text in misfits.items() if key not in head and key not in optional]
    if backbone_misfits:
        raise WeightsError(
            f"{title}: {len(backbone_misfits)} of {len(expected) - len(head)} backbone keys do not fit: "
            f"{join_first(backbone_misfits)}. {_remedy(file, found, network)}"
        )
    if unexpected and strict:
        raise WeightsError(
            f"{title}: {len(unexpected)} unexpected keys: {join_first(unexpected)}. {_remedy(file, found, network)}; "
            "strict=False drops them"
        )
    head_misfits = [text for key, text in misfits.items() if key not in optional]
    if head_misfits:
        raise WeightsError(
            f"{title}: the head does not fit: {join_first(head_misfits)}. {_remedy(file, found, network)}, "
            "or reinitialise the head with reinit_head=True (--model.reinit_head true)"
        )
    # the backbone of a network for poses or detection is fine-tuned, and adapts to how maps are upsampled
    if not reinit_head and not has_head:
        facts = {name: value for name, value in facts.items() if name not in ("fuse_mode", "align_corners")}
    _check_facts(facts, network, file, strict)
    _drop(found, unexpected, dropped, "unexpected")
    network.load_state_dict(found, strict=False)
    network.loaded_from, network.initialised = file.where, tuple(misfits)
    report = LoadReport(file.origin, tuple(found), dropped, tuple(misfits))
    logger.info("%s: %s", file.where, report)
    return report


def _part(key: str) -> str:
    """The attribute of the network that a key belongs to."""
    return key.split(".")[0]


def _drop(found: Entries, keys: Iterable[str], dropped: dict[str, str], reason: str) -> None:
    for key in keys:
        del found[key]
        dropped[key] = reason


def _load_into_aliases(found: Entries, expected: Mapping[str, torch.Tensor], aliases: Mapping[str, str]) -> None:
    """Renames unexpected keys with an alias to those of the network with the same shape."""
    for theirs, ours in aliases.items():
        for key in [key for key in found if key.startswith(theirs) and key not in expected]:
            alias = ours + key.removeprefix(theirs)
            if alias in expected and alias not in found and found[key].shape == expected[alias].shape:
                found[alias] = found.pop(key)


def _missing_together(missing: Iterable[str], found: Iterable[str], patterns: Iterable[str]) -> set[str]:
    """The missing keys that match a pattern, unless a found key agrees with them in the pattern's first group."""
    optional: set[str] = set()
    for pattern in patterns:
        groups = {match[1] for key in found if (match := re.match(pattern, key))}
        optional |= {key for key in missing if (match := re.match(pattern, key)) and match[1] not in groups}
    return optional


def _misfit(key: str, found: Entries, expected: Mapping[str, torch.Tensor]) -> str:
    """What is wrong with the tensor of this key; empty if nothing is."""
    if key not in found:
        return "" if key.endswith("num_batches_tracked") else f"{key} is missing"
    if not isinstance(found[key], torch.Tensor):
        return f"{key} is a {type(found[key]).__name__}"
    entry, ours = found[key], expected[key]
    if entry.shape != ours.shape:
        return f"{key} has shape {tuple(entry.shape)} instead of {tuple(ours.shape)}"
    of_one_kind = entry.is_floating_point() >= ours.is_floating_point() and entry.is_meta <= ours.is_meta
    if not of_one_kind or entry.is_complex() or entry.is_quantized or entry.layout != torch.strided:
        return f"{key} is {entry.layout} {entry.dtype} on {entry.device} instead of {ours.dtype}".replace("torch.", "")
    return "" if entry.is_meta or bool(entry.isfinite().all()) else f"{key} holds values that are not finite"


def _check_facts(facts: Mapping[str, Any], network: Network, file: WeightsFile, strict: bool) -> None:
    """Refuses weights that were trained with other settings that change the result but no shape."""
    ours = {name: getattr(network, name, FUNCTIONAL[name]) for name in facts}
    differing = [name for name, value in facts.items() if ours[name] != value]
    for name in _overrides(file, network):
        if name in differing:
            differing.remove(name)
            usually = f"{file.origin} weights usually need {name}={facts[name]!r}"
            logger.warning("%s: %s; keeping %r, as given", file.where, usually, ours[name])
    if not differing:
        return
    title = f"{file.where} ({file.origin})"
    fitting = ", ".join(f"{name}={facts[name]!r}" for name in differing)
    message = f"{title} was trained with {fitting}; the network has {', '.join(f'{n}={ours[n]!r}' for n in differing)}"
    if strict:
        raise WeightsError(f"{message}. Build it with {fitting}, or load the weights anyway with strict=False")
    logger.warning("%s. Results will differ", message)


def _overrides(file: WeightsFile, network: Network) -> frozenset[str]:
    """The arguments given by the user, which override the defaults of a layout, not what the file itself states."""
    return frozenset() if file.config else network.given & FUNCTIONAL.keys()


def _remedy(file: WeightsFile, found: Entries, network: Network) -> str:
    """Names the constructor arguments that would fit the file."""
    fitting = file.description()
    used, name = identify(found), network.config.get("name")
    own = next((family for family in FAMILIES.values() if name in family.networks), None)
    if used and used.family is None and own and used.size in own.builders:  # only the file's backbone is used
        fitting = {"name": own.name.replace("SIZE", used.size), **used.arguments}
    kept = _overrides(file, network)
    differing = {k: value for k, value in fitting.items() if network.config.get(k, ...) != value and k not in kept}
    name = differing.pop("name", None)
    arguments = [repr(name)] if name else []
    arguments += [f"{key}={value!r}" for key, value in differing.items() if key in network.config or name]
    if not arguments:
        return "Is the file damaged, or of a network that hrseg does not have?"
    return f"Build the network with {', '.join(arguments)}"


def _unwrapped(network: Network) -> Network:
    """The network inside DataParallel, DistributedDataParallel and torch.compile."""
    while (inner := getattr(network, "_orig_mod", None) or _inside_parallel(network)) is not None:
        network = inner
    return network


def _inside_parallel(network: nn.Module) -> Network | None:
    return network.module if isinstance(network, nn.DataParallel | DistributedDataParallel) else None
