from __future__ import annotations

import pytest
import torch

from hrseg.errors import ConfigError
from hrseg.losses import CrossEntropyLoss, OhemCrossEntropyLoss
from tests.references import losses as reference

WEIGHTS = [0.5, 1.0, 2.0, 0.25]
SIZE = (8, 9)


def batch(seed: int, ignored: float = 0.3, spread: float = 2.0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = spread * torch.randn(2, 4, *SIZE, generator=generator, dtype=torch.float64)
    target = torch.randint(0, 4, (2, *SIZE), generator=generator, dtype=torch.uint8)
    target[torch.rand(target.shape, generator=generator) < ignored] = 255
    return logits, target


@pytest.mark.parametrize("threshold", [0.0, 0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("min_kept", [0, 1, 5, 60, 99, 100, 10**6])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_equals_the_slow_reference(threshold: float, min_kept: int, weights: list[float] | None) -> None:
    for seed in range(3):
        logits, target = batch(seed)
        value = OhemCrossEntropyLoss(threshold, min_kept, weights)(logits, target)
        slow = reference.ohem_cross_entropy(logits.numpy(), target.numpy(), threshold, min_kept, weights or [1.0] * 4)
        assert value.item() == pytest.approx(slow, rel=1e-6)


def official(logits: torch.Tensor, target: torch.Tensor, threshold: float, min_kept: int) -> torch.Tensor:
    """The rule of the fact sheet in tensor operations: sort the valid pixels, compare, select, average."""
    valid = target.long()[target != 255]
    probability = logits.softmax(1).movedim(1, -1)[target != 255].gather(1, valid[:, None])[:, 0]
    ordered = probability.sort().values
    limit = ordered[min(max(1, min_kept), len(ordered) - 1)].clamp_min(threshold)
    weights = torch.tensor(WEIGHTS, dtype=logits.dtype)[valid]
    return (-probability.log() * weights)[probability < limit].mean()


@pytest.mark.parametrize("min_kept", [1, 40, 10**6])
def test_gradient_equals_that_of_the_sorted_form(min_kept: int) -> None:
    logits, target = batch(0)
    ours, theirs = (logits.clone().requires_grad_() for _ in range(2))
    OhemCrossEntropyLoss(0.3, min_kept, WEIGHTS)(ours, target).backward()
    official(theirs, target, 0.3, min_kept).backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_fewer_valid_pixels_than_min_kept_drops_the_easiest_only() -> None:
    logits, target = batch(0, spread=20.0)
    probability = logits.softmax(1).gather(1, target.long().where(target != 255, 0)[:, None])[:, 0]
    easiest = probability.where(target != 255, torch.tensor(-1.0, dtype=torch.float64)).flatten().argmax()
    without = target.flatten().clone()
    without[easiest] = 255
    value = OhemCrossEntropyLoss(0.0, min_kept=10**6)(logits, target)
    torch.testing.assert_close(value, CrossEntropyLoss()(logits, without.view_as(target)))


@pytest.mark.parametrize("pixels", [1, 5])
def test_nothing_below_the_threshold_gives_zero(pixels: int) -> None:
    logits = torch.zeros(1, 4, 1, pixels, requires_grad=True)
    target = torch.zeros(1, 1, pixels, dtype=torch.uint8)
    value = OhemCrossEntropyLoss(threshold=0.25, min_kept=2)(logits, target)
    value.backward()
    assert value.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_the_threshold_holds_over_the_batch_not_per_image() -> None:
    logits, target = batch(0, ignored=0.0)
    logits[0] *= 0.01  # one image of hard pixels, one of mixed ones
    together = OhemCrossEntropyLoss(0.0, 30)(logits, target)
    apart = [OhemCrossEntropyLoss(0.0, 15)(logits[i : i + 1], target[i : i + 1]) for i in range(2)]
    assert together.item() != pytest.approx(sum(apart).item() / 2)


def test_defaults_are_those_of_the_recipes() -> None:
    loss = OhemCrossEntropyLoss()
    assert (loss.threshold, loss.min_kept) == (0.9, 131072)


@pytest.mark.parametrize(("threshold", "min_kept"), [(1.1, 5), (-0.1, 5), (0.9, -1)])
def test_settings_out_of_range(threshold: float, min_kept: int) -> None:
    with pytest.raises(ConfigError, match="OHEM"):
        OhemCrossEntropyLoss(threshold, min_kept)
