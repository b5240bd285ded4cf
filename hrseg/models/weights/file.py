"""Reading files of weights: what they hold, in whose layout, and which network it is of.

Files are never unpickled beyond tensors, containers and numbers: a file of weights may come from anywhere.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from hrseg.errors import WeightsError
from hrseg.models.weights.identify import describe
from hrseg.models.weights.layouts import LAYOUTS, Entries, Layout, recognise, unwrapped
from hrseg.models.weights.read import OWN_KEY, read_content

_OF_TASK = "network."  # prefix of the network's keys in training checkpoints

# arguments that change results without changing shapes, and what a network without the argument does
FUNCTIONAL = {"fuse_mode": None, "align_corners": None, "channel_order": "rgb", "negative_slope": 0.0}


# where training scripts keep the entries; an average beside the weights themselves is not what was asked for
_AROUND = ("state_dict", "model", "model_state", "model_state_dict", "net", "network", "ema", "state_dict_ema")


@dataclass(frozen=True)
class WeightsFile:
    """What a file of weights holds.

    Args:
        where: What messages call the file.
        config: Name and constructor arguments of the network, if the file is one of ours; empty if not.
        layout: How its entries are named.
        entries: By their own names, without what wrappers put before them.
        beside: Names of what is not in the network itself.
    """

    where: str
    config: Mapping[str, Any]
    layout: Layout
    entries: Entries
    beside: tuple[str, ...]

    @property
    def origin(self) -> str:
        """The kind of file."""
        return "hrseg" if self.config else self.layout.origin

    def converted(self, wanted: Callable[[str], bool]) -> tuple[Entries, dict[str, str]]:
        """The entries by our names, and the names of those dropped with their reasons.

        Args:
            wanted: Whether the network has an entry of that name; such a one is never dropped.
        """
        layout = replace(self.layout, finish=_nothing_more) if self.config else self.layout
        found, dropped = layout.convert(self.entries, wanted)
        return found, dropped | {name: self.layout.reason_to_drop(name) or "beside the network" for name in self.beside}

    def description(self) -> dict[str, Any]:
        """Name and constructor arguments of the network, as far as the file tells.

        There is no "name" if it is of a trunk alone, and nothing at all if that is none of ours.
        """
        if self.config:
            return dict(self.config)
        found, _ = self.converted(lambda name: True)
        try:
            described = describe(found)
        except (IndexError, ValueError):  # entries of our names and other numbers of dimensions
            return {}
        return described | self.facts(found) if described else {}

    def facts(self, found: Entries) -> dict[str, Any]:
        """Of `FUNCTIONAL`, what is known of the network with these entries, which are by our names."""
        known = self.config or self.layout.facts_of(found)
        return {name: known[name] for name in FUNCTIONAL if name in known}


def open_weights(source: str | os.PathLike[str] | Mapping[str, Any] | WeightsFile) -> WeightsFile:
    """Reads a file of weights, or takes what `torch.load` would return for one, or what this function made of either.

    Raises:
        WeightsError: The file cannot be read or is of no known layout; it needs more than tensors and numbers to be
            unpickled.
    """
    if isinstance(source, WeightsFile):
        return source
    where = "the given state dict" if isinstance(source, Mapping) else str(source)
    content = source if isinstance(source, Mapping) else read_content(source)
    try:
        entries, beside = unwrapped(_entries(content))
    except WeightsError as error:
        raise WeightsError(f"{where}: {error}") from error
    layout, config = recognise(entries), _own_config(content, where)
    if layout is None and config:  # a network of a user's own, in a file or a training checkpoint of hrseg
        layout = Layout("hrseg", ())
        own = {key.removeprefix(_OF_TASK): entry for key, entry in entries.items() if key.startswith(_OF_TASK)}
        entries, beside = (own, [key for key in entries if not key.startswith(_OF_TASK)]) if own else (entries, beside)
    if layout is None:
        known = ", ".join(dict.fromkeys(layout.origin for layout in LAYOUTS))
        raise WeightsError(f"{where}: no known layout; found entries {few(entries) or '(none)'}; known: {known}")
    return WeightsFile(where, config, layout, entries, tuple(beside))


def _own_config(content: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """Name and constructor arguments of the network as one of our files states them; empty if it is none."""
    own = content.get(OWN_KEY) or {}
    config = (own.get("network") if isinstance(own, Mapping) else own) or {}
    if not isinstance(config, Mapping) or not isinstance(config.get("name", ""), str):
        raise WeightsError(
            f"{where} describes its network under {OWN_KEY!r} as {config!r:.60}; "
            'expected {"name": "hrnetv2_w18", ...}. Leave that out, and its entries tell the network'
        )
    return {} if "class_path" in config else config  # of a network that is none of ours


def few(texts: Iterable[str], number: int = 3) -> str:
    """The first few of many texts, for a message of one line."""
    texts = list(texts)
    return ", ".join(texts[:number]) + (f" and {len(texts) - number} more" if len(texts) > number else "")


def _entries(content: Mapping[str, Any]) -> Entries:
    """The entries, out of what training scripts put around them."""
    # some files hold a mere name under "model"
    inner = next((content[key] for key in _AROUND if isinstance(content.get(key), Mapping)), None)
    if inner is not None:
        return _entries(inner)
    return {name: entry for name, entry in content.items() if name != OWN_KEY}


def _nothing_more(entries: Entries) -> None:
    """Leaves the entries of our own files as they are."""
