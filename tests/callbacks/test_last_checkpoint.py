"""A training that was stopped or killed anywhere resumes as if nothing had happened."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, Trainer, seed_everything
from pytorch_lightning.callbacks import EMAWeightAveraging, LearningRateMonitor

from hrseg.callbacks import LastCheckpoint, MetricsCsv
from hrseg.data.datasets.camvid import CamVidDataModule
from hrseg.errors import ConfigError, OutputError
from hrseg.models import HRNetV2OCR
from hrseg.task import SegmentationTask
from hrseg.utils import signals
from hrseg.utils.signals import Interrupted
from tests.networks import TINY

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*exists and is not empty"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory"),
    pytest.mark.filterwarnings("ignore:The number of training batches"),
]


class KeepEach(LastCheckpoint):
    """Keeps every state of `last.ckpt`, by its number."""

    def __init__(self) -> None:
        super().__init__(every_n_steps=1)
        self.kept: list[Path] = []

    def _save(self, trainer: Trainer) -> None:
        super()._save(trainer)
        self.kept.append(self.path.with_name(f"state{len(self.kept)}.ckpt"))
        shutil.copy(self.path, self.kept[-1])


class Do(Callback):
    """Calls a function once, in a hook at an optimiser step."""

    def __init__(self, hook: str, step: int, what: Callable[[], None]) -> None:
        remaining = [what]

        def act(trainer: Trainer, *_: Any) -> None:
            if remaining and trainer.global_step == step and not trainer.sanity_checking:
                remaining.pop()()

        setattr(self, hook, act)


def fit(root: Path, folder: Path, *callbacks: Callback, checkpoint: Path | None = None, **settings: Any) -> Trainer:
    """Trains a network that is random in training, on 9 images in batches of 2, with 0 or more workers."""
    seed_everything(1 if checkpoint is None else 2)  # a restart takes the seed from its checkpoint
    data = CamVidDataModule(root, batch_size=2, crop_size=(32, 32), num_workers=settings.pop("num_workers", 0))
    trainer = Trainer(
        **{
            "accelerator": "cpu",
            "devices": 1,
            "logger": MetricsCsv(folder / "metrics.csv", None if checkpoint is None else step_of(checkpoint)),
            "default_root_dir": folder,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "use_distributed_sampler": False,
            "log_every_n_steps": 1,
            "max_epochs": 2,
            "callbacks": [LearningRateMonitor("step"), *callbacks],
            **settings,
        }
    )
    network = HRNetV2OCR(TINY, data.labels.num_classes, mid_channels=16, key_channels=8, dropout=0.5)
    trainer.fit(SegmentationTask(network, data.labels), data, ckpt_path=checkpoint)
    return trainer


def step_of(checkpoint: Path) -> int:
    return int(torch.load(checkpoint, weights_only=True)["global_step"])


def state(trainer: Trainer) -> dict[str, torch.Tensor]:
    """The weights, and the optimiser's state."""
    optimizer = trainer.optimizers[0].state_dict()["state"]
    moments = {f"{i} {name}": value for i, values in optimizer.items() for name, value in values.items()}
    return {**trainer.lightning_module.state_dict(), **moments}


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"num_workers": 2},
        {"limit_train_batches": 1, "max_epochs": 3},
        {"val_check_interval": 0.5},
        {"check_val_every_n_epoch": None, "val_check_interval": 3, "max_epochs": 3},
        {"check_val_every_n_epoch": 2, "max_epochs": 3},
        {"accumulate_grad_batches": 2, "max_epochs": 3},
        {"max_epochs": -1, "max_steps": 3},
    ],
    ids=lambda settings: " ".join(settings) or "plain",
)
def test_weights_optimiser_and_rows_are_those_of_a_training_that_was_never_stopped(
    settings: dict[str, Any], camvid_root: Path, tmp_path: Path
) -> None:
    keep, whole = KeepEach(), tmp_path / "whole"
    expected = state(fit(camvid_root, whole, keep, **settings))
    assert len(keep.kept) > 2
    for checkpoint in keep.kept:
        folder = tmp_path / checkpoint.stem
        folder.mkdir()
        shutil.copy(whole / "metrics.csv", folder)  # with rows beyond the checkpoint
        trainer = fit(camvid_root, folder, LastCheckpoint(), checkpoint=checkpoint, **settings)
        assert_same(state(trainer), expected)
        assert (folder / "metrics.csv").read_text() == (whole / "metrics.csv").read_text()


@pytest.mark.parametrize(("accumulate", "ends"), [(1, (1, 3)), (2, (1,))])
def test_a_training_that_ended_within_an_epoch_resumes_there(
    accumulate: int, ends: tuple[int, ...], camvid_root: Path, tmp_path: Path
) -> None:
    """max_steps, max_time and the like ended it; the rest of the epoch was left out by the training that went on."""
    expected = state(fit(camvid_root, tmp_path / "whole", accumulate_grad_batches=accumulate))
    run = tmp_path / "run"
    last = run / "checkpoints" / "last.ckpt"
    for batches in ends:

        class End(Callback):
            def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
                trainer.should_stop = trainer.fit_loop.total_batch_idx + 1 == batches  # noqa: B023

        checkpoint = last if last.exists() else None
        fit(camvid_root, run, LastCheckpoint(), End(), checkpoint=checkpoint, accumulate_grad_batches=accumulate)
        assert step_of(last) == batches // accumulate
    found = state(fit(camvid_root, run, LastCheckpoint(), checkpoint=last, accumulate_grad_batches=accumulate))
    if accumulate > 1:  # batch norm sees the batches of an incomplete step twice
        found, expected = (
            {n: one[n] for n in one if "running_" not in n and "tracked" not in n} for one in (found, expected)
        )
    assert_same(found, expected)


def test_averaged_weights_too(camvid_root: Path, tmp_path: Path) -> None:
    keep = KeepEach()
    expected = state(fit(camvid_root, tmp_path / "whole", keep, EMAWeightAveraging(decay=0.9)))
    for checkpoint in keep.kept[1:3]:
        callbacks = LastCheckpoint(), EMAWeightAveraging(decay=0.9)
        trainer = fit(camvid_root, tmp_path / checkpoint.stem, *callbacks, checkpoint=checkpoint)
        assert_same(state(trainer), expected)


def send(*signals: signal.Signals) -> Callable[[], None]:
    return lambda: [os.kill(os.getpid(), number) for number in signals] and None


@pytest.mark.parametrize(
    ("hook", "step", "sent", "saved"),
    [
        ("on_fit_start", 0, (signal.SIGUSR1,), 0),
        ("on_train_batch_start", 1, (signal.SIGTERM,), 1),
        ("on_train_batch_start", 1, (signal.SIGHUP,), 1),
        ("on_train_batch_end", 1, (signal.SIGUSR1, signal.SIGUSR1, signal.SIGTERM), 1),
        ("on_save_checkpoint", 2, (signal.SIGUSR1,), 2),
        ("on_validation_batch_start", 2, (signal.SIGINT,), 2),
    ],
    ids=[
        "before the first step",
        "before a step",
        "closed terminal",
        "several in a step",
        "while saving",
        "in validation",
    ],
)
def test_a_signal_ends_the_training_at_the_next_safe_point(
    hook: str, step: int, sent: tuple[signal.Signals, ...], saved: int, camvid_root: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    with signals.watching(), pytest.raises(Interrupted, match=f"stopped by {sent[0].name}"):
        fit(camvid_root, tmp_path / "run", Do(hook, step, send(*sent)), LastCheckpoint())
    path = tmp_path / "run" / "checkpoints" / "last.ckpt"
    assert step_of(path) == saved
    assert f"holds step {saved}. --run_dir {tmp_path / 'run'} resumes from it" in capsys.readouterr().out
    expected = state(fit(camvid_root, tmp_path / "whole"))
    assert_same(state(fit(camvid_root, tmp_path / "run", LastCheckpoint(), checkpoint=path)), expected)
    assert (tmp_path / "run" / "metrics.csv").read_text() == (tmp_path / "whole" / "metrics.csv").read_text()


def test_a_signal_after_the_last_step_stops_nothing(camvid_root: Path, tmp_path: Path) -> None:
    with signals.watching():
        trainer = fit(camvid_root, tmp_path, Do("on_train_end", 4, send(signal.SIGUSR1)), LastCheckpoint())
        assert signals.received() == signal.SIGUSR1
    assert trainer.global_step == 4


def test_an_error_says_where_to_resume_from(
    camvid_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        fit(camvid_root, tmp_path, Do("on_train_batch_end", 3, fail), LastCheckpoint())
    assert "last.ckpt holds step 2" in capsys.readouterr().out


def test_every_so_many_minutes(camvid_root: Path, tmp_path: Path) -> None:
    keep = KeepEach()
    keep.every_n_steps, keep.every_minutes = None, 1e-9
    fit(camvid_root, tmp_path, keep)
    assert [step_of(path) for path in keep.kept] == [0, 1, 2, 2, 3, 4]


def test_what_a_kill_left_half_written_is_removed(camvid_root: Path, tmp_path: Path) -> None:
    left = tmp_path / "checkpoints" / ".hrseg-123.last.ckpt"
    left.parent.mkdir()
    left.write_bytes(b"half")
    fit(camvid_root, tmp_path, LastCheckpoint(), max_epochs=1)
    assert [path.name for path in left.parent.iterdir()] == ["last.ckpt"]


@pytest.mark.parametrize("interval", [{"every_n_steps": 0}, {"every_minutes": -1.0}])
def test_intervals_out_of_range(interval: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="expected more than 0, or null for never"):
        LastCheckpoint(**interval)


@pytest.mark.parametrize("blocked", ["checkpoints", "checkpoints/last.ckpt"])
def test_a_place_that_cannot_be_written_is_reported_before_the_training(
    blocked: str, camvid_root: Path, tmp_path: Path
) -> None:
    place = tmp_path / "run" / blocked
    place.parent.mkdir(parents=True)
    place.touch() if blocked == "checkpoints" else place.mkdir()
    steps: list[int] = []
    with pytest.raises(OutputError, match=f"^{place} cannot be written"):
        fit(camvid_root, tmp_path / "run", LastCheckpoint(), Do("on_train_batch_start", 0, lambda: steps.append(0)))
    assert not steps
