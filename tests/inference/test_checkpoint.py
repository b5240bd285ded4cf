"""Networks and tasks rebuilt from checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import segmentation_models_pytorch as smp
import torch
from pytorch_lightning import Trainer
from torch import nn

from hrseg.data.datasets.camvid import CAMVID
from hrseg.errors import ConfigError, WeightsError
from hrseg.inference import Predictor
from hrseg.losses import CrossEntropyLoss
from hrseg.models import HRNetV2, HRNetVariant
from hrseg.models.networks.hrnet import BasicBlock
from hrseg.task import SegmentationTask


class Block(BasicBlock):
    """A user's block."""


def saved(task: SegmentationTask, path: Path) -> Path:
    trainer = Trainer(accelerator="cpu", devices=1, logger=False, enable_progress_bar=False)
    trainer.strategy.connect(task)
    trainer.save_checkpoint(path)
    return path


def own_block() -> nn.Module:
    return HRNetV2(HRNetVariant(8, 1, (1, 1, 1), 1, 8, block=Block), num_classes=11)


def of_smp() -> nn.Module:
    return smp.Unet("resnet18", encoder_depth=3, encoder_weights=None, decoder_channels=(8, 8, 4), classes=11)


def assert_same_entries(one: nn.Module, other: nn.Module) -> None:
    a, b = one.state_dict(), other.state_dict()
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


@pytest.mark.parametrize(("make", "trust"), [(own_block, True), (of_smp, False)])
def test_a_task_and_a_predictor_of_a_network_that_has_no_name(make: Any, trust: bool, tmp_path: Path) -> None:
    task = SegmentationTask(make(), CAMVID, loss=CrossEntropyLoss([0.5] * 11), warmup_steps=7, test_protocol="lip")
    path = saved(task, tmp_path / "best.ckpt")
    again = SegmentationTask.load_from_checkpoint(path, trust=trust)
    assert_same_entries(again, task)
    assert (again.warmup_steps, again.test_protocol, again.labels) == (7, task.test_protocol, CAMVID)
    predictor = Predictor.from_checkpoint(path, device="cpu", trust=trust)
    assert type(predictor.network) is type(task.network)
    assert predictor(torch.zeros(64, 64, 3, dtype=torch.uint8).numpy()).shape == (64, 64)


def test_a_task_of_a_network_by_name(tmp_path: Path) -> None:
    args = {"fuse_mode": "nearest"}
    task = SegmentationTask("hrnetv2_w18_small_v1", CAMVID, args, checkpoint_stages=[2], schedule="cosine")
    path = saved(task, tmp_path / "best.ckpt")
    again = SegmentationTask.load_from_checkpoint(str(path), map_location="cpu", power=0.5)
    assert_same_entries(again, task)
    assert again.network.config == task.network.config  # type: ignore[union-attr]
    assert (again.schedule, again.power) == ("cosine", 0.5)


def test_arguments_that_a_checkpoint_could_not_keep_are_required(tmp_path: Path) -> None:
    def optimizer(groups: Any) -> torch.optim.Optimizer:
        return torch.optim.SGD(groups, 0.5)

    path = saved(SegmentationTask("hrnetv2_w18_small_v1", CAMVID, optimizer=optimizer), tmp_path / "best.ckpt")
    with pytest.raises(WeightsError, match=r"could not keep the task's optimizer .*; give optimizer=\.\.\."):
        SegmentationTask.load_from_checkpoint(path)
    assert SegmentationTask.load_from_checkpoint(path, optimizer=optimizer).make_optimizer is optimizer


def test_a_class_that_cannot_be_imported_loads_its_own(tmp_path: Path) -> None:
    class Local(SegmentationTask):
        pass

    path = saved(Local("hrnetv2_w18_small_v1", CAMVID), tmp_path / "best.ckpt")
    assert type(Local.load_from_checkpoint(path)) is Local
    with pytest.raises(WeightsError, match="does not name the class of its task"):
        SegmentationTask.load_from_checkpoint(path)


@pytest.mark.parametrize(
    "described",
    [
        {"class_path": "os.mkdir", "init_args": {"path": "ran"}},
        {"class_path": "tests.inference.test_checkpoint.Block", "init_args": {}},
        {"class_path": "torch.nn.Sequential", "init_args": {"args": [{"class_path": "os.mkdir"}]}},
    ],
)
def test_nothing_of_a_strangers_checkpoint_is_imported(
    described: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    task = SegmentationTask("hrnetv2_w18_small_v1", CAMVID)
    path = saved(task, tmp_path / "best.ckpt")
    content = torch.load(path, weights_only=True)
    for where in ("network", "task"):
        told = {**content["hrseg"], where: {"left_out": {}, **described}}
        torch.save({**content, "hrseg": told}, tmp_path / "odd.ckpt")
        builders = [SegmentationTask.load_from_checkpoint] + [Predictor.from_checkpoint] * (where == "network")
        for build in builders:
            with pytest.raises(ConfigError, match=rf"odd\.ckpt names .* under {where}.* trust=True"):
                build(tmp_path / "odd.ckpt")
    assert not Path("ran").exists()


@pytest.mark.parametrize(
    ("described", "message"),
    [
        ({"class_path": 3}, "expected a class_path and init_args by name"),
        ({"class_path": "torch.nn.Conv2d", "init_args": [3, 11, 1]}, "expected a class_path and init_args by name"),
        (
            {"class_path": "torch.nn.Conv2d", "init_args": {"in_channels": 3}},
            "torch.nn.Conv2d cannot be built: .*out_ch",
        ),
        ({"class_path": "torch.nn.Conv2d", "init_args": {"depth": 3}}, "torch.nn.Conv2d cannot be built: .*depth"),
        ({"class_path": "torch.nn.NoSuch", "init_args": {}}, "torch.nn.NoSuch cannot be built: .*NoSuch"),
        ({"class_path": "hrseg.data.datasets.camvid.CAMVID"}, "CAMVID cannot be built"),
    ],
)
def test_a_description_that_cannot_be_built(described: Any, message: str, tmp_path: Path) -> None:
    path = saved(SegmentationTask(of_smp(), CAMVID), tmp_path / "best.ckpt")
    content = torch.load(path, weights_only=True)
    content["hrseg"]["network"] = described
    torch.save(content, path)
    for build in (Predictor.from_checkpoint, SegmentationTask.load_from_checkpoint):
        with pytest.raises(WeightsError, match=message) as caught:
            build(path, trust=True)
        assert "\n" not in str(caught.value)


def test_weights_that_do_not_fit_their_description(tmp_path: Path) -> None:
    path = saved(SegmentationTask(of_smp(), CAMVID), tmp_path / "best.ckpt")
    content = torch.load(path, weights_only=True)
    del content["state_dict"]["network.encoder.conv1.weight"]
    torch.save(content, path)
    with pytest.raises(WeightsError, match=r"does not fit its description: .*Missing key.*: \"encoder.conv1.weight"):
        Predictor.from_checkpoint(path)
