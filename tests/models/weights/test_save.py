"""Files that `save_weights` writes."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from hrseg.errors import OutputError, WeightsError
from hrseg.models import HRNetV2, Segmenter, create_model, load_weights, save_weights

SMALL = "hrnetv2_w18_small_v1"
Weights = dict[str, Tensor]


def assert_holds(network: Segmenter, weights: Weights) -> None:
    state = network.state_dict()
    for name, value in weights.items():
        assert torch.equal(state[name], value), name


def test_round_trip_through_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "weights.safetensors"
    network = create_model(
        SMALL, num_classes=7, fuse_mode="nearest", align_corners=True, in_channels=4, bn_momentum=0.2
    )
    network.to(memory_format=torch.channels_last)
    save_weights(network, path)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    state = network.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in load_file(path).items())
    with safe_open(path, framework="pt") as file:
        assert json.loads(file.metadata()["hrseg"])["network"] == network.config

    rebuilt = create_model(from_file=path)
    assert rebuilt.config == network.config
    assert_holds(rebuilt, state)
    assert load_weights(rebuilt, path).origin == "hrseg"


def test_a_network_built_by_its_class_is_saved_without_config(tmp_path: Path) -> None:
    network = create_model(SMALL)
    bare = copy.deepcopy(network)
    bare.config = {}
    path = tmp_path / "weights.safetensors"
    save_weights(bare, path)
    assert load_weights(network, path).origin == "official segmentation"
    # without config, the arguments are read from the keys and shapes
    assert create_model(from_file=path).config == {**network.config, "init": "official"}


@pytest.mark.parametrize(("argument", "value"), [("fuse_mode", "nearest"), ("align_corners", True)])
def test_weights_made_with_other_arguments_are_refused(tmp_path: Path, argument: str, value: Any) -> None:
    network = create_model(SMALL)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    path = tmp_path / "weights.safetensors"
    parameters: dict[str, Any] = {argument: value}
    save_weights(create_model(SMALL, **parameters), path)
    with pytest.raises(WeightsError) as caught:
        load_weights(network, path)
    message = str(caught.value)
    assert f"was trained with {argument}={value!r}; the network has {argument}=" in message
    assert message.endswith(f"Build it with {argument}={value!r}, or load the weights anyway with strict=False")
    assert_holds(network, before)


def test_an_interrupted_save_keeps_the_earlier_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "weights.safetensors"
    network = create_model(SMALL)
    save_weights(network, path)
    before = path.read_bytes()

    def full_disk(tensors: Weights, filename: Path, metadata: dict[str, str]) -> None:
        Path(filename).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("hrseg.models.weights.save.save_file", full_disk)
    with pytest.raises(OutputError, match=r"weights.safetensors cannot be written: No space left on device; make room"):
        save_weights(network, path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_other_suffixes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"weights.pth: weights are saved as safetensors"):
        save_weights(create_model(SMALL), tmp_path / "weights.pth")
    assert not list(tmp_path.iterdir())


def test_the_head_of_every_network_is_named() -> None:
    network = create_model(SMALL)
    assert isinstance(network, HRNetV2)
    assert all(hasattr(network, name) for name in network.head_names)
