"""A model of the throughput of data-parallel training on many GPUs: predictions, not measurements."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import accumulate
from statistics import NormalDist

from experiments.benchmarks.traffic import Traffic, gathered_bytes, summed_bytes


@dataclass(frozen=True)
class Cluster:
    """Nodes of equal GPUs, with the bandwidth and latency of messages between GPUs.

    The defaults are assumptions: a node of eight GPUs with NVLink, and 200 Gbit/s between nodes. Latencies are of the
    order of those in NCCL's table.

    Args:
        bandwidth: Bytes per second from a node to others, over all its network cards.
        gpus_per_node: GPUs of a node.
        bandwidth_within: Bytes per second from a GPU to another of its node.
        latency: Seconds for a message to another node.
        latency_within: Seconds for a message within a node.
        overhead: Seconds to launch a collective; for SyncBatchNorm, where the CPU waits for the result, also to launch
            the next kernels.

    Source:
        NCCL, src/graph/tuning.cc: the number of hops of rings and trees, and its latencies.
    """

    bandwidth: float = 25e9
    gpus_per_node: int = 8
    bandwidth_within: float = 200e9
    latency: float = 5e-6
    latency_within: float = 1e-6
    overhead: float = 20e-6

    def all_reduce(self, size: float, gpus: int) -> float:
        """Seconds of an all-reduce of `size` bytes.

        Each GPU sends 2 (N - 1) / N of them, and the slowest link of a ring decides. The first byte makes 2 (N - 1)
        hops in a ring; trees, which NCCL uses for small messages and many nodes, need fewer: along the GPUs of a node,
        and as many as the logarithm of the number of nodes.
        """
        if gpus == 1:
            return 0.0
        nodes = self._nodes(gpus)
        ring = 2 * self._hops(gpus)
        tree = 2 * ((gpus / nodes - 1) * self.latency_within + math.ceil(math.log2(nodes)) * self.latency)
        return self.overhead + min(ring, tree) + 2 * (gpus - 1) / gpus * size / self._slowest(gpus)

    def all_gather(self, size: float, gpus: int) -> float:
        """Seconds of an all-gather of `size` bytes a GPU, around a ring."""
        if gpus == 1:
            return 0.0
        return self.overhead + self._hops(gpus) + (gpus - 1) * size / self._slowest(gpus)

    def broadcast(self, size: float, gpus: int) -> float:
        """Seconds of a broadcast of `size` bytes, pipelined along a ring."""
        if gpus == 1:
            return 0.0
        return self.overhead + self._hops(gpus) + size / self._slowest(gpus)

    def _nodes(self, gpus: int) -> int:
        return math.ceil(gpus / self.gpus_per_node)

    def _slowest(self, gpus: int) -> float:
        """A ring enters and leaves each node once, over all its network cards."""
        return self.bandwidth_within if self._nodes(gpus) == 1 else min(self.bandwidth, self.bandwidth_within)

    def _hops(self, gpus: int) -> float:
        """Latency of one round through all GPUs."""
        nodes = self._nodes(gpus)
        return (gpus - nodes) * self.latency_within + (nodes - 1) * self.latency


@dataclass(frozen=True)
class Training:
    """A training on one GPU.

    Args:
        step_time: Seconds per step.
        crops: Crops per step.
        traffic: Communication of a step.
        sync_bn: Whether batch norm is synchronised.
        backward_share: Share of the backward pass, which gradients overlap with, in the step.
        jitter: Standard deviation of the step time, relative to it.
    """

    step_time: float
    crops: float
    traffic: Traffic
    sync_bn: bool = False
    backward_share: float = 2 / 3
    jitter: float = 0.02

    def with_crops(self, crops: float) -> Training:
        """The same with another number of crops; the step time scales with it."""
        return replace(self, crops=crops, step_time=self.step_time * crops / self.crops)


@dataclass(frozen=True)
class Prediction:
    """The predicted step on a number of GPUs; all times in seconds.

    Args:
        gpus: Number of GPUs.
        batch: Crops per step, over all GPUs.
        computing: The step on one GPU.
        waiting: For the slowest GPU.
        gradients: All-reduce of gradients that does not overlap with the backward pass.
        buffers: Broadcast of buffers before the forward pass.
        statistics: Communication of SyncBatchNorm.
    """

    gpus: int
    batch: float
    computing: float
    waiting: float
    gradients: float
    buffers: float
    statistics: float

    @property
    def step_time(self) -> float:
        """Seconds of a step."""
        return self.computing + self.waiting + self.gradients + self.buffers + self.statistics

    @property
    def throughput(self) -> float:
        """Crops per second."""
        return self.batch / self.step_time

    @property
    def efficiency(self) -> float:
        """Throughput relative to as many GPUs without communication."""
        return self.computing / self.step_time


def predict(training: Training, cluster: Cluster, gpus: int) -> Prediction:
    """Predicts the step time, with as many crops a GPU as in `training`.

    Assumptions:

    - Dataloaders keep up, and communication does not slow computation down.
    - Gradients become ready at a constant rate over the backward pass, and are reduced bucket after bucket. What fits
      into the backward pass is hidden, the last bucket never is. (In HRNet the coarse branches of the last stages,
      which hold most parameters, come first: a little better than assumed.)
    - Nothing else overlaps. Buffers are broadcast before the forward pass. Each SyncBatchNorm waits for its two
      messages. They share the links with the gradients, in order of launch, so that its sums also wait for the bucket
      before them: with SyncBatchNorm no gradients are hidden.
    - Step times of the GPUs are independent and normally distributed; all wait for the slowest once a step.
    - No other traffic, and equal links between all nodes.

    Args:
        training: The training on one GPU.
        cluster: The cluster.
        gpus: Number of GPUs.
    """
    traffic = training.traffic
    statistics = 0.0
    if training.sync_bn:
        for channels in traffic.norm_channels:
            statistics += cluster.all_gather(gathered_bytes(channels), gpus)
            statistics += cluster.all_reduce(summed_bytes(channels), gpus)
    return Prediction(
        gpus=gpus,
        batch=gpus * training.crops,
        computing=training.step_time,
        waiting=training.step_time * training.jitter * expected_maximum(gpus),
        gradients=_visible(training, cluster, gpus),
        buffers=cluster.broadcast(traffic.buffers, gpus),
        statistics=statistics,
    )


def _visible(training: Training, cluster: Cluster, gpus: int) -> float:
    """Seconds from the end of the backward pass to the last reduced gradient."""
    buckets = training.traffic.buckets
    if training.sync_bn:
        return sum(cluster.all_reduce(bucket, gpus) for bucket in buckets)
    backward = training.backward_share * training.step_time
    sent = 0.0  # the end of the last bucket, from the start of the backward pass
    for bucket, ready in zip(buckets, accumulate(buckets), strict=True):
        sent = max(sent, backward * ready / sum(buckets)) + cluster.all_reduce(bucket, gpus)
    return sent - backward


def expected_maximum(number: int) -> float:
    """Approximates the expected maximum of so many standard normal variables.

    It grows as its upper bound sqrt(2 ln N).

    Source:
        Blom, Statistical Estimates and Transformed Beta-Variables, 1958.

    >>> round(expected_maximum(1), 3), round(expected_maximum(8), 3), round(expected_maximum(512), 3)
    (0.0, 1.434, 3.031)
    """
    return NormalDist().inv_cdf((number - 0.375) / (number + 0.25))
