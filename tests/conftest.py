"""Fixtures that more than one test file uses."""

from __future__ import annotations

import signal
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

# a shell that runs the tests in the background has them ignore Ctrl-C, which some of them send
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def seed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The seed that `seed_everything` leaves to all that follows does not go from one test to the next."""
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")


def write_jpeg(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of genuine samples beside the checkout; tests that need it are skipped where it is absent."""
    folder = Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the folder ../shared/data with genuine samples of the data sets is not here")
    return folder


# the test of each data set has the fixture NAME_root, a small copy of it, which the tests of recipes take, too
for path in sorted(Path(__file__).parent.glob("data/datasets/test_*.py")):
    made = vars(import_module(f"tests.data.datasets.{path.stem}"))
    globals().update({name: value for name, value in made.items() if name.endswith("_root")})
