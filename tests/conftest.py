"""Fixtures that more than one test file uses."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from types import CodeType
from typing import Any

# before torch is imported: threads of several processes on the same cores wait for each other, and spin meanwhile
os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}

import numpy as np
import pytest
from PIL import Image

# tests send these signals, which a shell has its background jobs ignore, and nohup
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# what starts an interpreter, which takes seconds to import torch; and torch's compiler and exporter, which take as long
PROCESSES = ("jupyter_client", "multiprocessing", "nbclient", "subprocess", "tests.processes", "torch.multiprocessing")
COMPILERS = {"compile", "export"}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the tests that start processes or a compiler, themselves, in a fixture or in a function that they call."""
    for item in items:
        if isinstance(item, pytest.Function):
            fixtures = item._fixtureinfo.name2fixturedefs.values()
            functions = [item.function, *(fixture.func for defs in fixtures for fixture in defs)]
            if any(starts_processes(function, set()) for function in functions):
                item.add_marker("process")


def starts_processes(function: Callable[..., Any], seen: set[CodeType]) -> bool:
    """Whether a function, or one of the tests' functions that it names, uses what starts processes or a compiler."""
    code = getattr(function, "__code__", None)
    if code is None or code in seen or not str(function.__module__).startswith("tests"):
        return False
    seen.add(code)
    for name in names_in(code):
        value = function.__globals__.get(name)
        origins = (name, getattr(value, "__name__", ""), getattr(value, "__module__", ""))
        if name in COMPILERS or any(str(origin).startswith(PROCESSES) for origin in origins):
            return True
        if starts_processes(value, seen):
            return True
    return False


def names_in(code: CodeType) -> Iterator[str]:
    """The names of globals, attributes and modules in a function and those defined in it."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from names_in(constant)


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


@pytest.fixture(scope="session")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """Gives the file of a runtime and a kind of `tests.exports.KINDS`, exported once."""
    made: dict[tuple[str, str], Path] = {}

    def file_of(runtime: str, kind: str = "any") -> Path:
        if (runtime, kind) not in made:
            from tests.exports import KINDS, described, exported_to, network  # torch

            folder = tmp_path_factory.mktemp(f"{runtime}_{kind}")
            made[runtime, kind] = exported_to(folder, network(**KINDS[kind][0]), described(runtime, kind))
        return made[runtime, kind]

    return file_of
