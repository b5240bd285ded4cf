"""What the quantisations share: what stays float, the gate, and silence."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from torch import nn

from hrseg.export import Scored
from hrseg.export.quantization import Quantization, Scorer, announce, hold, rank, stays_float
from hrseg.models import HRNetV2
from tests.export.quantized import described
from tests.networks import TINY


@pytest.mark.parametrize(
    ("path", "is_sum", "expected"),
    [
        ("", False, True),  # upsampling to the image's size, argmax
        ("normalization", False, True),
        ("network", False, False),
        ("network.network.conv1", False, False),
        ("network.network.stage2.0", True, True),
        ("network.network.stage2.0", False, False),
        ("network.network.stage2.0.branches.0.0", True, False),
        ("network.network.stage2.0.fuse_layers.0.1.0", False, False),
        ("network.network.last_layer", False, True),
        ("network.network.last_layer.0", False, True),
    ],
)
def test_head_and_fusion_sums_stay_float(path: str, is_sum: bool, expected: bool) -> None:
    assert stays_float(HRNetV2(TINY, 3), path, is_sum) is expected


def test_head_of_smp_stays_float() -> None:
    network = nn.ModuleDict({"encoder": nn.Conv2d(1, 1, 1), "segmentation_head": nn.Conv2d(1, 1, 1)})
    assert stays_float(network, "network.network.segmentation_head", False)
    assert not stays_float(network, "network.network.encoder", False)


def _hold(costs: dict[str, float], max_drop: float) -> tuple[str, ...]:
    """Layers that the gate puts back if each costs so many points as long as it is quantised."""

    def ranked() -> list[str]:
        return sorted(costs, key=costs.__getitem__, reverse=True)

    def drop(back: Sequence[str]) -> float:
        return sum(cost for layer, cost in costs.items() if layer not in back)

    return tuple(hold(lambda back: back, ranked, drop, max_drop))


def test_gate_puts_the_most_sensitive_layers_back_until_it_holds() -> None:
    costs = {"a": 0.1, "b": 2.0, "c": 0.2, "d": 1.0}
    assert _hold(costs, 4.0) == ()
    assert _hold(costs, 1.5) == ("b",)
    assert _hold(costs, 0.5) == ("b", "d")
    assert _hold(costs, -1.0) == ("b", "d", "c", "a")  # cannot hold: the certificate says by how much


def test_gate_puts_a_twentieth_back_at_a_time() -> None:
    costs = {f"layer{number:02}": 1.0 - number / 100 for number in range(50)}
    assert len(_hold(costs, sum(costs.values()) - 0.5)) == 3


def test_time_is_announced(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter((10.0, 12.0) * 2)
    monkeypatch.setattr("hrseg.export.quantization.time.perf_counter", lambda: next(clock))
    image, target = np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.uint8)
    seen: list[np.ndarray] = []
    announce(lambda image: seen.append(image) or target, Quantization([image] * 60, [Scored(image, target)] * 30), 9, 4)
    # 2 s a run: 4 runs for each of 60 images, and 30 images twice; 9 layers on 16 images, and 20 times 30 images
    expected = (
        "int8: about 10 min for 60 images to calibrate with and 30 to score; up to 25 more if layers must go back"
    )
    assert capsys.readouterr().err == f"{expected} to float\n"
    announce(lambda image: target, Quantization([image] * 60), 9, 4)
    assert capsys.readouterr().err.endswith(
        "about 8 min for 60 images to calibrate with and 0 to score; no labels: mIoU is not held\n"
    )
    assert len(seen) == 2


def test_scorer_computes_miou_over_all_images(capsys: pytest.CaptureFixture[str]) -> None:
    image = np.zeros((1, 4, 3), np.uint8)
    samples = [Scored(image, np.array([target], np.uint8)) for target in ([0, 0, 1, 255], [1, 1, 1, 1])]
    scorer = Scorer(lambda labels: lambda image: np.array([labels], np.uint8), described("onnx"), samples)
    # class 0: 1 pixel is right, 1 missed, 1 wrong; class 1: 4 right, 1 missed, 1 wrong
    assert scorer.drop([0, 1, 1, 1]) == 0
    # class 0: 2 right, 2 wrong; class 1: 3 right, 2 missed
    assert scorer.drop([0, 0, 1, 1]) == pytest.approx(50 * (1 / 3 + 4 / 6) - 50 * (2 / 4 + 3 / 5))
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["float: mIoU 50.00 on 2 images", "int8: mIoU 55.00 on 2 images, -5.00 points less"]


def test_layers_are_ranked_by_the_error_that_each_causes_alone() -> None:
    errors = {"a": 0.1, "b": -3.0, "c": 1.0}
    pictures = [np.full((2, 2, 3), index, np.float32) for index in range(40)]
    ranked = rank(list(errors), lambda layer: lambda image: image + errors[layer], lambda image: image, pictures)
    assert ranked == ["b", "c", "a"]


def test_images_fit_the_size_that_the_model_takes() -> None:
    image, target = np.zeros((40, 50, 3), np.uint8), np.zeros((40, 50), np.uint8)
    quantization = Quantization([image], [Scored(image, target)])
    cut = quantization.fitted(described("onnx").replaced(multiple=32))
    assert cut.images[0].shape == cut.scored[0].image.shape == (32, 32, 3)
    resized = quantization.fitted(described("onnx").replaced(size=(64, 48)))
    assert resized.images[0].shape == (64, 48, 3)
    assert resized.scored[0].target is not None
    assert resized.scored[0].target.shape == (64, 48)
    assert quantization.has_labels
    assert not Quantization([image]).has_labels
    assert not Quantization([image], [Scored(image, None)]).has_labels


_WITHOUT_NETWORK = """
import socket

def refuse(*args, **kwargs):
    raise SystemExit("a connection was opened")

socket.socket.connect = socket.getaddrinfo = socket.create_connection = refuse
import threading

before = threading.active_count()
from hrseg.utils.packages import require_packages

require_packages("openvino", "openvino", "nncf")
import nncf
import openvino
from openvino import opset13 as ops
import numpy as np

images = ops.parameter([1, 3, 8, 8], np.float32)
weights = ops.constant(np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32))
model = openvino.Model([ops.convolution(images, weights, [1, 1], [0, 0], [0, 0], [1, 1])], [images], "convolution")
nncf.quantize(model, nncf.Dataset([np.ones((1, 3, 8, 8), np.float32)]))
assert openvino.tools.ovc.telemetry_utils.tm.__name__.endswith("stub")
"""


def test_nothing_is_sent_over_the_network(tmp_path: Path) -> None:
    # a process of its own, because NNCF is silent beside pytest; without the variables that show CI
    environment = {name: value for name, value in os.environ.items() if name not in ("CI", "TF_BUILD", "JENKINS_URL")}
    subprocess.run([sys.executable, "-c", _WITHOUT_NETWORK], env={**environment, "HOME": str(tmp_path)}, check=True)
    assert not (tmp_path / "intel").exists()  # where openvino_telemetry keeps its state
