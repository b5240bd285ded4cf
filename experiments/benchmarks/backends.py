"""From uint8 images to labels on a CPU: `Predictor` and exported files against the official network."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from experiments.benchmarks.interleaved import HRSEG, Row, compare, time_interleaved
from experiments.benchmarks.settled import in_nchw, settled
from experiments.benchmarks.workers import Worker
from hrseg import CITYSCAPES
from hrseg.data.datasets.street_scenes import generate_scene
from hrseg.export import FILE_SUFFIXES, Quantization, export
from hrseg.inference import IMAGENET_MEAN, IMAGENET_STD, Predictor, Protocol, normalize
from hrseg.inference.exported import ExportDescription
from hrseg.models import create_model

OFFICIAL = "official order of operations, NCHW"
PYTORCH = "Predictor"
NETWORKS = ("hrnetv2_w18", "hrnetv2_w18_small_v1")
# what runs, and its precision
SIDES = (
    (PYTORCH, "fp32"),
    (PYTORCH, "bf16"),
    ("onnx", "fp32"),
    ("onnx", "int8"),
    ("openvino", "fp32"),
    ("openvino", "bf16"),
    ("openvino", "int8"),
)
_CALIBRATION_IMAGES = 4  # which do not change the speed


def measure_backends(
    repeats: int = 10,
    threads: int = 2,
    size: tuple[int, int] = (512, 1024),
    networks: Sequence[str] = NETWORKS,
    sides: Sequence[tuple[str, str]] = SIDES,
) -> list[Row]:
    """Times one image in processes that run in turn; counts the labels that differ from the official network's.

    The networks have random weights, whose labels hang on less than those of trained ones: half precision and int8 look
    worse than they are.

    Args:
        repeats: Number of rounds.
        threads: Threads of one process at a time.
        size: (height, width) of the image.
        networks: Their names.
        sides: What to time: "Predictor" or a runtime, and its precision.
    """
    rows: list[Row] = []
    for name in networks:
        with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
            workers = {OFFICIAL: stack.enter_context(Worker(run_of, threads, OFFICIAL, "fp32", name, size, ""))}
            expected = run_of(OFFICIAL, "fp32", name, size, "")()
            differing = {}
            for kind, precision in sides:
                path = "" if kind == PYTORCH else str(_exported(kind, precision, name, size, Path(folder)))
                arguments = (kind, precision, name, size, path)
                differing[f"{kind} {precision}"] = float((run_of(*arguments)() != expected).float().mean())
                workers[f"{kind} {precision}"] = stack.enter_context(Worker(run_of, threads, *arguments))
            seconds = time_interleaved({side: worker.run for side, worker in workers.items()}, repeats)
        for side, share in differing.items():
            case = f"{name} 1x{size[0]}x{size[1]}x3 to labels, {side}"
            rows += compare("backends", case, {HRSEG: seconds[side], OFFICIAL: seconds[OFFICIAL]}, {})
            rows.append(Row("backends", case, HRSEG, 100 * share, "% of labels differ"))
    return rows


def run_of(kind: str, precision: str, name: str, size: tuple[int, int], path: str) -> Callable[[], Tensor]:
    """Builds one side, which maps an image to float labels; all have the same random weights and image."""
    image = generate_scene(0, "val", 0, size).image
    if path:
        predictor = Predictor.from_file(path, trust=True)
        return lambda: torch.from_numpy(predictor(image)).float()
    network = _network(name)
    if kind == PYTORCH:
        predictor = Predictor(network, CITYSCAPES, device="cpu", precision=precision)
        return lambda: torch.from_numpy(predictor(image)).float()
    official = in_nchw(network)
    return torch.inference_mode()(lambda: _official(official, image))


def _official(network: nn.Module, image: np.ndarray) -> Tensor:
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    images = normalize(torch.from_numpy(image).permute(2, 0, 1)[None].contiguous(), mean, std)
    labels: Tensor = network(images).argmax(1)[0].float()
    return labels


def _network(name: str) -> nn.Module:
    torch.manual_seed(0)
    return settled(create_model(name, CITYSCAPES.num_classes), torch.randn(2, 3, 256, 256))


def _exported(runtime: str, precision: str, name: str, size: tuple[int, int], folder: Path) -> Path:
    description = ExportDescription(
        runtime=runtime,  # type: ignore[arg-type]
        precision=precision,  # type: ignore[arg-type]
        network=name,
        labels=CITYSCAPES,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        channel_order="rgb",
        align_corners=False,
        protocol=Protocol(),
        crop_size=None,
        input_size=None,
        size=size,
    )
    path = folder / f"{precision}{FILE_SUFFIXES[runtime]}"
    scenes = [generate_scene(0, "train", index, size).image for index in range(_CALIBRATION_IMAGES)]
    export(_network(name), description, path, quantization=Quantization(scenes) if precision == "int8" else None)
    return path
