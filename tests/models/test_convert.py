"""Weights for other code bases: with their keys and the same results, or refused."""

from __future__ import annotations

import re
import resource
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from hrseg.cli import main
from hrseg.errors import ConfigError, UnknownNameError, WeightsError
from hrseg.models import create_model, save_weights
from hrseg.models.convert import FORMATS, convert_weights
from tests.models.weights.test_layouts import OCR, SMALL, Weights, assert_same_results, lively, without
from tests.references.foreign_names import DETECTION, MMSEG_FCN, MMSEG_OCR, NVIDIA, OPENSEG, renamed


def saved(folder: Path, name: str, **parameters: Any) -> Path:
    network, _ = lively(name, **parameters)
    path = folder / "ours.safetensors"
    save_weights(network, path)
    return path


def assert_equal(found: Weights, expected: Weights) -> None:
    assert sorted(found) == sorted(expected)
    for name, value in expected.items():
        assert torch.allclose(found[name], value, rtol=1e-6, atol=1e-6), name


@pytest.mark.parametrize(
    ("name", "parameters", "rules", "absent"),
    [
        (SMALL, {"num_classes": 5}, MMSEG_FCN, ("last_layer.0",)),
        (OCR, {"align_corners": False}, MMSEG_OCR, ("aux_head.0", "conv3x3_ocr.0")),
    ],
)
def test_for_mmsegmentation(
    tmp_path: Path, name: str, parameters: dict[str, Any], rules: Any, absent: tuple[str, ...]
) -> None:
    network, weights = lively(name, **parameters)
    path = tmp_path / "theirs.pth"
    done = convert_weights(saved(tmp_path, name, **parameters), path, "mmseg")
    content = torch.load(path, weights_only=True)
    assert_equal(content["state_dict"], renamed(without(weights, *absent), rules))
    assert done.difference <= 1e-6
    assert done.entries == len(weights) - len(absent)
    back = create_model(from_file=path)
    assert back.config == network.config
    assert_same_results(back, network, 1e-5)


@pytest.mark.parametrize(
    ("name", "parameters", "rules", "wrapper"),
    [
        (SMALL, {}, ((r"(.*)", r"model.\1"),), ""),
        (OCR, {}, ((r"(.*)", r"model.\1"),), ""),
        (OCR, {"inner_bias": True, "aux_kernel": 3, "channel_order": "bgr"}, OPENSEG, "state_dict"),
        (f"{OCR}_hmsa", {}, NVIDIA, "state_dict"),
        (f"{SMALL}_psa_s_ocr", {"align_corners": False}, NVIDIA, "state_dict"),
        ("hrformer_t_ocr", {"channel_order": "bgr"}, OPENSEG, "state_dict"),
        ("hrformer_t", {}, ((r"(.*)", r"\1"),), "model"),
        (f"{SMALL}_cls", {}, ((r"(.*)", r"\1"),), ""),
        ("hrnetv1_w18_small_v1", {"fuse_mode": "nearest"}, ((r"(.*)", r"\1"),), ""),
        ("hrnetv2p_w18_small_v1", {}, DETECTION, "state_dict"),
    ],
)
def test_for_the_code_that_published_the_network(
    tmp_path: Path, name: str, parameters: dict[str, Any], rules: Any, wrapper: str
) -> None:
    network, weights = lively(name, **parameters)
    path = tmp_path / "theirs.pth"
    done = convert_weights(saved(tmp_path, name, **parameters), path, "official")
    content = torch.load(path, weights_only=True)
    assert_equal(content[wrapper] if wrapper else content, renamed(weights, rules))
    assert (done.difference, done.notes) == (0, ())
    assert create_model(from_file=path).config == network.config


def test_notes_name_settings_that_files_do_not_hold(tmp_path: Path) -> None:
    path = tmp_path / "theirs.pth"
    done = convert_weights(saved(tmp_path, SMALL, align_corners=True, fuse_mode="nearest"), path, "official")
    assert done.notes == ("set fuse_mode='nearest', align_corners=True in the code that reads it",)
    done = convert_weights(saved(tmp_path, "hrformer_t_ocr"), path, "official")
    assert done.notes == ("set channel_order='rgb' in the code that reads it",)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_classifiers_for_timm(tmp_path: Path, suffix: str) -> None:
    timm = pytest.importorskip("timm")
    network, _ = lively(f"{SMALL}_cls", num_classes=12)
    path = tmp_path / f"theirs{suffix}"
    done = convert_weights(saved(tmp_path, f"{SMALL}_cls", num_classes=12), path, "timm")
    assert done.difference <= 1e-9
    theirs = timm.create_model("hrnet_w18_small", num_classes=12, checkpoint_path=str(path)).eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        expected = network.eval()(images)
        assert (theirs(images) - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_backbones_for_timm(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    path = tmp_path / "theirs.safetensors"
    done = convert_weights(saved(tmp_path, SMALL, fuse_mode="nearest"), path, "timm")
    assert (done.entries, len(load_file(path))) == (426, 426)
    assert "the backbone alone, for timm's hrnet_w18_small with features_only" in done.notes[0]


def test_foreign_weights_are_converted_to_ours(tmp_path: Path) -> None:
    network, weights = lively(OCR, align_corners=False)
    torch.save({"state_dict": renamed(weights, NVIDIA)}, tmp_path / "theirs.pth")
    convert_weights(tmp_path / "theirs.pth", tmp_path / "ours.safetensors", "safetensors")
    found = create_model(from_file=tmp_path / "ours.safetensors")
    assert found.config == network.config
    assert_same_results(found, network)


@pytest.mark.parametrize(
    ("name", "parameters", "to", "message"),
    [
        (
            SMALL,
            {"align_corners": True},
            "mmseg",
            "mmsegmentation has no .* with align_corners=True; .* not written",
        ),
        (SMALL, {"fuse_mode": "nearest"}, "mmseg", "with fuse_mode='nearest'"),
        (f"{OCR}_hmsa", {}, "mmseg", f"mmsegmentation has no {OCR}_hmsa; it has hrnetv2_SIZE, hrnetv2_SIZE_ocr"),
        (f"{SMALL}_psa_p", {}, "mmseg", f"mmsegmentation has no {SMALL}_psa_p"),
        (SMALL, {}, "timm", "timm upsamples maps with fuse_mode='nearest', this hrnetv2_w18_small_v1 with 'bilinear'"),
        ("hrformer_t", {}, "timm", "timm has no hrformer_t"),
        ("hrnetv1_w18_small_v1", {"fuse_mode": "nearest"}, "timm", "timm has no hrnetv1_w18_small_v1"),
        (SMALL, {"head_kernel": 3}, "official", "the official code has no head with"),
    ],
)
def test_networks_that_others_cannot_compute_are_refused(
    tmp_path: Path, name: str, parameters: dict[str, Any], to: str, message: str
) -> None:
    path = tmp_path / "theirs.pth"
    path.write_text("before")
    with pytest.raises(WeightsError, match=message):
        convert_weights(saved(tmp_path, name, **parameters), path, to)
    assert path.read_text() == "before"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["ours.safetensors", "theirs.pth"]


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        (OCR, {"align_corners": False}),
        (SMALL, {"align_corners": True}),
        (SMALL, {"fuse_mode": "nearest", "channel_order": "bgr"}),
        (SMALL, {"num_classes": 150}),
        (f"{OCR}_hmsa", {"mid_channels": 64, "scales": [0.5, 1.0, 2.0]}),
    ],
)
def test_official_files_are_read_back_as_the_same_network(
    tmp_path: Path, name: str, parameters: dict[str, Any]
) -> None:
    """The defaults of their layout are other settings, or incomplete."""
    network, weights = lively(name, **parameters)
    path = tmp_path / "theirs.pth"
    convert_weights(saved(tmp_path, name, **parameters), path, "official")
    back = create_model(from_file=path)
    assert back.config == network.config
    assert_same_results(back, network)
    content = torch.load(path, weights_only=True)
    assert len(content.get("state_dict", content)) - ("hrseg" in content and "state_dict" not in content) == len(
        weights
    )


def test_official_files_with_default_settings_have_no_description(tmp_path: Path) -> None:
    path = tmp_path / "theirs.pth"
    convert_weights(saved(tmp_path, SMALL), path, "official")
    assert all(name.startswith("model.") for name in torch.load(path, weights_only=True))


def test_a_network_with_zero_outputs(tmp_path: Path) -> None:
    network = create_model(f"{SMALL}_cls", 7)
    torch.nn.init.zeros_(network.get_parameter("classifier.weight"))
    torch.nn.init.zeros_(network.get_parameter("classifier.bias"))
    save_weights(network, tmp_path / "zero.safetensors")
    assert convert_weights(tmp_path / "zero.safetensors", tmp_path / "zero.pth", "official").difference == 0


@pytest.mark.parametrize(
    ("to", "ending"), [("official", ".pth"), ("safetensors", ".safetensors"), ("timm", ".safetensors")]
)
def test_a_full_disk_while_converting(tmp_path: Path, capsys: pytest.CaptureFixture[str], to: str, ending: str) -> None:
    path, out = saved(tmp_path, f"{SMALL}_cls"), tmp_path / f"theirs{ending}"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
    try:
        assert main(["weights", "convert", str(path), str(out), "--to", to]) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    message = capsys.readouterr().err
    assert f"{out} cannot be written" in message
    assert message.count("\n") == 1
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["ours.safetensors"]


def test_results_that_differ_are_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hrseg.models.convert._without_idle_biases", without_any_bias)
    with pytest.raises(WeightsError, match=r"is not written: its results would differ by \d"):
        convert_weights(saved(tmp_path, SMALL), tmp_path / "theirs.pth", "mmseg")
    assert not (tmp_path / "theirs.pth").exists()


def without_any_bias(weights: Weights) -> Weights:
    return {name: value for name, value in weights.items() if name != "last_layer.0.bias"}


def test_unknown_formats_and_suffixes(tmp_path: Path) -> None:
    path = saved(tmp_path, SMALL)
    with pytest.raises(UnknownNameError, match="unknown format 'mmsegmentation'; did you mean mmseg"):
        convert_weights(path, tmp_path / "x.pth", "mmsegmentation")
    for to, endings in FORMATS.items():
        wrong = "x.pth" if to == "safetensors" else "x.ckpt"
        with pytest.raises(ConfigError, match=re.escape(f"files for {to} end in {' or '.join(endings)}")):
            convert_weights(path, tmp_path / wrong, to)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = saved(tmp_path, SMALL)
    out = tmp_path / "new" / "theirs.pth"
    assert main(["weights", "convert", str(path), str(out), "--to", "mmseg"]) == 0
    text = capsys.readouterr().out
    assert f"{out}: {SMALL}, 434 keys, mmsegmentation" in text
    assert re.search(r"checked with a random image: largest difference \d\.\de-\d\d of the largest result", text)
    assert "note: mmsegmentation gives the same results for image sizes divisible by 32" in text
    assert main(["weights", "convert", str(path), str(out), "--to", "timm"]) == 2
    assert "timm upsamples maps" in capsys.readouterr().err
