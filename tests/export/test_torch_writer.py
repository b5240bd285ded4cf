"""Machine code by AOTInductor."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hrseg.errors import ConfigError
from hrseg.export import export
from hrseg.inference import Predictor
from tests.exports import describe, image, network, predictor_of


@pytest.mark.slow
def test_a_compiled_file_runs_without_a_compiler(tmp_path: Path) -> None:
    path = tmp_path / "model.pt2"
    export(network(), describe("torch"), path, True)
    predictor = Predictor.from_file(path, trust=True)
    assert "AOTInductor on cpu, fp32" in predictor.runs_on
    for size in ((67, 93), (64, 128)):
        pixels = image(*size)
        expected = predictor_of(network(), describe("torch"))(pixels)
        assert (predictor(pixels) != expected).mean() <= 1e-3
    Image.fromarray(pixels).save(tmp_path / "a.png")
    command = [sys.executable, tmp_path / "predict_torch.py", path, tmp_path / "a.png", tmp_path / "b.png"]
    subprocess.run(command, check=True, env={"PATH": "", "CXX": "no_such_compiler"})
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "b.png")), predictor(pixels))


def test_a_missing_compiler_is_reported_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **options: object) -> None:
        raise RuntimeError("InvalidCxxCompiler: No working C++ compiler found\nmore")

    monkeypatch.setattr(torch._inductor, "aot_compile", fail)
    with pytest.raises(ConfigError, match=r"TwoBranches cannot be compiled .*needs a C\+\+ compiler such as g\+\+"):
        export(network(), describe("torch", size=(36, 52)), tmp_path / "model.pt2", True)
    assert not list(tmp_path.iterdir())
