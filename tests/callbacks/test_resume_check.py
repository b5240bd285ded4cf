"""Resuming with another network, other classes or another optimiser is refused with the remedy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pytorch_lightning import LightningModule
from torch import nn

import hrseg
from hrseg.callbacks import ResumeCheck
from hrseg.data.datasets.camvid import CamVidDataModule
from hrseg.data.labels import LabelTable
from hrseg.errors import ConfigError, WeightsError
from hrseg.inference import Checkpoint
from hrseg.models.weights.read import read_content
from hrseg.optim import Muon

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
    """Calls the check's hooks as Lightning does before it loads the checkpoint."""
    trainer: Any = SimpleNamespace(optimizers=[task.configure_optimizers()], lr_scheduler_configs=[])
    check = ResumeCheck(checkpoint and Checkpoint(checkpoint, read_content(checkpoint)))
    check.setup(trainer, task, "fit")
    check.on_fit_start(trainer, task)
    assert check.state_dict() == {"optimizers": [task.class_.__name__]}


@pytest.mark.parametrize(
    ("task", "told"),
    [
        (
            Task(replace(LABELS, name="Rooms", class_names=("a", "b", "c"), colors=((0, 0, 0), (1, 1, 1), (2, 2, 2)))),
            "on the 2 classes of Streets, but this one is on the 3 of Rooms and cannot resume from it; start "
            "a new run (another --run_dir, no --ckpt_path) with --model.weights BEST --model.reinit_head true",
        ),
        (
            Task(replace(LABELS, class_names=("car", "road"))),
            "on the 2 classes of Streets, but this one is on the 2 of Streets (where road was, car is) and",
        ),
        (Task(network=Net(4)), "of net with channels 2, but this one is of net with channels 4 and"),
        (Task(network=Net(4, name="other")), "of net, but this one is of other and"),
        (Task(network=nn.Linear(1, 1)), "of another network (network.bias: missing), but this one is of Linear ((1,))"),
        (
            Task(class_=torch.optim.AdamW),
            "with SGD, but this one is with AdamW and cannot resume from it; st",
        ),
        (Task(groups=2), "with the parameter groups 0 (2), but this one is with 0 (1), 1 (1) and cannot resume"),
    ],
    ids=["classes", "order of classes", "width", "network", "module", "optimiser", "groups"],
)
def test_another_training_is_refused_with_the_remedy(task: Task, told: str, tmp_path: Path) -> None:
    last, best = (checkpoint_of(Task(), tmp_path / f"{name}.ckpt") for name in ("last", "best"))
    with pytest.raises(ConfigError) as refusal:
        resume(task, last)
    assert f"{last} comes from a training {told.replace('BEST', str(best))}" in str(refusal.value)


@pytest.mark.parametrize(
    "content", [{}, {"hrseg": {}}, {"hrseg": None, "callbacks": {}}, {"hrseg": {"labels": None, "network": None}}]
)
def test_the_same_training_resumes_whatever_the_checkpoint_says(content: dict[str, Any], tmp_path: Path) -> None:
    resume(Task(), checkpoint_of(Task(), tmp_path / "last.ckpt", **content))


def test_a_new_training_starts() -> None:
    resume(Task(), None)


OPTIMIZERS = (
    *(torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.NAdam, torch.optim.RAdam, torch.optim.Adamax),
    *(torch.optim.RMSprop, torch.optim.Rprop, torch.optim.Adagrad, torch.optim.Adadelta, torch.optim.ASGD, Muon),
)


def trained(task: Task) -> dict[str, Any]:
    """The optimiser state after a step."""
    optimizer = task.configure_optimizers()
    for parameter in task.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return optimizer.state_dict()


@pytest.mark.parametrize("class_", OPTIMIZERS)
def test_the_state_of_any_optimiser_after_a_step_is_taken(class_: Any, tmp_path: Path) -> None:
    task = Task(class_=class_)
    resume(task, checkpoint_of(task, tmp_path / "last.ckpt", optimizer_states=[trained(task)]))


@pytest.mark.parametrize(
    ("place", "value", "told"),
    [
        (
            ("state", 1, "exp_avg_sq"),
            torch.zeros(3),
            r"state.1.exp_avg_sq is a tensor of \(3,\); .*of \(2,\), as its par",
        ),
        (
            ("state", 1, "exp_avg_sq"),
            torch.zeros(1),
            r"state.1.exp_avg_sq is a tensor of \(1,\); expected a tensor of \(2,",
        ),
        (
            ("state", 0, "exp_avg"),
            2**62,
            r"state.0.exp_avg is 4611686018427387904; expected a tensor of \(2, 3, 1, 1\)",
        ),
        (("state", 0, "exp_avg"), None, r"state.0.exp_avg is None; expected a tensor"),
        (("state", 0, "step"), torch.zeros(5), r"state.0.step is a tensor of \(5,\); expected a single number"),
        (("state", 0), 7, "state.0 is 7; expected the state of a parameter"),
        (("param_groups", 0, "lr"), "x", "param_groups.0.lr is 'x'; expected a number"),
    ],
)
def test_an_altered_state_of_fused_adam_is_reported_and_ends_in_no_crash(
    place: tuple[Any, ...], value: Any, told: str, tmp_path: Path
) -> None:
    task = Task(class_=torch.optim.Adam)
    part: Any = (state := trained(task))
    for key in place[:-1]:
        part = part[key]
    part[place[-1]] = value
    with pytest.raises(WeightsError, match=f"last.ckpt is damaged: optimizer_states.0.{told}.*new run"):
        resume(task, checkpoint_of(task, tmp_path / "last.ckpt", optimizer_states=[state]))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({"lr_schedulers": []}, "with 0 schedules of the learning rate, but this one is with 1 and"),
        ({"lr_schedulers": [{}], "optimizer_states": []}, "with 0 optimisers, but this one is with 1 and"),
    ],
)
def test_what_the_checkpoint_lacks_does_not_silently_start_anew(
    content: dict[str, Any], told: str, tmp_path: Path
) -> None:
    path = checkpoint_of(Task(), tmp_path / "last.ckpt", **content)
    trainer: Any = SimpleNamespace(optimizers=[Task().configure_optimizers()], lr_scheduler_configs=["poly"])
    check = ResumeCheck(Checkpoint(path, read_content(path)))
    check.setup(trainer, Task(), "fit")
    with pytest.raises(ConfigError, match=told):
        check.on_fit_start(trainer, Task())


@pytest.mark.parametrize(
    ("options", "limit"),
    [
        ({"max_steps": 3}, "trainer.max_steps 3"),
        ({"max_epochs": 2}, "trainer.max_epochs 2"),
        ({"max_epochs": 5, "max_time": {"seconds": 0}}, "trainer.max_time"),
        ({"max_epochs": 3}, None),
    ],
)
def test_resuming_beyond_the_end_says_that_nothing_was_trained(
    options: dict[str, Any],
    limit: str | None,
    camvid_root: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = CamVidDataModule(camvid_root, batch_size=2, crop_size=(32, 32), num_workers=0)
    run, on_cpu = tmp_path / "run", {"accelerator": "cpu", "devices": 1, "logger": False, "limit_val_batches": 0}

    def train(**options: Any) -> list[str]:
        task = hrseg.SegmentationTask(nn.Conv2d(3, 11, 1), data.labels)
        hrseg.fit(task, data, run_dir=run, **on_cpu, **options)
        return [line for line in capsys.readouterr().out.splitlines() if line.startswith("nothing was trained")]

    assert train(max_epochs=2) == []
    last = run / "checkpoints" / "last.ckpt"
    told = f"nothing was trained: {last} is at step 4 (whole epochs: 2), and {limit} ends the training there or before"
    assert train(**options) == ([f"{told}; raise it to continue"] if limit else [])
