"""What two processes learn from half a batch each is what one learns from the whole."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from pytorch_lightning import Trainer
from torch import Tensor, nn

from hrseg.callbacks import LastCheckpoint, MetricsCsv
from hrseg.data.datasets.camvid import CamVidDataModule
from hrseg.errors import ConfigError
from hrseg.losses import (
    CrossEntropyLoss,
    LossReduction,
    OhemCrossEntropyLoss,
    RMILoss,
    SegmentationLoss,
    SmpLoss,
    SumLoss,
    WeightedOutputsLoss,
)
from hrseg.models import HRNetV2
from hrseg.task import SegmentationTask
from hrseg.utils.images import write_image
from tests.networks import TINY
from tests.processes import exit_codes, start
from tests.restarts import rows

STEPS = 20
CLASS_WEIGHTS = [0.5 + 0.1 * k for k in range(11)]
LOSSES = {
    "cross entropy": lambda: CrossEntropyLoss(CLASS_WEIGHTS),
    "hard pixels": lambda: OhemCrossEntropyLoss(0.2, 0, CLASS_WEIGHTS),
}


class FrozenStatistics(HRNetV2):
    """A network whose batch norm does not look at the batch: processes with half of it would see other statistics."""

    def train(self, mode: bool = True) -> FrozenStatistics:
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self


class MeanOfHalves(SegmentationLoss):
    """The mean of the losses of both halves of a batch, as two processes have it that do not know of each other."""

    def __init__(self, loss: SegmentationLoss) -> None:
        super().__init__()
        self.loss = loss

    def compute(self, logits: Tensor, target: Tensor) -> Tensor:
        return torch.stack([self.loss(logits[half::2], target[half::2]) for half in (0, 1)]).mean()


def train(out: Path, loss: SegmentationLoss, processes: int, loss_reduction: LossReduction = "per_rank") -> None:
    """Trains on a batch of four in each step, in double precision; leaves weights and rows in a folder."""
    data = CamVidDataModule("camvid", 4 // processes, (32, 32), num_workers=0)
    torch.manual_seed(0)
    network = FrozenStatistics(TINY, 11, init="kaiming", bn_momentum=1.0)
    network(torch.randn(4, 3, 160, 160))  # for statistics of some use
    task = SegmentationTask(
        network.train(),
        data.labels,
        loss=WeightedOutputsLoss({"out": loss}),
        optimizer=partial(torch.optim.SGD, lr=3e-4, momentum=0.9, weight_decay=5e-4),
        loss_reduction=loss_reduction,
    )
    trainer = Trainer(
        accelerator="cpu",
        devices=processes,
        strategy="ddp" if processes > 1 else "auto",
        precision="64-true",
        max_steps=STEPS,
        use_distributed_sampler=False,
        limit_val_batches=0,
        logger=MetricsCsv(out / "metrics.csv"),
        log_every_n_steps=1,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=out,
        callbacks=[LastCheckpoint()],
    )
    trainer.fit(task, data)


def train_in_two() -> None:
    """All trainings of two processes, one after the other."""
    for name, loss in LOSSES.items():
        train(Path("two", name, "global"), loss(), 2, "global")
        train(Path("two", name, "per_rank"), loss(), 2)


def distance(one: Path, other: Path) -> float:
    """The largest difference between their weights, relative to the largest weight of each tensor."""
    a, b = (torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"] for run in (one, other))
    assert a.keys() == b.keys()
    return max(((a[k] - b[k]).abs().max() / a[k].abs().max().clamp(min=1e-12)).item() for k in a if a[k].numel())


@pytest.mark.filterwarnings("ignore:Found .* in eval mode at the start of training")  # on purpose
def test_two_processes_learn_what_one_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    for split, number in {"train": 12, "val": 2}.items():
        for frame in range(number):
            write_image(tmp_path / "camvid" / split / f"{frame}.png", rng.integers(0, 256, (40, 48, 3), dtype=np.uint8))
            label = rng.integers(0, 11, (40, 48), dtype=np.uint8)
            label[: 3 * frame] = 11  # void: other numbers of valid pixels in each image
            write_image(tmp_path / "camvid" / f"{split}annot" / f"{frame}.png", label)
    ranks = start("from tests.test_equal_training import train_in_two; train_in_two()", 2, tmp_path)
    monkeypatch.chdir(tmp_path)
    for name, loss in LOSSES.items():
        train(Path("one", name, "global"), loss(), 1)
        train(Path("one", name, "per_rank"), MeanOfHalves(loss()), 1)
    assert exit_codes(ranks, timeout=300) == [0, 0]

    for name in LOSSES:
        for average in ("global", "per_rank"):
            one, two = (Path(way, name, average) for way in ("one", "two"))
            assert distance(one, two) < 1e-9, (name, average)
            losses = [[float(row["train/loss"]) for row in rows(run)] for run in (one, two)]
            assert losses[0] == pytest.approx(losses[1], rel=1e-6), (name, average)  # logged in single precision
            assert len(losses[0]) == STEPS
        assert distance(Path("two", name, "global"), Path("two", name, "per_rank")) > 1e-4  # the switch does something


@pytest.mark.parametrize("loss", [RMILoss(), SmpLoss("dice"), SumLoss([CrossEntropyLoss(), SmpLoss("dice")])])
def test_losses_that_are_no_sum_over_pixels(loss: SegmentationLoss) -> None:
    labels = cast(type[CamVidDataModule], CamVidDataModule).labels
    with pytest.raises(ConfigError, match=r"loss_reduction is global, but (RMILoss|SmpLoss) is not a sum over pixels"):
        SegmentationTask("hrnetv2_w18_small_v1", labels, loss=loss, loss_reduction="global")
