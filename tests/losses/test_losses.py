"""The contract of `SegmentationLoss`, for every loss."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from hrseg.errors import ConfigError
from hrseg.losses import CrossEntropyLoss, OhemCrossEntropyLoss, RMILoss, SegmentationLoss, SmpLoss, SumLoss
from tests.references import losses as reference

K = 4
WEIGHTS = [0.5, 1.0, 2.0, 0.25]

LOSSES: dict[str, Callable[[], SegmentationLoss]] = {
    "cross_entropy": CrossEntropyLoss,
    "cross_entropy_weighted": lambda: CrossEntropyLoss(WEIGHTS),
    "cross_entropy_pixels": lambda: CrossEntropyLoss(WEIGHTS, divide_by="pixels"),
    "ohem": lambda: OhemCrossEntropyLoss(0.7, 20),
    "ohem_weighted": lambda: OhemCrossEntropyLoss(0.2, 3, WEIGHTS),
    "rmi": lambda: RMILoss(K, pool_size=2),
    "rmi_max": lambda: RMILoss(radius=2, pooling="max", pool_size=3, alpha=1e-3),
    "rmi_bce_alone": lambda: RMILoss(bce_weight=1.0),
    "dice": lambda: SmpLoss("dice"),
    "dice_log_weighted": lambda: SmpLoss("dice", {"log_loss": True, "class_weights": WEIGHTS}),
    "jaccard": lambda: SmpLoss("jaccard"),
    "tversky": lambda: SmpLoss("tversky", {"alpha": 0.3, "beta": 0.7, "gamma": 0.75}),
    "focal": lambda: SmpLoss("focal"),
    "focal_normalized": lambda: SmpLoss("focal", {"normalized": True, "alpha": 0.25}),
    "lovasz": lambda: SmpLoss("lovasz"),
    "lovasz_per_image": lambda: SmpLoss("lovasz", {"per_image": True}),
    "sum": lambda: SumLoss([CrossEntropyLoss(WEIGHTS), SmpLoss("dice")], [1.0, 0.5]),
}
all_losses = pytest.mark.parametrize("create", LOSSES.values(), ids=LOSSES.keys())


def batch(
    ignored: float = 0.3, size: tuple[int, int] = (6, 7), dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(2, K, *size, generator=generator, dtype=dtype)
    target = torch.randint(0, K, (2, *size), generator=generator, dtype=torch.uint8)
    target[torch.rand(target.shape, generator=generator) < ignored] = 255
    return logits, target


def value_and_gradient(loss: SegmentationLoss, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    logits = logits.detach().clone().requires_grad_()
    value = loss(logits, target)
    value.backward()
    assert logits.grad is not None
    return value.detach(), logits.grad


@all_losses
def test_ignored_pixels_change_neither_value_nor_gradient(create: Callable[[], SegmentationLoss]) -> None:
    logits, target = batch()
    value, gradient = value_and_gradient(create(), logits, target)
    ignored = (target == 255).unsqueeze(1)
    disturbed = torch.where(ignored, 50 * torch.randn(logits.shape), logits)
    value_disturbed, gradient_disturbed = value_and_gradient(create(), disturbed, target)
    assert torch.equal(value, value_disturbed)
    assert torch.equal(gradient, gradient_disturbed)
    assert not gradient.masked_select(ignored).any()
    assert gradient.masked_select(~ignored).any()


@all_losses
@pytest.mark.parametrize("scale", [1.0, 100.0], ids=["usual logits", "extreme logits"])
def test_no_valid_pixel_gives_zero_and_zero_gradient(create: Callable[[], SegmentationLoss], scale: float) -> None:
    logits, target = batch()
    value, gradient = value_and_gradient(create(), scale * logits, torch.full_like(target, 255))
    if not isinstance(create(), RMILoss):  # a constant then: see its own tests
        assert value.item() == 0
    assert value.ndim == 0
    assert not gradient.any()


# RMI averages over all images, as the official code does, and has tests of its own
@pytest.mark.parametrize("create", [create for name, create in LOSSES.items() if not name.startswith("rmi")])
def test_an_image_without_valid_pixels_beside_another(create: Callable[[], SegmentationLoss]) -> None:
    logits, target = batch()
    target[0] = 255
    value, gradient = value_and_gradient(create(), logits, target)
    alone, gradient_alone = value_and_gradient(create(), logits[1:], target[1:])
    share = 0.5 if getattr(create(), "divide_by", "") == "pixels" else 1.0
    torch.testing.assert_close(value, share * alone)
    torch.testing.assert_close(gradient[1:], share * gradient_alone)
    assert not gradient[0].any()


@all_losses
def test_uint8_and_int64_targets_are_the_same(create: Callable[[], SegmentationLoss]) -> None:
    logits, target = batch()
    original = target.clone()
    assert torch.equal(create()(logits, target), create()(logits, target.long()))
    assert torch.equal(target, original)


@all_losses
@pytest.mark.parametrize("ignore_index", [-1, 4])
def test_bind_sets_the_ignore_index(create: Callable[[], SegmentationLoss], ignore_index: int) -> None:
    logits, target = batch()
    loss = create()
    loss.bind(ignore_index=ignore_index, align_corners=False)
    renamed = target.long().masked_fill(target == 255, ignore_index)
    assert torch.equal(loss(logits, renamed), create()(logits, target))


@all_losses
@pytest.mark.parametrize("align_corners", [False, True])
def test_small_logits_are_upsampled(create: Callable[[], SegmentationLoss], align_corners: bool) -> None:
    logits, _ = batch(size=(3, 2), dtype=torch.float64)
    _, target = batch(size=(11, 9))
    loss = create()
    loss.bind(ignore_index=255, align_corners=align_corners)
    large = torch.from_numpy(reference.upsample(logits.numpy(), 11, 9, align_corners))
    torch.testing.assert_close(loss(logits, target), loss(large, target))


@all_losses
def test_half_precision_logits_give_a_float32_loss(create: Callable[[], SegmentationLoss]) -> None:
    logits, target = batch()
    logits = logits.bfloat16()
    expected = create()(logits.float(), target)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = create()(logits, target)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, expected)


@pytest.mark.parametrize("name", ["cross_entropy_weighted", "cross_entropy_pixels", "ohem", "ohem_weighted"])
def test_gradient_is_the_difference_quotient(name: str) -> None:
    logits, target = batch(size=(3, 4), dtype=torch.float64)
    loss = LOSSES[name]()
    assert torch.autograd.gradcheck(lambda x: loss(x, target), logits.requires_grad_())


@all_losses
def test_copies_and_pickles_and_holds_no_state(create: Callable[[], SegmentationLoss]) -> None:
    logits, target = batch()
    loss = create()
    expected = loss(logits, target)
    assert torch.equal(copy.deepcopy(loss)(logits, target), expected)
    assert torch.equal(pickle.loads(pickle.dumps(loss))(logits, target), expected)
    assert not loss.state_dict()


@all_losses
def test_wide_range_of_logits_stays_finite(create: Callable[[], SegmentationLoss]) -> None:
    logits, target = batch()
    value, gradient = value_and_gradient(create(), 1e4 * logits, target)
    assert value.isfinite()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("name", [name for name in LOSSES if not name.startswith(("focal", "lovasz"))])
def test_no_step_waits_for_the_device(name: str) -> None:
    with FakeTensorMode():  # it has no values, so that reading one, or a shape that depends on one, raises
        logits = torch.randn(2, K, 3, 4, requires_grad=True)
        value = LOSSES[name]()(logits, torch.randint(0, K, (2, 6, 7)))
        value.backward()
    assert value.shape == ()


def test_a_loss_is_one_method() -> None:
    class Mean(SegmentationLoss):
        def compute(self, logits: Tensor, target: Tensor) -> Tensor:
            return (logits.mean(1) * self.split_valid(target)[1]).mean()

    assert Mean()(*batch()).isfinite()
    with pytest.raises(TypeError, match="abstract"):
        SegmentationLoss()


@pytest.mark.parametrize("weights", [[], [1.0, -1.0], [1.0, float("nan")], [1.0, float("inf")]])
def test_class_weights_out_of_range(weights: list[float]) -> None:
    with pytest.raises(ConfigError, match="class_weights"):
        CrossEntropyLoss(weights)


@pytest.mark.parametrize("kind", [np.float32, torch.tensor])
def test_class_weights_may_be_numbers_of_other_libraries(kind: Callable[[float], Any]) -> None:
    assert CrossEntropyLoss([kind(0.5), kind(2.0)]).class_weights.tolist() == [0.5, 2.0]


def test_class_weights_of_the_wrong_length() -> None:
    logits, target = batch()
    with pytest.raises(ConfigError, match="2 class weights for logits of 4 classes"):
        CrossEntropyLoss([1.0, 2.0])(logits, target)


def test_number_of_classes_follows_from_the_class_weights() -> None:
    assert CrossEntropyLoss().num_classes is None
    assert CrossEntropyLoss(WEIGHTS).num_classes == K
    assert SmpLoss("dice", {"class_weights": WEIGHTS}).num_classes == K
    assert SumLoss([SmpLoss("dice"), CrossEntropyLoss(WEIGHTS)]).num_classes == K
    with pytest.raises(ConfigError, match=r"\[2, 4\]"):
        _ = SumLoss([CrossEntropyLoss([1.0, 2.0]), CrossEntropyLoss(WEIGHTS)]).num_classes
