"""One job of `gpu.py` in a process of its own: variants of a network or of a training step, their timings interleaved.

Prints a `Report` as JSON after each round, so that one is there if the process is stopped. Imports only what a machine
with torch, timm and pytorch-lightning has: no pydantic, SMP, albumentations or jsonargparse.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial

import torch
from torch import Tensor, nn

from experiments.benchmarks.gpu_variants import CudnnBlock, EarlyHead, ParallelModule, pad_channels, swap
from experiments.benchmarks.interleaved import HRSEG, default_device
from experiments.benchmarks.settled import in_nchw, settled
from experiments.benchmarks.train import training_step
from hrseg.inference.cuda_graphs import Function, GraphedFunction, Outputs, graphed
from hrseg.models import HRNetV2, create_model, fold_batch_norm, outputs_of
from hrseg.utils.upsample import upsample

NCHW = "NCHW, batch norm not folded"
TIMM = "timm, features only, NCHW"
DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
_RUNS = 5  # of a variant in a round
_WARM_UP_RUNS = 3


@dataclass(frozen=True)
class Variant:
    """How a network is run.

    Args:
        precision: "fp32", "bf16" or "fp16".
        autocast: Whether weights stay in single precision.
        folded: Whether batch norm is folded and maps are in channels_last.
        graph: Whether it is replayed from a CUDA graph.
        padded: Whether channels are padded to multiples of 8.
        layers: Layers to swap in.
        compile: Whether to use `torch.compile` and its CUDA graphs.
    """

    precision: str = "fp32"
    autocast: bool = True
    folded: bool = True
    graph: bool = True
    padded: bool = False
    layers: tuple[type[nn.Module], ...] = ()
    compile: bool = False


_BF16 = Variant("bf16", autocast=False)
VARIANTS = {
    HRSEG: Variant(),  # as `Predictor` runs it on a GPU
    NCHW: Variant(folded=False, graph=False),
    "no CUDA graph": Variant(graph=False),
    "bf16 autocast": Variant("bf16"),
    "bf16 autocast, no CUDA graph": Variant("bf16", graph=False),
    "fp16 autocast": Variant("fp16"),
    "bf16 weights": _BF16,
    "bf16 weights, calls of cuDNN": replace(_BF16, layers=(CudnnBlock,)),
    "bf16 weights, side streams": replace(_BF16, layers=(ParallelModule,)),
    "bf16 weights, padded channels": replace(_BF16, padded=True),
    "bf16 weights, early head": replace(_BF16, layers=(EarlyHead,)),
    "bf16 weights, cuDNN, streams, padding": replace(_BF16, padded=True, layers=(CudnnBlock, ParallelModule)),
    "fp32, calls of cuDNN, side streams": Variant(layers=(CudnnBlock, ParallelModule)),
    "bf16 autocast, torch.compile": Variant("bf16", graph=False, compile=True),
}


@dataclass(frozen=True)
class Job:
    """What a process measures.

    Args:
        subject: "gpu predict" or "gpu train".
        network: Name of the network.
        size: (height, width) of the images.
        batch_size: Images per run.
        variants: Names of `VARIANTS` or `TIMM`, with "hrseg"; for a training those of `train.py`.
        precision: Of a training.
        seconds: Duration of the rounds, after all is built.
    """

    subject: str
    network: str
    size: tuple[int, int]
    batch_size: int = 1
    variants: tuple[str, ...] = (HRSEG,)
    precision: str = "fp32"
    seconds: float = 8.0

    @property
    def case(self) -> str:
        """As in `Row`."""
        case = f"{self.network} {self.batch_size}x3x{self.size[0]}x{self.size[1]}"
        return case if self.subject == "gpu predict" else f"{case}, {self.precision}"


@dataclass
class Report:
    """What a process measured, each by variant.

    Args:
        seconds: Time of a run, one entry per round.
        memory: Growth of the memory that PyTorch holds on the GPU, in MiB.
        results: Further numbers by their name; each compares with the plain network in single precision.
        failures: Why a variant was not measured, or runs otherwise than it should.
    """

    seconds: dict[str, list[float]] = field(default_factory=dict)
    memory: dict[str, float] = field(default_factory=dict)
    results: dict[str, dict[str, float]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)


def measure(job: Job, publish: Callable[[Report], None] = lambda report: None) -> Report:
    """Builds the variants, compares their results, and times them in turn.

    Args:
        job: What to measure.
        publish: Called after each round.
    """
    report = Report()
    device = default_device()
    torch.backends.cudnn.benchmark = True  # as in the recipes
    make, compare = (_predictions if job.subject == "gpu predict" else _trainings)(job, device)
    runs: dict[str, Callable[[], Tensor]] = {}
    with _WarningsAsFailures(report) as warnings:
        for name in job.variants:
            warnings.variant = name
            try:
                before = _memory()
                run = make(name)
                first = run()
                for _ in range(_WARM_UP_RUNS - 1):
                    run()
                _empty_cache()  # of what cuDNN tried
                result = run()
                report.memory[name] = (_memory() - before) / 2**20
                report.results[name] = compare(name, first, result)
                runs[name] = run
            except Exception as error:  # the other variants are measured all the same
                report.failures.setdefault(name, f"{type(error).__name__}: {error}".partition("\n")[0])
            publish(report)
    report.seconds = {name: [] for name in runs}
    end = time.perf_counter() + job.seconds
    number = 1 if job.subject == "gpu train" else _RUNS
    while runs and (time.perf_counter() < end or not report.seconds[next(iter(runs))]):
        for name, run in runs.items():
            report.seconds[name].append(min(_time(run) for _ in range(number)))
        publish(report)
    return report


Make = Callable[[str], Callable[[], Tensor]]
Compare = Callable[[str, Tensor, Tensor], dict[str, float]]  # variant, result of its first run, of a later one


def _predictions(job: Job, device: torch.device) -> tuple[Make, Compare]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(job.batch_size, 3, *job.size, generator=generator).to(device)
    torch.manual_seed(0)
    plain = create_model(job.network, init="kaiming")
    assert isinstance(plain, HRNetV2)
    settled(plain, images).requires_grad_(False)
    torch.backends.cudnn.allow_tf32 = False
    with torch.inference_mode():
        expected = in_nchw(plain).outputs(images)["out"].float()
    torch.backends.cudnn.allow_tf32 = True  # torch's default
    labels = _labels(expected, job, plain.align_corners)

    def make(name: str) -> Callable[[], Tensor]:
        return _of_timm(job.network, images) if name == TIMM else _variant(VARIANTS[name], plain, images)

    def compare(name: str, first: Tensor, later: Tensor) -> dict[str, float]:
        if name == TIMM:
            return {}
        others = _labels(later, job, plain.align_corners)
        return {
            "pixels that differ, %": 100 * float((others != labels).float().mean()),
            "difference of logits / largest": float((later - expected).abs().max() / expected.abs().max()),
        }

    return make, compare


@torch.inference_mode()
def _labels(logits: Tensor, job: Job, align_corners: bool) -> Tensor:
    return upsample(logits.float(), job.size, align_corners).argmax(1)


def _variant(variant: Variant, plain: HRNetV2, images: Tensor) -> Callable[[], Tensor]:
    """Returns a function that computes the logits (B, K, h, w)."""
    network = in_nchw(plain)
    if variant.folded:
        network = fold_batch_norm(plain)
        network = swap(pad_channels(network) if variant.padded else network, *variant.layers)
        network.to(memory_format=torch.channels_last)
        images = images.contiguous(memory_format=torch.channels_last)
    dtype = DTYPES[variant.precision]
    if dtype is not None and not variant.autocast:
        network, images, dtype = network.to(dtype), images.to(dtype), None
    function: Function = partial(_outputs, network, dtype)
    if variant.compile:
        function = torch.compile(function, mode="reduce-overhead")
    if variant.graph and images.is_cuda:
        function = graphed(function, images.device)
    elif variant.graph:
        function = GraphedFunction(function, lambda: _no_capture)

    def run() -> Tensor:
        # torch.compile does not take tensors of inference mode
        with torch.inference_mode(not variant.compile), torch.no_grad():
            return function(images)["out"]

    for _ in range(2):  # from the third run on from a graph
        run()
    if isinstance(function, GraphedFunction) and function.num_graphs == 0:
        raise RuntimeError("there is no CUDA graph")
    return run


def _outputs(network: nn.Module, dtype: torch.dtype | None, images: Tensor) -> Outputs:
    with torch.autocast(images.device.type, dtype, enabled=dtype is not None):
        return outputs_of(network, images)


def _no_capture(function: Function, images: Tensor) -> tuple[Function, int]:
    """Stands in for a capture on a CPU."""
    return function, 0


def _of_timm(network: str, images: Tensor) -> Callable[[], Tensor]:
    import timm  # takes seconds to import

    backbone = timm.create_model(network.replace("hrnetv2", "hrnet").removesuffix("_v1"), features_only=True)
    settled(backbone, images)

    @torch.inference_mode()
    def run() -> Tensor:
        finest: Tensor = backbone(images)[0]
        return finest

    return run


def _trainings(job: Job, device: torch.device) -> tuple[Make, Compare]:
    def make(name: str) -> Callable[[], Tensor]:
        return training_step(name, job.network, job.batch_size, job.size, DTYPES[job.precision])

    return make, lambda name, first, later: {"loss of the first step": float(first)}


def _time(run: Callable[[], Tensor]) -> float:
    _synchronize()
    start = time.perf_counter()
    run()
    _synchronize()
    return time.perf_counter() - start


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _empty_cache() -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _memory() -> int:
    """Bytes that PyTorch holds on the GPU; 0 without one."""
    if not torch.cuda.is_available():
        return 0
    torch.cuda.synchronize()
    return torch.cuda.memory_reserved()


class _WarningsAsFailures(logging.Handler):
    """Records warnings of hrseg, such as of a graph that was dropped, as failures of the current variant."""

    def __init__(self, report: Report) -> None:
        super().__init__(logging.WARNING)
        self._failures = report.failures
        self.variant = ""

    def __enter__(self) -> _WarningsAsFailures:
        logging.getLogger("hrseg").addHandler(self)
        return self

    def __exit__(self, *exception: object) -> None:
        logging.getLogger("hrseg").removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        self._failures[self.variant] = record.getMessage()


def job_of(values: Mapping[str, object]) -> Job:
    """A job from JSON, which has no tuples."""
    return Job(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})  # type: ignore[arg-type]


if __name__ == "__main__":
    measure(job_of(json.loads(sys.argv[1])), lambda report: print(json.dumps(asdict(report)), flush=True))
