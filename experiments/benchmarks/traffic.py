"""Communication of one data-parallel training step, counted from the network."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from hrseg.models import create_model

AGREEMENT = 8  # bytes: the one integer that `LastCheckpoint` reduces in every step, over gloo
_FIRST_BUCKET, _BUCKET = 2**20, 25 * 2**20  # bytes: the defaults of DistributedDataParallel
_FLOAT = 4  # bytes: statistics of batch norm, under mixed precision as well
_IMAGES = (2, 3, 128, 256)  # large enough for any of the networks


@dataclass(frozen=True)
class Traffic:
    """What the ranks of a data-parallel training exchange in one step.

    Args:
        buckets: Bytes of the buckets of gradients, in the order of their all-reduce.
        buffers: Bytes of the buffers that DistributedDataParallel broadcasts from rank 0 before the forward pass: the
            running statistics of batch norm, and constants that are buffers.
        norm_channels: Channels of each batch norm, as often as a forward pass uses it. SyncBatchNorm sends two messages
            for each: mean, inverse std and count in an all-gather, and two sums in the backward pass in an all-reduce.
    """

    buckets: tuple[int, ...]
    buffers: int
    norm_channels: tuple[int, ...]

    @property
    def gradients(self) -> int:
        """Bytes of all gradients."""
        return sum(self.buckets)

    def sent(self, world_size: int, sync_bn: bool = False) -> float:
        """Bytes that a rank sends in one step, averaged over the ranks, with ring algorithms.

        Each of N ranks sends 2 (N - 1) / N times what is reduced, and N - 1 times its own part of what is gathered;
        N - 1 ranks pass on what is broadcast.

        Args:
            world_size: Number of ranks.
            sync_bn: Whether batch norm is synchronised.
        """
        others = world_size - 1
        total = 2 * others / world_size * (self.gradients + AGREEMENT) + others / world_size * self.buffers
        if sync_bn:
            total += sum(others * gathered_bytes(channels) for channels in self.norm_channels)
            total += sum(2 * others / world_size * summed_bytes(channels) for channels in self.norm_channels)
        return total


def gathered_bytes(channels: int) -> int:
    """Bytes that a rank contributes to the all-gather of one SyncBatchNorm: mean, inverse std, number of pixels."""
    return (2 * channels + 1) * _FLOAT


def summed_bytes(channels: int) -> int:
    """Bytes of the all-reduce of one SyncBatchNorm in the backward pass."""
    return 2 * channels * _FLOAT


def traffic_of(network: str) -> Traffic:
    """Counts the communication of a network by its name, on the meta device: nothing is allocated or computed.

    Raises:
        UnknownNameError: No network has that name.
    """
    with torch.device("meta"):
        net = create_model(network)
        channels: list[int] = []
        for module in net.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                features = module.num_features
                module.register_forward_pre_hook(lambda _, __, features=features: channels.append(features))
        net.train()(torch.empty(_IMAGES))
    return Traffic(
        buckets=_buckets(p.numel() * p.element_size() for p in reversed(list(net.parameters())) if p.requires_grad),
        buffers=sum(buffer.numel() * buffer.element_size() for buffer in net.buffers()),
        norm_channels=tuple(channels),
    )


def _buckets(sizes: Iterable[int]) -> tuple[int, ...]:
    """Packs gradients as DistributedDataParallel does: a bucket is sent once it has reached its size.

    Source:
        PyTorch, torch/csrc/distributed/c10d/reducer.cpp, compute_bucket_assignment_by_size.
    """
    buckets = [0]
    for size in sizes:
        if buckets[-1] >= (_FIRST_BUCKET if len(buckets) == 1 else _BUCKET):
            buckets.append(0)
        buckets[-1] += size
    return tuple(buckets)
