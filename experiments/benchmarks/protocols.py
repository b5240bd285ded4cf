"""Test protocols of the papers on one image, as `Predictor` runs them, against the official evaluator's way."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from experiments.benchmarks.interleaved import HRSEG, Row, compare, time_interleaved, torch_threads
from experiments.benchmarks.predict import files_of
from experiments.benchmarks.settled import in_nchw, settled
from experiments.benchmarks.workers import Worker
from hrseg import CITYSCAPES
from hrseg.inference import IMAGENET_MEAN, IMAGENET_STD, Predictor, Protocol, named_protocol
from hrseg.models import create_model
from hrseg.utils.images import read_image

OFFICIAL = "as the official evaluator"
_SPEEDUP = 2.0
_MOST_DIFFERENT = 1e-3  # share of pixels: ties of random networks, as the official code resizes images in OpenCV

Network = Callable[[Tensor], Tensor]


def measure_protocols(
    repeats: int = 5,
    threads: int = 2,
    size: tuple[int, int] = (512, 1024),
    name: str = "hrnetv2_w18",
    names: Sequence[str] = ("cityscapes", "slide"),
    speedup: float = _SPEEDUP,
) -> list[Row]:
    """Times label maps of one generated scene, from its pixels; checks that they are equal but for ties.

    A process each, since `Predictor` changes how a process allocates memory.

    Args:
        repeats: Number of rounds.
        threads: Intra-op threads of PyTorch.
        size: (height, width) of the scene, and of the windows of "cityscapes"; those of "slide" have half of it.
        name: The network, with random weights.
        names: Protocols.
        speedup: Target of the ratios.

    Source:
        HRNet-Semantic-Segmentation, lib/core/function.py, test; lib/datasets, inference and multi_scale_inference.
    """
    rows = []
    for protocol in names:
        arguments = name, protocol, size
        with torch_threads(threads):
            maps = [run_of(side, *arguments)() for side in (HRSEG, OFFICIAL)]
        different = float((maps[0] != maps[1]).float().mean())
        assert different <= _MOST_DIFFERENT, f"{different:.2%} of the pixels differ under {protocol}"
        with ExitStack() as stack:
            runs = {
                side: stack.enter_context(Worker(run_of, threads, side, *arguments)).run for side in (HRSEG, OFFICIAL)
            }
            costs = time_interleaved(runs, repeats)
        rows += compare("protocols", f"{name} {size[0]}x{size[1]}, {protocol}", costs, {OFFICIAL: speedup})
    return rows


def run_of(side: str, name: str, protocol_name: str, size: tuple[int, int]) -> Callable[[], Tensor]:
    """Builds one side, which returns the label map (H, W) of a scene as float; all have the same random weights."""
    height, width = size
    protocol = named_protocol(protocol_name, (height // 2, width // 2))
    if protocol_name == "cityscapes":  # scaled down with the image
        protocol = replace(protocol, base_size=width, window=size)
    with TemporaryDirectory() as folder:
        pixels = read_image(next(iter(files_of(None, Path(folder), size, 1).values())))
    mean, std = np.array(IMAGENET_MEAN, np.float32), np.array(IMAGENET_STD, np.float32)
    torch.manual_seed(0)
    batch = torch.from_numpy((pixels / 255 - mean) / std).permute(2, 0, 1)[None].float()
    network = settled(create_model(name, CITYSCAPES.num_classes, init="kaiming"), batch)
    if side == HRSEG:
        predictor = Predictor(network, CITYSCAPES, device="cpu", protocol=protocol)
        return lambda: torch.from_numpy(predictor(pixels)).float()
    official = in_nchw(network)

    @torch.inference_mode()
    def evaluate() -> Tensor:
        image = (pixels.astype(np.float32) / 255 - mean) / std
        return torch.from_numpy(official_labels(official, image, protocol)).float()

    return evaluate


def official_labels(network: Network, image: np.ndarray, protocol: Protocol) -> np.ndarray:
    """Label map (H, W) of a normalised image (H, W, 3): scores travel between torch and numpy, one view at a time."""
    height, width = image.shape[:2]
    total: Tensor | None = None
    for scale in protocol.scales:
        long_side = int((protocol.base_size or max(height, width)) * scale + 0.5)
        short_side = int(min(height, width) * long_side / max(height, width) + 0.5)
        new = (long_side, short_side) if height > width else (short_side, long_side)
        scaled = cv2.resize(image, (new[1], new[0]), interpolation=cv2.INTER_LINEAR)
        is_whole = protocol.window is None or (protocol.whole_up_to is not None and scale <= protocol.whole_up_to)
        scores = _view(network, scaled, protocol) if is_whole else _windows(network, scaled, protocol)
        scores = F.interpolate(scores, (height, width), mode="bilinear")
        total = scores if total is None else total + scores
    assert total is not None
    labels: np.ndarray = np.argmax(total.numpy().transpose(0, 2, 3, 1), axis=3)[0].astype(np.uint8)
    return labels


def _view(network: Network, image: np.ndarray, protocol: Protocol) -> Tensor:
    """Scores (1, K, h, w) of an image (h, w, 3)."""
    batch = np.ascontiguousarray(image.transpose(2, 0, 1)[None])
    size = image.shape[:2]
    scores = F.interpolate(network(torch.from_numpy(batch)), size, mode="bilinear")
    if protocol.flip:
        mirrored = F.interpolate(network(torch.from_numpy(batch[..., ::-1].copy())), size, mode="bilinear")
        scores = (scores + torch.from_numpy(mirrored.numpy()[..., ::-1].copy())) * 0.5
    return scores.exp() if protocol.fusion == "exp" else scores


def _windows(network: Network, image: np.ndarray, protocol: Protocol) -> Tensor:
    """Scores (1, K, h, w) of an image, averaged over windows; the last ones are moved back, or padded with black."""
    assert protocol.window is not None
    (height, width), (rows, columns) = image.shape[:2], protocol.window
    down, right = protocol.stride or protocol.window
    black = -np.array(IMAGENET_MEAN, np.float32) / np.array(IMAGENET_STD, np.float32)
    total: Tensor | None = None
    counts = torch.zeros(1, 1, height, width)
    for row in range(max(math.ceil((height - rows) / down), 0) + 1):
        for column in range(max(math.ceil((width - columns) / right), 0) + 1):
            bottom, end = min(row * down + rows, height), min(column * right + columns, width)
            is_moved = protocol.last_window == "shift"
            top = max(bottom - rows, 0) if is_moved else row * down
            left = max(end - columns, 0) if is_moved else column * right
            part = image[top:bottom, left:end]
            if not is_moved:
                missing = (0, rows - part.shape[0], 0, columns - part.shape[1])
                part = cv2.copyMakeBorder(part, *missing, cv2.BORDER_CONSTANT, value=black.tolist())
            scores = _view(network, part, protocol)
            if total is None:
                total = torch.zeros(1, scores.shape[1], height, width)
            total[..., top:bottom, left:end] += scores[..., : bottom - top, : end - left]
            counts[..., top:bottom, left:end] += 1
    assert total is not None
    return total / counts
