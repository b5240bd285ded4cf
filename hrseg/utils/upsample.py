"""Upsampling of logits and feature maps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def upsample(maps: Tensor, size: Sequence[int], align_corners: bool, mode: str = "bilinear") -> Tensor:
    """Upsamples (or downsamples) maps (B, C, h, w) to (B, C, *size).

    Args:
        maps: Floating point. Maps that have the size already are returned as they are, not copied.
        size: (height, width).
        align_corners: See `torch.nn.functional.interpolate`; "nearest" ignores it.
        mode: "bilinear" or "nearest".
    """
    # a graph for any size must not depend on whether two sizes are equal
    is_traced = torch.compiler.is_compiling() or torch.jit.is_tracing()  # type: ignore[attr-defined,no-untyped-call]
    if not is_traced and tuple(maps.shape[-2:]) == tuple(size):
        return maps
    return F.interpolate(maps, size, mode=mode, align_corners=align_corners if mode == "bilinear" else None)
