"""Which network entries are of, told from their names and shapes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch

from hrseg.models.networks.hrformer import HRFORMER_VARIANTS, HRFormerVariant
from hrseg.models.networks.hrnet import VARIANTS, HRNetVariant
from hrseg.models.networks.window_attention import BIAS_TABLE

# parts of a network that are no trunk -> an entry that only networks with it have, and how their names go; where
# several fit, the first
_FAMILIES = {
    "scale_attn.conv0.weight": "hrnetv2_{size}_ocr_hmsa",
    "cls_head.weight": "hrnetv2_{size}_ocr",
    "last_layer.0.weight": "hrnetv2_{size}",
    "classifier.weight": "hrnetv2_{size}_cls",
    "final_layer.weight": "hrnetv1_{size}",
    "reduction_conv.0.weight": "hrnetv2p_{size}",
}
_WITH_ATTENTION_INSIDE = ("hrnetv2_{size}_ocr_hmsa", "hrnetv2_{size}_ocr", "hrnetv2_{size}")
_HRFORMER_FAMILIES = {"cls_head.weight": "hrformer_{size}_ocr", "classifier.weight": "hrformer_{size}"}
# where the number of classes is seen
_SCORES = ("cls_head.weight", "last_layer.3.weight", "classifier.weight", "final_layer.weight")

# the attributes that are a head in one network or another
HEADS = frozenset(
    {
        *("last_layer", "final_layer", "classifier", "reduction_conv", "fpn_conv"),
        *("conv3x3_ocr", "ocr_distri_head", "cls_head", "aux_head", "scale_attn"),
    }
)


def describe(entries: Mapping[str, Any]) -> dict[str, Any]:
    """Tells name and constructor arguments of the network that entries are of.

    Args:
        entries: Tensors by our names.

    Returns:
        "name", as `create_model` takes it, and what differs among networks of that name and is seen from shapes. No
        "name" if there is no head; nothing at all if the trunk is none of the published ones.
    """
    shapes = {name: tuple(entry.shape) for name, entry in entries.items() if isinstance(entry, torch.Tensor)}
    table = shapes.get(f"stage2.0.branches.0.0.attn.attn.{BIAS_TABLE}")
    size = _size(shapes, table)
    if size is None:
        return {}
    found: dict[str, Any] = {"in_channels": shapes["conv1.weight"][1]}
    families = _HRFORMER_FAMILIES if table else _FAMILIES
    family = next((name for entry, name in families.items() if entry in shapes), None)
    block = _block(entries)
    if block and family not in _WITH_ATTENTION_INSIDE:
        family = None  # a network that is none of ours, on a trunk that is
    if family is not None:
        found = {"name": family.format(size=size + block), **found}
    if classes := next((shapes[name][0] for name in _SCORES if name in shapes), None):
        found["num_classes"] = classes
    if table:
        found["window_size"] = (round(table[0] ** 0.5) + 1) // 2
    elif family in ("hrnetv2_{size}_ocr", "hrnetv2_{size}_ocr_hmsa"):
        found |= _ocr_arguments(shapes)
    elif family == "hrnetv2_{size}":
        found["head_kernel"] = shapes["last_layer.0.weight"][2]
    return found


def _size(shapes: Mapping[str, tuple[int, ...]], table: tuple[int, ...] | None) -> str | None:
    """What the trunk is called, such as "w18_small_v1"."""
    if not {"conv1.weight", "transition1.0.0.weight", "layer1.0.conv1.weight"} <= set(shapes):
        return None
    width, layer1_width = shapes["transition1.0.0.weight"][0], shapes["layer1.0.conv1.weight"][0]
    two, three, four = (_count(shapes, rf"stage{stage}\.(\d+)\.") for stage in (2, 3, 4))
    blocks = _count(shapes, r"stage2\.0\.branches\.0\.(\d+)\.")
    if table:
        trunk = HRFormerVariant(width, table[1], (two, three, four), blocks)
        return next((name for name, variant in HRFORMER_VARIANTS.items() if variant == trunk), None)
    plain = HRNetVariant(width, blocks, (two, three, four), _count(shapes, r"layer1\.(\d+)\."), layer1_width)
    return next((name for name, variant in VARIANTS.items() if variant == plain), None)


def _block(entries: Mapping[str, Any]) -> str:
    """The suffix for attention inside the blocks."""
    start = "stage2.0.branches.0.0.deattn"
    if f"{start}.conv_up.0.weight" in entries:
        return "_psa_s"
    return "_psa_p" if f"{start}.conv_up.weight" in entries else ""


def _ocr_arguments(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    inside = "ocr_distri_head.object_context_block.f_pixel.0"
    if not {"cls_head.weight", "aux_head.0.weight", f"{inside}.weight"} <= set(shapes):
        return {}
    aux_channels, channels, aux_kernel, _ = shapes["aux_head.0.weight"]
    return {
        "mid_channels": shapes["cls_head.weight"][1],
        "key_channels": shapes[f"{inside}.weight"][0],
        "inner_bias": f"{inside}.bias" in shapes,
        "aux_kernel": aux_kernel,
        "aux_channels": None if aux_channels == channels else aux_channels,
    }


def _count(names: Mapping[str, object], pattern: str) -> int:
    return len({match[1] for name in names if (match := re.match(pattern, name))})
