"""Identification of the network of a state dict by keys and shapes, as registered for each family."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

import hrseg.models.networks  # noqa: F401  # registers them
from hrseg.models.registry import FAMILIES, Family


@dataclass(frozen=True)
class Identified:
    """The network of a state dict.

    Args:
        family: Family of the network; None if the state dict has no head, or an unknown one.
        size: Size of the backbone, such as "w18_small_v1".
        arguments: Constructor arguments that follow from the shapes.
    """

    family: Family | None
    size: str
    arguments: dict[str, Any]


def identify(entries: Mapping[str, Any]) -> Identified | None:
    """Identifies the network of a state dict with our keys; None if its backbone is unknown."""
    shapes = {key: tuple(entry.shape) for key, entry in entries.items() if isinstance(entry, torch.Tensor)}
    backbones = {family.backbone for family in FAMILIES.values() if family.backbone is not None}
    # backbones with other than plain blocks have a key of their own
    special = {backbone for backbone in backbones if backbone.block_key in shapes}
    plain = {backbone for backbone in backbones if not backbone.block_key}
    try:
        read = {backbone: backbone.read(shapes) for backbone in special or plain}
        candidates = [
            (family, *found)
            for family in FAMILIES.values()
            if family.backbone is not None and (found := read.get(family.backbone)) is not None
        ]
        if not candidates:
            return None
        matching = [found for found in candidates if found[0].head_keys and shapes.keys() >= set(found[0].head_keys)]
        if not matching:
            return Identified(None, *candidates[0][1:])
        family, size, arguments = max(matching, key=lambda found: len(found[0].head_keys))
        classes = {"num_classes": shapes[family.classes_key][0]} if family.classes_key in shapes else {}
        return Identified(family, size, {**arguments, **classes, **family.head_arguments(shapes)})
    except (IndexError, ValueError):  # tensors with other numbers of dimensions
        return None
