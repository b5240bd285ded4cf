"""Weights files are read, or refused with one line that says what was found; code in them never runs."""

from __future__ import annotations

import argparse
import errno
import io
import os
import pickle
import shlex
import tarfile
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save, save_file

from hrseg.errors import WeightsError
from hrseg.models.weights.read import read_content

WEIGHTS = {"conv1.weight": torch.arange(6.0).view(2, 3)}


def refused(path: Path | str) -> str:
    with pytest.raises(WeightsError) as caught:
        read_content(path)
    message = str(caught.value)
    assert "\n" not in message
    assert "Re-running" not in message
    return message


def torch_file(content: object, **settings: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **settings)
    return buffer.getvalue()


def tar_file() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("weights.pth"))
    return buffer.getvalue()


def zip_file() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("folder/weights.pth", b"")
    return buffer.getvalue()


def script() -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "(it is empty); download"),
        (b"\n<!DOCTYPE html><html>log in</html>", "(it is a web page); download the file again"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:4d\n",
            "LFS pointer to the file); run `git lfs pull`",
        ),
        (b'{"epoch": 3}', "(it is JSON); expected weights as"),
        (b"\x1f\x8b\x08\x00", "(it is compressed with gzip); unpack it"),
        (tar_file(), "(it is a tar archive); unpack it"),
        (zip_file(), "(it is a zip archive that torch.save did not make); unpack it"),
        (script(), "(it is a TorchScript archive, which holds code); where you trust the file"),
        (bytes(range(99, 199)), "(it starts with 63 64 65 66 67 68 69 6a, as no weights file does)"),
        (pickle.dumps({"epoch": 3}, protocol=2), "(it is a pickle that torch.save did not make)"),
        (pickle.dumps({"epoch": 3}, protocol=4), "(it is a pickle that torch.save did not make)"),
        (torch_file(WEIGHTS, pickle_protocol=4), "(it is pickled in a way that is not read safely)"),
        (
            torch_file(WEIGHTS, pickle_protocol=4, _use_new_zipfile_serialization=False),
            "(it is pickled in a way that is not read safely)",
        ),
        (torch_file(WEIGHTS)[:500], "(it is damaged, or cut short at 500 bytes: "),
        (torch_file(WEIGHTS, _use_new_zipfile_serialization=False)[:-4], "(it is damaged, or cut short at "),
        (save(WEIGHTS)[:-1], "(it is damaged, or cut short at "),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
def test_other_kinds_of_files_are_recognised(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    assert refused(path).startswith(f"{path} cannot be read (")
    assert message in refused(path)


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_damage_anywhere_is_reported_in_one_line(kind: str, tmp_path: Path) -> None:
    content = (
        save(WEIGHTS) if kind == "safetensors" else torch_file(WEIGHTS, _use_new_zipfile_serialization=kind == "zip")
    )
    path, rng = tmp_path / "weights.pth", np.random.default_rng(0)
    messages = []
    for _ in range(200):
        damaged = np.frombuffer(content, np.uint8).copy()
        damaged[rng.integers(0, len(damaged), 3)] = rng.integers(0, 256, 3)
        path.write_bytes(damaged[: rng.integers(len(damaged) // 2, 2 * len(damaged))].tobytes())
        try:
            read_content(path)
        except WeightsError as error:
            messages.append(str(error))
    assert len(messages) > 50
    assert not [message for message in messages if "\n" in message or "Re-running" in message]


def test_a_pickle_named_safetensors_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(torch_file(WEIGHTS))
    assert "(it was made by torch.save); name it .pth" in refused(path)


def test_safetensors_under_another_name_are_read(tmp_path: Path) -> None:
    save_file(WEIGHTS, tmp_path / "weights.pth", {"hrseg": '{"network": {"name": "x"}}'})
    content = read_content(tmp_path / "weights.pth")
    assert torch.equal(content["conv1.weight"], WEIGHTS["conv1.weight"])
    assert content["hrseg"] == {"network": {"name": "x"}}


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.longdouble, np.int8, np.int32, np.uint64, np.bool_])
def test_numpy_numbers_of_every_kind_are_read(kind: Any, tmp_path: Path) -> None:
    torch.save({"best_miou": kind(1), "state_dict": WEIGHTS}, tmp_path / "weights.pth")
    best = read_content(tmp_path / "weights.pth")["best_miou"]
    assert (best, type(best)) == (1, kind)


class Malicious:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("executed",)


@pytest.mark.parametrize("values", [True, False])
def test_foreign_objects_are_listed_and_not_created(
    values: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "best.ckpt"
    torch.save({"state_dict": WEIGHTS, "a": argparse.Namespace(), "b": Path("x"), "c": Malicious()}, path)
    with pytest.raises(WeightsError, match=rf"a pickled argparse.Namespace, \S*{type(path).__name__}, posix.mkdir, "):
        read_content(path, values)
    assert not Path("executed").exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_the_remedy_for_foreign_objects_works(zipped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / 'it\'s "mine" {}.pth'
    content = {"state_dict": WEIGHTS, "config": argparse.Namespace()}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    run_remedy(refused(path))
    assert torch.equal(read_content("tensors.pth")["conv1.weight"], WEIGHTS["conv1.weight"])


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_the_remedy_for_whole_networks_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(torch.nn.Linear(2, 2), "module.pth")
    Path("script.pth").write_bytes(script())
    for name in ("module.pth", "script.pth"):
        run_remedy(refused(name))
        assert sorted(read_content("tensors.pth")) == ["bias", "weight"]
        Path("tensors.pth").unlink()


def run_remedy(message: str) -> None:
    python, option, code = shlex.split(message.partition("save its tensors alone: ")[2])
    assert (python, option) == ("python", "-c")
    exec(code, {})


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_reading_without_values(suffix: str, zipped: bool, tmp_path: Path) -> None:
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save({**WEIGHTS, "epoch": 3}, path, _use_new_zipfile_serialization=zipped)
    else:
        save_file(WEIGHTS, path)
    whole, outline = read_content(path), read_content(path, values=False)
    tensor = outline.pop("conv1.weight")
    assert (tensor.device.type, tensor.shape) == ("meta", (2, 3))
    assert outline == {name: entry for name, entry in whole.items() if name != "conv1.weight"}


def test_missing_files_and_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert refused(tmp_path) == f"{tmp_path} is a folder; expected weights as .safetensors, .pth or .ckpt"
    assert refused(tmp_path / "none.pth").startswith(f"no file {tmp_path / 'none.pth'}; expected")
    (tmp_path / "last.ckpt").touch()  # of a run before its first validation
    assert refused(tmp_path / "best.ckpt") == f"no file {tmp_path / 'best.ckpt'}; there is {tmp_path / 'last.ckpt'}"
    assert refused("").startswith("the name of the weights file is empty; expected")

    def denied(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)
    message = refused(tmp_path / "locked.safetensors")
    assert message.endswith("locked.safetensors cannot be read (Permission denied); give a file that you may read")


def test_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    torch.save(WEIGHTS, tmp_path / "weights.pth")
    assert list(read_content("~/weights.pth")) == list(WEIGHTS)
