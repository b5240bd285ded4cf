from __future__ import annotations

import gc
import os
import pickle
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from pytorch_lightning import Trainer
from safetensors.torch import save

from hrseg.data.labels import LabelTable
from hrseg.errors import ConfigError, DataFileError, WeightsError
from hrseg.inference import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Predictor,
    Protocol,
    named_protocol,
    normalize,
    read_checkpoint,
    write_prediction,
)
from hrseg.inference.checkpoint import check_checkpoint
from hrseg.models import HRNetV2, HRNetVariant, Segmenter, V2Head, create_model
from hrseg.models.fused import FusedV2Head
from hrseg.task import SegmentationTask
from hrseg.utils.images import read_image, read_label, write_image

TABLE = LabelTable("toy", ("a", "b"), ((250, 0, 0), (0, 250, 0)), label_ids=(7, 11), void_ids=(0,))
TINY = "hrnetv2_w18_small_v1"


def image(height: int = 40, width: int = 67) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a task with random weights, as Lightning writes it."""
    path = tmp_path_factory.mktemp("run") / "best.ckpt"
    torch.manual_seed(0)
    arguments = {"init": "kaiming", "align_corners": True, "fuse_mode": "nearest"}
    task = SegmentationTask(TINY, TABLE, network_args=arguments, mean=(0.4, 0.5, 0.6))
    trainer = Trainer(accelerator="cpu", devices=1, logger=False, enable_progress_bar=False)
    trainer.strategy.connect(task)
    trainer.save_checkpoint(path)
    return path


def test_a_checkpoint_is_all_that_is_needed(checkpoint: Path) -> None:
    predictor = Predictor.from_checkpoint(checkpoint, device="cpu")
    assert predictor.labels == TABLE
    assert predictor.network.config["fuse_mode"] == "nearest"  # type: ignore[index,union-attr]
    assert predictor.network.config["align_corners"] is True  # type: ignore[index,union-attr]
    task = SegmentationTask(
        TINY, TABLE, network_args={"align_corners": True, "fuse_mode": "nearest"}, mean=(0.4, 0.5, 0.6)
    )
    task.load_state_dict(torch.load(checkpoint, weights_only=True)["state_dict"])
    pixels = image()
    with torch.inference_mode():
        expected = task.eval()(torch.from_numpy(pixels).permute(2, 0, 1)[None]).argmax(1)[0].numpy()
    prediction = predictor(pixels)
    assert prediction.shape == (40, 67)
    assert prediction.dtype == np.uint8
    assert (prediction == expected).mean() > 0.999  # ties may fall either way


def test_the_copy_of_the_network_is_optimized_for_the_cpu() -> None:
    network = create_model(TINY, num_classes=2)
    assert type(Predictor(network, TABLE, device="cpu").network.get_submodule("last_layer")) is FusedV2Head
    assert type(network.get_submodule("last_layer")) is V2Head


def test_a_file_and_its_pixels_are_the_same(checkpoint: Path, tmp_path: Path) -> None:
    predictor = Predictor.from_checkpoint(str(checkpoint), device="cpu")
    write_image(tmp_path / "street.png", image())
    np.testing.assert_array_equal(predictor(tmp_path / "street.png"), predictor(image()))
    np.testing.assert_array_equal(predictor(str(tmp_path / "street.png")), predictor(image()))
    with pytest.raises(DataFileError, match=r"nothing\.png"):
        predictor(tmp_path / "nothing.png")


def test_pillow_grey_and_rgba_images_are_predicted_and_floats_refused() -> None:
    predictor = Predictor(torch.nn.Conv2d(3, 2, 1), TABLE, device="cpu")
    pixels = image()
    expected = predictor(pixels)
    np.testing.assert_array_equal(predictor(Image.fromarray(pixels)), expected)
    np.testing.assert_array_equal(predictor(np.dstack([pixels, pixels[..., 0]])), expected)
    grey = pixels[..., 0]
    np.testing.assert_array_equal(predictor(grey), predictor(np.dstack([grey] * 3)))
    np.testing.assert_array_equal(predictor(Image.fromarray(grey)), predictor(grey))
    for wrong in (pixels / 255, pixels[None], torch.from_numpy(pixels)):
        with pytest.raises(DataFileError, match=r"the image in memory is .*; expected"):
            predictor(wrong)


def test_any_module_predicts() -> None:
    network = create_model(TINY, num_classes=2)
    assert Predictor(network, TABLE, device="cpu")(image(33, 90)).shape == (33, 90)
    assert network.training  # a copy was predicted with
    plain = torch.nn.Conv2d(3, 2, 1)
    assert Predictor(plain, TABLE, device="cpu")(image(33, 90)).shape == (33, 90)


def test_channels_are_reversed_for_a_bgr_network() -> None:
    torch.manual_seed(0)  # some networks see one class only
    network = create_model(TINY, num_classes=2, init="kaiming", channel_order="bgr").eval()
    turned = create_model(TINY, num_classes=2).eval()
    turned.load_state_dict(network.state_dict())
    expected = Predictor(turned, TABLE, device="cpu")(image()[..., ::-1])
    np.testing.assert_array_equal(Predictor(network, TABLE, device="cpu")(image()), expected)
    assert (expected != Predictor(turned, TABLE, device="cpu")(image())).any()


def test_images_are_scored_by_the_protocol() -> None:
    network = create_model(TINY, num_classes=2, init="kaiming").eval()
    protocol = Protocol((1.0, 1.5), flip=True, fusion="exp", window=(48, 48), stride=(32, 32))
    predictor = Predictor(network, TABLE, device="cpu", protocol=protocol, input_size=(64, 80))
    batch = torch.from_numpy(cv2.resize(image(), (80, 64))).permute(2, 0, 1)[None]
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    with torch.inference_mode():
        scores = protocol.scores(network, normalize(batch, mean, std), black=(-mean / std)[0])
        expected = torch.nn.functional.interpolate(scores, (40, 67), mode="bilinear").argmax(1)[0].numpy()
    assert (predictor(image()) == expected).mean() > 0.999  # ties may fall either way


PROTOCOLS = [
    Protocol(),
    Protocol((0.5, 1.5), flip=True),
    Protocol((1.0, 1.5), flip=True, fusion="softmax"),
    Protocol((1.0, 1.5), flip=True, fusion="exp", window=(48, 48), stride=(32, 32)),
    named_protocol("lip"),
    named_protocol("slide", (48, 48)),
]


@pytest.mark.parametrize("input_size", [None, (64, 80)])
@pytest.mark.parametrize("protocol", PROTOCOLS, ids=lambda protocol: f"{protocol.fusion}-{protocol.window}")
def test_probabilities_belong_to_the_labels(protocol: Protocol, input_size: tuple[int, int] | None) -> None:
    torch.manual_seed(0)
    network = create_model(TINY, num_classes=5, init="kaiming")
    table = LabelTable("five", tuple("abcde"), tuple((40 * i, 0, 0) for i in range(5)), flip_pairs=((1, 2),))
    made = [
        Predictor(network, table, device="cpu", protocol=protocol, input_size=input_size, temperature=temperature)
        for temperature in (1.0, 3.0)
    ]
    labels = made[0](image())
    results = [predictor(image(), probabilities=True) for predictor in made]
    for found in results:
        assert found.probabilities.shape == (5, 40, 67)
        assert found.probabilities.dtype == np.float32
        np.testing.assert_allclose(found.probabilities.sum(0), 1, atol=1e-5)
        assert (found.labels == labels).mean() > 0.999  # ties may fall either way
        of_labels = np.take_along_axis(found.probabilities, found.labels[None], 0)[0]
        assert (of_labels >= found.confidence - 1e-6).all()  # the highest, but for ties
        assert (found.probabilities.argmax(0) == found.labels).mean() > 0.99
        np.testing.assert_array_equal(found.confidence, found.probabilities.max(0))
    np.testing.assert_array_equal(results[0].labels, results[1].labels)  # whatever the temperature
    powers = results[0].probabilities.astype(float) ** (1 / 3)
    np.testing.assert_allclose(results[1].probabilities, powers / powers.sum(0), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), float("inf"), True, "warm"])
def test_a_temperature_out_of_range(temperature: Any) -> None:
    with pytest.raises(ConfigError, match=r"temperature is .*; expected 0\.001 to 1000"):
        Predictor(torch.nn.Conv2d(3, 2, 1), TABLE, device="cpu", temperature=temperature)


def test_the_temperature_of_a_checkpoint(checkpoint: Path, tmp_path: Path) -> None:
    """Files from before it was kept have none."""
    content = torch.load(checkpoint, weights_only=True)
    content["hrseg"].pop("temperature", None)
    torch.save(content, tmp_path / "old.ckpt")
    assert Predictor.from_checkpoint(tmp_path / "old.ckpt", device="cpu").temperature == 1
    content["hrseg"]["temperature"] = 1.7
    torch.save(content, tmp_path / "new.ckpt")
    assert Predictor.from_checkpoint(tmp_path / "new.ckpt", device="cpu").temperature == 1.7


def test_a_checkpoint_holds_protocol_and_input_size(tmp_path: Path) -> None:
    path = tmp_path / "best.ckpt"
    task = SegmentationTask(TINY, TABLE, test_protocol="lip", crop_size=(96, 64), input_size=(64, 80))
    trainer = Trainer(accelerator="cpu", devices=1, logger=False, enable_progress_bar=False)
    trainer.strategy.connect(task)
    trainer.save_checkpoint(path)
    predictor = Predictor.from_checkpoint(path, device="cpu")
    assert predictor.protocol == named_protocol("lip")
    assert predictor.input_size == (64, 80)
    other = Predictor.from_checkpoint(path, device="cpu", protocol="slide")
    assert other.protocol == named_protocol("slide", (96, 64))
    assert Predictor.from_checkpoint(path, device="cpu", protocol=Protocol((0.5,))).protocol == Protocol((0.5,))


class Dangerous:
    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, ("executed",)


@pytest.mark.parametrize("kind", ["missing", "folder", "text", "foreign", "pickle", "cut", "cut safetensors"])
def test_other_files_are_refused_in_one_line(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / ("file.safetensors" if "safetensors" in kind else "file.ckpt")
    if kind == "folder":
        path.mkdir()
    elif kind == "cut":
        torch.save({"a": torch.ones(999)}, path, _use_new_zipfile_serialization=False)
        path.write_bytes(path.read_bytes()[:500])
    elif kind == "cut safetensors":
        path.write_bytes(save({"a": torch.ones(999)})[:500])
    elif kind == "text":
        path.write_text("no checkpoint")
    elif kind == "foreign":
        torch.save({"state_dict": {}}, path)
    elif kind == "pickle":
        path.write_bytes(pickle.dumps({"hrseg": Dangerous()}, protocol=2))
    with pytest.raises(WeightsError) as caught:
        Predictor.from_checkpoint(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "executed").exists()


ALTERED: list[tuple[dict[str, Any], str]] = [
    ({"labels": "abc"}, "labels is 'abc'"),
    ({"labels": None}, "labels is None"),
    ({"mean": [0.1, 0.2]}, "mean.2 .* field required"),
    ({"mean": [float("nan")] * 3}, "mean is .nan, nan, nan.; expected three numbers"),
    ({"std": [0, 0, 0]}, "std is .*; expected three numbers, above 0"),
    ({"input_size": [0, 0]}, "input_size is .0, 0.; expected 1 or more"),
    ({"input_size": "x"}, "input_size is 'x'"),
    ({"input_size": [10**7, 10**7]}, "input_size would have 10000000x10000000 pixels"),
    ({"crop_size": "junk"}, "crop_size is 'junk'"),
    ({"protocol": None}, "protocol is None"),
    ({"protocol": {"speed": 3}}, "protocol.speed is 3: unexpected"),
    ({"protocol": {"scales": []}}, "protocol: scales is"),
    ({"protocol": {"scales": [float("inf")]}}, "protocol: scales is"),
    ({"protocol": {"window": [1, 1]}}, "protocol: window is"),
    ({"seed": -1}, "seed is -1"),
    ({"temperature": "warm"}, "temperature is 'warm'"),
    ({"temperature": 0}, "temperature is 0.0; expected 0.001 to 1000"),
]
ALTERED_LABELS: list[tuple[dict[str, Any], str]] = [
    ({"class_names": [1, 2]}, "labels.class_names.0 is 1: input should be a valid string"),
    ({"flip_pairs": [[0, 1, 1]]}, "labels.flip_pairs.0 is"),
    ({"categories": [1]}, "labels.categories is"),
    ({"size": 3}, "labels.size is 3: unexpected"),
    ({"colors": [[1, 2, 3]]}, "1 colours"),
]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda own: "abc", "is not a checkpoint of hrseg; expected best.ckpt or last.ckpt of a run"),
        (lambda own: {}, "is not a checkpoint of hrseg; expected"),
        (lambda own: {**own, "network": "x"}, "describes its network under 'hrseg' as 'x'"),
        (
            lambda own: {"network": own["network"]},
            r"does not describe its classes and .*\(hrseg.labels .*; .* --labels",
        ),
        *(
            (
                lambda own, changes=changes: {**own, **changes},
                rf"does not describe its classes and .*\(hrseg.*{message}",
            )
            for changes, message in ALTERED
        ),
        *(
            (lambda own, changes=changes: {**own, "labels": {**own["labels"], **changes}}, rf".*\(hrseg.*{message}")
            for changes, message in ALTERED_LABELS
        ),
    ],
)
def test_a_checkpoint_that_describes_itself_otherwise(
    damage: Callable[[Any], Any], message: str, checkpoint: Path, tmp_path: Path
) -> None:
    content = torch.load(checkpoint, weights_only=True)
    torch.save({**content, "hrseg": damage(content["hrseg"])}, tmp_path / "odd.ckpt")
    with pytest.raises(WeightsError, match=rf"odd\.ckpt {message}") as caught:
        Predictor.from_checkpoint(tmp_path / "odd.ckpt")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"state_dict": None}, "state_dict is None"),
        ({"state_dict": {5: torch.ones(1)}}, "state_dict.5.* valid string"),
        ({"state_dict": {"a": None}}, "state_dict.a is None"),
        ({"pytorch-lightning_version": "junk"}, "pytorch-lightning_version is 'junk'"),
        ({"global_step": -5}, "global_step is -5"),
        ({"epoch": "x"}, "epoch is 'x'"),
        ({"optimizer_states": {}}, "optimizer_states is {}"),
        ({"optimizer_states": [{"state": {}, "param_groups": [5]}]}, "optimizer_states.0.param_groups.0 is 5"),
        ({"optimizer_states": [{"state": {}, "param_groups": [{}]}]}, "optimizer_states.0.param_groups.0.params is {}"),
        ({"loops": [1]}, r"loops is \[1\]"),
        ({"lr_schedulers": [{"_step_count": b"5"}]}, "lr_schedulers.0._step_count.* is b'5'"),
        ({"callbacks": {"Timer": 5}}, "callbacks.Timer is 5"),
        ({"hyper_parameters": 5}, "hyper_parameters is 5"),
    ],
)
def test_a_checkpoint_that_lightning_did_not_write(
    changes: dict[str, Any], message: str, checkpoint: Path, tmp_path: Path
) -> None:
    content = {**torch.load(checkpoint, weights_only=True), **changes}
    with pytest.raises(
        WeightsError, match=rf"^odd.ckpt is not what Lightning writes \({message}.*; expected best.ckpt"
    ):
        check_checkpoint(content, "odd.ckpt")
    torch.save(content, tmp_path / "odd.ckpt")
    with pytest.raises(WeightsError, match=message):
        Predictor.from_checkpoint(tmp_path / "odd.ckpt")


@pytest.mark.parametrize(
    "part", ["state_dict", "optimizer_states", "lr_schedulers", "loops", "callbacks", "global_step"]
)
def test_a_training_does_not_go_on_from_part_of_a_checkpoint(part: str, checkpoint: Path, tmp_path: Path) -> None:
    content = torch.load(checkpoint, weights_only=True)
    torch.save({name: value for name, value in content.items() if name != part}, tmp_path / "part.ckpt")
    with pytest.raises(WeightsError, match=rf"part.ckpt is not a training checkpoint: .* and no {part}; expected"):
        read_checkpoint(tmp_path / "part.ckpt")


@pytest.mark.parametrize(
    ("loops", "told"),
    [
        ({}, "loops.fit_loop is None"),
        ({"fit_loop": {}}, "loops.fit_loop.epoch_progress is {}: field required"),
        (
            {"fit_loop": {"epoch_progress": {"total": {}, "current": []}, "epoch_loop.batch_progress": {}}},
            r"loops.fit_loop.epoch_progress.current is \[\]",
        ),
    ],
)
def test_a_training_without_its_progress_does_not_go_on(
    loops: dict[str, Any], told: str, checkpoint: Path, tmp_path: Path
) -> None:
    torch.save({**torch.load(checkpoint, weights_only=True), "loops": loops}, tmp_path / "odd.ckpt")
    with pytest.raises(WeightsError, match=rf"odd.ckpt is not what Lightning writes \({told}"):
        read_checkpoint(tmp_path / "odd.ckpt")


def test_a_view_of_gigapixels_is_refused_before_it_is_made() -> None:
    network = torch.nn.Conv2d(3, 2, 1)
    for protocol in (Protocol(scales=(1e6,)), Protocol(base_size=10**9)):
        with pytest.raises(ConfigError, match=r"an image at scale .* would have .* HRSEG_MAX_PIXELS; lower"):
            Predictor(network, TABLE, device="cpu", protocol=protocol)(image())
    with pytest.raises(ConfigError, match="resized to input_size would have"):
        Predictor(network, TABLE, device="cpu", input_size=(10**7, 10**7))(image())


def test_a_network_without_a_name_cannot_be_rebuilt(tmp_path: Path) -> None:
    path = tmp_path / "file.ckpt"
    torch.save({"state_dict": {}, "hrseg": {"network": None}}, path)
    with pytest.raises(WeightsError, match=r"Predictor\(network, labels\)"):
        Predictor.from_checkpoint(path)


def test_label_ids_and_overlay_are_written(tmp_path: Path) -> None:
    prediction = np.zeros((40, 67), np.uint8)
    prediction[20:] = 1
    write_prediction(tmp_path, "folder/street", image(), prediction, TABLE)
    label = read_label(tmp_path / "labels" / "folder" / "street.png")
    np.testing.assert_array_equal(label, np.where(prediction == 0, 7, 11))
    overlay = read_image(tmp_path / "overlays" / "folder" / "street.png")
    assert overlay.shape[1] == 67
    assert overlay.shape[0] > 40  # the legend below


@pytest.mark.parametrize("device", ["foo", "mps", "meta", "cuda:99"])
def test_a_missing_device_is_refused(device: str) -> None:
    with pytest.raises(ConfigError, match=rf"device {device} cannot be used .*; expected cpu") as caught:
        Predictor(torch.nn.Conv2d(3, 2, 1), TABLE, device=device)
    assert len(str(caught.value)) < 400  # torch lists every kind of device for mps


def test_an_image_too_large_for_memory_is_refused_before_the_network_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hrseg.inference.predictor.available_memory", lambda _: 0.002)
    network = create_model(TINY, num_classes=2)
    path = tmp_path / "huge.png"
    write_image(path, image(160, 256))
    told = r"160x256 pixels \(height x width\), which take 0.0 GiB of memory or more on cpu, where 0.0 GiB are avail"
    with pytest.raises(DataFileError, match=f"^{path} has {told}"):
        Predictor(network, TABLE, device="cpu")(path)
    with pytest.raises(DataFileError, match=f"^the image has {told}"):
        Predictor(network, TABLE, device="cpu")(image(160, 256))
    assert Predictor(network, TABLE, device="cpu", protocol=Protocol(window=(64, 64)))(path).shape == (160, 256)
    with pytest.raises(DataFileError, match="640x512"):  # its scores alone
        Predictor(network, TABLE, device="cpu", input_size=(64, 64))(image(640, 512))
    scores = 4 * 2 * 160 * 256 / 2**30
    monkeypatch.setattr("hrseg.inference.predictor.available_memory", lambda _: 1.5 * scores)
    plain = Predictor(torch.nn.Conv2d(3, 2, 1), TABLE, device="cpu")
    assert plain(path).shape == (160, 256)
    with pytest.raises(DataFileError, match="160x256"):  # scores and probabilities
        plain(path, probabilities=True)
    monkeypatch.setattr("hrseg.inference.predictor.available_memory", lambda _: None)
    assert Predictor(network, TABLE, device="cpu")(path).shape == (160, 256)


# ------------------------------------------------------------------------------------------------------ precision


@pytest.fixture(scope="module")
def trained() -> Segmenter:
    """A narrow network after a few steps on images whose left and right halves differ in colour."""
    torch.manual_seed(0)
    network = HRNetV2(HRNetVariant(8, blocks=1, modules=(1, 1, 1), layer1_blocks=1, layer1_width=8), 2, bn_momentum=0.3)
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    for step in range(60):
        pixels, target = halves(np.random.default_rng(step + 10), 2)
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
        logits = network(normalize(torch.from_numpy(pixels).permute(0, 3, 1, 2), mean, std))
        loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(target))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network.eval()


def halves(generator: np.random.Generator, number: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Noisy images (N, 64, 96, 3), and their labels: 1 right of a border that runs at a slant."""
    rows, columns = np.mgrid[:64, :96]
    target = (columns > 30 + rows // 2).astype(np.int64)[None].repeat(number, 0)
    noise = generator.normal(0, 40, (number, 64, 96, 3))
    pixels = 90 + 60 * target[..., None] * np.array([1, 0, -1]) + noise
    return pixels.clip(0, 255).astype(np.uint8), target


def test_half_precision_changes_few_pixels(trained: Segmenter) -> None:
    pixels, target = halves(np.random.default_rng(1))
    full = Predictor(trained, TABLE, device="cpu")
    half = Predictor(trained, TABLE, device="cpu", precision="bf16")
    assert {p.dtype for p in half.network.parameters()} == {torch.bfloat16}
    assert next(trained.parameters()).dtype == torch.float32
    expected, labels = full(pixels[0]), half(pixels[0])
    assert (expected == target[0]).mean() > 0.95
    assert (labels != expected).mean() < 0.01
    assert "bf16" in half.runs_on
    probabilities = half(pixels[0], probabilities=True).probabilities
    assert probabilities.dtype == np.float32
    assert 0 < np.abs(probabilities - full(pixels[0], probabilities=True).probabilities).max() < 0.1


def test_other_networks_run_under_autocast() -> None:
    network = torch.nn.Conv2d(3, 2, 1)
    types = []
    network.register_forward_hook(lambda _, __, out: types.append(out.dtype))
    for precision in ("fp32", "bf16"):
        Predictor(network, TABLE, device="cpu", precision=precision)(image())
    assert types == [torch.float32, torch.bfloat16]
    assert network.weight.dtype == torch.float32


def test_a_precision_that_the_device_lacks_is_refused() -> None:
    network = create_model(TINY, num_classes=2)
    with pytest.raises(ConfigError, match="precision fp16 needs a GPU"):
        Predictor(network, TABLE, device="cpu", precision="fp16")
    with pytest.raises(ConfigError, match="precision is 'fp8'; expected fp32, bf16 or fp16"):
        Predictor(network, TABLE, device="cpu", precision="fp8")


def test_a_predictor_is_freed_at_once() -> None:
    """On a GPU, its memory is wanted for the next."""
    predictor = Predictor(create_model(TINY, 2), TABLE, device="cpu")
    predictor(image())
    dead = weakref.ref(predictor)
    gc.disable()
    try:
        del predictor
        assert dead() is None
    finally:
        gc.enable()
