"""Self-attention within local windows, with a learned bias for each relative position.

Attribute names are those of HRFormer's official code.

Source:
    Yuan et al., "HRFormer: High-Resolution Transformer for Dense Prediction", arXiv 2110.09408, section 3;
    HRNet/HRFormer, cls/models/hrt.py and seg/lib/models/backbones/hrt/. For the bias: Liu et al., "Swin Transformer",
    arXiv 2103.14030.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hrseg.errors import WeightsError
from hrseg.utils.upsample import upsample

BIAS_TABLE, BIAS_INDEX = "relative_position_bias_table", "relative_position_index"


class RelativeAttention(nn.Module):
    """Multi-head self-attention within a window, with a learned relative position bias.

    Args:
        width: C, the channels.
        heads: Number of heads; divides the width.
        window_size: Side of a window; L is its square.
    """

    relative_position_index: Tensor

    def __init__(self, width: int, heads: int, window_size: int) -> None:
        super().__init__()
        self.heads = heads
        self.relative_position_bias_table = nn.Parameter(torch.empty((2 * window_size - 1) ** 2, heads))
        self.register_buffer(BIAS_INDEX, relative_positions(window_size))
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.q_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Maps windows (N, L, C) to the same shape."""
        query, key, value = (
            project(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        bias = self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1).contiguous()
        # four dimensions: the fast kernels take no three-dimensional mask
        x = F.scaled_dot_product_attention(query, key, value, bias.to(query.dtype).unsqueeze(0))
        x = x.transpose(1, 2)
        if torch.compiler.is_compiling():  # the memory layout here is not that of a decomposed attention, as in ONNX
            x = x.clone(memory_format=torch.contiguous_format)
        out: Tensor = self.out_proj(x.flatten(2))
        return out


class WindowAttention(nn.Module):
    """Self-attention within windows that tile the map, without overlap or shift.

    Maps are padded with zeros, evenly on all sides, to a multiple of the window size; the padding is not masked.

    Args:
        width: C, the channels.
        heads: Number of heads; divides the width.
        window_size: Side of the windows.
    """

    def __init__(self, width: int, heads: int, window_size: int) -> None:
        super().__init__()
        self.window_size = window_size
        self.attn = RelativeAttention(width, heads, window_size)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, h, w, C), channels last, to the same shape."""
        if torch.compiler.is_exporting():
            return self._by_index(x)
        side = self.window_size
        batch, height, width, channels = x.shape
        rows, columns, top, left = self._tiling(height, width)
        bottom, right = rows * side - height - top, columns * side - width - left
        # unconditional, so that traced graphs do not depend on whether there is anything to pad
        x = F.pad(x, (0, 0, left, right, top, bottom))
        # one name, which frees each intermediate early
        x = x.reshape(batch, rows, side, columns, side, channels).transpose(2, 3)
        x = x.reshape(batch * rows * columns, side * side, channels)
        x = self.attn(x)
        x = x.reshape(batch, rows, columns, side, side, channels).transpose(2, 3)
        x = x.reshape(batch, rows * side, columns * side, channels)
        return x[:, top : top + height, left : left + width]

    def _by_index(self, x: Tensor) -> Tensor:
        """Computes the same by gathering pixels, for export.

        torch.export specialises dimensions of size 1, so none may be the number of rows or columns of windows, which is
        1 for small maps.
        """
        side = self.window_size
        batch, height, width, channels = x.shape
        rows, columns, top, left = self._tiling(height, width)

        token = torch.arange(rows * columns * side * side, device=x.device)
        window, place = token // (side * side), token % (side * side)
        # differences instead of %: the exporter to ONNX takes no remainder by a size
        window_row = window // columns
        row = window_row * side + place // side - top
        column = (window - window_row * columns) * side + place % side - left
        inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
        source = torch.where(inside, row * width + column, height * width)  # the last is a pixel of zeros
        windows = F.pad(x.reshape(batch, height * width, channels), (0, 0, 0, 1)).index_select(1, source)
        # two steps: a single reshape would depend on whether there is only one window
        windows = self.attn(windows.reshape(-1, channels).reshape(-1, side * side, channels))

        pixel = torch.arange(height * width, device=x.device)
        pixel_row = pixel // width
        row, column = pixel_row + top, pixel - pixel_row * width + left
        source = (row // side * columns + column // side) * (side * side) + row % side * side + column % side
        x = windows.reshape(-1, channels).reshape(batch, -1, channels)
        return x.index_select(1, source).reshape(batch, height, width, channels)

    def _tiling(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Returns the rows and columns of windows, and the padding at the top and on the left."""
        side = self.window_size
        rows, columns = (height + side - 1) // side, (width + side - 1) // side
        return rows, columns, (rows * side - height) // 2, (columns * side - width) // 2


def relative_positions(window_size: int) -> Tensor:
    """Returns the index into the bias table for every pair of pixels of a window, in row-major order.

    Args:
        window_size: Side of the window, w.

    Returns:
        (w * w, w * w) int64: the row-major index of the offset from key to query, each component from -(w - 1).

    >>> relative_positions(2)
    tensor([[4, 3, 1, 0],
            [5, 4, 2, 1],
            [7, 6, 4, 3],
            [8, 7, 5, 4]])
    """
    along = torch.arange(window_size)
    pixels = torch.cartesian_prod(along, along)
    offsets = pixels[:, None] - pixels[None] + window_size - 1
    return offsets[..., 0] * (2 * window_size - 1) + offsets[..., 1]


def resize_bias_tables(entries: Mapping[str, Any], window_size: int) -> dict[str, Any]:
    """Resizes the bias tables of a state dict bilinearly to another window size, and replaces their indices.

    Args:
        entries: State dict of an HRFormer; its keys may have any prefix. Not changed.
        window_size: Side of the new windows.

    Returns:
        The state dict with new tables and indices, where the size differs; all else is unchanged.

    Raises:
        WeightsError: A bias table does not have (2w - 1)² rows.

    Source:
        HRNet/HRFormer, seg/lib/models/tools/module_helper.py, load_model.
    """
    side = 2 * window_size - 1
    resized = dict(entries)
    for name, table in entries.items():
        if not name.endswith(BIAS_TABLE):
            continue
        known = math.isqrt(len(table))
        if known**2 != len(table) or known % 2 == 0:
            raise WeightsError(f"{name} has shape {tuple(table.shape)}; expected (2w - 1)² rows for windows of w x w")
        if known != side:
            image = upsample(table.T.reshape(1, -1, known, known), (side, side), align_corners=False)
            resized[name] = image.reshape(-1, side**2).T.contiguous()
            resized[name.removesuffix(BIAS_TABLE) + BIAS_INDEX] = relative_positions(window_size)
    return resized
