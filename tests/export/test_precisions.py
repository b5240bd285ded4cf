"""Which runtimes hold which precisions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hrseg.errors import ConfigError
from hrseg.export import FILE_SUFFIXES, certify, check_precision, export
from hrseg.inference.exported import open_exported
from tests.export.quantized import Layers, described, images, labelled

_REFUSED = [("onnx", "bf16"), ("tensorrt", "int8"), ("torch", "fp16"), ("torch", "int8")]


@pytest.mark.parametrize(("runtime", "precision"), _REFUSED)
def test_what_a_runtime_cannot_run_is_refused(runtime: Any, precision: Any) -> None:
    with pytest.raises(ConfigError, match=f"--precision {precision} with --to {runtime}: .*; expected fp32"):
        check_precision(runtime, precision)


def test_int8_needs_images(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="int8 needs images to calibrate with"):
        export(Layers(is_loud=False).eval(), described("onnx"), tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("runtime", "precision"), [("onnx", "fp16"), ("openvino", "bf16"), ("openvino", "fp16"), ("torch", "bf16")]
)
def test_half_precision_gives_nearly_the_same_labels(runtime: Any, precision: Any, tmp_path: Path) -> None:
    check_precision(runtime, precision)
    network, description = Layers(is_loud=False).eval(), described(runtime).replaced(precision=precision)
    path = tmp_path / f"m{FILE_SUFFIXES[runtime]}"
    files = export(network, description, path)
    exported = open_exported(path, trust=True)
    assert exported.runs_on.endswith(precision)
    certificate = certify(network, exported, labelled(network, images(2), description), files)
    assert certificate.differing / certificate.pixels < 0.02
    assert 0 < certificate.largest_difference < 0.05  # rounded, but not much
