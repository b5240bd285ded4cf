"""`open_weights`: reads a weights file, and recognises its layout and network."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from hrseg.errors import WeightsError
from hrseg.models.weights.identify import identify
from hrseg.models.weights.layouts import LAYOUTS, Entries, Layout, recognise, unwrapped
from hrseg.models.weights.read import OWN_KEY, read_content
from hrseg.utils.checks import join_first

_TASK_PREFIX = "network."  # of the network's keys in training checkpoints

# arguments that change results but no shape -> their value for networks without the argument
FUNCTIONAL = {"fuse_mode": None, "align_corners": None, "channel_order": "rgb", "negative_slope": 0.0}

# keys under which training scripts save the state dict; an average (EMA) is the last resort
_STATE_DICT_KEYS = ("state_dict", "model", "model_state", "model_state_dict", "net", "network", "ema", "state_dict_ema")


@dataclass(frozen=True)
class WeightsFile:
    """The content of a weights file.

    Args:
        where: What messages call the file.
        config: Name and constructor arguments of the network if the file is hrseg's, else empty.
        layout: How its keys are named.
        entries: The state dict with the file's keys, without the prefixes of wrappers.
        other_keys: Keys outside the network, such as those of a loss.
    """

    where: str
    config: Mapping[str, Any]
    layout: Layout
    entries: Entries
    other_keys: tuple[str, ...]

    @property
    def origin(self) -> str:
        """The kind of file."""
        return "hrseg" if self.config else self.layout.origin

    def converted(self, wanted: Callable[[str], bool]) -> tuple[Entries, dict[str, str]]:
        """Renames keys to ours; returns the state dict, and the dropped keys with reasons.

        Args:
            wanted: Whether the network has a key; such a key is never dropped.
        """
        layout = replace(self.layout, finish=_unchanged) if self.config else self.layout
        found, dropped = layout.convert(self.entries, wanted)
        others = {key: self.layout.reason_to_drop(key) or "outside the network" for key in self.other_keys}
        return found, dropped | others

    def description(self) -> dict[str, Any]:
        """Name and constructor arguments of the network, as far as they are known from the file.

        Without "name" if the file holds only a backbone; empty if the backbone is unknown.
        """
        if self.config:
            return dict(self.config)
        found, _ = self.converted(lambda key: True)
        network = identify(found)
        if network is None:
            return {}
        name = {"name": network.family.name.replace("SIZE", network.size)} if network.family else {}
        return {**name, **network.arguments, **self.facts(found)}

    def facts(self, found: Entries) -> dict[str, Any]:
        """The settings of `FUNCTIONAL` that are known from the file; `found` is its state dict with our keys."""
        known = self.config or self.layout.facts_of(found)
        return {name: known[name] for name in FUNCTIONAL if name in known}


def open_weights(
    source: str | os.PathLike[str] | Mapping[str, Any] | WeightsFile, where: str = "the given state dict"
) -> WeightsFile:
    """Opens a weights file without running code in it.

    Args:
        source: A file, what `torch.load` or `read_content` returned for one, or the result of this function.
        where: What messages call a source that is not a file.

    Raises:
        WeightsError: The file cannot be read without running code, or has no known layout.
    """
    if isinstance(source, WeightsFile):
        return source
    content = source if isinstance(source, Mapping) else read_content(source)
    where = where if isinstance(source, Mapping) else str(source)
    try:
        entries, others = unwrapped(_state_dict(content))
    except WeightsError as error:
        raise WeightsError(f"{where}: {error}") from error
    layout, config = recognise(entries), _own_config(content, where)
    if layout is None and config:  # a user's own network, in weights or a training checkpoint of hrseg
        layout = Layout("hrseg", ())
        own = {key.removeprefix(_TASK_PREFIX): entry for key, entry in entries.items() if key.startswith(_TASK_PREFIX)}
        if own:
            entries, others = own, [key for key in entries if not key.startswith(_TASK_PREFIX)]
    if layout is None:
        known = ", ".join(dict.fromkeys(layout.origin for layout in LAYOUTS))
        raise WeightsError(f"{where}: no known layout; found keys {join_first(entries) or '(none)'}; known: {known}")
    return WeightsFile(where, config, layout, entries, tuple(others))


def _own_config(content: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """Name and constructor arguments of the network, from the description in our own files; empty for others."""
    own = content.get(OWN_KEY) or {}
    config = (own.get("network") if isinstance(own, Mapping) else own) or {}
    if not isinstance(config, Mapping) or not isinstance(config.get("name", ""), str):
        raise WeightsError(
            f"{where} describes its network under {OWN_KEY!r} as {config!r:.60}; "
            'expected {"name": "hrnetv2_w18", ...}. Without it, the network is identified by its keys'
        )
    return {} if "class_path" in config else config  # not built by `create_model`


def _state_dict(content: Mapping[str, Any]) -> Entries:
    """Finds the state dict in the content of a training script's file."""
    # some files hold just a name under "model"
    inner = next((content[key] for key in _STATE_DICT_KEYS if isinstance(content.get(key), Mapping)), None)
    if inner is not None:
        return _state_dict(inner)
    return {key: entry for key, entry in content.items() if key != OWN_KEY}


def _unchanged(entries: Entries) -> None:
    """Leaves converted tensors as they are."""
