"""Latency and peak memory of a network on this machine."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hrseg.errors import ConfigError, HrsegError
from hrseg.inference.checkpoint import rebuild_network
from hrseg.inference.cuda_graphs import graphed
from hrseg.inference.predictor import usable_device
from hrseg.models import Network, Segmenter, create_model, fold_batch_norm, fuse_for_cpu
from hrseg.models.complexity import count_multiply_adds, count_parameters
from hrseg.models.weights.read import read_content
from hrseg.utils.memory import available_memory, peak_memory

Measured = dict[str, float | str]

_AUTOCAST = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
_WARM_UP_RUNS = 3  # cuDNN selects its algorithms, torch.compile compiles, CUDA graphs are captured
_QUANTILES = torch.tensor([0.5, 0.0, 0.9], dtype=torch.float64)


@dataclass(frozen=True)
class Case:
    """What to measure: a network as `Predictor` runs it.

    Args:
        network: A name of `list_models()`, which gets random weights, or else the checkpoint of a run.
        is_checkpoint: Which of the two.
        size: (height, width) of the images in pixels.
        batch_size: Images per forward pass.
        precision: "fp32", or "bf16" or "fp16" for autocast.
        device: As for `Predictor`.
        compile: Whether to use `torch.compile`.
        trust: As for `Predictor.from_checkpoint`.
        seconds: Minimum duration of the measurement, after warm-up.
    """

    network: str
    is_checkpoint: bool = False
    size: tuple[int, int] = (512, 1024)
    batch_size: int = 1
    precision: str = "fp32"
    device: str | None = None
    compile: bool = False
    trust: bool = False
    seconds: float = 5.0


def measure(case: Case) -> Measured:
    """Measures in a subprocess: the peak memory is that of this case alone, and running out of it ends no other.

    Returns:
        What `measure_here` returns, or "failure": one line that says why there is no measurement.

    Raises:
        ConfigError: The network or the device cannot be used, or the network refuses images of this size.
    """
    code = "from hrseg.inference.benchmark import _serve; _serve()"
    process = subprocess.run([sys.executable, "-c", code, json.dumps(asdict(case))], capture_output=True, text=True)
    if process.returncode:
        return {"failure": failure_of_exit(process.returncode, process.stderr)}
    answer: Measured = json.loads(process.stdout.splitlines()[-1])
    if "error" in answer:
        raise ConfigError(str(answer["error"]))
    return answer


def _serve() -> None:
    """Entry point of the subprocess."""
    torch.backends.cudnn.benchmark = True  # as in the recipes
    torch.set_flush_denormal(True)  # random weights may shrink activations to numbers that are slow to compute with
    limit_memory()
    answer: Measured
    try:
        answer = measure_here(Case(**json.loads(sys.argv[1])))
    except HrsegError as error:
        answer = {"error": str(error)}
    except (MemoryError, RuntimeError) as error:
        answer = {"failure": failure_of_error(error)}
    print(f"\n{json.dumps(answer)}")


def limit_memory() -> None:
    """Limits this process to the available memory: allocations are to fail before Linux kills a process."""
    available = available_memory(torch.device("cpu"))
    if sys.platform == "linux" and available is not None:
        import resource

        used = int(re.findall(r"VmData:\s+(\d+) kB", Path("/proc/self/status").read_text())[0]) * 2**10
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (used + int(available * 2**30), hard))


def failure_of_error(error: Exception) -> str:
    """Says in one line why PyTorch or a runtime cannot run a network."""
    is_memory = isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "DefaultCPUAllocator" in str(error)
    return "out of memory" if is_memory else f"{type(error).__name__}: {error}".partition("\n")[0]


def failure_of_exit(code: int, errors: str) -> str:
    """Says in one line why a process ended, from its exit code and what it wrote to stderr."""
    if code == -9:  # by Linux, when memory runs out
        return "out of memory"
    return errors.strip().rpartition("\n")[2] or f"exit code {code}"


def measure_here(case: Case) -> Measured:
    """Measures in this process.

    Returns:
        "latency_ms", "min_ms" and "p90_ms": median, minimum and 90th percentile of the time per batch; "images_per_s"
        by the median; "params_m": millions of parameters; "gmacs": billions of
        multiply-adds of convolutions, linear layers and matrix products for one image; "peak_gib": memory allocated by
        PyTorch on a GPU, else resident memory of the process, including the interpreter and PyTorch; "device";
        "threads" of the CPU.

    Raises:
        HrsegError: The network or the device cannot be used, or the network refuses images of this size.
        RuntimeError: PyTorch cannot run the network, such as for want of memory.
    """
    device = usable_device(case.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    network: nn.Module
    if case.is_checkpoint:
        network = rebuild_network(read_content(case.network), case.network, case.trust)[0].eval()
    else:
        network = create_model(case.network).eval()
    params_m = count_parameters(network) / 1e6
    gmacs = count_multiply_adds(copy.deepcopy(network).to("meta"), torch.empty(1, 3, *case.size, device="meta")) / 1e9
    if isinstance(network, Network):
        network = fold_batch_norm(network)
    network = network.to(device).to(memory_format=torch.channels_last)
    images = torch.randn(case.batch_size, 3, *case.size, device=device).contiguous(memory_format=torch.channels_last)
    dtype = _AUTOCAST[case.precision]
    if isinstance(network, Segmenter) and not case.compile and (device.type, dtype) != ("cpu", torch.float16):
        # as `Predictor` runs it
        network = fuse_for_cpu(network) if device.type == "cpu" else network
        network, images, dtype = network.to(dtype or torch.float32), images.to(dtype or torch.float32), None
    compute = torch.compile(network) if case.compile else network

    def forward(images: Tensor) -> dict[str, Any]:
        with torch.autocast(device.type, dtype, enabled=dtype is not None):
            return {"out": compute(images)}

    has_graphs = isinstance(network, Segmenter) and not case.compile
    run = graphed(forward, device) if has_graphs else forward

    @torch.inference_mode()
    def seconds_of_a_run() -> float:
        start = time.perf_counter()
        run(images)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - start

    for _ in range(_WARM_UP_RUNS):
        seconds_of_a_run()
    seconds: list[float] = []
    while not seconds or sum(seconds) < case.seconds:
        seconds.append(seconds_of_a_run())
    median, fastest, p90 = torch.tensor(seconds, dtype=torch.float64).quantile(_QUANTILES).tolist()
    return {
        "latency_ms": 1e3 * median,
        "min_ms": 1e3 * fastest,
        "p90_ms": 1e3 * p90,
        "images_per_s": case.batch_size / median,
        "params_m": params_m,
        "gmacs": gmacs,
        "peak_gib": peak_memory(device),
        "device": str(device),
        "threads": torch.get_num_threads(),
    }
