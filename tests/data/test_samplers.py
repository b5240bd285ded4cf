from __future__ import annotations

import pickle

import pytest
from torch.utils.data import DistributedSampler

from hrseg.data.samplers import EpochSampler, EvalSampler, SampleKey


class Numbers(list[int]):
    """A data set of which samplers only need the length."""


def epoch_of(sampler: EpochSampler, epoch: int) -> list[SampleKey]:
    sampler.set_epoch(epoch)
    return list(sampler)


def test_each_epoch_has_every_sample_once_in_another_order() -> None:
    sampler = EpochSampler(Numbers(range(100)), seed=3)
    first, second = epoch_of(sampler, 0), epoch_of(sampler, 1)
    assert sorted(key.position for key in first) == list(range(100))
    assert {key.epoch for key in second} == {1}
    assert [key.position for key in first] != [key.position for key in second]
    assert first == epoch_of(EpochSampler(Numbers(range(100)), seed=3), 0)
    assert first != epoch_of(EpochSampler(Numbers(range(100)), seed=4), 0)


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_a_step_over_all_ranks_has_the_samples_of_a_single_process(world_size: int) -> None:
    """2975 images, 12 a step: 247 steps, as in the official schedule, for every world size."""
    numbers = Numbers(range(2975))
    alone = epoch_of(EpochSampler(numbers, seed=1), 5)
    ranks = [epoch_of(EpochSampler(numbers, 1, rank, world_size), 5) for rank in range(world_size)]
    batch = 12 // world_size
    assert {len(keys) // batch for keys in ranks} == {247}
    for step in (0, 100, 246):
        together = {key for keys in ranks for key in keys[step * batch : (step + 1) * batch]}
        assert together == set(alone[step * 12 : (step + 1) * 12])


def test_lengths_equal_the_number_of_samples() -> None:
    for number in (7, 8, 9):
        for rank in range(3):
            for sampler in (
                EpochSampler(Numbers(range(number)), 0, rank, 3),
                EvalSampler(Numbers(range(number)), rank, 3),
            ):
                assert len(list(sampler)) == len(sampler)
            assert len(EpochSampler(Numbers(range(number)), 0, rank, 3)) == number // 3


@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
def test_evaluation_sees_every_sample_exactly_once(world_size: int) -> None:
    numbers = Numbers(range(500))
    shards = [list(EvalSampler(numbers, rank, world_size)) for rank in range(world_size)]
    assert sorted(index for mine in shards for index in mine) == list(range(500))
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


def test_lightning_keeps_the_samplers_and_workers_can_be_spawned() -> None:
    for sampler in (EpochSampler(Numbers(range(4))), EvalSampler(Numbers(range(4)))):
        assert isinstance(sampler, DistributedSampler)
        assert list(pickle.loads(pickle.dumps(sampler))) == list(sampler)


def test_classes_are_drawn_uniformly() -> None:
    regions = [[(0, 5, 6)], [(index, 1, index) for index in range(1, 40)], []]
    sampler = EpochSampler(Numbers(range(400)), seed=1, centroids=regions, class_uniform=0.5)
    keys = [key for epoch in range(20) for key in epoch_of(sampler, epoch)]
    drawn = [key for key in keys if key.centre is not None]
    assert len(drawn) == len(keys) / 2
    of_first = [key for key in drawn if key[1:] == (0, (5, 6))]
    assert len(of_first) / len(drawn) == pytest.approx(0.5, abs=0.03)
    assert {(key.position, *key.centre) for key in drawn if key not in of_first} == set(regions[1])
    others = [key.position for key in keys if key.centre is None]
    assert len(set(others)) > 390


def test_extra_samples_change_from_epoch_to_epoch() -> None:
    sampler = EpochSampler(Numbers(range(100)), seed=3, extra=90, extra_per_epoch=20)
    assert len(sampler) == 30
    epochs = []
    for epoch in range(3):
        positions = [key.position for key in epoch_of(sampler, epoch)]
        assert sorted(position for position in positions if position < 10) == list(range(10))
        extra = [position for position in positions if position >= 10]
        assert len(set(extra)) == len(extra) == 20
        assert positions[:10] != sorted(positions[:10])
        epochs.append(set(extra))
    assert epochs[0] != epochs[1] != epochs[2]
    ranks = [EpochSampler(Numbers(range(100)), 3, rank, 2, extra=90, extra_per_epoch=20) for rank in range(2)]
    one = EpochSampler(Numbers(range(100)), 3, extra=90, extra_per_epoch=20)
    assert [key for pair in zip(*ranks, strict=True) for key in pair] == list(one)
