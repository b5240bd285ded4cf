"""Window attention and its bias tables; test_hrformer.py compares whole networks."""

from __future__ import annotations

import copy

import pytest
import torch

from hrseg.errors import WeightsError
from hrseg.models.networks.hrformer import HRFormer, HRFormerVariant
from hrseg.models.networks.window_attention import WindowAttention, relative_positions, resize_bias_tables
from tests.references.hrformer_plain import table_rows
from tests.references.hrnet_plain import enlarge

TINY = HRFormerVariant(4, heads=1, modules=(1, 1, 1), blocks=1)


@pytest.mark.parametrize("window", [1, 2, 3, 7, 13])
def test_relative_positions(window: int) -> None:
    assert torch.equal(relative_positions(window), table_rows(window))


def test_attention_stays_within_its_window() -> None:
    attention = WindowAttention(8, heads=2, window_size=4)
    maps = torch.randn(1, 12, 12, 8)
    with torch.no_grad():
        before = attention(maps)
        maps[0, 5, 6] += 1
        changed = (attention(maps) - before).abs().sum(-1)[0] > 1e-7
    expected = torch.zeros(12, 12, dtype=torch.bool)
    expected[4:8, 4:8] = True
    assert torch.equal(changed, expected)


@pytest.mark.parametrize("size", [(8, 12), (5, 3), (1, 1), (9, 10)])
def test_exported_attention_gathers_the_same_pixels(size: tuple[int, int]) -> None:
    attention = WindowAttention(8, heads=2, window_size=4).double()
    maps = torch.randn(2, *size, 8, dtype=torch.float64)
    assert torch.allclose(attention._by_index(maps), attention(maps), rtol=0, atol=1e-12)


@pytest.mark.parametrize("window", [3, 13])
def test_bias_tables_are_resized_to_other_windows(window: int) -> None:
    torch.manual_seed(0)
    entries = {f"module.{name}": value for name, value in HRFormer(TINY).double().state_dict().items()}
    before = copy.deepcopy(entries)
    resized = resize_bias_tables(entries, window)
    HRFormer(TINY, window_size=window).load_state_dict(
        {name.removeprefix("module."): value for name, value in resized.items()}
    )
    side = 2 * window - 1
    for name, value in before.items():
        assert torch.equal(entries[name], value)
        if name.endswith("_table"):
            image = value.T.reshape(1, -1, 13, 13)
            expected = enlarge(image, (side, side), "bilinear", align_corners=False).flatten(2)[0].T
            assert torch.allclose(resized[name], expected, rtol=0, atol=1e-12)
        elif name.endswith("_index"):
            assert torch.equal(resized[name], table_rows(window))
        else:
            assert resized[name] is entries[name]


def test_bias_tables_of_the_right_size_stay() -> None:
    entries = HRFormer(TINY).state_dict()
    resized = resize_bias_tables(entries, 7)
    assert all(resized[name] is value for name, value in entries.items())


@pytest.mark.parametrize("rows", [168, 144])
def test_bias_tables_of_invalid_size(rows: int) -> None:
    with pytest.raises(WeightsError, match=rf"attn.relative_position_bias_table has shape \({rows}, 2\); expected"):
        resize_bias_tables({"attn.relative_position_bias_table": torch.zeros(rows, 2)}, 13)
