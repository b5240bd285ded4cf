from __future__ import annotations

import json
import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_lightning import Callback, Trainer
from torch import Tensor

from hrseg.callbacks import FiniteLoss
from hrseg.callbacks.finite_loss import _write_batches
from hrseg.data.datasets.camvid import CamVidDataModule
from hrseg.errors import ConfigError, TrainingError
from hrseg.models import VARIANTS, HRNetV2
from hrseg.optim import Muon
from hrseg.task import SegmentationTask
from hrseg.utils.images import read_image, write_image
from tests.processes import exit_codes, start

WHITE = "0002"  # the frame that gives NaN


class AfraidOfWhite(HRNetV2):
    """NaN for the whole batch, batch norm statistics included, if one of its images is all white."""

    def __init__(self) -> None:
        super().__init__(VARIANTS["w18_small_v1"], 11, init="kaiming")

    def outputs(self, images: Tensor) -> dict[str, Tensor]:
        is_white = (images.amin((1, 2, 3)) > 2).any()  # of normalised values
        return super().outputs(images * torch.where(is_white, torch.nan, 1.0))


class States(Callback):
    """Records weights, statistics and optimiser state before each step and at the end."""

    def __init__(self) -> None:
        self.states: list[dict[str, Any]] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.keep(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        self.keep(trainer, pl_module)

    def keep(self, trainer: Trainer, pl_module: Any) -> None:
        values = {name: value.clone() for name, value in pl_module.state_dict().items()}
        for number, moments in trainer.optimizers[0].state_dict()["state"].items():
            values |= {f"{number} {name}": torch.as_tensor(moment).clone() for name, moment in moments.items()}
        self.states.append(values)

    def unchanged(self) -> list[int]:
        return [
            step
            for step, (before, after) in enumerate(zip(self.states, self.states[1:], strict=False))
            if before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
        ]


def fit(root: Path, folder: Path, callback: FiniteLoss, processes: int = 1, **settings: Any) -> States:
    optimizer = settings.pop("optimizer", None)
    data = CamVidDataModule(root, 1, (48, 64), scale_range=(1.0, 1.0), base_size=64, num_workers=0)
    torch.manual_seed(0)
    states = States()
    trainer = Trainer(
        **{
            "accelerator": "cpu",
            "devices": processes,
            "strategy": "ddp" if processes > 1 else "auto",
            "default_root_dir": folder,
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "use_distributed_sampler": False,
            "limit_val_batches": 0,
            "max_epochs": 2,
            "callbacks": [states, callback],
            **settings,
        }
    )
    trainer.fit(SegmentationTask(AfraidOfWhite(), data.labels, optimizer=optimizer), data)
    return states


@pytest.fixture
def root(camvid_root: Path) -> Path:
    write_image(camvid_root / "train" / f"{WHITE}.png", np.full((48, 64, 3), 255, np.uint8))
    return camvid_root


def test_the_training_stops_and_the_files_are_kept(root: Path, tmp_path: Path) -> None:
    states: list[States] = []
    with pytest.raises(
        TrainingError, match=r"the loss of step \d is not finite; the files of its batch are in .*; lower"
    ):
        states.append(fit(root, tmp_path, FiniteLoss()))
    (report,) = (tmp_path / "not_finite").glob("*.json")
    content = json.loads(report.read_text())
    assert content["files"] == [WHITE]
    assert report.name == f"step_{content['step']}.process_0.json"
    crop = read_image(tmp_path / "not_finite" / f"step_{content['step']}" / f"{WHITE}.image.png")
    assert crop.shape == (48, 64, 3)
    assert (crop == 255).all()


@pytest.mark.parametrize(
    "optimizer",
    [
        partial(torch.optim.SGD, lr=0.01, momentum=0.9, weight_decay=0.1),
        partial(torch.optim.AdamW, lr=1e-3, fused=True),
        partial(Muon, lr=1e-3),
    ],
    ids=["SGD", "AdamW", "Muon"],
)
def test_a_step_that_is_left_out_changes_nothing(
    optimizer: Callable[..., torch.optim.Optimizer], root: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "hrseg.callbacks.finite_loss"):
        states = fit(root, tmp_path, FiniteLoss(max_skipped=2), optimizer=optimizer)
    assert len(states.states) == 11
    assert len(states.unchanged()) == 2  # the white image is in each of both epochs
    assert all(value.isfinite().all() for value in states.states[-1].values())
    steps = sorted(json.loads(path.read_text())["step"] for path in (tmp_path / "not_finite").glob("*.json"))
    assert steps == states.unchanged()
    assert [record.message.endswith(f"left out, as {i} of at most 2") for i, record in enumerate(caplog.records, 1)]


def test_more_than_were_allowed(root: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="1 such steps were already skipped"):
        fit(root, tmp_path, FiniteLoss(max_skipped=1))


def test_under_accumulation_the_whole_step_is_left_out(root: Path, tmp_path: Path) -> None:
    states = fit(root, tmp_path, FiniteLoss(max_skipped=2), accumulate_grad_batches=5, gradient_clip_val=1.0)
    first, last = states.states[0], states.states[-1]
    assert all(torch.equal(first[name], last[name]) for name in first)
    reports = [json.loads(path.read_text())["files"] for path in (tmp_path / "not_finite").glob("*.json")]
    assert reports == [[WHITE], [WHITE]]


def fit_in_two(root: str) -> None:
    states = fit(Path(root), Path("run"), FiniteLoss(max_skipped=2), 2)
    steps = sorted(json.loads(path.read_text())["step"] for path in Path("run/not_finite").glob("*.json"))
    assert steps == states.unchanged()
    assert all(value.isfinite().all() for value in states.states[-1].values())


def test_two_processes_leave_out_the_same_steps(root: Path, tmp_path: Path) -> None:
    write_image(root / "train" / "0005.png", np.zeros((48, 64, 3), np.uint8))
    write_image(root / "trainannot" / "0005.png", np.zeros((48, 64), np.uint8))
    script = f"from tests.callbacks.test_finite_loss import fit_in_two; fit_in_two({str(root)!r})"
    ranks = start(script, 2, tmp_path)
    assert exit_codes(ranks, timeout=200) == [0, 0]
    assert len(list((tmp_path / "run" / "not_finite").glob("*.json"))) == 2  # of the process that had it, in two epochs


def test_a_number_out_of_range() -> None:
    with pytest.raises(ConfigError, match="max_skipped is -1"):
        FiniteLoss(max_skipped=-1)


def test_batches_of_another_structure_do_not_hide_the_message(tmp_path: Path) -> None:
    _write_batches([(torch.zeros(1, 3, 2, 2), torch.zeros(1, 2, 2))], step=3, process=0, folder=tmp_path)
    assert json.loads((tmp_path / "step_3.process_0.json").read_text()) == {"step": 3, "process": 0, "files": []}
