from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef

from hrseg.errors import ConfigError
from hrseg.inference import sliding_window


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Conv2d(3, 5, 3, padding=1).double().requires_grad_(False)


def one_at_a_time(
    network: Any, images: Tensor, window: tuple[int, int], stride: tuple[int, int], shift: bool, fill: float
) -> Tensor:
    """Every window by itself, and the mean pixel by pixel."""
    results = []
    for image in images:
        height, width = image.shape[1:]
        sums, counts = torch.zeros(5, height, width).double(), torch.zeros(height, width).double()
        tops, lefts = (
            [index * step for index in range(length) if index == 0 or (index - 1) * step + extent < length]
            for length, extent, step in zip((height, width), window, stride, strict=True)
        )
        for top in tops:
            for left in lefts:
                bottom, right = min(top + window[0], height), min(left + window[1], width)
                first, second = (max(0, bottom - window[0]), max(0, right - window[1])) if shift else (top, left)
                crop = image[:, first:bottom, second:right]
                missing = (0, 0) if shift else (window[0] - crop.shape[1], window[1] - crop.shape[2])
                scores = network(F.pad(crop, (0, missing[1], 0, missing[0]), value=fill)[None])[0]
                sums[:, first:bottom, second:right] += scores[:, : crop.shape[1], : crop.shape[2]]
                counts[first:bottom, second:right] += 1
        results.append(sums / counts)
    return torch.stack(results)


@pytest.mark.parametrize("last_window", ["pad", "shift"])
@pytest.mark.parametrize("batch_size", [1, 3, 100])
@pytest.mark.parametrize(
    ("size", "window", "stride"),
    [
        ((40, 60), (16, 24), (10, 16)),
        ((40, 60), (16, 24), (16, 24)),
        ((41, 67), (16, 24), (7, 11)),
        ((16, 24), (16, 24), (10, 16)),
        ((10, 60), (16, 24), (10, 16)),
        ((10, 12), (16, 24), (10, 16)),
    ],
)
def test_equals_one_window_at_a_time(
    network: nn.Module,
    size: tuple[int, int],
    window: tuple[int, int],
    stride: tuple[int, int],
    batch_size: int,
    last_window: Any,
) -> None:
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    scores = sliding_window(network, images, window, stride, last_window, fill=-2.0, batch_size=batch_size)
    expected = one_at_a_time(network, images, window, stride, last_window == "shift", -2.0)
    torch.testing.assert_close(scores, expected, rtol=0, atol=1e-12)


def test_each_channel_is_filled_with_its_own_value(network: nn.Module) -> None:
    image = torch.randn(1, 3, 10, 10, dtype=torch.float64)
    fill = torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1)
    seen: list[Tensor] = []
    sliding_window(lambda x: seen.append(x) or network(x), image, (12, 12), (12, 12), fill=fill)  # type: ignore
    for channel in range(3):
        assert (seen[0][0, channel, 10:] == channel + 1).all()
        assert (seen[0][0, channel, :, 10:] == channel + 1).all()


def test_windows_of_all_images_go_through_together(network: nn.Module) -> None:
    sizes: list[tuple[int, ...]] = []

    def recorder(windows: Tensor) -> Tensor:
        sizes.append(tuple(windows.shape))
        return network(windows)

    images = torch.zeros(2, 3, 40, 40, dtype=torch.float64)
    sliding_window(recorder, images, (16, 16), (12, 12), batch_size=6)
    assert sizes == [(6, 3, 16, 16), (6, 3, 16, 16), (6, 3, 16, 16)]


@pytest.mark.parametrize(("stride", "batch_size"), [((17, 16), 1), ((16, 17), 1), ((0, 16), 1), ((16, 16), 0)])
def test_settings_out_of_range(stride: tuple[int, int], batch_size: int) -> None:
    with pytest.raises(ConfigError, match="expected a stride of 1 to the window's size"):
        sliding_window(lambda x: x, torch.zeros(1, 3, 40, 40), (16, 16), stride, batch_size=batch_size)


def test_scores_of_windows_are_freed_before_the_next_ones() -> None:
    kept: list[StorageWeakRef] = []

    def scores_of(windows: Tensor) -> Tensor:
        assert all(storage.expired() for storage in kept)
        scores = windows * 2
        kept.append(StorageWeakRef(scores.untyped_storage()))
        return scores

    images = torch.rand(1, 3, 100, 120)
    torch.testing.assert_close(sliding_window(scores_of, images, (32, 32), (20, 20), "shift"), images * 2)
    assert len(kept) > 5


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_sums_have_the_memory_format_of_the_scores(memory_format: torch.memory_format) -> None:
    def scores_of(windows: Tensor) -> Tensor:
        return windows.mul(2).contiguous(memory_format=memory_format)

    images = torch.randn(2, 3, 40, 56)
    scores = sliding_window(scores_of, images, (16, 24), (10, 24), "pad")
    torch.testing.assert_close(scores, 2 * images)
    assert scores.is_contiguous(memory_format=memory_format)
