from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from hrseg.callbacks import ProgressiveResizing
from hrseg.errors import ConfigError


def shrunk(factor: int, epoch: int, size: tuple[int, int]) -> tuple[dict[str, Any], dict[str, Any]]:
    generator = torch.Generator().manual_seed(0)
    batch = {
        "image": torch.randint(256, (2, 3, *size), dtype=torch.uint8, generator=generator),
        "target": torch.randint(19, (2, *size), dtype=torch.uint8, generator=generator),
    }
    before = dict(batch)
    ProgressiveResizing(3, factor).on_train_batch_start(SimpleNamespace(current_epoch=epoch), None, batch, 0)  # type: ignore[arg-type]
    return before, batch


@pytest.mark.parametrize("factor", [1, 2, 3])
@pytest.mark.parametrize("size", [(12, 18), (8, 7)])
def test_squares_become_pixels(factor: int, size: tuple[int, int]) -> None:
    before, after = shrunk(factor, 2, size)
    height, width = size[0] // factor, size[1] // factor
    assert after["image"].shape == (2, 3, height, width)
    assert after["target"].shape == (2, height, width)
    for y in range(height):
        for x in range(width):
            square = (slice(y * factor, (y + 1) * factor), slice(x * factor, (x + 1) * factor))
            mean = before["image"][..., square[0], square[1]].double().mean((-2, -1))
            torch.testing.assert_close(after["image"][..., y, x].double(), mean, atol=1e-4, rtol=0)
            middle = before["target"][:, square[0], square[1]][:, factor // 2, factor // 2]
            assert torch.equal(after["target"][:, y, x], middle)


def test_later_epochs_are_left_alone() -> None:
    before, after = shrunk(2, 3, (12, 18))
    assert after["image"] is before["image"]
    assert after["target"] is before["target"]


@pytest.mark.parametrize(("epochs", "factor"), [(-1, 2), (1, 0)])
def test_settings_out_of_range(epochs: int, factor: int) -> None:
    with pytest.raises(ConfigError, match="expected 0 and 1 or more"):
        ProgressiveResizing(epochs, factor)
