"""Networks on a CPU as Python users and `Predictor` run them, in each precision, against the official way."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor

from experiments.benchmarks.interleaved import HRSEG, Row, compare, require_close, time_interleaved, torch_threads
from experiments.benchmarks.settled import in_nchw, settled
from experiments.benchmarks.workers import Worker
from hrseg import CITYSCAPES
from hrseg.inference import Predictor
from hrseg.models import create_model
from hrseg.models.complexity import count_multiply_adds
from hrseg.utils.upsample import upsample

OFFICIAL = "official order of operations, NCHW"
PLAIN = "as create_model returns it"
FP32, BF16 = "Predictor, fp32", "Predictor, bf16"
_TOLERANCE_OF_BF16 = 0.2  # of the norm of random networks' logits


@dataclass(frozen=True)
class Goals:
    """Minimum ratio of the official time to that of hrseg; that of bf16 is for CPUs with AMX."""

    plain: float
    fp32: float
    bf16: float


GOALS = {
    "hrnetv2_w18": Goals(1.5, 2.2, 8.0),
    "hrnetv2_w18_small_v1": Goals(1.0, 1.47, 5.3),
    "hrnetv2_w48": Goals(1.0, 1.5, 5.0),
}


def measure_cpu(
    repeats: int = 10, threads: int = 2, size: tuple[int, int] = (512, 1024), goals: Mapping[str, Goals] = GOALS
) -> list[Row]:
    """Times the logits of one normalised image, upsampled to its size, by processes that run in turn.

    A process each, since `Predictor` changes how a process allocates memory. Rows also hold the speed of each in
    GFLOP/s, and that of a convolution that is near the machine's peak.

    Args:
        repeats: Number of rounds.
        threads: Intra-op threads of PyTorch, of one process at a time.
        size: (height, width) of the image.
        goals: Targets by network.
    """
    peaks = {dtype: _peak(dtype, threads) for dtype in (torch.float32, torch.bfloat16)}
    rows = [
        Row("cpu", f"3x3 convolution of 256 channels, {str(dtype)[6:]}", "peak", peak, "GFLOP/s")
        for dtype, peak in peaks.items()
    ]
    for name, goal in goals.items():
        with ExitStack() as stack:
            workers = {
                side: stack.enter_context(Worker(run_of, threads, side, name, size))
                for side in (OFFICIAL, PLAIN, FP32, BF16)
            }
            seconds = time_interleaved({side: worker.run for side, worker in workers.items()}, repeats)
            _require_same({side: worker.norms[0] for side, worker in workers.items()})
            memory = {side: worker.peak_memory() for side, worker in workers.items()}
        operations = 2 * count_multiply_adds(create_model(name).to("meta"), torch.empty(1, 3, *size, device="meta"))
        targets = {PLAIN: goal.plain, FP32: goal.fp32, BF16: goal.bf16 if _has_amx() else 0.0}
        for side, target in targets.items():
            case = f"{name} 1x3x{size[0]}x{size[1]}, {side}"
            costs = {HRSEG: seconds[side], OFFICIAL: seconds[OFFICIAL]}
            rows += compare("cpu", case, costs, {OFFICIAL: target} if target else {})
            speed = operations / median(seconds[side]) / 1e9
            rows.append(Row("cpu", case, HRSEG, speed, "GFLOP/s"))
            rows += compare(
                "cpu",
                f"{case}, peak memory",
                {HRSEG: [memory[side]], OFFICIAL: [memory[OFFICIAL]]},
                {},
                unit="MiB",
            )
    return rows


def run_of(side: str, name: str, size: tuple[int, int]) -> Callable[[], Tensor]:
    """Builds one side; all have the same random weights."""
    torch.manual_seed(0)
    network = settled(create_model(name, init="kaiming"), torch.randn(2, 3, 256, 256))
    images = torch.randn(1, 3, *size)
    if side in (FP32, BF16):
        predictor = Predictor(network, CITYSCAPES, device="cpu", precision=side[-4:])
        align_corners = bool(predictor.network.align_corners)
        # as `Predictor` reads an image
        channels_last = images.contiguous(memory_format=torch.channels_last)
        return torch.inference_mode()(
            lambda: upsample(predictor._outputs(channels_last)["out"], images.shape[-2:], align_corners)
        )
    return torch.inference_mode()(partial(in_nchw(network) if side == OFFICIAL else network, images))


def _require_same(norms: Mapping[str, float]) -> None:
    expected = torch.tensor(norms[OFFICIAL])
    for side in (PLAIN, FP32):
        require_close(torch.tensor(norms[side]), expected)
    assert abs(norms[BF16] / norms[OFFICIAL] - 1) < _TOLERANCE_OF_BF16


def _peak(dtype: torch.dtype, threads: int, channels: int = 256, side: int = 64, rounds: int = 20) -> float:
    """Billions of operations per second of a convolution by oneDNN that suits it: 3x3, many channels, in the cache."""
    x = torch.randn(1, channels, side, side).to(dtype).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(channels, channels, 3, 3).to(dtype)
    seconds = []
    with torch_threads(threads), torch.inference_mode():
        for _ in range(rounds):
            start = time.perf_counter()
            F.conv2d(x, weight, padding=1)
            seconds.append(time.perf_counter() - start)
    return 2 * 9 * x.numel() * channels / min(seconds) / 1e9


def _has_amx() -> bool:
    return bool(torch.cpu.get_capabilities().get("amx_bf16", False))
