from __future__ import annotations

import pytest
import torch

from hrseg.utils.upsample import upsample


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
@pytest.mark.parametrize("align_corners", [False, True])
def test_maps_of_the_size_are_returned_as_they_are(align_corners: bool, mode: str) -> None:
    maps = torch.randn(1, 2, 5, 7)
    assert upsample(maps, (5, 7), align_corners, mode) is maps
    assert torch.equal(torch.nn.functional.interpolate(maps, (5, 7), mode=mode), maps)
