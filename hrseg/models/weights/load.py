"""`load_weights`: loads weights of any known layout, after checking that they fit the network."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

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
    """Which keys `load_weights` loaded and dropped.

    Args:
        origin: The kind of file: the name of its layout, or "hrseg".
        matched: Keys of the network that were loaded.
        dropped: Keys of the file that were not used, each with the reason.
        initialised: Keys of the network that keep their initialisation: those of the head if the file holds a backbone,
            and those of modules that the file's backbone lacks.
    """

    origin: str
    matched: tuple[str, ...]
    dropped: Mapping[str, str]
    initialised: tuple[str, ...]

    def __str__(self) -> str:
        reasons = list(self.dropped.values())
        counts = [f"{len(self.matched)} keys loaded"]
        counts += [f"{reasons.count(reason)} dropped ({reason})" for reason in dict.fromkeys(reasons)]
        if self.initialised:
            counts.append(f"{len(self.initialised)} left at their initialisation ({join_first(self.initialised)})")
        return f"{self.origin}: {', '.join(counts)}"


def load_weights(
    network: Network,
    source: str | os.PathLike[str] | Mapping[str, Any] | WeightsFile,
    *,
    strict: bool = True,
    reinit_head: bool = False,
) -> LoadReport:
    """Loads weights into a network, which stays unchanged if they do not fit.

    Reads files of the official code for segmentation, classification, pose and detection, of HRFormer, PSA, NVIDIA,
    openseg, timm, segmentation-models-pytorch and OpenMMLab, with the prefixes of any wrapper, and hrseg's own:
    safetensors, state dicts and Lightning checkpoints. Files of classifiers and backbones leave the head at its
    initialisation. `num_batches_tracked` of batch norm, which old files lack, may be missing.

    Settings that change the results but no shape are checked too: the channel order and, for segmentation,
    `align_corners` and `fuse_mode`. They are read from the file where it states them, else from its layout's defaults.
    Arguments that `create_model` was given override the layout's defaults with a warning, never the file itself.

    Args:
        network: Changed in place.
        source: A file, what `torch.load` would return for one, or the result of `open_weights`.
        strict: Refuse unexpected keys, heads with missing keys, and weights trained with other settings. Otherwise
            unexpected keys are dropped, missing ones keep their initialisation, other settings are warned of, and a
            plain head is loaded into the auxiliary head of OCR, as in the official code. The backbone's keys must match
            in any case.
        reinit_head: Leave the head at its initialisation, whatever the file holds.

    Returns:
        The keys loaded, dropped and left at their initialisation; also logged.

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
    head = {key for key in expected if _module(key) in network.head_names}
    families = [family for family in FAMILIES.values() if isinstance(network, family.network)]

    if not strict:
        _load_into_aliases(found, expected, network.head_aliases)
    if reinit_head:  # the file's head may be of another kind than the network's
        names = {name for family in FAMILIES.values() for name in family.head_names}
        heads = [key for key in found if key in head or (key not in expected and _module(key) in names)]
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
    # a backbone for poses or detection will be fine-tuned, and adapts to how maps are upsampled
    if not reinit_head and not has_head:
        facts = {name: value for name, value in facts.items() if name not in ("fuse_mode", "align_corners")}
    _check_facts(facts, network, file, strict)
    _drop(found, unexpected, dropped, "unexpected")
    network.load_state_dict(found, strict=False)
    network.loaded_from, network.initialised = file.where, tuple(misfits)
    report = LoadReport(file.origin, tuple(found), dropped, tuple(misfits))
    logger.info("%s: %s", file.where, report)
    return report


def _module(key: str) -> str:
    """The attribute of the network that a key belongs to."""
    return key.split(".")[0]


def _drop(found: Entries, keys: Iterable[str], dropped: dict[str, str], reason: str) -> None:
    for key in keys:
        del found[key]
        dropped[key] = reason


def _load_into_aliases(found: Entries, expected: Mapping[str, torch.Tensor], aliases: Mapping[str, str]) -> None:
    """Renames unexpected keys of another head to those of the network's head with the same shape."""
    for theirs, ours in aliases.items():
        for key in [key for key in found if key.startswith(theirs) and key not in expected]:
            alias = ours + key.removeprefix(theirs)
            if alias in expected and alias not in found and found[key].shape == expected[alias].shape:
                found[alias] = found.pop(key)


def _missing_together(missing: Iterable[str], found: Iterable[str], patterns: Iterable[str]) -> set[str]:
    """The missing keys that match a pattern, unless a found key has the same text in the pattern's first group."""
    optional: set[str] = set()
    for pattern in patterns:
        groups = {match[1] for key in found if (match := re.match(pattern, key))}
        optional |= {key for key in missing if (match := re.match(pattern, key)) and match[1] not in groups}
    return optional


def _misfit(key: str, found: Entries, expected: Mapping[str, torch.Tensor]) -> str:
    """Describes why the tensor of a key cannot be loaded; empty if it can."""
    if key not in found:
        return "" if key.endswith("num_batches_tracked") else f"{key} is missing"
    if not isinstance(found[key], torch.Tensor):
        return f"{key} is a {type(found[key]).__name__}"
    entry, ours = found[key], expected[key]
    if entry.shape != ours.shape:
        return f"{key} has shape {tuple(entry.shape)} instead of {tuple(ours.shape)}"
    same_kind = entry.is_floating_point() >= ours.is_floating_point() and entry.is_meta <= ours.is_meta
    if not same_kind or entry.is_complex() or entry.is_quantized or entry.layout != torch.strided:
        return f"{key} is {entry.layout} {entry.dtype} on {entry.device} instead of {ours.dtype}".replace("torch.", "")
    return "" if entry.is_meta or bool(entry.isfinite().all()) else f"{key} holds values that are not finite"


def _check_facts(facts: Mapping[str, Any], network: Network, file: WeightsFile, strict: bool) -> None:
    """Refuses weights that were trained with other settings than the network's, or warns of them."""
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
    """The user's arguments, which override a layout's defaults but not what the file itself states."""
    return frozenset() if file.config else network.given & FUNCTIONAL.keys()


def _remedy(file: WeightsFile, found: Entries, network: Network) -> str:
    """Suggests constructor arguments that fit the file."""
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


def _unwrapped(network: Any) -> Network:
    """The network inside torch.compile, DataParallel and DistributedDataParallel."""
    while not isinstance(network, Network):
        network = network._orig_mod if hasattr(network, "_orig_mod") else network.module
    return network
