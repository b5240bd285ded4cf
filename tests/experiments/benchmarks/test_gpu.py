"""What `gpu.sh` runs, on a CPU: every path but the calls of CUDA."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import Tensor

from experiments.benchmarks import gpu, gpu_worker
from experiments.benchmarks.gpu import jobs, main, rows_of, run_job
from experiments.benchmarks.gpu_worker import NCHW, VARIANTS, Job, Report, measure
from experiments.benchmarks.interleaved import HRSEG, Row
from experiments.benchmarks.train import PLAIN
from hrseg.inference.cuda_graphs import Function

ROOT = Path(__file__).parents[3]
NETWORK = "hrnetv2_w18_small_v1"
JOB = Job("gpu predict", NETWORK, (64, 128), variants=(HRSEG, NCHW), seconds=0.0)
# of hrseg's dependencies; the machine has torch, torchvision, timm, pytorch-lightning, onnxruntime and what they need
ABSENT = ("albumentations", "cityscapesscripts", "cv2", "jsonargparse", "kornia_rs", "pooch", "pydantic", "rich")
ABSENT += ("segmentation_models_pytorch", "pycocotools", "ijson", "openvino", "nncf")


@pytest.fixture(autouse=True)
def _settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)  # given back after each test


@pytest.mark.process
def test_the_script_on_a_machine_that_lacks_most_dependencies(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\nclass Absent:\n    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.split('.')[0] in {ABSENT}:\n            raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Absent())\n"
    )
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "PYTHON": sys.executable}
    output = tmp_path / "rows.csv"
    command = [
        "bash",
        "experiments/benchmarks/gpu.sh",
        "--device",
        "cpu",
        "--quick",
        "--commit",
        "abc",
        "--output",
        output,
    ]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "FAILED" not in result.stdout
    with output.open(newline="") as file:
        rows = list(csv.DictReader(file))
    timed = [row["side"] for row in rows if row["case"] == f"{NETWORK} 1x3x64x128"]
    assert set(timed) == {*VARIANTS, gpu_worker.TIMM} - set(gpu._COMPILED)
    trained = [row["side"] for row in rows if row["case"] == f"{NETWORK} 2x3x64x128, bf16"]
    assert trained == [HRSEG, PLAIN]
    assert {row["commit"] for row in rows} == {"abc"}
    assert all("torch" in row["versions"] and "cores" in row["hardware"] for row in rows)


def test_variants_compute_the_same() -> None:
    variants = (HRSEG, NCHW, "bf16 autocast", "fp32, calls of cuDNN, side streams")
    published: list[int] = []
    job = Job("gpu predict", NETWORK, (64, 128), variants=variants, seconds=0.0)
    report = measure(job, lambda report: published.append(len(report.results)))
    assert report.failures == {}
    assert published[:4] == [1, 2, 3, 4]
    assert {name: len(values) for name, values in report.seconds.items()} == dict.fromkeys(variants, 1)
    differences = {name: numbers["difference of logits / largest"] for name, numbers in report.results.items()}
    assert differences[NCHW] == 0
    assert differences[HRSEG] < 1e-4
    assert differences["fp32, calls of cuDNN, side streams"] < 1e-4
    assert 1e-3 < differences["bf16 autocast"] < 0.3
    assert report.results[HRSEG]["pixels that differ, %"] < 0.1


def test_a_wrong_variant_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_worker, "fold_batch_norm", lambda network: network.eval().apply(_shift))
    report = measure(JOB)
    assert report.results[HRSEG]["difference of logits / largest"] > 0.1


def _shift(module: torch.nn.Module) -> None:
    if isinstance(module, torch.nn.BatchNorm2d):
        module.running_mean.add_(1)


def test_a_variant_that_fails_costs_its_own_rows_only(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(network: object) -> None:
        raise RuntimeError("CUDA error: an illegal memory access\nMore.")

    monkeypatch.setattr(gpu_worker, "fold_batch_norm", fail)
    report = measure(JOB)
    assert report.failures == {HRSEG: "RuntimeError: CUDA error: an illegal memory access"}
    assert list(report.seconds) == [NCHW]
    (row, *others) = rows_of(JOB, report)
    assert (row.side, row.unit, row.ratio) == (NCHW, "s", None)
    assert {other.unit for other in others} == {""}


def test_a_graph_that_was_dropped_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(function: Function, images: Tensor) -> tuple[Function, int]:
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(gpu_worker, "_no_capture", fail)
    report = measure(JOB)
    assert "run without a CUDA graph, which failed: operation not permitted" in report.failures[HRSEG]
    assert list(report.seconds) == [NCHW]


def test_the_sides_of_a_training_have_the_same_loss() -> None:
    job = Job("gpu train", NETWORK, (32, 64), 2, (HRSEG, PLAIN), "fp32", seconds=0.0)
    report = measure(job)
    ours, plain = (report.results[side]["loss of the first step"] for side in (HRSEG, PLAIN))
    assert ours == pytest.approx(plain, rel=1e-4)


def test_rows() -> None:
    report = Report({HRSEG: [1.0, 2.0], NCHW: [3.0, 8.0]}, {HRSEG: 100.0, NCHW: 150.0}, {NCHW: {"pixels": 0.5}})
    case = f"{NETWORK} 1x3x64x128"
    assert rows_of(JOB, report) == [
        Row("gpu predict", case, HRSEG, 1.5, "s", 1.0),
        Row("gpu predict", case, NCHW, 5.5, "s", 3.5),
        Row("gpu predict", f"{case}, memory", HRSEG, 100.0, "MiB", 1.0),
        Row("gpu predict", f"{case}, memory", NCHW, 150.0, "MiB", 1.5),
        Row("gpu predict", f"{case}, pixels", NCHW, 0.5, ""),
    ]


def worker(text: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs this program for a job instead."""
    (folder / "stand_in.py").write_text(text)
    monkeypatch.setattr(gpu, "_WORKER", "stand_in")
    monkeypatch.setattr(gpu, "_ROOT", folder)


@pytest.mark.process
def test_a_process_that_hangs_is_stopped_with_its_children(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = '{"seconds": {"hrseg": [1.0]}, "memory": {}, "results": {}, "failures": {}}'
    text = f"""
import subprocess, sys, time
child = subprocess.Popen(["sleep", "600"])
open("child", "w").write(str(child.pid))
print("a line of torch")
print('{report}', flush=True)
print('{report[:20]}', end="", flush=True)
open("ready", "w").close()
time.sleep(600)
"""

    class Process(subprocess.Popen[str]):
        """Runs out of time when all is printed, however busy the machine is."""

        def wait(self, timeout: float | None = None) -> int:
            while timeout is not None and not (tmp_path / "ready").exists():
                time.sleep(0.05)
            return super().wait(timeout and 0.1)

    worker(text, tmp_path, monkeypatch)
    monkeypatch.setattr(gpu.subprocess, "Popen", Process)
    found = run_job(JOB, 2.0)
    assert found.seconds == {HRSEG: [1.0]}
    assert found.failures == {"all": "stopped after 2 s"}
    child = Path(f"/proc/{(tmp_path / 'child').read_text()}/stat")
    end = time.monotonic() + 60
    while is_running(child):
        assert time.monotonic() < end
        time.sleep(0.05)


def is_running(stat: Path) -> bool:
    try:
        return stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.process
def test_a_process_that_ends_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    worker("import sys; sys.exit(3)", tmp_path, monkeypatch)
    assert run_job(JOB, 60.0) == Report(failures={"all": "exit code 3"})


def test_no_job_is_begun_when_time_is_up(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(gpu, "run_job", lambda *_: pytest.fail("begun"))
    assert main(["--device", "cpu", "--quick", "--minutes", "0.1"]) == 1
    assert capsys.readouterr().out.count("no time left") == 2


def test_jobs_are_limited_by_the_time_that_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = []

    def run(job: Job, limit: float) -> Report:
        limits.append(limit)
        return Report()

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(gpu, "run_job", run)
    assert main(["--device", "cpu", "--quick", "--minutes", "0.5"]) == 0
    assert len(limits) == 2
    assert max(limits) <= 30


@pytest.mark.skipif(torch.cuda.is_available(), reason="measures for minutes")
def test_without_a_gpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--output", str(tmp_path / "rows.csv")]) == 1
    assert "no GPU was found" in capsys.readouterr().err


def test_every_variant_has_a_job() -> None:
    measured = {name for job, _ in jobs() if job.subject == "gpu predict" for name in job.variants}
    assert measured == {*VARIANTS, gpu_worker.TIMM}
