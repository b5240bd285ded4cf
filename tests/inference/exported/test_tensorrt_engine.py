"""TensorRT files without TensorRT: their layout, what is refused, and the way back from normalised images."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from hrseg.data.labels import LabelTable
from hrseg.errors import ConfigError, WeightsError
from hrseg.inference import IMAGENET_MEAN, IMAGENET_STD, Protocol, normalize
from hrseg.inference.exported import ExportDescription, open_exported, read_description, tensorrt_engine as engines

LABELS = LabelTable("toy", ("sky", "road"), ((1, 2, 3), (4, 5, 6)))
GPU = "NVIDIA H200, compute capability 9.0"


def described(order: str = "rgb", **versions: str) -> ExportDescription:
    return ExportDescription(
        runtime="tensorrt",
        precision="fp16",
        network="hrnetv2_w18",
        labels=LABELS,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        channel_order=order,  # type: ignore[arg-type]
        align_corners=False,
        protocol=Protocol(),
        crop_size=None,
        input_size=None,
        versions=versions,
    )


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "model.engine"
    path.write_bytes(engines.join_engine(described(gpu=GPU, tensorrt="10.9.0"), b"machine code"))
    return path


@pytest.fixture
def tensorrt(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A machine with a GPU and TensorRT, as far as the checks before loading go."""
    module = ModuleType("tensorrt")
    module.__version__ = "10.9.0"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    monkeypatch.setattr(engines, "require_packages", lambda *names: None)
    monkeypatch.setattr(engines, "require_gpu", lambda: GPU)
    return module


def test_description_and_engine_are_told_apart(file: Path) -> None:
    assert read_description(file) == described(gpu=GPU, tensorrt="10.9.0")
    assert engines.split_engine(file)[1] == b"machine code"


@pytest.mark.parametrize("content", [b"", b"ftrt\0\0\0\0 an engine of trtexec"])
def test_a_file_of_another_program_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "foreign.engine"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"foreign\.engine was not written by `hrseg export`"):
        open_exported(path, trust=True)


def test_a_damaged_file_is_refused_before_memory_is_taken(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[8:16] = (2**62).to_bytes(8, "little")
    file.write_bytes(content)
    with pytest.raises(WeightsError, match="damaged"):
        open_exported(file, trust=True)


def test_a_truncated_description_is_refused(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(WeightsError, match=r"its description is damaged.*export it again"):
        open_exported(file, trust=True)


def test_machine_code_needs_trust(file: Path) -> None:
    with pytest.raises(ConfigError, match="--trust"):
        open_exported(file)


def test_a_missing_package_is_told_with_its_extra(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hrseg.utils.packages.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'hrseg\[tensorrt\]'"):
        open_exported(file, trust=True)


def test_a_machine_without_a_gpu_is_told(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "require_packages", lambda *names: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="needs an NVIDIA GPU"):
        open_exported(file, trust=True)


@pytest.mark.usefixtures("tensorrt")
def test_an_engine_of_another_gpu_is_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "require_gpu", lambda: "NVIDIA L4, compute capability 8.9")
    with pytest.raises(WeightsError, match=r"built for gpu NVIDIA H200.*here is NVIDIA L4.*export it again"):
        open_exported(file, trust=True)


def test_an_engine_of_another_version_is_refused(file: Path, tensorrt: ModuleType) -> None:
    tensorrt.__version__ = "11.4.0"  # type: ignore[attr-defined]
    with pytest.raises(WeightsError, match=r"built for tensorrt 10\.9\.0; here is 11\.4\.0"):
        open_exported(file, trust=True)


@pytest.mark.usefixtures("tensorrt")
def test_another_device_is_refused(file: Path) -> None:
    with pytest.raises(ConfigError, match="TensorRT cannot use device cpu"):
        open_exported(file, "cpu", trust=True)


@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_normalised_images_are_restored_exactly(order: str) -> None:
    images = torch.arange(256).repeat(9)[: 3 * 16 * 16 * 3].reshape(3, 16, 16, 3).to(torch.uint8)
    description = described(order)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (description.mean, description.std))
    normalized = normalize(images.permute(0, 3, 1, 2), mean, std, order)
    assert np.array_equal(engines.denormalize(normalized.numpy(), description), images.numpy())


def test_scaled_images_are_refused() -> None:
    images = torch.randn(1, 3, 8, 8)
    scaled = F.interpolate(images, (12, 12), mode="bilinear")
    with pytest.raises(ConfigError, match="no protocol with scales"):
        engines.denormalize(scaled.numpy(), described())
