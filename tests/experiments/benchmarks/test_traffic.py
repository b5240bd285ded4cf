from __future__ import annotations

import pytest

from experiments.benchmarks.traffic import Traffic, _buckets, traffic_of
from hrseg.errors import UnknownNameError
from hrseg.models.catalog import MODELS

MIB = 2**20


def test_a_network_sends_four_bytes_for_each_parameter() -> None:
    traffic = traffic_of("hrnetv2_w18_small_v1")
    assert traffic.gradients == 4 * MODELS["hrnetv2_w18_small_v1"].parameters
    layers, channels = len(traffic.norm_channels), sum(traffic.norm_channels)
    assert (layers, channels) == (72, 3616)
    assert traffic.buffers == 8 * channels + 8 * layers  # mean and variance, and an int64 that counts batches


def test_a_network_that_sees_two_scales_has_statistics_of_both() -> None:
    once = traffic_of("hrnetv2_w18_small_v1_ocr").norm_channels
    twice = traffic_of("hrnetv2_w18_small_v1_ocr_hmsa").norm_channels
    assert len(twice) > 2 * len(once)


def test_constants_that_are_buffers_are_sent_in_every_step() -> None:
    traffic = traffic_of("hrformer_t")
    assert traffic.buffers > 8 * sum(traffic.norm_channels) + 8 * len(traffic.norm_channels)


def test_an_unknown_network() -> None:
    with pytest.raises(UnknownNameError, match="did you mean"):
        traffic_of("hrnetv2_w19")


@pytest.mark.parametrize(
    ("sizes", "buckets"),
    [
        ([5], (5,)),
        ([MIB - 1, 7, 9], (MIB + 6, 9)),  # the first is full at 1 MiB
        ([MIB, 25 * MIB - 1, 1, 3], (MIB, 25 * MIB, 3)),  # the others at 25
        ([40 * MIB, 40 * MIB], (40 * MIB, 40 * MIB)),
    ],
)
def test_buckets(sizes: list[int], buckets: tuple[int, ...]) -> None:
    assert _buckets(sizes) == buckets


def test_what_each_process_sends() -> None:
    traffic = Traffic(buckets=(100, 60), buffers=16, norm_channels=(3, 5))
    assert traffic.sent(1) == traffic.sent(1, sync_bn=True) == 0
    # the gradients and the integer on which the processes agree go around nearly twice, the buffers nearly once
    assert traffic.sent(4) == 1.5 * (160 + 8) + 0.75 * 16
    # of each layer: means, deviations and a count to each of three others; two sums
    assert traffic.sent(4, sync_bn=True) - traffic.sent(4) == 3 * 4 * (7 + 11) + 1.5 * 4 * (6 + 10)
