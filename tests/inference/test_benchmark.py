"""The benchmark measures what it is given; how fast anything is, is not tested."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import torch
from pytorch_lightning import Trainer
from torch import nn

from hrseg.data.datasets.camvid import CAMVID
from hrseg.errors import ConfigError, WeightsError
from hrseg.inference import benchmark
from hrseg.inference.benchmark import Case, measure, measure_here
from hrseg.models import create_model
from hrseg.models.catalog import MODELS
from hrseg.models.complexity import count_parameters
from hrseg.task import SegmentationTask

NETWORK = "hrnetv2_w18_small_v1"
SMALL = Case(NETWORK, size=(64, 96), device="cpu", seconds=0.0)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_network_by_name(precision: str) -> None:
    measured = measure_here(Case(NETWORK, size=(64, 128), batch_size=2, precision=precision, device="cpu", seconds=0.0))
    assert measured["params_m"] == MODELS[NETWORK].parameters / 1e6
    assert measured["gmacs"] == pytest.approx(MODELS[NETWORK].multiply_adds / 1e9 / 16**2, rel=1e-3)
    assert 0 < float(measured["min_ms"]) <= float(measured["latency_ms"]) <= float(measured["p90_ms"])
    assert float(measured["images_per_s"]) == pytest.approx(2e3 / float(measured["latency_ms"]))
    assert float(measured["peak_gib"]) > 0
    assert (measured["device"], measured["threads"]) == ("cpu", torch.get_num_threads())


def test_the_network_of_a_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "best.ckpt"
    trainer = Trainer(accelerator="cpu", devices=1, logger=False, enable_progress_bar=False)
    trainer.strategy.connect(SegmentationTask(NETWORK, CAMVID, weights=None))
    trainer.save_checkpoint(path)
    measured = measure_here(Case(str(path), True, (64, 96), device="cpu", seconds=0.0))
    expected = count_parameters(create_model(NETWORK, CAMVID.num_classes))
    assert measured["params_m"] == pytest.approx(expected / 1e6, rel=1e-2)


def test_batch_norm_is_folded_and_runs_are_in_channels_last(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[bool, bool, torch.Size]] = []

    class Spy(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            is_nhwc = images.is_contiguous(memory_format=torch.channels_last)
            seen.append((is_nhwc, torch.is_inference_mode_enabled(), images.shape))
            return images

    folded = []
    monkeypatch.setattr(benchmark, "fold_batch_norm", lambda network: folded.append(network) or Spy())
    measure_here(SMALL)
    assert len(folded) == 1
    assert set(seen) == {(True, True, torch.Size((1, 3, 64, 96)))}


@pytest.mark.process
def test_in_a_subprocess() -> None:
    measured = measure(SMALL)
    assert "failure" not in measured
    assert measured["params_m"] == MODELS[NETWORK].parameters / 1e6


def answer_of(case: Case, monkeypatch: pytest.MonkeyPatch, error: Exception) -> dict[str, float | str]:
    """What `measure` makes of an error in the subprocess, without starting one."""

    def fail(_: Case) -> None:
        raise error

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        written: list[str] = []
        monkeypatch.setattr(benchmark.sys, "argv", ["-c", command[-1]])
        monkeypatch.setattr("builtins.print", written.append)
        benchmark._serve()
        return subprocess.CompletedProcess(command, 0, "".join(written), "")

    monkeypatch.setattr(benchmark, "measure_here", fail)
    monkeypatch.setattr(benchmark, "available_memory", lambda _: None)  # no limit for this process
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)  # and its setting is given back
    monkeypatch.setattr(torch, "set_flush_denormal", lambda _: True)
    monkeypatch.setattr(benchmark.subprocess, "run", run)
    return measure(case)


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (MemoryError(), "out of memory"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 TiB"), "out of memory"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), "out of memory"),
        (RuntimeError("not implemented for 'Half'\nand more"), "RuntimeError: not implemented for 'Half'"),
    ],
)
def test_what_pytorch_cannot_do_is_the_result(error: Exception, failure: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert answer_of(SMALL, monkeypatch, error) == {"failure": failure}


def test_mistakes_of_the_user_are_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        answer_of(SMALL, monkeypatch, WeightsError("no such file"))


@pytest.mark.parametrize(
    ("code", "stderr", "failure"),
    [(-9, "", "out of memory"), (-11, "", "exit code -11"), (1, "Traceback\n  x\nKeyError: 1\n", "KeyError: 1")],
)
def test_a_subprocess_that_ends_early(code: int, stderr: str, failure: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = subprocess.CompletedProcess([], code, "", stderr)
    monkeypatch.setattr(benchmark.subprocess, "run", lambda *_, **__: ended)
    assert measure(SMALL) == {"failure": failure}


@pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="the limit is Linux's")
@pytest.mark.process
def test_more_memory_than_there_is() -> None:
    """Allocations fail, instead of Linux killing processes."""
    assert measure(Case(NETWORK, size=(32768, 32768), batch_size=4096, device="cpu")) == {"failure": "out of memory"}


def test_an_unusable_device() -> None:
    with pytest.raises(ConfigError, match="device cuda:99 cannot be used"):
        measure_here(Case(NETWORK, device="cuda:99"))
