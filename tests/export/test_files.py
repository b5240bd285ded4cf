"""Files are written whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import pytest
import torch
from torch import nn

from hrseg.errors import ConfigError, OutputError
from hrseg.export import export
from hrseg.export.files import _WRITERS, hash_of_weights
from hrseg.export.onnx_writer import deepness_keys
from hrseg.inference.exported import ExportDescription, read_description
from tests.exports import RUNTIMES, SUFFIXES, describe, exported_to, network
from tests.processes import run

Exports = Callable[..., Path]
FAILURES = [
    OSError(errno.ENOSPC, "No space left on device"),
    RuntimeError("Exception from src/core: Can't write to file"),  # OpenVINO's
]


def fails(error: Exception) -> Callable[..., None]:
    """A writer that fails, after a part of the file."""

    def write(network: nn.Module, description: ExportDescription, path: Path, *others: object) -> None:
        path.write_bytes(b"a part")
        raise error

    return write


def without_room(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)


@pytest.mark.parametrize("error", FAILURES, ids=["OSError", "RuntimeError"])
def test_a_full_disk_leaves_what_there_was(error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.onnx").write_bytes(b"an earlier file")
    monkeypatch.setitem(_WRITERS, "onnx", fails(error))
    without_room(monkeypatch)
    with pytest.raises(OutputError, match=r"model\.onnx.*[Nn]o space left on"):
        export(network(), describe("onnx"), tmp_path / "model.onnx")
    assert os.listdir(tmp_path) == ["model.onnx"]
    assert (tmp_path / "model.onnx").read_bytes() == b"an earlier file"


def test_a_disk_that_fills_up_while_torch_writes(tmp_path: Path) -> None:
    script = """
        import resource, signal
        from pathlib import Path
        from hrseg.errors import OutputError
        from hrseg.export import export
        from tests.exports import describe, network

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))  # bytes of a file
        try:
            export(network(), describe("torch", size=(36, 52)), Path("model.pt2"))
        except OutputError as error:
            print(error)
        """
    done = run(dedent(script), tmp_path)
    assert done.returncode == 0, done.stderr
    assert "model.pt2 cannot be written: File too large" in done.stdout
    assert not list(tmp_path.iterdir())


def test_other_errors_of_writers_are_not_taken_for_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(_WRITERS, "onnx", fails(RuntimeError("a bug")))
    with pytest.raises(RuntimeError, match="a bug"):
        export(network(), describe("onnx"), tmp_path / "new" / "model.onnx")
    assert not list(tmp_path.rglob("*.*"))


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_file_replaces_an_earlier_one_and_states_its_weights(runtime: str, exports: Exports, tmp_path: Path) -> None:
    before = exports(runtime, "fixed")
    first = {file.name for file in before.parent.iterdir()}
    assert first == {
        f"model{SUFFIXES[runtime]}",
        f"predict_{runtime}.py",
        *(["model.bin"] if runtime == "openvino" else []),
    }
    stated = read_description(before)
    assert stated.weights == hash_of_weights(network())
    description = describe(runtime, size=(36, 52))
    for seed in (0, 1):
        path = exported_to(tmp_path, network(seed), description)
    assert {file.name for file in tmp_path.iterdir()} == first
    assert read_description(path).weights == hash_of_weights(network(1)) != stated.weights


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_the_suffix_is_that_of_the_runtime(runtime: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"expected the suffix \{SUFFIXES[runtime]}"):
        export(network(), describe(runtime), tmp_path / "model.bin")
    assert not list(tmp_path.iterdir())


def test_a_folder_in_the_place_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "model.pt2").mkdir()
    with pytest.raises(OutputError, match=r"model\.pt2"):
        export(network(), describe("torch"), tmp_path / "model.pt2")


def test_the_hash_depends_on_names_and_values_alone() -> None:
    made = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    same = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    same.load_state_dict(made.state_dict())
    assert hash_of_weights(made) == hash_of_weights(same)
    with torch.no_grad():
        same[0].weight[0, 0] += 1e-6  # type: ignore[index]
    assert hash_of_weights(made) != hash_of_weights(same)


def test_onnx_files_carry_the_keys_of_deepness(exports: Exports) -> None:
    import onnx

    model = onnx.load(exports("onnx"))
    stored = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(stored["model_type"]) == "Segmentor"
    assert json.loads(stored["class_names"]) == {"0": "sky", "1": "road", "2": "left", "3": "right"}
    assert "tile_size" not in stored
    assert json.loads(deepness_keys(describe("onnx", size=(64, 64)))["tile_size"]) == 64
    assert "tile_size" not in deepness_keys(describe("onnx", size=(64, 96)))


def test_an_onnx_file_has_dynamic_axes_and_no_other_outputs(exports: Exports) -> None:
    import onnx

    model = onnx.load(exports("onnx"))
    onnx.checker.check_model(model)
    (images,) = model.graph.input
    assert images.name == "images"
    *axes, channels = images.type.tensor_type.shape.dim
    assert all(axis.dim_param for axis in axes)
    assert channels.dim_value == 3
    assert [output.name for output in model.graph.output] == ["labels", "confidence", "probabilities"]
