"""How other code bases call the entries of our networks, written down from their sources, one rule at a time.

A rule is a regular expression for the whole name, and their name; the first that fits counts.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from torch import Tensor

Weights = dict[str, Tensor]
Rules = Sequence[tuple[str, str]]

_BLOCK = r"ocr_distri_head\.object_context_block"
_MM_BLOCK = r"decode_head.1.object_context_block"

MMSEG_FCN: Rules = (
    (r"last_layer\.0\.(.*)", r"decode_head.convs.0.conv.\1"),
    (r"last_layer\.1\.(.*)", r"decode_head.convs.0.bn.\1"),
    (r"last_layer\.3\.(.*)", r"decode_head.conv_seg.\1"),
    (r"(.*)", r"backbone.\1"),
)
MMSEG_OCR: Rules = (
    (r"aux_head\.0\.(.*)", r"decode_head.0.convs.0.conv.\1"),
    (r"aux_head\.1\.(.*)", r"decode_head.0.convs.0.bn.\1"),
    (r"aux_head\.3\.(.*)", r"decode_head.0.conv_seg.\1"),
    (r"conv3x3_ocr\.0\.(.*)", r"decode_head.1.bottleneck.conv.\1"),
    (r"conv3x3_ocr\.1\.(.*)", r"decode_head.1.bottleneck.bn.\1"),
    (_BLOCK + r"\.f_pixel\.0\.(.*)", _MM_BLOCK + r".query_project.0.conv.\1"),
    (_BLOCK + r"\.f_pixel\.1\.0\.(.*)", _MM_BLOCK + r".query_project.0.bn.\1"),
    (_BLOCK + r"\.f_pixel\.2\.(.*)", _MM_BLOCK + r".query_project.1.conv.\1"),
    (_BLOCK + r"\.f_pixel\.3\.0\.(.*)", _MM_BLOCK + r".query_project.1.bn.\1"),
    (_BLOCK + r"\.f_object\.0\.(.*)", _MM_BLOCK + r".key_project.0.conv.\1"),
    (_BLOCK + r"\.f_object\.1\.0\.(.*)", _MM_BLOCK + r".key_project.0.bn.\1"),
    (_BLOCK + r"\.f_object\.2\.(.*)", _MM_BLOCK + r".key_project.1.conv.\1"),
    (_BLOCK + r"\.f_object\.3\.0\.(.*)", _MM_BLOCK + r".key_project.1.bn.\1"),
    (_BLOCK + r"\.f_down\.0\.(.*)", _MM_BLOCK + r".value_project.conv.\1"),
    (_BLOCK + r"\.f_down\.1\.0\.(.*)", _MM_BLOCK + r".value_project.bn.\1"),
    (_BLOCK + r"\.f_up\.0\.(.*)", _MM_BLOCK + r".out_project.conv.\1"),
    (_BLOCK + r"\.f_up\.1\.0\.(.*)", _MM_BLOCK + r".out_project.bn.\1"),
    (r"ocr_distri_head\.conv_bn_dropout\.0\.(.*)", _MM_BLOCK + r".bottleneck.conv.\1"),
    (r"ocr_distri_head\.conv_bn_dropout\.1\.0\.(.*)", _MM_BLOCK + r".bottleneck.bn.\1"),
    (r"cls_head\.(.*)", r"decode_head.1.conv_seg.\1"),
    (r"(.*)", r"backbone.\1"),
)
NVIDIA: Rules = (
    (r"(scale_attn\..*)", r"module.\1"),
    (r"conv3x3_ocr\.1\.(.*)", r"module.ocr.conv3x3_ocr.1.0.\1"),
    (r"aux_head\.1\.(.*)", r"module.ocr.aux_head.1.0.\1"),
    (r"aux_head\.3\.(.*)", r"module.ocr.aux_head.2.\1"),
    (r"((?:conv3x3_ocr|aux_head|ocr_distri_head|cls_head)\..*)", r"module.ocr.\1"),
    (r"(.*)", r"module.backbone.\1"),
)
OPENSEG: Rules = (
    (r"conv3x3_ocr\.1\.(.*)", r"module.conv3x3.1.0.\1"),
    (r"conv3x3_ocr\.(.*)", r"module.conv3x3.\1"),
    (r"aux_head\.1\.(.*)", r"module.aux_head.1.0.\1"),
    (r"aux_head\.3\.(.*)", r"module.aux_head.2.\1"),
    (r"((?:aux_head|ocr_distri_head|cls_head)\..*)", r"module.\1"),
    (r"(.*)", r"module.backbone.\1"),
)
OPENSEG_INPLACE: Rules = (
    (r"conv3x3_ocr\.(.*)", r"module.conv3x3.\1"),
    (r"aux_head\.3\.(.*)", r"module.aux_head.2.\1"),
    (r"(ocr_distri_head\..*\.[13])\.0\.(.*)", r"module.\1.\2"),
    (r"((?:aux_head|ocr_distri_head|cls_head)\..*)", r"module.\1"),
    (r"(.*)", r"module.backbone.\1"),
)
OPENSEG_PLAIN: Rules = (
    (r"last_layer\.1\.(.*)", r"module.cls_head.1.0.\1"),
    (r"last_layer\.(.*)", r"module.cls_head.\1"),
    (r"(.*)", r"module.backbone.\1"),
)
DETECTION: Rules = (
    (r"((?:reduction_conv|fpn_conv)\..*)", r"neck.\1"),
    (r"(.*)", r"backbone.\1"),
)
MMDET: Rules = (
    (r"reduction_conv\.0\.(.*)", r"neck.reduction_conv.conv.\1"),
    (r"fpn_conv\.(\d)\.(.*)", r"neck.fpn_convs.\1.conv.\2"),
    (r"(.*)", r"backbone.\1"),
)
MMPOSE_HRFORMER: Rules = (
    (r"(stage.*\.attn\.attn)\.out_proj\.(.*)", r"backbone.\1.proj.\2"),
    (r"(stage.*)\.mlp\.(.*)", r"backbone.\1.ffn.\2"),
    (r"(.*)", r"backbone.\1"),
)


def renamed(weights: Weights, rules: Rules) -> Weights:
    """The entries under their names."""
    return {_name(name, rules): value for name, value in weights.items()}


def _name(name: str, rules: Rules) -> str:
    for pattern, theirs in rules:
        match = re.fullmatch(pattern, name)
        if match:
            return match.expand(theirs)
    raise KeyError(name)
