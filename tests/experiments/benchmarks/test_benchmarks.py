"""The comparisons run, check that results are equal, and report what they measured; no test asserts a time."""

from __future__ import annotations

import ast
import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import experiments.benchmarks.metric
from experiments.benchmarks import (
    backends,
    cpu,
    data,
    ddp,
    deterministic,
    forward,
    hrformer,
    metric,
    ocr,
    predict,
    protocols,
    rmi,
    scaling,
    startup,
    train,
    windows,
    workers,
)
from experiments.benchmarks.__main__ import COMMAND, SUBJECTS, main
from experiments.benchmarks.interleaved import HRSEG, Row, compare, require_close, time_interleaved, torch_threads
from experiments.benchmarks.report import describe_run, format_table, write_csv
from experiments.benchmarks.settled import in_nchw, settled
from hrseg.errors import ConfigError, DataNotFoundError, LabelRangeError
from hrseg.inference import Protocol
from hrseg.metrics import SegmentationMetrics
from hrseg.models import HRNetV2
from tests.networks import TINY
from tests.references import protocols as reference

ROW = Row("data", "case", HRSEG, 12.3456, "samples/s", 1.0)


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_timings_are_interleaved_after_a_warm_up_round() -> None:
    now = 0.0
    order = []

    def work(name: str, seconds: float) -> None:
        nonlocal now
        order.append(name)
        now += seconds

    seconds = time_interleaved({"a": lambda: work("a", 1), "b": lambda: work("b", 3)}, repeats=2, clock=lambda: now)
    assert order == ["a", "b"] * 3
    assert seconds == {"a": [1, 1], "b": [3, 3]}


def test_the_ratio_is_the_median_over_the_rounds() -> None:
    # the machine was busy in the second round: the ratio of the medians would be 4 / 2
    costs = {HRSEG: [1.0, 10.0, 2.0], "other": [4.0, 30.0, 2.0]}
    ours, other = compare("subject", "case", costs, {"other": 3.5})
    assert (ours.value, ours.ratio, ours.target, ours.met) == (2.0, 1.0, "", None)
    assert (other.value, other.ratio, other.target, other.met) == (4.0, 3.0, ">= 3.5", False)
    assert compare("subject", "case", costs, {"other": 3.0})[1].met is True


def test_the_number_of_threads_is_restored() -> None:
    before = torch.get_num_threads()
    with torch_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


def test_different_results_are_refused() -> None:
    theirs = torch.tensor([1.0, 100.0])
    require_close(theirs + 0.05, theirs)
    with pytest.raises(AssertionError):
        require_close(theirs + 0.2, theirs)


def test_forward() -> None:
    rows = forward.measure_forward(1, 1, size=(64, 96), speedups={"hrnetv2_w18_small_v1": 0.0})
    assert [(row.case, row.side) for row in rows] == [
        ("hrnetv2_w18_small_v1 1x3x64x96", HRSEG),
        ("hrnetv2_w18_small_v1 1x3x64x96", forward.NCHW),
        ("hrnetv2_w18_small_v1 1x3x64x96", forward.PLAIN),
    ]
    assert all(row.value > 0 and row.unit == "s" for row in rows)
    assert rows[1].met


def test_forward_beside_peers() -> None:
    rows = forward.measure_forward(1, 1, size=(64, 64), speedups={"hrnetv2_w18": 0.0})
    assert [row.side.split()[0] for row in rows] == [HRSEG, "the", "the", "timm", "SMP"]


@pytest.mark.usefixtures("one_process")
def test_cpu() -> None:
    rows = cpu.measure_cpu(1, 1, (64, 96), {"hrnetv2_w18_small_v1": cpu.Goals(0.0, 0.001, 1e9)})
    assert [row.side for row in rows[:2]] == ["peak", "peak"]
    assert all(row.value > 0 for row in rows if row.unit in ("s", "GFLOP/s"))
    for mode in (cpu.PLAIN, cpu.FP32, cpu.BF16):
        found = [row for row in rows if row.case == f"hrnetv2_w18_small_v1 1x3x64x96, {mode}"]
        assert [(row.side, row.unit) for row in found] == [(HRSEG, "s"), (cpu.OFFICIAL, "s"), (HRSEG, "GFLOP/s")]
        expected = {cpu.PLAIN: None, cpu.FP32: True, cpu.BF16: False if cpu._has_amx() else None}[mode]
        assert found[1].met is expected


def test_backends() -> None:
    name = "hrnetv2_w18_small_v1"
    rows = backends.measure_backends(1, 1, (64, 96), [name], [("Predictor", "fp32"), ("openvino", "fp32")])
    for side in ("Predictor fp32", "openvino fp32"):
        found = [row for row in rows if row.case == f"{name} 1x64x96x3 to labels, {side}"]
        assert [row.side for row in found] == [HRSEG, backends.OFFICIAL, HRSEG]
        assert found[2].unit == "% of labels differ"
        assert found[2].value < 0.1


def test_cpu_refuses_different_results() -> None:
    norms = {cpu.OFFICIAL: 10.0, cpu.PLAIN: 10.001, cpu.FP32: 10.0, cpu.BF16: 10.5}
    cpu._require_same(norms)
    for side, norm in ((cpu.PLAIN, 10.1), (cpu.BF16, 13.0)):
        with pytest.raises(AssertionError):
            cpu._require_same(norms | {side: norm})


@pytest.mark.usefixtures("one_process")
def test_protocols(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = 1, 1, (64, 128), "hrnetv2_w18_small_v1"
    rows = protocols.measure_protocols(*arguments, ["slide"], speedup=0.001)
    assert [row.side for row in rows] == [HRSEG, protocols.OFFICIAL]
    assert rows[1].met
    monkeypatch.setattr(protocols, "official_labels", lambda *_: np.zeros((64, 128), np.uint8))
    with pytest.raises(AssertionError, match="of the pixels differ under slide"):
        protocols.measure_protocols(*arguments, ["slide"])


def test_the_official_evaluator_is_the_reference() -> None:
    """The benchmark's evaluator against the oracle of `Protocol`."""
    torch.manual_seed(0)
    network = torch.nn.Conv2d(3, 4, 3, stride=4, padding=1)
    image = np.random.default_rng(0).normal(size=(48, 96, 3)).astype(np.float32)
    protocol = Protocol((0.5, 1.0, 1.5), 96, True, "exp", (48, 96), last_window="shift", whole_up_to=1.0)
    with torch.inference_mode():
        labels = protocols.official_labels(network, image, protocol)
        scores = reference.cityscapes_protocol(network, image, [0.5, 1.0, 1.5], 96, (48, 96), True)
    assert (labels == scores.argmax(2)).mean() > 0.999


def test_windows() -> None:
    rows = windows.measure_windows(1, 1, (96, 130), (64, 64), "hrnetv2_w18_small_v1")
    assert [row.side for row in rows] == [HRSEG, windows.SINGLY, windows.FOUR, windows.PLAIN]
    assert {row.case for row in rows} == {"hrnetv2_w18_small_v1 1x3x96x130, windows 64x64"}


def test_the_network_to_compare_with_computes_in_nchw() -> None:
    network = HRNetV2(TINY, 3).eval()
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    nhwc = torch.channels_last
    with torch.inference_mode():
        assert all(maps.is_contiguous(memory_format=nhwc) for maps in network.features(images))
        ours = in_nchw(network).features(images.contiguous(memory_format=nhwc))
        assert not any(maps.is_contiguous(memory_format=nhwc) for maps in ours)
        assert all(maps.is_contiguous() for maps in ours)


def test_a_settled_network_neither_amplifies_nor_shrinks_activations() -> None:
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    layers = [(torch.nn.Conv2d(3, 3, 3, bias=False), torch.nn.BatchNorm2d(3), torch.nn.ReLU()) for _ in range(20)]
    network = torch.nn.Sequential(*(layer for triple in layers for layer in triple))
    for conv, _, _ in layers:
        torch.nn.init.normal_(conv.weight, std=0.03, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert network.eval()(images).std() < 1e-9
        assert 0.1 < settled(network, images)(images).std() < 10
    assert not network.training


def test_train() -> None:
    rows = train.measure_train(1, 1, train.Step("hrnetv2_w18_small_v1", 2, (64, 64)))
    assert [(row.side, row.unit) for row in rows] == [
        (HRSEG, "s"),
        (train.PLAIN, "s"),
        (HRSEG, "MiB"),
        (train.PLAIN, "MiB"),
    ]
    assert all(row.value > 0 for row in rows)
    assert [row.target for row in rows] == ["", ">= 1.35", "", ">= 1.0"]


class Here:
    """A worker without a subprocess, which would take seconds to start."""

    def __init__(self, make: Callable[..., Callable[[], torch.Tensor]], threads: int, *arguments: object) -> None:
        self.work = make(*ast.literal_eval(repr(arguments)))
        self.norms: list[float] = []

    def __enter__(self) -> Here:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def run(self) -> None:
        self.norms.append(float(self.work().norm()))

    def peak_memory(self) -> float:
        return 1.0


@pytest.fixture
def one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (workers, cpu, protocols):
        monkeypatch.setattr(module, "Worker", Here)


@pytest.mark.usefixtures("one_process")
def test_hrformer() -> None:
    rows = hrformer.measure_hrformer(1, 1, (128, 194), "hrformer_t")
    assert [(row.side, row.unit, row.target) for row in rows] == 2 * [
        (HRSEG, "s", ""),
        (hrformer.LOOP, "s", ">= 1.3"),
        (HRSEG, "MiB", ""),
        (hrformer.LOOP, "MiB", ">= 1.0"),
    ]
    assert {row.case for row in rows} == {
        f"hrformer_t 1x3x{what}{of}"
        for what in ("128x194, forward", "64x97, forward and backward")
        for of in ("", ", peak memory")
    }


@pytest.mark.usefixtures("one_process")
def test_ocr() -> None:
    rows = ocr.measure_ocr(1, 1, (9, 14), 32)
    sides = [(side, unit) for unit in ("s", "MiB") for side in (HRSEG, ocr.PLAIN, ocr.CHANNELS_LAST)]
    assert [(row.side, row.unit) for row in rows] == 2 * sides
    assert rows[0].case == "features 1x32x9x14, 19 classes, forward"


@pytest.mark.usefixtures("one_process")
def test_rmi() -> None:
    rows = rmi.measure_rmi(1, 1, 2, (32, 52))
    assert [(row.side, row.unit) for row in rows] == [
        (HRSEG, "s"),
        (rmi.PLAIN, "s"),
        (HRSEG, "MiB"),
        (rmi.PLAIN, "MiB"),
    ]


def test_alternatives_that_differ_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rmi, "_straightforward", lambda logits, _: logits.square().mean())
    with pytest.raises(AssertionError):
        rmi.measure_rmi(1, 1, 2, (32, 52))


def test_data_from_generated_scenes() -> None:
    rows = data.measure_data(1, size=(64, 128), crop_size=(48, 64))
    assert [(row.case, row.side, row.unit) for row in rows] == [
        ("street scenes 64x128, crops 48x64", HRSEG, "samples/s"),
        ("street scenes 64x128, crops 48x64", data.WHOLE, "samples/s"),
    ]
    assert all(row.value > 0 for row in rows)


def test_prediction_of_files(tmp_path: Path) -> None:
    rows = predict.measure_predict(1, 1, size=(64, 128), name="hrnetv2_w18_small_v1", frames=3)
    case = "hrnetv2_w18_small_v1, 3 images 64x128"
    sides = [HRSEG, predict.SERIAL, predict.ALONE]
    assert [(row.case, row.side, row.unit) for row in rows] == [(case, side, "images/s") for side in sides]
    assert all(row.value > 0 for row in rows)
    with pytest.raises(DataNotFoundError, match="no image in"):
        predict.measure_predict(1, 1, tmp_path)


def test_data_from_cityscapes(shared_data: Path) -> None:
    rows = data.measure_data(1, shared_data / "cityscapes", crop_size=(64, 128))
    assert {row.case for row in rows} == {"Cityscapes 1024x2048, crops 64x128"}


def test_data_without_images(tmp_path: Path) -> None:
    with pytest.raises(DataNotFoundError, match="no training image in"):
        data.measure_data(1, tmp_path)


@pytest.mark.parametrize("part", [0, 1])
def test_data_notices_a_pixel_that_differs(part: int) -> None:
    one = (torch.zeros(1, 3, 4, 4), torch.zeros(1, 4, 4, dtype=torch.uint8))
    other = tuple(tensor.clone() for tensor in one)
    data._require_same(one, other)
    other[part][..., 0, 0] += 1
    with pytest.raises(AssertionError):
        data._require_same(one, other)


def test_metric() -> None:
    rows = metric.measure_metric(1, 1, size=(70, 50))
    assert [row.side for row in rows] == [HRSEG, metric.VALIDATED, metric.UNVALIDATED]
    assert {row.case for row in rows} == {"one frame 70x50"}


def test_a_metric_with_other_counts_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Miscounting(SegmentationMetrics):
        def update(self, preds: torch.Tensor, target: torch.Tensor) -> None:
            super().update(preds, target)
            self.matrix[0, 0] += 1

    monkeypatch.setattr(experiments.benchmarks.metric, "SegmentationMetrics", Miscounting)
    with pytest.raises(AssertionError):
        metric.measure_metric(1, 1, size=(32, 32))


def test_a_metric_that_overlooks_labels_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Careless(SegmentationMetrics):
        def compute(self) -> dict[str, torch.Tensor]:
            try:
                return super().compute()
            except LabelRangeError:
                return {}

    monkeypatch.setattr(experiments.benchmarks.metric, "SegmentationMetrics", Careless)
    with pytest.raises(AssertionError, match="unnoticed"):
        metric.measure_metric(1, 1, size=(32, 32))


def test_startup() -> None:
    rows = startup.measure_startup(1)
    assert [row.case for row in rows] == list(startup.STARTS)
    assert [row.target for row in rows] == ["< 1.0 s", "< 4.0 s", "< 0.15 s"]
    assert all(row.met is not None and row.ratio is None for row in rows)


def test_table() -> None:
    rows = [ROW, Row("data", "case", "other", 1.0, "samples/s", 12.3, ">= 13", False)]
    assert format_table(rows).splitlines() == [
        "case  side   median             hrseg is x  target",
        "case  hrseg  12.3    samples/s  1.00",
        "case  other  1       samples/s  12.30       >= 13   MISSED",
    ]


def test_csv_rows_hold_their_provenance(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    write_csv(path, [ROW], describe_run("python -m experiments.benchmarks data"))
    (row,) = read_csv(path)
    assert (row["subject"], row["side"], row["value"], row["ratio"]) == ("data", "hrseg", "12.35", "1.000")
    assert (row["target"], row["met"]) == ("", "")
    assert f"torch {torch.__version__.split('+')[0]}" in row["versions"]
    assert "cores" in row["hardware"]
    assert row["command"] == "python -m experiments.benchmarks data"
    assert {"date", "commit"} <= set(row)


def test_csv_keeps_the_other_subjects(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    for subject, value in (("data", 1.0), ("train", 2.0), ("data", 3.0)):
        write_csv(path, [Row(subject, "case", HRSEG, value, "s")], {"commit": "abc"})
    assert [(row["subject"], row["value"]) for row in read_csv(path)] == [("train", "2"), ("data", "3")]


def test_csv_does_not_overwrite_other_files(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("epoch,loss\n1,0.5\n")
    with pytest.raises(ConfigError, match="another name"):
        write_csv(path, [ROW], {})
    assert path.read_text() == "epoch,loss\n1,0.5\n"


def test_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    received = []

    def measure_data(*arguments: object) -> list[Row]:
        received.append(arguments)
        return [ROW]

    monkeypatch.setattr(data, "measure_data", measure_data)
    path, folder = tmp_path / "new" / "results.csv", tmp_path / "cityscapes"
    arguments = ["data", "--repeats", "3", "--cityscapes", str(folder), "--output", str(path)]
    assert main(arguments) == 0
    assert received == [(3, folder)]
    assert "samples/s" in capsys.readouterr().out
    assert read_csv(path)[0]["command"] == f"{COMMAND} data --repeats 3 --threads 2 --cityscapes FOLDER"
    assert str(tmp_path) not in path.read_text()


def test_command_measures_all_subjects_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    for module in (
        forward,
        cpu,
        backends,
        windows,
        protocols,
        predict,
        train,
        deterministic,
        ddp,
        hrformer,
        ocr,
        rmi,
        data,
        metric,
        startup,
    ):
        name = module.__name__.split(".")[-1]
        monkeypatch.setattr(module, f"measure_{name}", lambda *_, name=name: seen.append(name) or [ROW])
    monkeypatch.setattr(scaling.Scaling, "rows", lambda _: seen.append("scaling") or [ROW])
    assert main([]) == 0
    assert seen == list(SUBJECTS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["forwards"], "did you mean forward"),
        (["metric", "--repeats", "0"], "--repeats is 0"),
        (["metric", "--threads", "-1"], "--threads is -1"),
    ],
)
def test_command_refuses(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert message in capsys.readouterr().err
