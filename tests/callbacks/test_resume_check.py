"""Going on with another network, other classes or another optimiser is refused with the remedy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pytorch_lightning import LightningModule
from torch import nn

from hrseg.callbacks import ResumeCheck
from hrseg.data.labels import LabelTable
from hrseg.errors import ConfigError

LABELS = LabelTable("Streets", ("road", "car"), ((0, 0, 0), (1, 1, 1)))


class Net(nn.Module):
    def __init__(self, channels: int, **config: Any) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, channels, 1)
        self.config = {"name": "net", "channels": channels, **config}


class Task(LightningModule):
    def __init__(self, labels: LabelTable = LABELS, network: nn.Module | None = None, **optimizer: Any) -> None:
        super().__init__()
        self.labels = labels
        self.network = network or Net(2)
        self.class_, self.groups = optimizer.get("class_", torch.optim.SGD), optimizer.get("groups", 1)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        parameters = list(self.parameters())
        return self.class_([{"params": parameters[i :: self.groups]} for i in range(self.groups)], lr=0.1)  # type: ignore[no-any-return]


def checkpoint_of(task: Task, path: Path, **content: Any) -> Path:
    own = {"labels": task.labels.to_dict(), "network": task.network.config}
    optimizer = task.configure_optimizers()
    torch.save(
        {
            "hrseg": own,
            "state_dict": task.state_dict(),
            "optimizer_states": [optimizer.state_dict()],
            "callbacks": {"ResumeCheck": {"optimizers": [type(optimizer).__name__]}},
            **content,
        },
        path,
    )
    return path


def resume(task: Task, checkpoint: Path | None) -> None:
    """What Lightning calls of the check before it loads the checkpoint."""
    trainer: Any = SimpleNamespace(optimizers=[task.configure_optimizers()])
    check = ResumeCheck(checkpoint)
    check.setup(trainer, task, "fit")
    check.on_fit_start(trainer, task)
    assert check.state_dict() == {"optimizers": [task.class_.__name__]}


@pytest.mark.parametrize(
    ("task", "told"),
    [
        (
            Task(replace(LABELS, name="Rooms", class_names=("a", "b", "c"), colors=((0, 0, 0), (1, 1, 1), (2, 2, 2)))),
            "on the 2 classes of Streets, and this one is on the 3 of Rooms, so that it cannot go on from there; start "
            "a new run (another --run_dir, no --ckpt_path) with --model.weights BEST --model.reinit_head true",
        ),
        (
            Task(replace(LABELS, class_names=("car", "road"))),
            "on the 2 classes of Streets, and this one is on the 2 of Streets (where road was, car is), so",
        ),
        (Task(network=Net(4)), "of net with channels 2, and this one is of net with channels 4, so"),
        (Task(network=Net(4, name="other")), "of net, and this one is of other, so"),
        (Task(network=nn.Linear(1, 1)), "of another network (network.bias: missing), and this one is of Linear ((1,))"),
        (
            Task(class_=torch.optim.AdamW),
            "with SGD, and this one is with AdamW, so that it cannot go on from there; st",
        ),
        (Task(groups=2), "with the parameter groups 0 (2), and this one is with 0 (1), 1 (1), so that it cannot go"),
    ],
    ids=["classes", "order of classes", "width", "network", "module", "optimiser", "groups"],
)
def test_another_training_is_refused_with_the_remedy(task: Task, told: str, tmp_path: Path) -> None:
    last, best = (checkpoint_of(Task(), tmp_path / f"{name}.ckpt") for name in ("last", "best"))
    with pytest.raises(ConfigError) as refusal:
        resume(task, last)
    assert f"{last} is of a training {told.replace('BEST', str(best))}" in str(refusal.value)


@pytest.mark.parametrize(
    "content", [{}, {"hrseg": {}}, {"hrseg": None, "callbacks": {}}, {"hrseg": {"labels": None, "network": None}}]
)
def test_the_same_training_goes_on_whatever_the_checkpoint_tells(content: dict[str, Any], tmp_path: Path) -> None:
    resume(Task(), checkpoint_of(Task(), tmp_path / "last.ckpt", **content))


def test_a_new_training_starts() -> None:
    resume(Task(), None)
