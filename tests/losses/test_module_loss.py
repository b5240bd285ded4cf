"""Losses of torch and of other libraries."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hrseg.errors import ConfigError
from hrseg.losses import CrossEntropyLoss, ModuleLoss, SumLoss, WeightedOutputsLoss

WEIGHTS = [0.5, 1.0, 2.0]


def logits_and_target(ignore_index: int = 255) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 4, 4, generator=generator).requires_grad_()
    target = torch.randint(0, 3, (2, 8, 8), generator=generator, dtype=torch.uint8)
    target[:, :3] = ignore_index
    return logits, target


def bound(module: nn.Module, ignore_index: int = 255, align_corners: bool = True) -> WeightedOutputsLoss:
    loss = WeightedOutputsLoss({"out": module})
    loss.bind(ignore_index, align_corners)
    return loss


@pytest.mark.parametrize("ignore_index", [255, 253])
def test_torchs_cross_entropy_was_a_traceback(ignore_index: int) -> None:
    logits, target = logits_and_target(ignore_index)
    loss = bound(nn.CrossEntropyLoss(torch.tensor(WEIGHTS)), ignore_index)
    ours = bound(CrossEntropyLoss(WEIGHTS), ignore_index)
    assert loss.num_classes == 3
    value = loss({"out": logits}, target)
    torch.testing.assert_close(value, ours({"out": logits}, target))
    gradients = [torch.autograd.grad(each({"out": logits}, target), logits)[0] for each in (loss, ours)]
    torch.testing.assert_close(*gradients)


def test_an_ignore_index_of_the_module_is_kept() -> None:
    logits, target = logits_and_target()
    value = bound(nn.CrossEntropyLoss(ignore_index=1))({"out": logits}, target)
    enlarged = F.interpolate(logits, (8, 8), mode="bilinear", align_corners=True)
    counted = target.long().masked_fill(target == 1, 255)
    torch.testing.assert_close(value, F.cross_entropy(enlarged, counted, ignore_index=255))


@pytest.mark.parametrize("module", [nn.CrossEntropyLoss(), nn.CrossEntropyLoss(label_smoothing=0.1)], ids=str)
def test_without_a_valid_pixel_the_loss_is_zero_and_not_nan(module: nn.Module) -> None:
    logits, target = logits_and_target()
    value = bound(module)({"out": logits}, torch.full_like(target, 255))
    (gradient,) = torch.autograd.grad(value, logits)
    assert value.item() == 0
    assert not gradient.any()


class WithoutIgnoreIndex(nn.Module):
    """Ignores 255 itself, like losses written for one data set."""

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(logits, target, ignore_index=255)


class OfNone(nn.Module):
    """Like the losses of segmentation_models_pytorch, whose ignore index is None by default."""

    ignore_index: int | None = None

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        assert self.ignore_index is not None
        return F.cross_entropy(logits, target, ignore_index=self.ignore_index)


@pytest.mark.parametrize("module", [WithoutIgnoreIndex(), OfNone()])
def test_modules_of_the_user(module: nn.Module) -> None:
    logits, target = logits_and_target()
    expected = bound(CrossEntropyLoss())({"out": logits}, target)
    torch.testing.assert_close(bound(module)({"out": logits}, target), expected)
    both = SumLoss([module, CrossEntropyLoss()], [0.5, 0.5])
    both.bind(255, True)
    torch.testing.assert_close(both(logits, target), expected)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (nn.CrossEntropyLoss, r"the loss is the class CrossEntropyLoss; give an instance, CrossEntropyLoss\(\.\.\.\)"),
        (CrossEntropyLoss, "the loss is the class CrossEntropyLoss; give an instance"),
        ("dice", r"the loss is 'dice' \(str\); expected one of hrseg.losses"),
        (WeightedOutputsLoss({"out": CrossEntropyLoss()}), "expected one of hrseg.losses"),
        (nn.CrossEntropyLoss(torch.tensor([1.0, -1.0])), "expected one finite number >= 0 per class"),
    ],
    ids=str,
)
def test_other_modules_are_refused(loss: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        WeightedOutputsLoss({"out": loss})  # type: ignore[dict-item]


def test_a_loss_per_pixel_is_refused() -> None:
    logits, target = logits_and_target()
    with pytest.raises(ConfigError, match=r"CrossEntropyLoss gives a loss of shape \(2, 8, 8\); expected one number"):
        ModuleLoss(nn.CrossEntropyLoss(reduction="none"))(logits, target)
