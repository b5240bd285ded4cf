"""Files that are missing, damaged or of other programs, and packages that are missing."""

from __future__ import annotations

import importlib.util
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from hrseg.errors import ConfigError, WeightsError
from hrseg.inference import Predictor
from hrseg.inference.exported import is_exported, open_exported, read_description
from hrseg.models import create_model
from tests.exports import RUNTIMES, SUFFIXES, described, image

Exports = Callable[..., Path]
KEPT = {"onnx": 0.9, "openvino": 0.5, "torch": 0.5}  # of the bytes of a truncated file


def copied(path: Path, folder: Path) -> Path:
    for file in path.parent.glob(f"{path.stem}.*"):
        shutil.copy(file, folder)
    return folder / path.name


def refusal(path: Path) -> str:
    """The message of all functions that run a file; it is one line."""
    messages = set()
    for read in (open_exported, Predictor.from_file):
        with pytest.raises(WeightsError) as caught:
            read(path, trust=True)  # type: ignore[operator]
        messages.add(str(caught.value))
    (message,) = messages
    assert "\n" not in message
    assert str(path.with_suffix("")) in message
    return message


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_the_description_is_read_without_trust(runtime: str, exports: Exports) -> None:
    path = exports(runtime)
    assert is_exported(path)
    stated = read_description(path)
    expected = described(runtime, "any")
    own = ("weights", "versions", "smallest")
    for name in vars(expected):
        if name not in own:
            assert getattr(stated, name) == getattr(expected, name), name
    assert stated.smallest == (5 if runtime == "torch" else 1)
    assert len(stated.weights) == 64
    assert torch.__version__.startswith(stated.versions["torch"])


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_damaged_files(runtime: str, exports: Exports, tmp_path: Path) -> None:
    path = copied(exports(runtime), tmp_path)
    content = path.read_bytes()
    for damaged in (b"", b"nonsense" * 100, content[: int(KEPT[runtime] * len(content))]):
        path.write_bytes(damaged)
        assert "cannot be" in refusal(path) or "is no archive" in refusal(path)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_missing_files_and_other_suffixes(runtime: str, tmp_path: Path) -> None:
    assert "`hrseg export` makes it" in refusal(tmp_path / f"absent{SUFFIXES[runtime]}")
    (tmp_path / "model.tflite").touch()
    assert not is_exported(tmp_path / "model.tflite")
    with pytest.raises(WeightsError, match=r"is no exported file; expected one of \.onnx \.xml \.pt2"):
        open_exported(tmp_path / "model.tflite")


def test_a_description_without_its_weights(exports: Exports, tmp_path: Path) -> None:
    path = copied(exports("openvino"), tmp_path)
    path.with_suffix(".bin").unlink()
    assert f"no file {path.with_suffix('.bin')}, which holds the weights of model.xml" in refusal(path)


def test_onnx_files_of_other_programs(tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper

    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "ab"]
    graph = helper.make_graph([helper.make_node("Relu", ["a"], ["b"])], "g", values[:1], values[1:])
    path = tmp_path / "other.onnx"
    onnx.save(helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 18)]), path)
    assert "was not written by `hrseg export`" in refusal(path)


def test_openvino_files_of_other_programs(tmp_path: Path) -> None:
    import openvino
    from openvino import opset13 as ops

    parameter = ops.parameter([1])
    path = tmp_path / "other.xml"
    openvino.save_model(openvino.Model([ops.result(ops.relu(parameter))], [parameter]), path)
    assert "was not written by `hrseg export`" in refusal(path)


def test_archives_of_other_programs(tmp_path: Path) -> None:
    path = tmp_path / "other.pt2"
    torch.export.save(torch.export.export(nn.ReLU(), (torch.zeros(1),)), path)
    assert "was not written by `hrseg export`" in refusal(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("other.txt", "")
    assert "was not written by `hrseg export`" in refusal(path)


def test_a_file_without_the_values_of_the_network(exports: Exports, tmp_path: Path) -> None:
    import onnx

    path = copied(exports("onnx"), tmp_path)
    model = onnx.load(path)
    for node in model.graph.node:
        node.output[:] = ["other" if name == "logits" else name for name in node.output]
        node.input[:] = ["other" if name == "logits" else name for name in node.input]
    onnx.save(model, path)
    predictor = Predictor.from_file(path)
    predictor(image(33, 35))
    with pytest.raises(WeightsError, match=r"lacks the values normalized and logits; export it again"):
        predictor(image(33, 35), probabilities=True)


@pytest.mark.parametrize(
    ("runtime", "package", "extra"), [("onnx", "onnxruntime", "onnx"), ("openvino", "openvino", "openvino")]
)
def test_a_missing_package_is_reported_with_the_command_that_installs_it(
    runtime: str, package: str, extra: str, exports: Exports, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, find = exports(runtime), importlib.util.find_spec
    monkeypatch.setattr(
        "hrseg.utils.packages.find_spec", lambda name, *args: None if name == package else find(name, *args)
    )
    message = refusal_of_missing(path)
    assert message == f"{package} cannot be imported; install with pip install 'hrseg[{extra}]'"


def refusal_of_missing(path: Path) -> str:
    messages: set[str] = set()
    reads: list[Callable[[Path], Any]] = [open_exported, read_description, Predictor.from_file]
    for read in reads:
        with pytest.raises(ConfigError) as caught:
            read(path)
        messages.add(str(caught.value))
    (message,) = messages
    return message


def test_a_program_of_torch_is_loaded_only_if_it_is_trusted(exports: Exports, monkeypatch: pytest.MonkeyPatch) -> None:
    path = exports("torch")
    monkeypatch.setattr(torch.export, "load", lambda *args: pytest.fail("the file was loaded"))
    with pytest.raises(ConfigError, match=r"evaluates expressions of the file.* give --trust \(trust=True\)"):
        Predictor.from_file(path)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_exported_files_hold_no_weights_for_networks(runtime: str, exports: Exports) -> None:
    for read in (Predictor.from_checkpoint, lambda path: create_model(from_file=path)):
        with pytest.raises(WeightsError, match=r"exported for another runtime, whose weights no network can load"):
            read(exports(runtime))
