"""Time and memory of one training step: forward, loss, backward, optimiser step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from experiments.benchmarks.interleaved import HRSEG, Row, default_device
from experiments.benchmarks.workers import compare_apart
from hrseg.losses import CrossEntropyLoss
from hrseg.models import Segmenter, create_model, optimize_for_cpu, outputs_of
from hrseg.utils.malloc import keep_freed_memory

PLAIN = "NCHW, F.interpolate, F.cross_entropy"
SPEEDUP = 1.35  # target over `PLAIN` on a CPU
MEMORY_RATIO = 1.0  # target of the memory of `PLAIN` relative to hrseg


class Step(NamedTuple):
    """The training step to measure.

    Args:
        network: Name of the network.
        batch_size: Images per step.
        size: (height, width) of the images.
    """

    network: str = "hrnetv2_w18"
    batch_size: int = 4
    size: tuple[int, int] = (256, 512)

    @property
    def case(self) -> str:
        """As in `Row`."""
        return f"{self.network} {self.batch_size}x3x{self.size[0]}x{self.size[1]}"


STEP = Step()


def measure_train(repeats: int = 10, threads: int = 2, step: Step = STEP) -> list[Row]:
    """Times a training step of `SegmentationTask` against the shortest way to write one.

    Each runs in a subprocess of its own, as they configure malloc differently.

    Args:
        repeats: Number of rounds.
        threads: Intra-op threads of PyTorch.
        step: What is trained.
    """
    sides = (HRSEG, PLAIN)
    targets = {PLAIN: SPEEDUP}, {PLAIN: MEMORY_RATIO}
    return compare_apart("train", step.case, training_step, sides, tuple(step), repeats, threads, *targets)


def training_step(
    side: str, name: str, batch_size: int, size: tuple[int, int], dtype: torch.dtype | None = None
) -> Callable[[], Tensor]:
    """Returns a function that runs one step and returns the loss.

    Args:
        side: "hrseg" or `PLAIN`.
        name: Name of the network.
        batch_size: As in `Step`.
        size: As in `Step`.
        dtype: Of autocast; None for none.
    """
    device = default_device()
    if side == HRSEG:
        keep_freed_memory()  # as `SegmentationTask` does
    torch.manual_seed(0)
    network = create_model(name, init="kaiming").to(device)
    assert isinstance(network, Segmenter)
    images = torch.randn(batch_size, 3, *size, device=device)
    target = torch.randint(0, network.num_classes, (batch_size, *size), dtype=torch.uint8, device=device)
    target[:, : size[0] // 8] = 255
    if side == HRSEG:
        optimize_for_cpu(network).to(memory_format=torch.channels_last)
        images = images.contiguous(memory_format=torch.channels_last)
    criterion = CrossEntropyLoss(align_corners=network.align_corners)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)

    def upsample(maps: Tensor, size: Sequence[int]) -> Tensor:
        return F.interpolate(maps, size, mode="bilinear", align_corners=network.align_corners)

    def loss_of_batch() -> Tensor:
        if side == HRSEG:
            loss: Tensor = criterion(outputs_of(network, images)["out"], target)
            return loss
        finest, *coarser = network.features(images)
        logits = torch.cat([finest, *(upsample(maps, finest.shape[-2:]) for maps in coarser)], 1)
        for layer in network.get_submodule("last_layer").children():
            logits = layer(logits)
        return F.cross_entropy(upsample(logits, size), target.long(), ignore_index=255)

    def step() -> Tensor:
        optimizer.zero_grad()
        with torch.autocast(device.type, dtype, enabled=dtype is not None):
            loss = loss_of_batch()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return loss.detach()

    return step
