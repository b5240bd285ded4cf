"""What is released: the version in one place, and a source archive and wheel that work anywhere."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import yaml

import hrseg
from hrseg.utils.images import write_image

ROOT = Path(__file__).parents[1]
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source archive, of a copy of what a clone has: the build writes beside its sources."""
    clone = tmp_path_factory.mktemp("clone")
    for path in ROOT.iterdir():
        if path.suffix in {".cff", ".in", ".md", ".toml", ".txt"} or path.name == "LICENSE":
            shutil.copy(path, clone)
    for name in ("hrseg", "tests", "experiments", "docs", "docker", "notebooks"):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, clone / name, ignore=shutil.ignore_patterns("__pycache__", "_build"))
    build = "from setuptools.build_meta import build_sdist; build_sdist('dist')"
    subprocess.run([sys.executable, "-c", build], cwd=clone, check=True, capture_output=True)
    (path,) = (clone / "dist").iterdir()
    return path


@pytest.fixture(scope="module")
def wheel(sdist: Path) -> Path:
    """The wheel, built of the source archive."""
    options = ["--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*PIP, "wheel", *options, "--wheel-dir", str(sdist.parent), str(sdist)], check=True)
    (path,) = sdist.parent.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel in it, without its dependencies."""
    folder = tmp_path_factory.mktemp("installed")
    subprocess.run([*PIP, "install", "--no-deps", "--no-index", "--target", str(folder), str(wheel)], check=True)
    return folder


def test_the_version_stands_in_one_place() -> None:
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == hrseg.__version__
    assert re.search(r"^## ([\d.]+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)[1] == hrseg.__version__


def test_a_source_archive_holds_what_a_wheel_is_built_of(sdist: Path) -> None:
    assert sdist.name == f"hrseg-{hrseg.__version__}.tar.gz"
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"LICENSE", "README.md", "CHANGELOG.md", "CITATION.cff", "pyproject.toml", "hrseg/__init__.py"} <= names
    assert not [name for name in names if name.startswith("tests")]


def test_a_wheel_holds_every_file_of_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    files = (path for path in (ROOT / "hrseg").rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    assert names == {path.relative_to(ROOT).as_posix() for path in files}
    assert {"hrseg/py.typed", "hrseg/__init__.pyi"} <= names
    assert wheel.name == f"hrseg-{hrseg.__version__}-py3-none-any.whl"


def test_an_installed_wheel_lists_networks_and_predicts(installed: Path, tmp_path: Path) -> None:
    weights = tmp_path / "weights.safetensors"
    hrseg.save_weights(hrseg.create_model("hrnetv2_w18_small_v1", num_classes=11), weights)
    write_image(tmp_path / "street.png", np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8))

    def run(*command: str) -> str:
        environment = {"PYTHONPATH": str(installed), "HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
        command = (sys.executable, "-W", "ignore", *command)
        result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
        return result.stdout

    assert run("-c", "import hrseg; print(hrseg.__file__)").strip() == str(installed / "hrseg" / "__init__.py")
    command = str(installed / "bin" / "hrseg")
    assert run(command, "--version").strip() == f"hrseg {hrseg.__version__}"
    assert "hrnetv2_w48_ocr" in run(command, "models", "hrnetv2*")
    assert "1 of 1 images predicted" in run(
        *(command, "predict", "--images", "street.png"),
        *("--ckpt_path", weights.name, "--labels", "camvid", "--device", "cpu"),
    )
    assert (tmp_path / "predict" / "labels" / "street.png").is_file()
