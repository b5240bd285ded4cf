"""Layouts of state dicts: key names of other code bases, and settings that their files do not state.

A layout, a row of `LAYOUTS`, is recognised by its keys alone, and converted to the keys of our networks, which are
those of the official code.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from hrseg.errors import WeightsError

logger = logging.getLogger(__name__)

Entries = dict[str, Any]  # a state dict; in damaged files, not all values are tensors
Facts = Mapping[str, object]


@dataclass(frozen=True)
class Layout:
    """The keys of one code base.

    Args:
        origin: Name of the layout in reports.
        proofs: Prefixes of keys that identify the layout; a file must have all of them.
        names: Prefixes of their keys, each with ours; the longest match counts.
        extras: Patterns of keys that most of our networks lack, each with the reason to drop them.
        facts: Constructor arguments of the networks that do not follow from keys and shapes; a function of the
            converted state dict if they depend on it.
        finish: Converts the renamed state dict in place, where renaming is not enough.
    """

    origin: str
    proofs: tuple[str, ...]
    names: Mapping[str, str] = field(default_factory=dict)
    extras: Mapping[str, str] = field(default_factory=dict)
    facts: Facts | Callable[[Entries], Facts] = field(default_factory=dict)
    finish: Callable[[Entries], None] = lambda entries: None

    def is_of(self, entries: Entries) -> bool:
        """Whether the keys have this layout."""
        return all(any(name.startswith(proof) for name in entries) for proof in self.proofs)

    def convert(self, entries: Entries, wanted: Callable[[str], bool]) -> tuple[Entries, dict[str, str]]:
        """Renames keys to ours; returns the state dict, and the dropped keys with reasons.

        Args:
            entries: With the file's keys.
            wanted: Whether the network has one of our keys; such a key is never dropped.
        """
        dropped = {n: reason for n in entries if (reason := self.reason_to_drop(n)) and not wanted(self._ours(n))}
        found = {self._ours(name): entry for name, entry in entries.items() if name not in dropped}
        self.finish(found)
        return found, dropped

    def reason_to_drop(self, name: str) -> str:
        """Why our networks lack a key; empty if they may have it."""
        return next((reason for pattern, reason in self.extras.items() if re.match(pattern, name)), "")

    def facts_of(self, entries: Entries) -> Facts:
        """The constructor arguments that go with a converted state dict."""
        return self.facts(entries) if callable(self.facts) else self.facts

    def theirs(self, name: str) -> str:
        """The name that the code base gives to one of our keys."""
        return _replace_prefix(name, {ours: theirs for theirs, ours in self.names.items()})

    def _ours(self, name: str) -> str:
        return _replace_prefix(name, self.names)


def _replace_prefix(name: str, starts: Mapping[str, str]) -> str:
    """Replaces the longest matching prefix."""
    fitting = max((start for start in starts if name.startswith(start)), key=len, default=None)
    return name if fitting is None else starts[fitting] + name.removeprefix(fitting)


def named_layout(origin: str) -> Layout:
    """The row of `LAYOUTS` with this origin."""
    return next(layout for layout in LAYOUTS if layout.origin == origin)


def recognise(entries: Entries) -> Layout | None:
    """The first of `LAYOUTS` that the keys match; None if there is none."""
    return next((layout for layout in LAYOUTS if layout.is_of(entries)), None)


def unwrapped(entries: Entries) -> tuple[Entries, list[str]]:
    """Removes the prefixes of wrappers: Lightning modules, DistributedDataParallel, torch.compile and others.

    Returns:
        The state dict under the prefix, and the other keys.

    Raises:
        WeightsError: There are several networks, such as a teacher and a student.
    """
    plain = {str(name).replace("_orig_mod.", ""): entry for name, entry in entries.items()}
    wrapper, *others = dict.fromkeys(match[1] for name in plain if (match := _IN_BACKBONE.match(name))) or [""]
    if others:
        raise WeightsError(
            f"there are several networks, under {', '.join(map(repr, (wrapper, *others)))}; give the state dict of one"
        )
    found = {name.removeprefix(wrapper): entry for name, entry in plain.items() if name.startswith(wrapper)}
    return found, [name for name in plain if not name.startswith(wrapper)]


# key of the first block in every code base, after the prefixes of wrapper and layout
_IN_BACKBONE = re.compile(r"(.*?)(?:backbone\.|encoder\.model\.)?stage2\.0\.branches\.0\.0\.")


def _conv_bn(theirs: str, conv: str, norm: str) -> dict[str, str]:
    """Maps OpenMMLab's prefixes of a convolution with batch norm to ours."""
    return {f"{theirs}.conv.": f"{conv}.", f"{theirs}.bn.": f"{norm}."}


def _zero_biases(*names: str) -> Callable[[Entries], None]:
    """Adds zero biases of convolutions before batch norm, which have no effect and which a code base omits."""

    def add(entries: Entries) -> None:
        for name in names:
            weight = entries.get(f"{name}.weight")
            if isinstance(weight, torch.Tensor) and weight.ndim > 0:
                entries.setdefault(f"{name}.bias", weight.new_zeros(len(weight)))

    return add


def _plain_gammas(entries: Entries) -> None:
    """Converts scales of InPlaceABN, whose sign has no effect, to those of plain batch norm."""
    for name, entry in entries.items():
        if f"{name.removesuffix('weight')}running_var" in entries and isinstance(entry, torch.Tensor):
            entries[name] = entry.abs() + _INPLACE_EPSILON


def _plain_gammas_of_old_files(entries: Entries) -> None:
    """`_plain_gammas` for official files of torch 0.4.

    They have the keys of later files, without `num_batches_tracked`. If a scale is negative, the file is taken for one
    of torch 0.4, with a warning. If none is, it may as well be a later file without that key, and InPlaceABN's epsilon
    is left out, which makes no visible difference to the results.
    """
    gammas = [entry for name, entry in entries.items() if f"{name.removesuffix('weight')}running_var" in entries]
    counted = any(name.endswith("num_batches_tracked") for name in entries)
    if not counted and any(isinstance(gamma, torch.Tensor) and bool((gamma < 0).any()) for gamma in gammas):
        logger.warning(
            "batch norm with negative scales and without num_batches_tracked: taken for InPlaceABN of torch 0.4, which "
            "uses absolute values; if it is not, put num_batches_tracked back into the file"
        )
        _plain_gammas(entries)


def _hrformer_of_mmpose(entries: Entries) -> None:
    """Renames layers of the blocks, and splits the joint projection of queries, keys and values into three."""
    for name in list(entries):
        if not re.match(r"stage[234]\.", name):
            continue
        entry = entries.pop(name)
        name = name.replace(".ffn.", ".mlp.").replace(".attn.attn.proj.", ".attn.attn.out_proj.")
        renamed = {name: entry}
        if ".attn.attn.qkv." in name and isinstance(entry, torch.Tensor) and entry.ndim > 0 and len(entry) % 3 == 0:
            renamed = {name.replace(".qkv.", f".{x}_proj."): y for x, y in zip("qkv", entry.chunk(3), strict=True)}
        entries.update(renamed)


def _plain_facts(entries: Entries) -> Facts:
    """The official recipes without OCR set `align_corners` for ADE20K and COCO-Stuff only; elsewhere it is unknown."""
    last = entries.get("last_layer.3.weight")
    classes = len(last) if isinstance(last, torch.Tensor) and last.ndim else 0
    aligned = {19: False, 20: False, 59: False, 60: False, 150: True, 171: True}.get(classes)
    return {"fuse_mode": "bilinear"} | ({} if aligned is None else {"align_corners": aligned})


_INPLACE_EPSILON = 1e-5
_BLOCK = "ocr_distri_head.object_context_block"
_LOSS = {r"(module\.)?loss\.criterion\.": "class weights of the loss"}
_CLASSIFIER = {r"(incre_modules|downsamp_modules|final_layer|classifier)\.": "head of the ImageNet classifier"}
_ALIGNED = {"fuse_mode": "bilinear", "align_corners": True}
_NOT_ALIGNED = {"fuse_mode": "bilinear", "align_corners": False}

_MMSEG_OCR = {
    "backbone.": "",
    **_conv_bn("decode_head.0.convs.0", "aux_head.0", "aux_head.1"),
    "decode_head.0.conv_seg.": "aux_head.3.",
    **_conv_bn("decode_head.1.bottleneck", "conv3x3_ocr.0", "conv3x3_ocr.1"),
    **{
        theirs: ours
        for they, we in {"query": "f_pixel", "key": "f_object"}.items()
        for place, (conv, norm) in enumerate((("0", "1.0"), ("2", "3.0")))
        for theirs, ours in _conv_bn(
            f"decode_head.1.object_context_block.{they}_project.{place}",
            f"{_BLOCK}.{we}.{conv}",
            f"{_BLOCK}.{we}.{norm}",
        ).items()
    },
    **_conv_bn("decode_head.1.object_context_block.value_project", f"{_BLOCK}.f_down.0", f"{_BLOCK}.f_down.1.0"),
    **_conv_bn("decode_head.1.object_context_block.out_project", f"{_BLOCK}.f_up.0", f"{_BLOCK}.f_up.1.0"),
    **_conv_bn(
        "decode_head.1.object_context_block.bottleneck",
        "ocr_distri_head.conv_bn_dropout.0",
        "ocr_distri_head.conv_bn_dropout.1.0",
    ),
    "decode_head.1.conv_seg.": "cls_head.",
}
_OPENSEG_OCR = {
    "backbone.": "",
    **{f"{part}.": f"{part}." for part in ("ocr_distri_head", "cls_head", "aux_head")},
    "conv3x3.": "conv3x3_ocr.",
    "conv3x3.1.0.": "conv3x3_ocr.1.",
    "aux_head.1.0.": "aux_head.1.",
    "aux_head.2.": "aux_head.3.",
}
# keys lack a level where batch norm and activation are one layer
_OPENSEG_INPLACE = {
    "backbone.": "",
    "conv3x3.": "conv3x3_ocr.",
    "aux_head.2.": "aux_head.3.",
    **{
        f"{start}.{norm}.": f"{start}.{norm}.0."
        for start, norms in {
            f"{_BLOCK}.f_pixel": (1, 3),
            f"{_BLOCK}.f_object": (1, 3),
            f"{_BLOCK}.f_down": (1,),
            f"{_BLOCK}.f_up": (1,),
            "ocr_distri_head.conv_bn_dropout": (1,),
        }.items()
        for norm in norms
    },
}
_BGR = {**_ALIGNED, "channel_order": "bgr"}

LAYOUTS = (
    Layout(
        "mmsegmentation OCR",
        ("backbone.", "decode_head.1."),
        _MMSEG_OCR,
        facts=_NOT_ALIGNED,
        finish=_zero_biases("aux_head.0", "conv3x3_ocr.0"),
    ),
    Layout(
        "mmsegmentation",
        ("backbone.", "decode_head.convs."),
        {
            "backbone.": "",
            **_conv_bn("decode_head.convs.0", "last_layer.0", "last_layer.1"),
            "decode_head.conv_seg.": "last_layer.3.",
        },
        {r"auxiliary_head\.": "auxiliary head"},
        _NOT_ALIGNED,
        _zero_biases("last_layer.0"),
    ),
    Layout(
        "NVIDIA",
        ("backbone.", "ocr."),
        {
            "backbone.": "",
            "scale_attn.": "scale_attn.",
            **{f"ocr.{part}.": f"{part}." for part in ("conv3x3_ocr", "ocr_distri_head", "cls_head", "aux_head")},
            "ocr.conv3x3_ocr.1.0.": "conv3x3_ocr.1.",
            "ocr.aux_head.1.0.": "aux_head.1.",
            "ocr.aux_head.2.": "aux_head.3.",
        },
        facts=_NOT_ALIGNED,
    ),
    Layout(
        "openseg with InPlaceABN",
        ("backbone.", "conv3x3.1.weight"),
        _OPENSEG_INPLACE,
        facts={**_BGR, "negative_slope": 0.01},
        finish=_plain_gammas,
    ),
    Layout("openseg or HRFormer segmentation", ("backbone.", "conv3x3.1.0."), _OPENSEG_OCR, facts=_BGR),
    Layout(
        "openseg without OCR",
        ("backbone.", "cls_head.1.0."),
        {
            "backbone.": "",
            "cls_head.": "last_layer.",
            "cls_head.1.0.": "last_layer.1.",
        },
        facts=_BGR,
        finish=_zero_biases("last_layer.3"),
    ),
    Layout("official OCR", ("conv3x3_ocr.",), extras=_LOSS, facts=_ALIGNED, finish=_plain_gammas_of_old_files),
    Layout(
        "official segmentation", ("last_layer.",), extras=_LOSS, facts=_plain_facts, finish=_plain_gammas_of_old_files
    ),
    Layout(
        "SMP encoder",
        ("encoder.model.",),
        {"encoder.model.": ""},
        {
            r"encoder\.model\.(incre_modules|downsamp_modules|final_layer|classifier)\.": "outside the backbone",
            r"(?!encoder\.)": "decoder and head",
        },
    ),
    Layout(  # official and timm alike; timm's SSLD networks have no biases in front of batch norm
        "ImageNet classification",
        ("incre_modules.",),
        extras=_CLASSIFIER,
        finish=_zero_biases(*(f"downsamp_modules.{step}.0" for step in range(3)), "final_layer.0"),
    ),
    Layout(
        "HRFormer of mmpose",
        ("backbone.stage2.0.branches.0.0.ffn.",),
        {"backbone.": ""},
        {r"(?!backbone\.)": "head of the pose network"},
        finish=_hrformer_of_mmpose,
    ),
    Layout("HRFormer of mmpose, backbone", ("stage2.0.branches.0.0.ffn.",), finish=_hrformer_of_mmpose),
    Layout(
        "official detection",
        ("backbone.stage4.", "neck.reduction_conv.0."),
        {"backbone.": "", "neck.reduction_conv.": "reduction_conv.", "neck.fpn_conv.": "fpn_conv."},
        {r"(?!backbone\.)": "outside the backbone"},
    ),
    Layout(
        "OpenMMLab",
        ("backbone.stage4.",),
        {
            "backbone.": "",
            "neck.reduction_conv.conv.": "reduction_conv.0.",
            **{f"neck.fpn_convs.{level}.conv.": f"fpn_conv.{level}." for level in range(5)},
            "keypoint_head.final_layer.": "final_layer.",
            "head.final_layer.": "final_layer.",
        },
        {r"(?!backbone\.)": "outside the backbone"},
        {"fuse_mode": "nearest"},
    ),
    Layout(
        "official pose",
        ("stage4.", "final_layer.weight"),
        extras={r"final_layer\.": "head of the pose network"},
        facts={"fuse_mode": "nearest"},
    ),
    Layout("backbone", ("stage4.",), extras={r"(head|fc)\.": "head of another kind"}),
)
