"""Objects as plain values and back."""

from __future__ import annotations

from functools import partial
from typing import Any

import albumentations as A
import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
from torch import nn

from hrseg.data.datasets.camvid import CAMVID, CamVidDataModule
from hrseg.errors import ConfigError
from hrseg.inference import Protocol
from hrseg.losses import CrossEntropyLoss, SumLoss, WeightedOutputsLoss
from hrseg.models import HRNetV2, HRNetVariant
from hrseg.models.networks.hrnet import BasicBlock
from hrseg.task import SegmentationTask
from hrseg.utils.construct import NotDescribableError, build, build_arguments, describe, described_arguments, record


class Block(BasicBlock):
    """A user's block."""


class Plain(nn.Module):
    def __init__(self, num_classes: int, width: int = 4) -> None:
        super().__init__()
        self.layer = nn.Conv2d(width, num_classes, 1)


class OwnLoss(CrossEntropyLoss):
    def __init__(self, sharpness: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)


@pytest.mark.parametrize(
    "module",
    [
        HRNetV2(HRNetVariant(8, 1, (1, 1, 1), 1, 8, block=Block), num_classes=3),
        smp.Unet("resnet18", encoder_depth=3, encoder_weights=None, decoder_channels=(8, 8, 4), classes=3),
        record(Plain, 5, width=2),
        WeightedOutputsLoss(
            {"out": CrossEntropyLoss(class_weights=[1.0, 2.0]), "aux": CrossEntropyLoss()}, {"aux": 0.4}
        ),
        OwnLoss(0.5, class_weights=[1.0, 3.0]),
    ],
    ids=lambda module: type(module).__name__,
)
def test_a_module_is_rebuilt_from_its_description(module: nn.Module) -> None:
    description = describe(module)
    again = build(description, nn.Module)
    assert type(again) is type(module)
    assert {k: v.shape for k, v in again.state_dict().items()} == {k: v.shape for k, v in module.state_dict().items()}
    told, told_first = describe(again)["init_args"], description["init_args"]
    told_first.pop("variant", None)  # its block may be told as what makes the class, too
    assert {name: told[name] for name in told_first} == told_first


class OwnTask(SegmentationTask):
    """A user's task, which passes on all other arguments."""

    def __init__(self, *args: Any, scale: float = 2.0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)


class OwnTaskWithout(OwnTask):
    pass


@pytest.mark.parametrize("kind", [OwnTask, OwnTaskWithout])
def test_arguments_that_are_passed_on_have_names(kind: type[SegmentationTask]) -> None:
    task = kind(nn.Conv2d(3, 11, 1), CAMVID, power=0.5)
    plain, left_out = described_arguments(task, skip=["labels"])
    assert plain == {"scale": 2.0, "power": 0.5}
    assert list(left_out) == ["network"]


def test_a_data_module_is_built_again_with_its_transforms(tmp_path: Any) -> None:
    flips = A.OneOf([A.HorizontalFlip(p=0.3), A.VerticalFlip()], p=0.7)
    data = CamVidDataModule(tmp_path, 2, (32, 64), transforms=[flips], seed=3)
    again = build(describe(data), CamVidDataModule)
    assert describe(again) == describe(data)
    assert [step.p for step in again.transforms[0].transforms] == [0.3, 0.5]
    assert (again.crop_size, again.seed) == ((32, 64), 3)


def test_the_arguments_of_a_task() -> None:
    optimizer = partial(torch.optim.AdamW, lr=0.1, betas=(0.5, 0.9))
    task = SegmentationTask(Plain(11), CAMVID, optimizer=optimizer, test_protocol=Protocol((0.5,)), warmup_steps=3)
    plain, left_out = described_arguments(task, skip=["labels"])
    assert list(left_out) == ["network"]
    assert "Plain, whose arguments are not known" in left_out["network"]
    assert plain["test_protocol"]["scales"] == [0.5]
    made = build_arguments(SegmentationTask, plain, skip=["network", "labels"])
    assert made["test_protocol"] == Protocol((0.5,))
    assert made["warmup_steps"] == 3
    again = made["optimizer"]([nn.Parameter(torch.ones(1))])
    assert (type(again), again.defaults["lr"], again.defaults["betas"]) == (torch.optim.AdamW, 0.1, (0.5, 0.9))
    assert describe(made["optimizer"])["class_path"] == "torch.optim.AdamW"


def test_numbers_of_numpy_and_torch_are_plain() -> None:
    told = describe([np.float32(0.5), np.float64(2), np.bool_(1), np.arange(3), torch.tensor([[1.5]])])
    assert told == [0.5, 2.0, True, [0, 1, 2], [[1.5]]]
    assert [type(value) for value in told] == [float, float, bool, list, list]


def test_values_that_cannot_be_described() -> None:
    class Local(CrossEntropyLoss):
        pass

    for value, reason in (
        (lambda groups: None, "function"),
        (Local(), "Local"),
        (partial(print, 1), "print"),
        (SumLoss([Local()]), "Local"),
        (A.Lambda(image=print), "Lambda"),
        ([torch.ones(9, 999)], "Tensor"),
    ):
        with pytest.raises(NotDescribableError, match=reason):
            describe(value)


@pytest.mark.parametrize(
    ("description", "reason"),
    [
        ({"class_path": "tests.utils.test_construct.Plain"}, "num_classes"),
        ({"class_path": "tests.utils.test_construct.Plain", "init_args": {"num_classes": 2, "depth": 1}}, "depth"),
        ({"class_path": "tests.utils.test_construct.Missing"}, "Missing"),
        ({"class_path": "os.getcwd"}, "os.getcwd"),
    ],
)
def test_a_description_that_does_not_fit(description: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=f"cannot be built: .*{reason}"):
        build(description, nn.Module)
