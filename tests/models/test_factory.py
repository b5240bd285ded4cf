"""`create_model`: names, arguments and pretrained weights."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import requests
import torch
from safetensors.torch import save_file

from hrseg.errors import ConfigError, UnknownNameError, WeightsError
from hrseg.models import VARIANTS, HRNetV2, create_model, list_models, save_weights
from hrseg.models.registry import BUILDERS, FAMILIES, Family
from hrseg.models.weights.zoo import NAMED_WEIGHTS
from tests.references.hrnet_keys import SIZES, classification_shapes, random_weights

SMALL = "hrnetv2_w18_small_v1"


def test_names() -> None:
    assert list_models() == list(BUILDERS)
    assert list_models("hrnetv2_*small_v?") == ["hrnetv2_w18_small_v1", "hrnetv2_w18_small_v2"]
    assert list_models("hrnetv2_w4?") == ["hrnetv2_w40", "hrnetv2_w44", "hrnetv2_w48"]
    assert list_models("unet") == []


def test_config_builds_the_same_network_again() -> None:
    network = create_model(SMALL, num_classes=4, fuse_mode="nearest", checkpoint_stages=(4,))
    assert network.config == {
        "name": SMALL,
        "num_classes": 4,
        "in_channels": 3,
        "fuse_mode": "nearest",
        "align_corners": False,
        "bn_momentum": 0.01,
        "init": "kaiming",
        "checkpoint_stages": [4],
        "head_kernel": 1,
        "channel_order": "rgb",
    }
    again = create_model(**json.loads(json.dumps(network.config)))
    again.load_state_dict(network.state_dict())
    images = torch.randn(1, 3, 40, 48)
    assert torch.equal(again.eval()(images), network.eval()(images))


@pytest.mark.parametrize("name", [next(iter(family.networks)) for family in FAMILIES.values()])
def test_features_have_the_networks_widths_and_strides(name: str) -> None:
    with torch.device("meta"):
        network = create_model(name)
        maps = network.features(torch.empty(2, 3, 65, 97))  # type: ignore[operator]
    expected = [
        (2, width, math.ceil(65 / stride), math.ceil(97 / stride))
        for width, stride in zip(network.widths, network.strides, strict=True)  # type: ignore[arg-type]
    ]
    assert [tuple(x.shape) for x in maps] == expected


def test_the_default_is_the_official_network_for_cityscapes() -> None:
    config = create_model(SMALL).config
    assert config["num_classes"] == 19
    assert (config["fuse_mode"], config["align_corners"], config["bn_momentum"]) == ("bilinear", False, 0.01)


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("hrnetv2_w49", {}, "unknown model 'hrnetv2_w49'; did you mean .*hrnetv2_w4"),
        ("hrnet_w48", {}, "did you mean hrnetv2_w48"),
        (SMALL, {"fuse_mod": "nearest"}, f"unknown parameter of {SMALL} 'fuse_mod'; did you mean fuse_mode"),
        (SMALL, {"variant": 3}, f"unknown parameter of {SMALL} 'variant'"),
        (SMALL, {"weights": "imagnet"}, "unknown weights 'imagnet'; did you mean imagenet"),
    ],
)
def test_unknown_names(name: str, parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(UnknownNameError, match=message):
        create_model(name, **parameters)


def test_conflicting_arguments(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the name of a model"):
        create_model()
    with pytest.raises(ConfigError, match="or from_file="):
        create_model(weights="imagenet", from_file=tmp_path)


def test_arguments_override_the_file(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_weights(create_model(SMALL, num_classes=5), path)
    assert create_model(from_file=path, bn_momentum=0.1).config["bn_momentum"] == 0.1
    with pytest.raises(WeightsError, match="was trained with fuse_mode='bilinear'"):
        create_model(from_file=path, fuse_mode="nearest")
    with pytest.raises(WeightsError, match="the head does not fit"):
        create_model(from_file=path, num_classes=6)


def test_default_initialisation_with_and_without_weights(tmp_path: Path) -> None:
    """The official initialisation, with a std of 0.001, hardly learns without weights: water IoU 0.00."""
    path = tmp_path / "weights.safetensors"
    random = create_model(SMALL)
    assert random.config["init"] == "kaiming"
    assert random.get_parameter("stage2.0.branches.0.0.conv1.weight").std().item() > 0.05
    assert random.loaded_from is None
    save_file(random_weights(classification_shapes(SIZES[SMALL])), path)
    started = create_model(SMALL, weights=path)
    assert started.config["init"] == "official"
    assert started.get_parameter("last_layer.0.weight").std().item() == pytest.approx(0.001, rel=0.1)
    assert started.loaded_from == str(path)
    assert create_model(SMALL, weights=path, init="kaiming").config["init"] == "kaiming"
    assert create_model(f"{SMALL}_cls", weights=path).config["num_classes"] == 1000  # has no such parameter


def test_official_initialisation_is_unchanged() -> None:
    torch.manual_seed(0)
    network = create_model(SMALL, init="official")
    torch.manual_seed(0)
    plain = HRNetV2(VARIANTS["w18_small_v1"], init="official")
    assert network.get_parameter("conv1.weight").std().item() == pytest.approx(0.001, rel=0.1)
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), plain.parameters(), strict=True))


def test_weights_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    network = create_model(SMALL)
    save_weights(network, path)
    twin = create_model(SMALL, weights=path)
    assert torch.equal(twin.get_parameter("conv1.weight"), network.get_parameter("conv1.weight"))
    with pytest.raises(WeightsError, match=r"no file nowhere\.pth"):
        create_model(SMALL, weights="nowhere.pth")


def test_weights_of_the_same_network_supply_missing_arguments(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_weights(create_model(SMALL, num_classes=5, fuse_mode="nearest"), path)
    config = create_model(SMALL, weights=path).config
    assert (config["num_classes"], config["fuse_mode"]) == (5, "nearest")
    with pytest.raises(WeightsError, match="was trained with fuse_mode='nearest'"):
        create_model(SMALL, weights=path, fuse_mode="bilinear")


def test_imagenet_weights_come_from_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = random_weights(classification_shapes(SIZES[SMALL]))
    save_file(weights, tmp_path / "model.safetensors")
    asked: list[tuple[str, str]] = []

    def download(repository: str, filename: str) -> str:
        asked.append((repository, filename))
        return str(tmp_path / filename)

    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", lambda url: None)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *place: None)
    monkeypatch.setenv("HRSEG_HOME", str(tmp_path / "home"))
    network = create_model(SMALL, num_classes=11, weights="imagenet")
    assert asked == [("timm/hrnet_w18_small.ms_in1k", "model.safetensors")]
    assert torch.equal(network.get_parameter("conv1.weight"), weights["conv1.weight"])


def test_the_message_without_the_hub_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*request: object, **settings: object) -> None:
        raise requests.ConnectionError("no network")

    def offline(repository: str, filename: str) -> str:
        raise ConnectionError("no network\nreally none")

    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", lambda url: None)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", offline)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *place: None)
    monkeypatch.setattr("requests.get", unreachable)
    monkeypatch.setenv("HRSEG_HOME", str(tmp_path / "home"))
    with pytest.raises(WeightsError) as caught:
        create_model("hrnetv2_w18", weights="imagenet")
    message = str(caught.value)
    assert "cannot download model.safetensors of timm/hrnet_w18.ms_in1k from the Hugging Face hub" in message
    assert "give its path as weights=" in message
    assert "\n" not in message


def test_models_without_named_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(NAMED_WEIGHTS["imagenet"], SMALL)
    with pytest.raises(WeightsError, match=f"no imagenet weights are known for {SMALL}; give a file"):
        create_model(SMALL, weights="imagenet")


@pytest.mark.parametrize("family", FAMILIES.values(), ids=lambda family: str(family.name))
def test_networks_with_a_published_backbone_have_imagenet_weights(family: Family) -> None:
    if family.backbone is not None:
        assert set(family.networks) <= set(NAMED_WEIGHTS["imagenet"])
