"""The scripts beside exported files, run without torch and hrseg."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hrseg.inference import Predictor
from tests.exports import LABELS, RUNTIMES, image

Exports = Callable[..., Path]
PACKAGES = {"onnx": "onnxruntime", "openvino": "openvino"}
# with what these packages need to be imported
OTHERS = ("numpy", "pillow", "flatbuffers", "protobuf", "packaging", "openvino-telemetry")


def entries_of(distribution: str) -> set[Path]:
    """The top folders and files of an installed distribution."""
    try:
        files = importlib.metadata.files(distribution) or []
    except importlib.metadata.PackageNotFoundError:
        return set()
    top = {file.parts[0] for file in files} - {"..", "__pycache__"}
    return {Path(str(importlib.metadata.distribution(distribution).locate_file(name))) for name in top}


def run_alone(script: Path, arguments: list[Path], packages: Path) -> subprocess.CompletedProcess[str]:
    """Runs a script with the standard library and a folder of packages."""
    code = (
        "import runpy, sys; sys.path.append(sys.argv[1]); sys.argv[:] = sys.argv[2:]; "
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "assert not {'torch', 'hrseg'} & set(sys.modules)\n"
        "from importlib.util import find_spec; assert find_spec('torch') is None; assert find_spec('hrseg') is None"
    )
    command = [sys.executable, "-I", "-S", "-c", code, str(packages), str(script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=packages.parent)


@pytest.mark.parametrize("runtime", PACKAGES)
@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_a_script_needs_its_runtime_numpy_and_pillow_only(
    runtime: str, suffix: str, exports: Exports, tmp_path: Path
) -> None:
    packages = tmp_path / "packages"
    packages.mkdir()
    for distribution in (PACKAGES[runtime], *OTHERS):
        for entry in entries_of(distribution):
            os.symlink(entry, packages / entry.name)
    model = exports(runtime)
    source, target = tmp_path / f"street{suffix}", tmp_path / "labels.png"
    picture = Image.fromarray(image(67, 93))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    picture.save(source, exif=exif)
    done = run_alone(model.parent / f"predict_{runtime}.py", [model, source, target], packages)
    assert done.returncode == 0, done.stderr
    written = Image.open(target)
    expected = Predictor.from_file(model)(source)
    assert expected.shape == (93, 67)
    np.testing.assert_array_equal(np.asarray(written), expected)
    assert written.getpalette()[:12] == [value for color in LABELS.colors for value in color]  # type: ignore[index]
    shares = dict(line.split(": ") for line in done.stdout.splitlines())
    for index, name in enumerate(LABELS.class_names):
        assert shares.get(name, "0.0%") == f"{(expected == index).mean():.1%}"


def test_the_script_of_torch(exports: Exports, tmp_path: Path) -> None:
    model = exports("torch")
    Image.fromarray(image(67, 93)).save(tmp_path / "a.png")
    script = model.parent / "predict_torch.py"
    done = subprocess.run(
        [sys.executable, script, model, tmp_path / "a.png", tmp_path / "b.png"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    expected = Predictor.from_file(model, trust=True)(image(67, 93))
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "b.png")), expected)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_scripts_are_short(runtime: str, exports: Exports) -> None:
    script = (exports(runtime).parent / f"predict_{runtime}.py").read_text()
    (function,) = (node for node in ast.parse(script).body if isinstance(node, ast.FunctionDef))
    assert function.end_lineno is not None
    assert function.end_lineno - function.lineno <= 20
