"""Weights of every code base: recognised by their keys, with the same results in our networks."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hrseg.errors import WeightsError
from hrseg.models import Network, Segmenter, create_model, load_weights
from hrseg.models.networks.hrformer import HRFormer
from tests.references.foreign_names import (
    DETECTION,
    MMDET,
    MMPOSE_HRFORMER,
    MMSEG_FCN,
    MMSEG_OCR,
    NVIDIA,
    OPENSEG,
    OPENSEG_INPLACE,
    OPENSEG_PLAIN,
    renamed,
)

SMALL = "hrnetv2_w18_small_v1"
OCR = f"{SMALL}_ocr"
Weights = dict[str, Tensor]


@cache
def _lively(name: str, parameters: str) -> tuple[Network, Weights]:
    torch.manual_seed(0)
    network = create_model(name, **json.loads(parameters))
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    return network.eval(), dict(network.state_dict())


def lively(name: str, **parameters: Any) -> tuple[Network, Weights]:
    """A network built as for a file, with random weights and statistics, and the weights."""
    if re.match(r"hrnetv(1|2)_", name) and not name.endswith("_cls"):  # has the argument
        parameters = {"init": "official", **parameters}
    network, weights = _lively(name, json.dumps(parameters))
    return network, dict(weights)


@torch.inference_mode()
def results(network: Network) -> list[Tensor]:
    images = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    network.eval()
    found = network.outputs(images) if isinstance(network, Segmenter) else network(images)
    return list(found.values()) if isinstance(found, dict) else [found]


def assert_same_results(network: Network, other: Network, tolerance: float = 0.0) -> None:
    for ours, theirs in zip(results(network), results(other), strict=True):
        assert (ours - theirs).abs().max() <= tolerance * theirs.abs().max()


def without_counters(weights: Weights) -> Weights:
    return {name: value for name, value in weights.items() if not name.endswith("num_batches_tracked")}


def classes(number: int) -> dict[str, Any]:
    return {"meta": {"CLASSES": tuple(map(str, range(number))), "PALETTE": [[0, 0, 0]] * number}}


def without(weights: Weights, *names: str) -> Weights:
    """The weights of a code base without biases of these convolutions, merged into batch norm."""
    kept = dict(weights)
    for name in names:
        head, index = name.rsplit(".", 1)
        norm = next(n for n in (f"{head}.{int(index) + 1}", f"{head}.{int(index) + 1}.0") if f"{n}.bias" in weights)
        kept[f"{norm}.running_mean"] = kept[f"{norm}.running_mean"] - kept.pop(f"{name}.bias")
    return kept


# ------------------------------------------------------------------------------------------- layouts and their facts

Case = tuple[str, dict[str, Any], Callable[[Weights], dict[str, Any]], str]
CASES: dict[str, Case] = {
    "mmseg": (
        SMALL,
        {"num_classes": 7},
        lambda w: {**classes(7), "state_dict": renamed(without(w, "last_layer.0"), MMSEG_FCN), "optimizer": {}},
        "mmsegmentation",
    ),
    "mmseg ocr": (
        OCR,
        {"align_corners": False},
        lambda w: {
            **classes(19),
            "state_dict": renamed(without(w, "aux_head.0", "conv3x3_ocr.0"), MMSEG_OCR),
        },
        "mmsegmentation OCR",
    ),
    "nvidia": (
        OCR,
        {"align_corners": False},
        lambda w: {"epoch": 3, "arch": "ocrnet.HRNet", "mean_iu": np.float64(0.8), "state_dict": renamed(w, NVIDIA)},
        "NVIDIA",
    ),
    "nvidia multi-scale": (f"{OCR}_hmsa", {}, lambda w: {"state_dict": renamed(w, NVIDIA)}, "NVIDIA"),
    "psa sequential": (
        f"{SMALL}_psa_s_ocr_hmsa",
        {"num_classes": 65},
        lambda w: {"state_dict": renamed(w, NVIDIA), "command": "train"},
        "NVIDIA",
    ),
    "psa parallel": (
        f"{SMALL}_psa_p_ocr",
        {"align_corners": False},
        lambda w: {"state_dict": renamed(w, NVIDIA)},
        "NVIDIA",
    ),
    "openseg": (
        OCR,
        {"inner_bias": True, "aux_kernel": 3, "channel_order": "bgr"},
        lambda w: {"state_dict": renamed(w, OPENSEG), "config_dict": {"data": {"input_mode": "BGR"}}},
        "openseg or HRFormer segmentation",
    ),
    "openseg ocr_b": (
        OCR,
        {
            "inner_bias": True,
            "aux_kernel": 3,
            "channel_order": "bgr",
            "mid_channels": 256,
            "key_channels": 128,
            "aux_channels": 256,
            "num_classes": 65,
        },
        lambda w: {"state_dict": renamed(w, OPENSEG)},
        "openseg or HRFormer segmentation",
    ),
    "hrformer": (
        "hrformer_t_ocr",
        {"channel_order": "bgr", "num_classes": 59},
        lambda w: {"state_dict": renamed(w, OPENSEG), "config_dict": {}},
        "openseg or HRFormer segmentation",
    ),
    "hrformer window 15": (
        "hrformer_t_ocr",
        {"channel_order": "bgr", "window_size": 15},
        lambda w: {"state_dict": renamed(w, OPENSEG)},
        "openseg or HRFormer segmentation",
    ),
    "hrformer classifier": ("hrformer_t", {}, lambda w: {"model": w, "epoch": 300}, "ImageNet classification"),
    "official": (SMALL, {}, lambda w: {f"model.{n}": value for n, value in w.items()}, "official segmentation"),
    "official ade20k": (SMALL, {"num_classes": 150, "align_corners": True}, lambda w: w, "official segmentation"),
    "official ocr": (
        OCR,
        {"num_classes": 20},
        lambda w: {"best_mIoU": 0.5, "state_dict": {f"model.{n}": value for n, value in w.items()}},
        "official OCR",
    ),
    "official classifier": (f"{SMALL}_cls", {}, lambda w: w, "ImageNet classification"),
    "classifier's training": (
        f"{SMALL}_cls",
        {},
        lambda w: {"epoch": 99, "model": "cls_hrnet", "state_dict": {f"module.{n}": value for n, value in w.items()}},
        "ImageNet classification",
    ),
    "official pose": (
        "hrnetv1_w18_small_v1",
        {"num_classes": 17, "fuse_mode": "nearest"},
        lambda w: w,
        "official pose",
    ),
    "official detection": (
        "hrnetv2p_w18_small_v1",
        {},
        lambda w: {"meta": {}, "state_dict": {**renamed(w, DETECTION), "rpn_head.rpn_cls.bias": torch.ones(3)}},
        "official detection",
    ),
    "mmdetection": (
        "hrnetv2p_w18_small_v1",
        {},
        lambda w: {"state_dict": {**renamed(w, MMDET), "bbox_head.fc_cls.bias": torch.ones(3)}},
        "OpenMMLab",
    ),
}


@pytest.mark.parametrize("counted", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_a_file_builds_its_network(case: str, counted: bool, tmp_path: Path) -> None:
    name, parameters, write, origin = CASES[case]
    network, weights = lively(name, **parameters)
    path = tmp_path / "weights.pth"
    torch.save(write(weights if counted else without_counters(weights)), path)

    found = create_model(from_file=path)
    assert found.config == network.config
    rounding = 1e-5 if "mmseg" in case else 0.0  # a bias is merged into the running mean
    assert_same_results(found, network, rounding)

    again = create_model(**network.config)
    report = load_weights(again, path)
    assert report.origin == origin
    assert report.initialised == ()
    assert set(report.dropped.values()) <= {"outside the backbone"}
    assert_same_results(again, found)


def test_counts_of_the_code_bases_networks() -> None:
    """Counts of parameters and keys, from building the code bases' own networks with 19 classes."""
    with torch.device("meta"):
        w48, small = create_model("hrnetv2_w48"), create_model("hrnetv2_w18_small_v2")
        ocr, small_ocr = create_model("hrnetv2_w48_ocr"), create_model("hrnetv2_w18_small_v2_ocr")
        openseg = create_model("hrnetv2_w48_ocr", inner_bias=True, aux_kernel=3)
        openseg_b = create_model(
            "hrnetv2_w48_ocr",
            inner_bias=True,
            aux_kernel=3,
            mid_channels=256,
            key_channels=128,
            aux_channels=256,
        )
        openseg_plain = create_model("hrnetv2_w48", head_kernel=3)
        multiscale = create_model("hrnetv2_w48_ocr_hmsa")

    def count(network: Network, *absent: str) -> int:
        return sum(p.numel() for name, p in network.named_parameters() if name not in absent)

    assert count(small, "last_layer.0.bias") == 3_939_309
    assert count(w48, "last_layer.0.bias") == 65_858_659
    assert count(small_ocr, "aux_head.0.bias", "conv3x3_ocr.0.bias") == 6_378_496
    assert count(ocr, "aux_head.0.bias", "conv3x3_ocr.0.bias") == 70_371_446
    assert count(openseg) == 74_522_182
    assert count(openseg_b) == 68_952_550
    assert count(openseg_plain, "last_layer.3.bias") == 70_006_560
    assert count(multiscale) == 72_143_430
    assert len(openseg.state_dict()) == 1897
    assert len(without_counters(openseg.state_dict())) == 1583
    assert len(multiscale.state_dict()) == 1903


# ----------------------------------------------------------------------------------------------------- InPlaceABN


def inplace(weights: Weights) -> tuple[Weights, Weights]:
    """Weights as InPlaceABN saves them, with random signs, and equivalent weights of plain batch norm."""
    generator = torch.Generator().manual_seed(5)
    theirs, plain = without_counters(weights), without_counters(weights)
    for name in theirs:
        if name.replace("weight", "running_var") in theirs and name.endswith("weight"):
            signs = torch.randint(0, 2, theirs[name].shape, generator=generator) * 2 - 1
            theirs[name] = theirs[name] * signs
            plain[name] = theirs[name].abs() + 1e-5
    return theirs, plain


def test_openseg_with_inplace_abn(tmp_path: Path) -> None:
    parameters = {"inner_bias": True, "aux_kernel": 3, "channel_order": "bgr", "negative_slope": 0.01}
    network, weights = lively(OCR, **parameters)
    theirs, plain = inplace(weights)
    path = tmp_path / "latest.pth"
    torch.save({"state_dict": renamed(theirs, OPENSEG_INPLACE)}, path)
    found = create_model(from_file=path)
    assert found.config == network.config
    expected = create_model(**network.config)
    expected.load_state_dict(plain, strict=False)
    assert_same_results(found, expected)
    # the slope makes a difference
    straight = create_model(OCR, **{**parameters, "negative_slope": 0.0})
    straight.load_state_dict(plain, strict=False)
    assert not torch.allclose(results(straight)[0], results(found)[0], rtol=1e-3)


@pytest.mark.parametrize("name", [SMALL, OCR])
def test_official_files_of_torch_0_4(name: str) -> None:
    network, weights = lively(name)
    theirs, plain = inplace(weights)
    found = create_model(**network.config)
    load_weights(found, {f"model.{entry}": value for entry, value in theirs.items()})
    expected = create_model(**network.config)
    expected.load_state_dict(plain, strict=False)
    assert_same_results(found, expected)


def test_negative_weights_of_a_counted_batch_norm_stay() -> None:
    _, weights = lively(SMALL)
    weights["bn1.weight"] = -weights["bn1.weight"]
    found = create_model(SMALL)
    load_weights(found, weights)
    assert torch.equal(found.get_parameter("bn1.weight"), weights["bn1.weight"])


def test_the_first_openseg_head_without_ocr_is_refused(tmp_path: Path) -> None:
    _, weights = lively(SMALL, head_kernel=3, channel_order="bgr")
    theirs = {name.replace("cls_head.1.0.", "cls_head.1."): v for name, v in renamed(weights, OPENSEG_PLAIN).items()}
    with pytest.raises(WeightsError, match="holds only a backbone"):
        create_model(from_file=_file(tmp_path, theirs))


def test_openseg_without_ocr(tmp_path: Path) -> None:
    network, weights = lively(SMALL, head_kernel=3, channel_order="bgr", align_corners=True)
    nn.init.zeros_(network.get_parameter("last_layer.3.bias"))  # theirs has none
    theirs = renamed({name: v for name, v in weights.items() if name != "last_layer.3.bias"}, OPENSEG_PLAIN)
    found = create_model(from_file=_file(tmp_path, {"state_dict": theirs}))
    assert found.config == network.config
    assert_same_results(found, network)


# ------------------------------------------------------------------------------------------ backbones of other networks


def test_hrformer_of_mmpose(tmp_path: Path) -> None:
    network, weights = lively("hrformer_t")
    backbone = {n: v for n, v in weights.items() if n.split(".")[0] not in ("incre_modules", "downsamp_modules")}
    backbone = {n: v for n, v in backbone.items() if n.split(".")[0] not in ("final_layer", "classifier")}
    for name in list(backbone):  # queries, keys and values in one matrix
        if ".q_proj." in name:
            parts = [backbone.pop(name.replace(".q_proj.", f".{x}_proj.")) for x in "qkv"]
            backbone[name.replace(".q_proj.", ".qkv.")] = torch.cat(parts)
    theirs = renamed(backbone, MMPOSE_HRFORMER)
    assert "backbone.stage2.0.branches.0.0.attn.attn.qkv.weight" in theirs
    assert "backbone.stage2.0.branches.0.0.ffn.dw3x3.weight" in theirs

    for content in (
        {"state_dict": {**theirs, "head.final_layer.bias": torch.ones(17)}},
        {name.removeprefix("backbone."): value for name, value in theirs.items()},
    ):
        found = create_model("hrformer_t_ocr", weights=_file(tmp_path, content))
        assert isinstance(found, HRFormer)
        assert isinstance(network, HRFormer)
        images = torch.randn(1, 3, 64, 96)
        with torch.inference_mode():
            for ours, own in zip(found.eval().features(images), network.features(images), strict=True):
                assert torch.equal(ours, own)


def test_bias_tables_of_a_classifier_are_resized(tmp_path: Path) -> None:
    """Bias tables are resized bilinearly for a network with larger windows."""
    _, weights = lively("hrformer_t")
    found = create_model("hrformer_t_ocr", weights=_file(tmp_path, weights), window_size=15)
    name = "stage3.1.branches.1.0.attn.attn.relative_position_bias_table"
    small, large = weights[name], found.get_parameter(name)
    assert (len(small), len(large)) == (13**2, 29**2)
    grown = nn.functional.interpolate(small.T.reshape(1, -1, 13, 13), (29, 29), mode="bilinear").flatten(2)[0].T
    assert torch.allclose(large, grown)
    # weights of a segmentation network keep their window size
    _, weights = lively("hrformer_t_ocr", channel_order="bgr")
    with pytest.raises(WeightsError, match="Build the network with window_size=7"):
        load_weights(create_model("hrformer_t_ocr", channel_order="bgr", window_size=15), renamed(weights, OPENSEG))


def test_backbones_of_smp_and_timm(tmp_path: Path) -> None:
    """timm's classifier and SMP's encoder, built by the libraries themselves."""
    smp, timm = pytest.importorskip("segmentation_models_pytorch"), pytest.importorskip("timm")
    unet = smp.Unet("tu-hrnet_w18_small", encoder_weights=None)
    report = load_weights(create_model(SMALL), unet.state_dict())
    assert report.origin == "SMP encoder"
    assert len(report.matched) == 426
    assert set(report.dropped.values()) == {"outside the backbone", "decoder and head"}

    theirs = timm.create_model("hrnet_w18_small", num_classes=10).eval()
    found = create_model(from_file=_file(tmp_path, theirs.state_dict())).eval()
    assert found.config["name"] == f"{SMALL}_cls"
    images = torch.randn(2, 3, 64, 96)
    with torch.inference_mode():
        ours, expected = found(images), theirs(images)
    assert (ours - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_classifier_weights_load_into_every_network(tmp_path: Path) -> None:
    _, weights = lively(f"{SMALL}_cls")
    path = _file(tmp_path, weights)
    for name in (SMALL, OCR, f"{OCR}_hmsa", f"{SMALL}_psa_s", f"{SMALL}_psa_p_ocr", "hrnetv2p_w18_small_v1"):
        network = create_model(name)
        report = load_weights(network, path)
        parts = {entry.split(".")[0] for entry in report.initialised if ".deattn." not in entry}
        assert parts == set(network.head_names)
        assert len(report.matched) == 426
    network = create_model("hrnetv1_w18_small_v1")
    report = load_weights(network, path)
    assert {entry.split(".")[0] for entry in report.initialised} == {"final_layer"}
    assert "not used by the network" in report.dropped.values()


@pytest.mark.parametrize("fuse_mode", ["nearest", "bilinear"])
def test_pose_weights_load_into_a_segmentation_network(fuse_mode: str) -> None:
    """Its last module fuses to the finest map only; fuse layers of the others keep their initialisation."""
    _, weights = lively("hrnetv1_w18_small_v1", num_classes=17)
    v1, v2 = create_model("hrnetv1_w18_small_v1"), create_model(SMALL, fuse_mode=fuse_mode)
    assert set(load_weights(v1, weights, reinit_head=True).initialised) == {"final_layer.weight", "final_layer.bias"}
    report = load_weights(v2, weights)
    left = {name for name in report.initialised if not name.startswith("last_layer.")}
    assert left
    assert all(name.startswith(tuple(f"stage4.0.fuse_layers.{row}." for row in (1, 2, 3))) for name in left)
    assert torch.equal(
        v2.state_dict()["stage4.0.branches.3.0.conv1.weight"], weights["stage4.0.branches.3.0.conv1.weight"]
    )


@pytest.mark.parametrize("head", ["keypoint_head.", "head."])
def test_a_pose_network_of_mmpose_with_its_head(head: str, caplog: pytest.LogCaptureFixture) -> None:
    network, weights = lively("hrnetv1_w18_small_v1", num_classes=17)
    theirs = {(head if n.startswith("final_layer.") else "backbone.") + n: value for n, value in weights.items()}
    assert_same_results(create_model(from_file=theirs), network)
    with caplog.at_level(logging.WARNING, "hrseg"):
        load_weights(create_model("hrnetv1_w18_small_v1", 17, fuse_mode="bilinear"), theirs)
    assert "weights usually need fuse_mode='nearest'; keeping 'bilinear', as given" in caplog.text


def test_the_head_of_an_imagenet_backbone_of_the_pose_code_is_dropped() -> None:
    _, weights = lively(SMALL)
    backbone = {name: value for name, value in weights.items() if not name.startswith("last_layer.")}
    others = {"head.0.0.conv1.weight": torch.zeros(1), "fc.weight": torch.zeros(1)}
    report = load_weights(create_model("hrnetv1_w18_small_v1"), backbone | others)
    assert {report.dropped[name] for name in others} == {"head of another kind"}


@pytest.mark.parametrize("name", ["hrnet_w18_small", "hrnet_w18_ssld"])
def test_classifiers_of_timm(name: str) -> None:
    timm = pytest.importorskip("timm")
    theirs = timm.create_model(name).eval()
    network = create_model(from_file=theirs.state_dict()).eval()
    images = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        expected = theirs(images)
        assert (network(images) - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_foreign_lightning_checkpoint() -> None:
    network, weights = lively(SMALL)
    content = {
        "pytorch-lightning_version": "1.9.0",
        "hyper_parameters": {"lr": 0.01},
        "state_dict": {f"net.backbone_and_head.{name}": value for name, value in weights.items()},
        "callbacks": {},
    }
    found = create_model(SMALL)
    assert load_weights(found, content).origin == "official segmentation"
    assert_same_results(found, network)


# --------------------------------------------------------------------------------------------- conflicting settings


@pytest.mark.parametrize(
    ("case", "name", "parameters", "message"),
    [
        ("mmseg ocr", OCR, {}, "was trained with align_corners=False; the network has align_corners=True"),
        ("openseg", OCR, {"inner_bias": True, "aux_kernel": 3}, "was trained with channel_order='bgr'"),
        ("official ade20k", SMALL, {"num_classes": 150}, "Build it with align_corners=True"),
        ("official", SMALL, {"num_classes": 20}, "Build the network with num_classes=19, or reinitialise the head"),
        ("official", "hrnetv2_w18_small_v2", {}, f"Build the network with '{SMALL}'$"),
        ("official ocr", OCR, {}, "Build the network with num_classes=20, or reinit"),
        ("official ocr", SMALL, {"align_corners": True}, f"Build the network with '{OCR}', num_classes=20"),
        ("official", OCR, {"align_corners": False}, f"Build the network with '{SMALL}'"),
        ("openseg", OCR, {"channel_order": "bgr"}, "Build the network with inner_bias=True, aux_kernel=3"),
        ("nvidia multi-scale", OCR, {"align_corners": False}, f"Build the network with '{OCR}_hmsa'"),
        ("nvidia", f"{OCR}_hmsa", {}, f"Build the network with '{OCR}'"),
        ("psa parallel", OCR, {"align_corners": False}, f"Build the network with '{SMALL}_psa_p_ocr'"),
        ("nvidia", f"{SMALL}_psa_s_ocr", {"align_corners": False}, f"Build the network with '{OCR}'"),
    ],
)
def test_conflicting_settings_name_fitting_arguments(
    case: str, name: str, parameters: dict[str, Any], message: str
) -> None:
    made, arguments, write, _ = CASES[case]
    weights = lively(made, **arguments)[1]
    network = create_model(name, **parameters)
    before = network.get_parameter("conv1.weight").clone()
    with pytest.raises(WeightsError, match=message) as caught:
        load_weights(network, write(weights))
    assert "\n" not in str(caught.value)
    assert torch.equal(network.get_parameter("conv1.weight"), before)


def test_reinit_head_still_checks_settings_of_the_backbone() -> None:
    """The official network for ADE20K aligns corners, in its backbone too."""
    _, weights = lively(SMALL, num_classes=150, align_corners=True)
    with pytest.raises(WeightsError, match="Build it with align_corners=True"):
        load_weights(create_model(SMALL), weights, reinit_head=True)
    load_weights(create_model(SMALL, align_corners=True), weights, reinit_head=True)


def test_conflicting_settings_are_warnings_if_not_strict(caplog: pytest.LogCaptureFixture) -> None:
    _, weights = lively(SMALL, num_classes=150, align_corners=True)
    network = create_model(SMALL, 150)
    with caplog.at_level(logging.WARNING, "hrseg"):
        load_weights(network, weights, strict=False)
    assert "was trained with align_corners=True; the network has align_corners=False" in caplog.text
    assert torch.equal(network.get_parameter("conv1.weight"), weights["conv1.weight"])


def test_layers_of_a_head_may_be_missing_if_not_strict() -> None:
    """NVIDIA's multi-scale training starts from weights of a single-scale network."""
    _, weights = lively(OCR, align_corners=False)
    network = create_model(f"{OCR}_hmsa")
    report = load_weights(network, renamed(weights, NVIDIA), strict=False)
    assert {name.split(".")[0] for name in report.initialised} == {"scale_attn"}
    assert torch.equal(network.get_parameter("cls_head.weight"), weights["cls_head.weight"])


def test_plain_weights_load_into_ocr() -> None:
    _, weights = lively(SMALL)
    network = create_model(OCR, align_corners=False)
    report = load_weights(network, weights, reinit_head=True)
    assert {name.split(".")[0] for name in report.initialised} == set(network.head_names)


@pytest.mark.parametrize("name", [f"{SMALL}_cls", "hrformer_t"])
def test_classifiers_are_reinitialised_for_other_classes(name: str) -> None:
    _, weights = lively(name)
    report = load_weights(create_model(name, num_classes=7), weights, reinit_head=True)
    assert set(report.initialised) == {"classifier.weight", "classifier.bias"}


def test_another_kind_of_backbone() -> None:
    former, net = lively("hrformer_t")[1], lively(SMALL)[1]
    with pytest.raises(WeightsError, match=r"backbone keys do not fit.* Build the network with 'hrformer_t'"):
        load_weights(create_model(SMALL), former)
    with pytest.raises(WeightsError, match=rf"backbone keys do not fit.* Build the network with '{SMALL}'"):
        load_weights(create_model("hrformer_t_ocr"), net)


def test_files_that_do_not_determine_a_network(tmp_path: Path) -> None:
    _, weights = lively(SMALL)
    backbone = {name: value for name, value in weights.items() if not name.startswith("last_layer")}
    with pytest.raises(WeightsError, match=r"weights.pth \(backbone\) holds only a backbone; name the model"):
        create_model(from_file=_file(tmp_path, backbone))
    with pytest.raises(WeightsError, match=f"holds weights of {SMALL}, not {OCR}; leave the name out"):
        create_model(OCR, from_file=_file(tmp_path, weights))
    assert create_model(SMALL, from_file=_file(tmp_path, backbone)).config["name"] == SMALL
    weights["transition1.0.0.weight"] = torch.ones(20, 256, 3, 3)
    with pytest.raises(WeightsError, match="has an unknown backbone"):
        create_model(from_file=_file(tmp_path, weights))


def _file(folder: Path, content: dict[str, Any]) -> Path:
    path = folder / "weights.pth"
    torch.save(content, path)
    return path
