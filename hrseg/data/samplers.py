"""Which sample comes when, and on which rank.

The order is a function of seed and epoch, and so, with the index, is the augmentation. To go on within an epoch takes
no more than the number of the step. A loader that saves its state (torchdata's StatefulDataLoader) would put that of
each worker of each rank into the checkpoint, and the next run would need as many.

Both samplers derive from `DistributedSampler`, in one process too, because Lightning leaves such samplers as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from torch.utils.data import Dataset, DistributedSampler


class SampleKey(NamedTuple):
    """Which sample in which epoch; with the seed it determines the augmentation, whoever loads it.

    Args:
        epoch: From 0.
        position: The sample's index in the data set.
        centre: (row, column) in the file that the crop is centred on; None leaves it to chance.
    """

    epoch: int
    position: int
    centre: tuple[int, int] | None = None


class EpochSampler(DistributedSampler[SampleKey]):
    """Shuffles the samples anew each epoch, and names each by epoch and index.

    Rank r of W takes every W-th sample of the shuffled list, so that the W batches of a step hold together what one
    process with a batch W times as large would see. Samples that do not fill a row of W are left out, never repeated:
    with `drop_last` in the loader an epoch has floor(N / (batch size * W)) steps.

    Args:
        dataset: Something with a length.
        seed: With the epoch, it decides the order.
        rank: This process, from 0.
        world_size: Number of processes.
        extra: How many samples at the end of the data set are only drawn from, such as coarsely labelled ones.
        extra_per_epoch: How many of these an epoch has, other ones each time.
        centroids: (index, row, column) of regions of each class; classes without one are passed over.
        class_uniform: Share of the samples that are drawn by class instead: each class is as likely as any other, and
            so is each of its regions, on which the crop is centred.
        seen: Asked when an epoch begins: how many of its samples this rank leaves out, as a training that was stopped
            within the epoch and goes on has seen them.

    Source:
        HRNet-Semantic-Segmentation, tools/train.py, counts the iterations of its schedule so. Its sampler repeats
        samples instead, which makes 248 iterations on Cityscapes, with 4 processes of 3 images, where it counts 247.
    """

    def __init__(
        self,
        dataset: Dataset[object],
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        extra: int = 0,
        extra_per_epoch: int = 0,
        centroids: Sequence[Sequence[tuple[int, int, int]]] = (),
        class_uniform: float = 0.0,
        seen: Callable[[], int] = int,
    ) -> None:
        super().__init__(dataset, num_replicas=world_size, rank=rank, seed=seed, drop_last=True)
        self.main = len(dataset) - extra  # type: ignore[arg-type]  # torch's Dataset declares no length
        self.extra = extra
        self.extra_per_epoch = extra_per_epoch
        self.regions = [regions for regions in centroids if regions]
        self.class_uniform = class_uniform
        self.seen = seen

    def __iter__(self) -> Iterator[SampleKey]:
        number = self.main + self.extra_per_epoch
        rng = np.random.default_rng((self.seed, self.epoch))
        order = rng.permutation(number)
        if self.extra_per_epoch:
            drawn = self.main + rng.permutation(self.extra)[: self.extra_per_epoch]
            order = np.concatenate([np.arange(self.main), drawn])[order]
        keys = [SampleKey(self.epoch, index) for index in order.tolist()]
        for place in rng.permutation(number)[: round(self.class_uniform * number)].tolist() if self.regions else ():
            regions = self.regions[int(rng.integers(len(self.regions)))]
            position, row, column = regions[int(rng.integers(len(regions)))]
            keys[place] = SampleKey(self.epoch, position, (row, column))
        mine = keys[: number // self.num_replicas * self.num_replicas][self.rank :: self.num_replicas]
        return iter(mine[self.seen() :])

    def __len__(self) -> int:
        return (self.main + self.extra_per_epoch) // self.num_replicas


class EvalSampler(DistributedSampler[int]):
    """Deals the samples out in order: none twice, none left out, so that counts summed over ranks are exact.

    Args:
        dataset: Something with a length.
        rank: This process, from 0; it gets the samples rank, rank + world_size, ...
        world_size: Number of processes. Lengths may differ by one between ranks.
    """

    def __init__(self, dataset: Dataset[object], rank: int = 0, world_size: int = 1) -> None:
        super().__init__(dataset, num_replicas=world_size, rank=rank, shuffle=False)

    def __iter__(self) -> Iterator[int]:
        return iter(self._mine())

    def __len__(self) -> int:
        return len(self._mine())

    def _mine(self) -> range:
        return range(self.rank, len(self.dataset), self.num_replicas)  # type: ignore[arg-type]
