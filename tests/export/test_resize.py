from __future__ import annotations

import numpy as np
import pytest
import torch

from hrseg.export.resize import resize_bilinear
from hrseg.utils.resize import resize_image


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ((67, 93), (40, 56)),
        ((480, 640), (473, 473)),
        ((35, 120), (40, 56)),
        ((80, 112), (40, 56)),
        ((1, 1), (3, 5)),
        ((1, 9), (31, 2)),
        ((2, 700), (97, 473)),
        ((1234, 3), (473, 101)),
    ],
)
def test_every_pixel_is_that_of_opencv(source: tuple[int, int], target: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*source, 3), dtype=np.uint8)
    images = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    for pixels in (images, 255 * torch.ones_like(images)):
        expected = resize_image(pixels[0].permute(1, 2, 0).numpy().astype(np.uint8), target)
        resized = resize_bilinear(pixels, target)[0].permute(1, 2, 0).numpy()
        np.testing.assert_array_equal(resized, expected)
