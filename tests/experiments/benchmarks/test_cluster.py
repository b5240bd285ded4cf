from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from experiments.benchmarks.cluster import Cluster, Training, expected_maximum, predict
from experiments.benchmarks.traffic import Traffic

GPUS = [2**power for power in range(10)]
TRAFFIC = Traffic(buckets=(2_000_000, 26_000_000, 26_000_000, 9_000_000), buffers=200_000, norm_channels=(64,) * 100)
TRAINING = Training(0.1, 3, TRAFFIC)
IMMEDIATE = Cluster(math.inf, 8, math.inf, 0.0, 0.0, 0.0)


def all_reduce_step_by_step(size: float, gpus: int, bandwidth: float, latency: float) -> float:
    """Seconds of a ring of equal GPUs in which each adds, and then passes on, one of N pieces at a time."""
    have = [[{gpu} for _ in range(gpus)] for gpu in range(gpus)]  # whose numbers are in each piece of each GPU
    seconds, rounds = 0.0, 0
    while any(piece != set(range(gpus)) for pieces in have for piece in pieces):
        moved = [(gpu, (gpu - rounds) % gpus) for gpu in range(gpus)]
        sent = [(gpu, piece, set(have[gpu][piece])) for gpu, piece in moved]
        for gpu, piece, content in sent:
            have[(gpu + 1) % gpus][piece] |= content
        seconds += latency + size / gpus / bandwidth
        rounds += 1
    return seconds


@pytest.mark.parametrize("gpus", [2, 3, 8])
def test_a_ring_within_a_node(gpus: int) -> None:
    cluster = Cluster(gpus_per_node=8, bandwidth_within=1e9, latency_within=1e-5, overhead=0.0)
    expected = all_reduce_step_by_step(5e6, gpus, 1e9, 1e-5)
    assert cluster.all_reduce(5e6, gpus) == pytest.approx(expected, rel=1e-12)


def test_the_slowest_connection_decides() -> None:
    cluster = Cluster(2e9, 4, 1e11, 0.0, 0.0, 0.0)
    assert cluster.all_reduce(8e9, 4) == pytest.approx(2 * 3 / 4 * 8e9 / 1e11)
    assert cluster.all_reduce(8e9, 8) == pytest.approx(2 * 7 / 8 * 8e9 / 2e9)
    assert cluster.all_gather(1e6, 8) == pytest.approx(7 * 1e6 / 2e9)
    assert cluster.broadcast(1e6, 8) == pytest.approx(1e6 / 2e9)
    assert Cluster(2e11, 4, 1e11, 0.0, 0.0, 0.0).all_reduce(8e9, 8) == pytest.approx(2 * 7 / 8 * 8e9 / 1e11)


def test_small_messages_go_through_trees_between_many_nodes() -> None:
    cluster = Cluster(gpus_per_node=8, latency=5e-6, latency_within=1e-6, overhead=0.0)
    assert cluster.all_reduce(0, 512) == pytest.approx(2 * (7 * 1e-6 + 6 * 5e-6))
    assert cluster.all_gather(0, 512) == pytest.approx((512 - 64) * 1e-6 + 63 * 5e-6)


def test_one_gpu_is_as_fast_as_it_is() -> None:
    for sync_bn in (False, True):
        prediction = predict(replace(TRAINING, sync_bn=sync_bn), Cluster(), 1)
        assert prediction.step_time == pytest.approx(0.1, rel=1e-12)
        assert prediction.efficiency == pytest.approx(1, rel=1e-12)
        assert prediction.throughput == pytest.approx(30)


@pytest.mark.parametrize("sync_bn", [False, True])
@pytest.mark.parametrize("bandwidth", [1e9, 25e9, 400e9])
def test_efficiency_falls_and_throughput_grows_with_the_number_of_gpus(bandwidth: float, sync_bn: bool) -> None:
    cluster = Cluster(bandwidth)
    predictions = [predict(replace(TRAINING, sync_bn=sync_bn), cluster, gpus) for gpus in GPUS]
    efficiencies = [prediction.efficiency for prediction in predictions]
    assert efficiencies == sorted(efficiencies, reverse=True)
    assert len(set(efficiencies)) == len(GPUS)
    if not sync_bn:
        throughputs = [prediction.throughput for prediction in predictions]
        assert throughputs[:4] == sorted(throughputs[:4])
        assert throughputs[4:] == sorted(throughputs[4:])


def test_faster_networks_are_never_worse() -> None:
    steps = [predict(TRAINING, Cluster(bandwidth), 64).step_time for bandwidth in (1e9, 3e9, 1e10, 1e11)]
    assert steps == sorted(steps, reverse=True)


def test_messages_that_take_no_time_leave_only_the_slowest_gpu() -> None:
    for sync_bn in (False, True):
        assert predict(replace(TRAINING, jitter=0.0, sync_bn=sync_bn), IMMEDIATE, 512).efficiency == pytest.approx(1)
    prediction = predict(TRAINING, IMMEDIATE, 512)
    assert prediction.efficiency == pytest.approx(1 / (1 + 0.02 * expected_maximum(512)))


def test_without_a_backward_pass_to_hide_behind_everything_is_waited_for() -> None:
    cluster = replace(IMMEDIATE, bandwidth=1e10)
    training = replace(TRAINING, backward_share=0.0, jitter=0.0)
    for gpus in (16, 512):
        seconds = 2 * (gpus - 1) / gpus * TRAFFIC.gradients / 1e10 + TRAFFIC.buffers / 1e10
        assert predict(training, cluster, gpus).efficiency == pytest.approx(0.1 / (0.1 + seconds))


def test_a_long_backward_pass_hides_all_but_the_last_bucket() -> None:
    cluster = Cluster(1e10)
    long = replace(TRAINING, step_time=100.0)
    assert predict(long, cluster, 16).gradients == pytest.approx(cluster.all_reduce(9_000_000, 16), rel=1e-9)
    alone = replace(long, traffic=replace(TRAFFIC, buckets=(63_000_000,)))
    assert predict(alone, cluster, 16).gradients == pytest.approx(cluster.all_reduce(63_000_000, 16), rel=1e-9)


def test_a_bucket_waits_for_its_gradients_and_for_the_bucket_before() -> None:
    # ready after 1 s and 4 s of a backward pass of 4 s; sending takes twice the bytes, over as many
    training = Training(6.0, 1, Traffic((100, 300), 0, ()), jitter=0.0)
    cluster = replace(IMMEDIATE, gpus_per_node=1, bandwidth=20.0)
    assert cluster.all_reduce(100, 2) == 5
    # the first is under way from 1 to 6, the second from 6 to 21
    assert predict(training, cluster, 2).gradients == pytest.approx(21 - 4)


def test_synchronised_batch_norm_waits_for_two_messages_a_layer_and_hides_nothing() -> None:
    cluster = Cluster(1e10)
    prediction = predict(replace(TRAINING, sync_bn=True), cluster, 64)
    layer = cluster.all_gather(4 * 129, 64) + cluster.all_reduce(4 * 128, 64)
    assert prediction.statistics == pytest.approx(100 * layer)
    assert prediction.gradients == pytest.approx(sum(cluster.all_reduce(bucket, 64) for bucket in TRAFFIC.buckets))


def test_the_slowest_of_many() -> None:
    numbers = np.random.default_rng(0).standard_normal((20_000, 64))
    for number in (1, 2, 8, 64):
        assert expected_maximum(number) == pytest.approx(numbers[:, :number].max(1).mean(), abs=0.03)
        assert expected_maximum(number) <= math.sqrt(2 * math.log(number))


def test_fewer_crops_take_less_time() -> None:
    one = TRAINING.with_crops(1)
    assert (one.crops, one.step_time) == (1, pytest.approx(0.1 / 3))
    assert predict(one, Cluster(), 12).efficiency < predict(TRAINING, Cluster(), 12).efficiency
