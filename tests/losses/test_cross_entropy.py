from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from hrseg.losses import CrossEntropyLoss
from tests.references import losses as reference

WEIGHTS = [0.5, 1.0, 2.0, 0.25]


def batch(seed: int, number: int = 2, size: tuple[int, int] = (7, 9)) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(number, 4, *size, generator=generator, dtype=torch.float64)
    target = torch.randint(0, 4, (number, *size), generator=generator, dtype=torch.uint8)
    target[torch.rand(target.shape, generator=generator) < 0.2] = 255
    return logits, target


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_equals_the_slow_reference_and_torch(seed: int, weights: list[float] | None) -> None:
    logits, target = batch(seed)
    value = CrossEntropyLoss(weights)(logits, target)
    slow = reference.cross_entropy(logits.numpy(), target.numpy(), weights or [1.0] * 4)
    assert value.item() == pytest.approx(slow, rel=1e-6)
    weight = None if weights is None else torch.tensor(weights, dtype=torch.float64)
    torch.testing.assert_close(value, F.cross_entropy(logits, target.long(), weight, ignore_index=255))


def test_gradient_equals_that_of_torch_in_float32() -> None:
    logits, target = batch(0, size=(64, 64))
    ours, theirs = (logits.float().requires_grad_() for _ in range(2))
    CrossEntropyLoss(WEIGHTS)(ours, target).backward()
    F.cross_entropy(theirs, target.long(), torch.tensor(WEIGHTS), ignore_index=255).backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_no_logits_of_the_targets_size_are_kept_for_the_backward_pass() -> None:
    logits, _ = batch(0, size=(8, 8))
    _, target = batch(0, size=(32, 32))
    sizes: list[int] = []

    def note(tensor: torch.Tensor) -> torch.Tensor:
        sizes.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        CrossEntropyLoss(WEIGHTS)(logits.requires_grad_(), target).backward()
    assert sizes
    assert max(sizes) <= logits.numel()


def test_divided_by_all_pixels_as_the_official_auxiliary_term() -> None:
    logits, target = batch(0)
    value = CrossEntropyLoss(WEIGHTS, divide_by="pixels")(logits, target)
    weight = torch.tensor(WEIGHTS, dtype=torch.float64)
    pixels = F.cross_entropy(logits, target.long(), weight, ignore_index=255, reduction="none")
    torch.testing.assert_close(value, pixels.mean())


def test_a_class_of_weight_zero_alone_gives_zero() -> None:
    logits, target = batch(0)
    logits.requires_grad_()
    value = CrossEntropyLoss([0.0, 1.0, 1.0, 1.0])(logits, torch.zeros_like(target))
    value.backward()
    assert value.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_deterministic_mode() -> None:
    logits, target = batch(0)
    torch.use_deterministic_algorithms(True)
    try:
        CrossEntropyLoss(WEIGHTS)(logits.requires_grad_(), target).backward()
    finally:
        torch.use_deterministic_algorithms(False)
