from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

from hrseg.cli import benchmark_predict, main, run_images
from hrseg.data.datasets.camvid import CAMVID
from hrseg.errors import ConfigError, DataNotFoundError
from hrseg.inference import comparison
from hrseg.inference.comparison import Contender, MeasurementError

TARGETS = [np.arange(24, dtype=np.uint8).reshape(4, 6) % 11, np.full((4, 6), 255, np.uint8)]


class FakeProcess:
    """Labels are 0, for .onnx files 1 in one pixel; .xml files run out of memory."""

    log: list[tuple[str, str]]

    def __init__(self, contender: Contender, images: Sequence[Path]) -> None:
        self.name = Path(contender.path).name
        self.contender = contender
        self.images = images

    def __enter__(self) -> FakeProcess:
        return self

    def __exit__(self, *exception: object) -> None:
        self.log.append((self.name, "closed"))

    def open(self) -> dict[str, object]:
        if self.name == "wrong.onnx":
            raise ConfigError("wrong.onnx is of another program")
        return {"runs_on": f"{self.name}'s runtime, {self.contender.precision}", "threads": 2}

    def predict(self, folder: Path) -> None:
        if self.name.endswith(".xml"):
            raise MeasurementError("out of memory")
        for index, path in enumerate(self.images):
            labels = np.zeros(np.load(path).shape[:2], np.uint8)
            labels[0, 0] = self.name.endswith(".onnx")
            np.save(folder / f"{index}.npy", labels)

    def time(self, seconds: float) -> list[float]:
        self.log.append((self.name, "timed"))
        return [0.02, 0.03] if self.name.endswith(".onnx") else [0.06, 0.05]

    def peak_gib(self) -> float:
        return 1.25


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A run with a checkpoint, and exported files."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(comparison, "PredictorProcess", FakeProcess)
    monkeypatch.setattr(FakeProcess, "log", [], raising=False)
    for name in ("run/checkpoints/best.ckpt", "run/config.yaml", "run/export/a.onnx", "b.xml"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(bytes(2**20))
    Path("b.bin").write_bytes(bytes(2**21))
    for index in range(2):
        cv2.imwrite(f"{index}.png", np.zeros((4, 6, 3), np.uint8))
    return ["run", "run/export/a.onnx", "b.xml"]


@pytest.fixture
def samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """A val split of two images."""
    monkeypatch.setattr(run_images, "samples_of_run", lambda run, split, limit, trust: (TARGETS[:limit], CAMVID))
    monkeypatch.setattr(
        run_images, "read_targets", lambda samples, _: ((np.zeros((4, 6, 3), np.uint8), target) for target in samples)
    )


def read_csv(path: str) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.usefixtures("samples")
def test_a_row_for_each_file(files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["benchmark", "predict", *files, "--output", "rows.csv"]) == 1
    run, onnx, openvino = read_csv("rows.csv")
    assert (run["file"], run["runs_on"], run["size"], run["images"], run["threads"]) == (
        "run",
        "best.ckpt's runtime, fp32",
        "4x6",
        "2",
        "2",
    )
    assert [float(run[name]) for name in ("latency_ms", "min_ms", "images_per_s", "speedup")] == [55, 50, 18.18, 1]
    assert [float(onnx[name]) for name in ("latency_ms", "min_ms", "images_per_s", "speedup")] == [25, 20, 40, 2.5]
    assert (run["peak_gib"], run["file_mib"], run["differing"]) == ("1.25", "1", "0")
    assert float(onnx["differing"]) == pytest.approx(1 / 24, rel=1e-3)
    maps = [np.zeros((4, 6), np.uint8) for _ in TARGETS]
    assert float(run["miou"]) == pytest.approx(miou(maps), rel=1e-3)
    maps[0][0, 0] = maps[1][0, 0] = 1
    assert float(onnx["miou"]) == pytest.approx(miou(maps), rel=1e-3)
    assert openvino["failure"] == "out of memory"
    assert "cores" in run["hardware"]
    out = capsys.readouterr().out
    assert "2: run/export/a.onnx, a.onnx's runtime" in out
    assert "images of 4x6, label maps of 2 images, threads 2" in out
    assert "b.xml, 4x6: out of memory" in out
    assert max(map(len, out.splitlines()[2:])) <= 80


def miou(maps: list[np.ndarray]) -> float:
    """Mean over the classes in the ground truth or in the prediction of valid pixels."""
    truth, found = np.concatenate([t.ravel() for t in TARGETS]), np.concatenate([m.ravel() for m in maps])
    truth, found = truth[truth != 255], found[truth != 255]
    classes = set(truth) | set(found)
    return float(np.mean([((truth == k) & (found == k)).sum() / ((truth == k) | (found == k)).sum() for k in classes]))


@pytest.mark.usefixtures("samples")
def test_rounds_take_turns(files: list[str]) -> None:
    main(["benchmark", "predict", *files[:2]])
    rounds = [name for name, what in FakeProcess.log if what == "timed"]
    assert rounds == ["best.ckpt", "a.onnx"] * 5
    assert FakeProcess.log[-2:] == [("a.onnx", "closed"), ("best.ckpt", "closed")]


@pytest.mark.usefixtures("samples")
def test_checkpoints_are_measured_in_every_precision(files: list[str]) -> None:
    assert main(["benchmark", "predict", *files[:2], "--precision", "fp32", "bf16", "--output", "rows.csv"]) == 0
    ran = [row["runs_on"] for row in read_csv("rows.csv")]
    assert ran == ["best.ckpt's runtime, fp32", "best.ckpt's runtime, bf16", "a.onnx's runtime, fp32"]


@pytest.mark.usefixtures("samples")
def test_images_and_ground_truth_are_resized(files: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[tuple[int, ...]] = []
    saved = benchmark_predict._Images.score

    def score(images: benchmark_predict._Images, folder: Path) -> dict[str, float | None]:
        shapes.extend(target.shape for target in images._targets)
        return saved(images, folder)

    monkeypatch.setattr(benchmark_predict._Images, "score", score)
    assert main(["benchmark", "predict", files[0], "--size", "8x12", "2x3", "--output", "rows.csv"]) == 0
    assert [row["size"] for row in read_csv("rows.csv")] == ["8x12", "2x3"]
    assert shapes == [(8, 12)] * 2 + [(2, 3)] * 2


def test_given_images_have_no_ground_truth(files: list[str]) -> None:
    assert (
        main(["benchmark", "predict", files[0], "--images", "0.png", "1.png", "--limit", "1", "--output", "r.csv"]) == 0
    )
    (row,) = read_csv("r.csv")
    assert (row["images"], row["miou"], row["differing"]) == ("1", "", "0")


def test_without_data_scenes_are_generated(
    files: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(*_: object) -> None:
        raise DataNotFoundError("no folder /data/camvid")

    monkeypatch.setattr(run_images, "samples_of_run", missing)
    assert main(["benchmark", "predict", files[0], "--limit", "2", "--output", "rows.csv"]) == 0
    assert "measured on generated scenes (no val split: no folder /data/camvid)" in capsys.readouterr().out
    assert read_csv("rows.csv")[0]["size"] == "360x480"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: RUN|FILE"),
        (["nothing.onnx"], "no file nothing.onnx; expected the folder of a run"),
        (["run", "wrong.onnx", "--images", "0.png"], "wrong.onnx is of another program"),
        (["run", "--seconds", "-1"], "--seconds is -1"),
        (["run", "--limit", "0"], "--limit is 0"),
        (["run", "--size", "512"], "'512' is not HEIGHTxWIDTH"),
        (["run", "--output", "0.png"], "0.png is not a CSV file of `hrseg benchmark`"),
        (["run", "--images", "none.png"], "no file or folder none.png"),
    ],
)
def test_mistakes(arguments: list[str], message: str, files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    Path("wrong.onnx").touch()
    assert main(["benchmark", "predict", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
