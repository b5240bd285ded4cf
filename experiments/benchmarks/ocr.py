"""Time and memory of object-contextual representations, from pixel features and coarse logits."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from experiments.benchmarks.interleaved import HRSEG, Row, default_device, require_close, torch_threads
from experiments.benchmarks.workers import compare_apart
from hrseg.models import optimize_for_cpu
from hrseg.models.networks.ocr import SpatialOCR, gather_regions

PLAIN = "NCHW, permute, matmul, softmax, cat"
CHANNELS_LAST = "the same in channels_last"

_MID, _KEY, _NUM_CLASSES = 512, 256, 19


def measure_ocr(repeats: int = 10, threads: int = 2, size: tuple[int, int] = (128, 256), mid: int = _MID) -> list[Row]:
    """Compares the OCR block with one of the same weights written as in the paper and the official code.

    Args:
        repeats: Number of rounds.
        threads: Intra-op threads of PyTorch.
        size: (height, width) of the features.
        mid: Their channels.
    """
    rows = []
    for training in (False, True):
        sides = (HRSEG, PLAIN, CHANNELS_LAST)
        with torch_threads(threads):
            ours, *others = (_make(side, mid, size, training)() for side in sides)
        for other in others:
            require_close(ours, other)
        rows += compare_apart(
            "ocr",
            f"features 1x{mid}x{size[0]}x{size[1]}, {_NUM_CLASSES} classes, "
            f"{'forward and backward' if training else 'forward'}",
            _make,
            sides,
            (mid, size, training),
            repeats,
            threads,
            {},
            {},
        )
    return rows


def _make(side: str, mid: int, size: tuple[int, int], training: bool) -> Callable[[], Tensor]:
    """Returns a function that returns the features, or in training the gradients of pixels and scores."""
    torch.manual_seed(0)
    ocr = SpatialOCR(mid, _KEY, dropout=0.0, bias=False, negative_slope=0.0).to(default_device())
    # past a ReLU, as in the network
    pixels = torch.randn(1, mid, *size, device=default_device()).relu()
    scores = torch.randn(1, _NUM_CLASSES, *size, device=default_device())
    if side != PLAIN:
        ocr.to(memory_format=torch.channels_last)
        pixels, scores = (x.contiguous(memory_format=torch.channels_last) for x in (pixels, scores))
    if not training:
        ocr.eval()
    if side == HRSEG and default_device().type == "cpu":
        optimize_for_cpu(ocr)  # as `SegmentationTask` and `Predictor` do

    def forward() -> Tensor:
        if side == HRSEG:
            features: Tensor = ocr(pixels, gather_regions(pixels, scores))
            return features
        return _straightforward(ocr, pixels, scores)

    def step() -> Tensor:
        inputs = [pixels.requires_grad_(), scores.requires_grad_()]
        gradients = torch.autograd.grad(forward().square().mean(), inputs)
        return torch.cat([gradient.flatten() for gradient in gradients])

    return step if training else torch.inference_mode()(forward)


def _straightforward(ocr: SpatialOCR, pixels: Tensor, scores: Tensor) -> Tensor:
    """The block with pixels as rows of a matrix, and the context concatenated with the pixels at the end."""
    batch, _, height, width = pixels.shape
    attention = ocr.object_context_block
    shares = scores.flatten(2).softmax(2)
    regions = torch.matmul(shares, pixels.flatten(2).permute(0, 2, 1)).permute(0, 2, 1).unsqueeze(3)
    queries = attention.f_pixel(pixels).flatten(2).permute(0, 2, 1)
    keys = attention.f_object(regions).flatten(2)
    values = attention.f_down(regions).flatten(2).permute(0, 2, 1)
    alike = (torch.matmul(queries, keys) * keys.shape[1] ** -0.5).softmax(-1)
    context = torch.matmul(alike, values).permute(0, 2, 1).contiguous().view(batch, -1, height, width)
    features: Tensor = ocr.conv_bn_dropout(torch.cat([attention.f_up(context), pixels], 1))
    return features
