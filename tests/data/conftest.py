from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hrseg.data.dataset import Sample
from hrseg.utils.images import write_image


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    rng = np.random.default_rng(0)
    made = []
    for number in range(6):
        sample = Sample(f"n{number}", tmp_path / f"{number}.png", tmp_path / f"{number}_label.png")
        write_image(sample.image, rng.integers(0, 256, (40, 60, 3), dtype=np.uint8))
        write_image(sample.label, rng.choice(np.array([0, 10, 20], np.uint8), (40, 60)))
        made.append(sample)
    return made
