"""How fast a data-parallel training would be on many GPUs: a model on paper, not a measurement."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import accumulate
from statistics import NormalDist

from experiments.benchmarks.traffic import Traffic, gathered_bytes, summed_bytes


@dataclass(frozen=True)
class Cluster:
    """Nodes of equal GPUs, and how long messages between the GPUs take.

    The defaults are assumptions: a node of eight GPUs with NVLink, and 200 Gbit/s between nodes. Latencies are of the
    order of those in NCCL's table.

    Args:
        bandwidth: Bytes per second that a node sends to others, all its network cards together.
        gpus_per_node: GPUs of a node.
        bandwidth_within: Bytes per second that a GPU sends to another of its node.
        latency: Seconds until a message reaches another node.
        latency_within: Likewise within a node.
        overhead: Seconds that it takes to start a message of all GPUs; for SyncBatchNorm also until the CPU, which
            waits for the result, has started what comes next.

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
        """Seconds until all GPUs have the sum of what each has.

        Each sends 2 (N - 1) / N of it, and in a ring the slowest connection decides. The first byte makes 2 (N - 1)
        hops in a ring; trees, which NCCL takes for small messages and many nodes, need fewer: along the GPUs of a node,
        and as deep as the logarithm of the number of nodes.
        """
        if gpus == 1:
            return 0.0
        nodes = self._nodes(gpus)
        ring = 2 * self._hops(gpus)
        tree = 2 * ((gpus / nodes - 1) * self.latency_within + math.ceil(math.log2(nodes)) * self.latency)
        return self.overhead + min(ring, tree) + 2 * (gpus - 1) / gpus * size / self._slowest(gpus)

    def all_gather(self, size: float, gpus: int) -> float:
        """Seconds until all GPUs have what each of the others has, around a ring."""
        if gpus == 1:
            return 0.0
        return self.overhead + self._hops(gpus) + (gpus - 1) * size / self._slowest(gpus)

    def broadcast(self, size: float, gpus: int) -> float:
        """Seconds until all GPUs have what the first has, passed on piece by piece along a ring."""
        if gpus == 1:
            return 0.0
        return self.overhead + self._hops(gpus) + size / self._slowest(gpus)

    def _nodes(self, gpus: int) -> int:
        return math.ceil(gpus / self.gpus_per_node)

    def _slowest(self, gpus: int) -> float:
        """A ring enters and leaves each node once; all its network cards serve that one connection."""
        return self.bandwidth_within if self._nodes(gpus) == 1 else min(self.bandwidth, self.bandwidth_within)

    def _hops(self, gpus: int) -> float:
        """Seconds for one round through all GPUs."""
        nodes = self._nodes(gpus)
        return (gpus - nodes) * self.latency_within + (nodes - 1) * self.latency


@dataclass(frozen=True)
class Training:
    """A training as it runs on one GPU.

    Args:
        step_time: Seconds of a step on one GPU.
        crops: Crops of a step on one GPU.
        traffic: What a step exchanges.
        sync_bn: Whether batch norm is synchronised.
        backward_share: Share of the step that is the backward pass, during which gradients are sent.
        jitter: Standard deviation of the time of a step, over that time.
    """

    step_time: float
    crops: float
    traffic: Traffic
    sync_bn: bool = False
    backward_share: float = 2 / 3
    jitter: float = 0.02

    def with_crops(self, crops: float) -> Training:
        """The same with another number of crops; the time of a step goes with it."""
        return replace(self, crops=crops, step_time=self.step_time * crops / self.crops)


@dataclass(frozen=True)
class Prediction:
    """A step on a number of GPUs; all times in seconds.

    Args:
        gpus: Their number.
        batch: Crops of a step.
        computing: As on one GPU.
        waiting: For the slowest GPU.
        gradients: Sending gradients that the backward pass does not hide.
        buffers: Sending buffers before the forward pass.
        statistics: Exchanging the statistics of SyncBatchNorm.
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
        """Throughput over that of as many GPUs which do nothing but compute."""
        return self.computing / self.step_time


def predict(training: Training, cluster: Cluster, gpus: int) -> Prediction:
    """Predicts the time of a step, each GPU having as many crops as in `training`.

    What is assumed:

    - Reading the data is fast enough, and no GPU computes slower while it sends.
    - Gradients become ready evenly over the backward pass, byte by byte, and are sent bucket after bucket. So what
      fits into the backward pass is hidden, and the last bucket never is. (In HRNet the coarse branches of the last
      stages, which hold most parameters, come first: a little better than assumed.)
    - Nothing else hides anything. The buffers are sent before the forward pass. Each SyncBatchNorm waits for its two
      messages. As they are sent over the same connections as the gradients, in the order in which they were started,
      its sums also wait for the bucket before them: with SyncBatchNorm no gradients are hidden.
    - Step times of GPUs vary at random, independently, normally distributed; all wait for the slowest once a step.
    - No other traffic, all nodes connected equally well.

    Args:
        training: On one GPU.
        cluster: Where it is to run.
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
    """Seconds by which the last gradients come later than the end of the backward pass."""
    buckets = training.traffic.buckets
    if training.sync_bn:
        return sum(cluster.all_reduce(bucket, gpus) for bucket in buckets)
    backward = training.backward_share * training.step_time
    sent = 0.0  # the end of the last bucket, from the start of the backward pass
    for bucket, ready in zip(buckets, accumulate(buckets), strict=True):
        sent = max(sent, backward * ready / sum(buckets)) + cluster.all_reduce(bucket, gpus)
    return sent - backward


def expected_maximum(number: int) -> float:
    """The expected largest of so many standard normal numbers, nearly.

    It grows as sqrt(2 ln N), which is a bound from above.

    Source:
        Blom, Statistical Estimates and Transformed Beta-Variables, 1958.

    >>> round(expected_maximum(1), 3), round(expected_maximum(8), 3), round(expected_maximum(512), 3)
    (0.0, 1.434, 3.031)
    """
    return NormalDist().inv_cdf((number - 0.375) / (number + 0.25))
