"""Loading of weights in every layout and wrapper, and refusal of files that do not fit."""

from __future__ import annotations

import argparse
import logging
import math
import os
import pickle
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from hrseg.errors import WeightsError
from hrseg.models import VARIANTS, Segmenter, create_model, load_weights
from tests.references.hrnet_keys import (
    SIZES,
    classification_shapes,
    random_weights,
    segmentation_shapes,
    trunk_shapes,
)

SMALL = "hrnetv2_w18_small_v1"
BACKBONE_KEYS = 426
Weights = dict[str, Tensor]


@cache
def _segmentation(num_classes: int) -> Weights:
    return random_weights(segmentation_shapes(SIZES[SMALL], num_classes))


def official(num_classes: int = 19) -> Weights:
    return dict(_segmentation(num_classes))


def with_prefix(prefix: str, weights: Weights) -> Weights:
    return {prefix + name: value for name, value in weights.items()}


def with_loss(weights: Weights) -> Weights:
    return {**weights, "loss.criterion.weight": torch.ones(19)}


@pytest.fixture
def network() -> Segmenter:
    return create_model(SMALL)


@pytest.fixture
def untouched(network: Segmenter) -> Callable[[], bool]:
    before = {name: value.clone() for name, value in network.state_dict().items()}
    return lambda: all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def assert_holds(network: Segmenter, weights: Weights) -> None:
    state = network.state_dict()
    for name, value in weights.items():
        assert torch.equal(state[name], value), name


WRAPPERS: dict[str, Callable[[Weights], dict[str, Any]]] = {
    "bare": lambda w: w,
    "bare with loss": with_loss,
    "model.": lambda w: with_loss(with_prefix("model.", w)),
    "module.model.": lambda w: with_prefix("module.", with_loss(with_prefix("model.", w))),
    "checkpoint.pth.tar": lambda w: {
        "epoch": 484,
        "best_mIoU": np.float64(0.811),
        "state_dict": with_loss(with_prefix("model.", w)),
        "optimizer": {"state": {0: {"momentum_buffer": torch.zeros(3)}}, "param_groups": [{"lr": 0.01, "params": [0]}]},
    },
    "numpy float32": lambda w: {"best_mIoU": np.float32(0.5), "state_dict": w},
    "model": lambda w: {"model": w, "epoch": 3},
    "model_state": lambda w: {"model_state": w},
    "model is a name": lambda w: {"model": "seg_hrnet", "state_dict": w},
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("zipped", [True, False])
def test_official_segmentation_files(network: Segmenter, tmp_path: Path, wrapper: str, zipped: bool) -> None:
    path = tmp_path / "final_state.pth"
    torch.save(WRAPPERS[wrapper](official()), path, _use_new_zipfile_serialization=zipped)
    report = load_weights(network, path)
    assert_holds(network, official())
    assert report.origin == "official segmentation"
    assert sorted(report.matched) == sorted(official())
    assert set(report.dropped.values()) <= {"class weights of the loss"}
    assert len(report.dropped) == ("loss" in wrapper or "model." in wrapper or "tar" in wrapper)
    assert report.initialised == ()


def test_pickles_that_name_the_old_numpy_module(network: Segmenter, tmp_path: Path) -> None:
    path = tmp_path / "old.pth"
    torch.save({"best_mIoU": np.float64(0.8), "state_dict": official()}, path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    assert b"numpy._core.multiarray" in content
    path.write_bytes(content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
    load_weights(network, path)
    assert_holds(network, official())


@pytest.mark.parametrize("name", SIZES)
def test_the_official_names_of_every_model_load_strictly(name: str) -> None:
    shapes = segmentation_shapes(SIZES[name], num_classes=19)
    with torch.device("meta"):
        network = create_model(name)
        weights = {key: torch.empty(shape) for key, shape in shapes.items()}
    report = load_weights(network, weights)
    assert len(report.matched) == len(shapes)
    assert not report.dropped
    assert not report.initialised


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_imagenet_files_leave_the_head_alone(
    network: Segmenter, tmp_path: Path, suffix: str, caplog: pytest.LogCaptureFixture
) -> None:
    weights = random_weights(classification_shapes(SIZES[SMALL]), seed=2)
    path = tmp_path / f"imagenet{suffix}"
    save_file(weights, path) if suffix == ".safetensors" else torch.save(weights, path)
    head = {name: value.clone() for name, value in network.state_dict().items() if name.startswith("last_layer")}
    with caplog.at_level(logging.INFO, "hrseg"):
        report = load_weights(network, path)
    assert_holds(network, {name: weights[name] for name in trunk_shapes(SIZES[SMALL])})
    assert_holds(network, head)
    assert report.origin == "ImageNet classification"
    assert len(report.matched) == BACKBONE_KEYS
    assert len(report.dropped) == 126
    assert set(report.dropped.values()) == {"head of the ImageNet classifier"}
    assert {name.split(".")[0] for name in report.initialised} == {"last_layer"}
    assert "426 keys loaded, 126 dropped (head of the ImageNet classifier), 8 left at their init" in caplog.text
    assert str(path) in caplog.text


@pytest.mark.parametrize(
    ("theirs", "ours"), [("hrnet_w18_small", SMALL), ("hrnet_w18_small_v2", "hrnetv2_w18_small_v2")]
)
def test_timm_weights(theirs: str, ours: str) -> None:
    timm = pytest.importorskip("timm")
    state = timm.create_model(theirs, pretrained=False).state_dict()
    network = create_model(ours)
    report = load_weights(network, state)
    backbone = trunk_shapes(SIZES[ours])
    assert sorted(report.matched) == sorted(backbone)
    assert_holds(network, {name: state[name] for name in backbone})


def test_a_bare_backbone(network: Segmenter) -> None:
    report = load_weights(network, random_weights(trunk_shapes(SIZES[SMALL])))
    assert report.origin == "backbone"
    assert len(report.matched) == BACKBONE_KEYS


@pytest.mark.parametrize("middle", ["", "_orig_mod."])
def test_our_lightning_checkpoints(network: Segmenter, tmp_path: Path, middle: str) -> None:
    path = tmp_path / "best.ckpt"
    state = {
        **with_prefix(f"network.{middle}", official()),
        "loss.class_weights": torch.ones(19),
        "mean": torch.ones(3),
    }
    content = {
        "epoch": 1,
        "pytorch-lightning_version": "2.6.0",
        "state_dict": state,
        "optimizer_states": [{}],
        "hrseg": {"network": network.config, "labels": {}},
    }
    torch.save(content, path)
    report = load_weights(network, path)
    assert_holds(network, official())
    assert report.origin == "hrseg"
    assert report.dropped == {"loss.class_weights": "outside the network", "mean": "outside the network"}
    rebuilt = create_model(from_file=path)
    assert rebuilt.config == network.config
    assert_holds(rebuilt, official())


def test_files_of_old_torch_lack_num_batches_tracked(network: Segmenter) -> None:
    weights = {name: value for name, value in official().items() if not name.endswith("num_batches_tracked")}
    report = load_weights(network, weights)
    assert_holds(network, weights)
    assert network.get_buffer("bn1.num_batches_tracked") == 0
    assert report.initialised == ()


def test_half_precision_is_converted(network: Segmenter) -> None:
    weights = {name: value.half() if value.ndim else value for name, value in official().items()}
    load_weights(network, weights)
    assert network.get_parameter("conv1.weight").dtype == torch.float32
    assert_holds(network, {"conv1.weight": weights["conv1.weight"].float()})


def test_loading_keeps_channels_last(network: Segmenter) -> None:
    network.to(memory_format=torch.channels_last)
    load_weights(network, official())
    assert network.get_parameter("conv2.weight").is_contiguous(memory_format=torch.channels_last)
    assert_holds(network, official())


# ----------------------------------------------------------------------------------------------------------- refusals


def refused(network: Segmenter, source: Any, **options: bool) -> str:
    with pytest.raises(WeightsError) as caught:
        load_weights(network, source, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("strict", [True, False])
def test_another_backbone_is_always_refused(network: Segmenter, untouched: Callable[[], bool], strict: bool) -> None:
    weights = random_weights(segmentation_shapes(SIZES["hrnetv2_w18_small_v2"], 19))
    message = refused(network, weights, strict=strict)
    assert (
        "backbone keys do not fit: layer1.0.conv1.weight has shape (64, 64, 1, 1) instead of (32, 64, 1, 1)" in message
    )
    assert "more" in message
    assert untouched()


@pytest.mark.parametrize("strict", [True, False])
def test_a_missing_backbone_key_is_always_refused(
    network: Segmenter, untouched: Callable[[], bool], strict: bool
) -> None:
    weights = official()
    del weights["stage4.0.fuse_layers.3.0.2.0.weight"]
    message = refused(network, weights, strict=strict)
    assert "1 of 426 backbone keys do not fit: stage4.0.fuse_layers.3.0.2.0.weight is missing" in message
    assert untouched()


def test_unexpected_keys_are_refused_or_dropped(network: Segmenter, untouched: Callable[[], bool]) -> None:
    weights = {**official(), "cls_head.weight": torch.ones(3), "conv1.extra": torch.ones(3)}
    assert "2 unexpected keys: cls_head.weight, conv1.extra" in refused(network, weights)
    assert untouched()
    report = load_weights(network, weights, strict=False)
    assert report.dropped == dict.fromkeys(("cls_head.weight", "conv1.extra"), "unexpected")
    assert_holds(network, official())


def test_another_number_of_classes(network: Segmenter, untouched: Callable[[], bool]) -> None:
    message = refused(network, official(num_classes=20))
    assert "last_layer.3.weight has shape (20, 240, 1, 1) instead of (19, 240, 1, 1)" in message
    assert "reinit_head=True (--model.reinit_head true)" in message
    assert untouched()
    head = {name: value.clone() for name, value in network.state_dict().items() if name.startswith("last_layer")}
    report = load_weights(network, official(num_classes=20), reinit_head=True)
    assert_holds(network, head)
    assert len(report.matched) == BACKBONE_KEYS
    assert {name.split(".")[0] for name in report.dropped} == {"last_layer"}
    assert set(report.dropped.values()) == {"head, discarded by reinit_head"}


def test_half_a_head_is_refused(network: Segmenter, untouched: Callable[[], bool]) -> None:
    weights = official()
    del weights["last_layer.3.bias"]
    assert "the head does not fit: last_layer.3.bias is missing" in refused(network, weights)
    assert untouched()


def test_other_values_than_tensors_are_refused(network: Segmenter, untouched: Callable[[], bool]) -> None:
    weights: dict[str, Any] = {**official(), "conv1.weight": [1.0]}
    assert "conv1.weight is a list" in refused(network, weights)
    assert untouched()


def test_unknown_layouts_are_named(network: Segmenter) -> None:
    weights = {f"encoder.{number}.weight": torch.ones(1) for number in range(9)}
    message = refused(network, weights)
    assert "found keys encoder.0.weight, encoder.1.weight, encoder.2.weight and 6 more" in message
    assert "known: mmsegmentation OCR, mmsegmentation, NVIDIA, " in message
    assert "(none)" in refused(network, {})


def test_a_missing_file(network: Segmenter, tmp_path: Path) -> None:
    assert refused(network, tmp_path / "nowhere.pth").startswith(f"no file {tmp_path}/nowhere.pth")
    assert refused(network, tmp_path).startswith(f"{tmp_path} is a folder; expected weights as")


@pytest.mark.parametrize("suffix", [".pth", ".ckpt", ".safetensors"])
@pytest.mark.parametrize("damage", ["empty", "text", "truncated"])
def test_damaged_files(
    network: Segmenter, untouched: Callable[[], bool], tmp_path: Path, suffix: str, damage: str
) -> None:
    path = tmp_path / f"weights{suffix}"
    save_file(official(), path) if suffix == ".safetensors" else torch.save(official(), path)
    content = path.read_bytes()
    path.write_bytes(
        {"empty": b"", "text": b"<html>not found</html>", "truncated": content[: len(content) // 2]}[damage]
    )
    message = refused(network, path)
    assert message.startswith(f"{path} cannot be read (")
    assert untouched()


def test_a_file_of_something_else(network: Segmenter, tmp_path: Path) -> None:
    path = tmp_path / "numbers.pth"
    torch.save([1, 2, 3], path)
    assert refused(network, path) == f"{path} holds a list; expected a state dict"


def test_a_pickled_class_is_refused_by_name(network: Segmenter, tmp_path: Path) -> None:
    path = tmp_path / "config.pth"
    torch.save({"state_dict": official(), "config": argparse.Namespace(lr=0.1)}, path)
    assert "holds a pickled argparse.Namespace, which could run code" in refused(network, path)


class Malicious:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_malicious_pickle_is_refused_and_not_run(network: Segmenter, tmp_path: Path, zipped: bool) -> None:
    path, trace = tmp_path / "evil.pth", tmp_path / "trace"
    torch.save({"state_dict": official(), "x": Malicious(trace)}, path, _use_new_zipfile_serialization=zipped)
    assert "holds a pickled posix.mkdir" in refused(network, path)
    assert not trace.exists()
    path.write_bytes(pickle.dumps(Malicious(trace)))
    refused(network, path)
    assert not trace.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda entry: entry.masked_fill(entry > 0, math.nan), "conv1.weight holds values that are not finite"),
        (lambda entry: entry.to(torch.int8), "conv1.weight is strided int8 on cpu instead of float32"),
        (lambda entry: entry.to(torch.complex64), "conv1.weight is strided complex64"),
        (lambda entry: entry.to_sparse(), "conv1.weight is sparse_coo float32"),
        (lambda entry: entry.to("meta"), "conv1.weight is strided float32 on meta"),
        (lambda entry: torch.tensor(1.0), r"conv1.weight has shape \(\)"),
    ],
    ids=["NaN", "int8", "complex", "sparse", "meta", "a number"],
)
def test_invalid_tensors_are_refused(change: Callable[[Tensor], Tensor], message: str) -> None:
    network = create_model(SMALL)
    before = {name: entry.clone() for name, entry in network.state_dict().items()}
    weights = dict(create_model(SMALL).state_dict())
    with pytest.raises(WeightsError, match=message) as caught:
        load_weights(network, weights | {"conv1.weight": change(weights["conv1.weight"])})
    assert "\n" not in str(caught.value)
    assert all(torch.equal(entry, before[name]) for name, entry in network.state_dict().items())


def test_several_networks_in_a_file_are_refused() -> None:
    weights = create_model(SMALL).state_dict()
    both = {f"{who}.{name}": entry for who in ("teacher", "student") for name, entry in weights.items()}
    with pytest.raises(
        WeightsError, match=r"several networks, under 'teacher\.', 'student\.'; give the state dict of one"
    ):
        load_weights(create_model(SMALL), both)


@pytest.mark.parametrize("key", ["model_state_dict", "net", "ema"])
def test_state_dicts_are_found_under_the_keys_of_training_scripts(key: str) -> None:
    network = create_model(SMALL)
    weights = network.state_dict()
    for content in ({key: weights, "epoch": 3}, {"model": {"state_dict": weights}}, {"state_dict": {key: weights}}):
        assert len(load_weights(create_model(SMALL), content).matched) == len(weights)


def test_negative_scales_without_num_batches_tracked_stay_in_our_files_and_are_warned_of_in_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    network = create_model(SMALL)
    weights = {name: v.clone() for name, v in network.state_dict().items() if not name.endswith("num_batches_tracked")}
    weights["bn1.weight"][0] = -0.5
    loaded = create_model(from_file={"state_dict": weights, "hrseg": {"network": network.config}})
    assert loaded.get_parameter("bn1.weight")[0] == -0.5
    assert "InPlaceABN" not in caplog.text
    loaded = create_model(from_file=weights)
    assert loaded.get_parameter("bn1.weight")[0] > 0
    assert "taken for InPlaceABN of torch 0.4" in caplog.text


def test_networks_inside_torchs_wrappers() -> None:
    weights = create_model(SMALL).state_dict()
    for wrapped in (nn.DataParallel(create_model(SMALL)), torch.compile(create_model(SMALL))):
        assert len(load_weights(wrapped, weights).matched) == len(weights)


def test_a_plain_head_loads_into_the_auxiliary_head_of_ocr_if_not_strict() -> None:
    weights = create_model(SMALL).state_dict()
    network = create_model(f"{SMALL}_ocr")
    report = load_weights(network, weights, strict=False)
    assert torch.equal(network.get_parameter("aux_head.3.weight"), weights["last_layer.3.weight"])
    assert {name.split(".")[0] for name in report.initialised} == {"conv3x3_ocr", "ocr_distri_head", "cls_head"}


def test_a_missing_key_of_the_head_keeps_its_initialisation_if_not_strict() -> None:
    weights = dict(create_model(SMALL).state_dict())
    del weights["last_layer.3.bias"]
    assert load_weights(create_model(SMALL), weights, strict=False).initialised == ("last_layer.3.bias",)


def test_user_arguments_override_a_layouts_defaults(
    caplog: pytest.LogCaptureFixture,
) -> None:
    weights = create_model(SMALL, align_corners=True).state_dict()
    assert create_model(from_file=weights, align_corners=True).align_corners
    assert "weights usually need align_corners=False; keeping True, as given" in caplog.text
    with pytest.raises(WeightsError, match="Build it with align_corners=False"):  # stated in the file itself
        create_model(from_file={**weights, "hrseg": {"network": create_model(SMALL).config}}, align_corners=True)


@pytest.mark.parametrize(
    ("name", "argument", "value", "usual"),
    [
        (SMALL, "align_corners", True, False),
        (f"{SMALL}_ocr", "align_corners", False, True),
        (SMALL, "fuse_mode", "nearest", "bilinear"),
    ],
)
def test_explicit_arguments_with_official_weights_of_other_settings_were_refused(
    name: str, argument: str, value: Any, usual: Any, caplog: pytest.LogCaptureFixture
) -> None:
    weights = create_model(name).state_dict()
    network = create_model(name, **{argument: value})
    load_weights(network, weights)
    assert f"weights usually need {argument}={usual!r}; keeping {value!r}, as given" in caplog.text
    built = type(network)(VARIANTS["w18_small_v1"], **{argument: value})
    load_weights(built, weights)
    by_default = create_model(name)
    setattr(by_default, argument, value)  # as if it were the default
    with pytest.raises(WeightsError, match=f"Build it with {argument}={usual!r}"):
        load_weights(by_default, weights)
    itself = {**weights, "hrseg": {"network": create_model(name).config}}
    with pytest.raises(WeightsError, match=f"Build it with {argument}={usual!r}"):
        load_weights(network, itself)


def test_align_corners_is_unknown_for_other_numbers_of_classes() -> None:
    weights = create_model(SMALL, 7, align_corners=True).state_dict()
    for align_corners in (False, True):
        load_weights(create_model(SMALL, 7, align_corners=align_corners), weights)


def test_a_classifier_of_another_size_suggests_that_size() -> None:
    weights = create_model(f"{SMALL}_cls").state_dict()
    with pytest.raises(WeightsError, match=rf"Build the network with '{SMALL}_ocr'$"):
        load_weights(create_model("hrnetv2_w18_ocr"), weights)
    grey = create_model(f"{SMALL}_cls", in_channels=1).state_dict()
    with pytest.raises(WeightsError, match=r"Build the network with in_channels=1$"):
        load_weights(create_model(SMALL), grey)


def test_a_backbone_with_attention_blocks_is_a_backbone_alone() -> None:
    backbone = create_model(f"{SMALL}_psa_s").state_dict()
    weights = {name: entry for name, entry in backbone.items() if not name.startswith("last_layer.")}
    with pytest.raises(WeightsError, match="holds only a backbone; name the model"):
        create_model(from_file=weights | {"final_layer.weight": torch.zeros(17, 16, 1, 1)})
