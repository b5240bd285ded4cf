from __future__ import annotations

import math
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from hrseg.errors import ConfigError
from hrseg.losses import RMILoss, WeightedOutputsLoss
from tests.references import rmi as reference

K = 6  # more than the loss takes at once
NVIDIA: dict[str, Any] = {"radius": 3, "pooling": "average", "pool_size": 4, "bce_weight": 0.5, "alpha": 5e-4}
OPENSEG: dict[str, Any] = {"radius": 3, "pooling": "max", "pool_size": 3, "bce_weight": 0.5, "alpha": 1e-3}
OTHERS: list[dict[str, Any]] = [
    {"radius": 1, "pooling": "average", "pool_size": 5, "bce_weight": 0.0, "alpha": 0.1},
    {"radius": 2, "pooling": "max", "pool_size": 2, "bce_weight": 0.3, "alpha": 1e-3},
    {"radius": 3, "pooling": "average", "pool_size": 1, "bce_weight": 0.0, "alpha": 5e-4},
    {"radius": 4, "pooling": "max", "pool_size": 4, "bce_weight": 1.0, "alpha": 5e-4},
]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """On a busy machine the threads of tiny operations wait for each other, a hundred times as long as they work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def batch(
    seed: int, number: int = 2, classes: int = K, size: tuple[int, int] = (18, 23), ignored: float = 0.2
) -> tuple[Tensor, Tensor]:
    """Logits that are right more often than not, and a target of rectangles."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randint(0, classes, (number, *(-(-side // 5) for side in size)), generator=generator)
    target = coarse.repeat_interleave(5, 1).repeat_interleave(5, 2)[:, : size[0], : size[1]].clone()
    logits = 2 * torch.randn(number, classes, *size, generator=generator, dtype=torch.float64)
    logits.scatter_add_(1, target.unsqueeze(1), torch.full((number, 1, *size), 2.0, dtype=torch.float64))
    target[torch.rand(target.shape, generator=generator) < ignored] = 255
    return logits, target.to(torch.uint8)


def value_and_gradient(loss: RMILoss, logits: Tensor, target: Tensor) -> tuple[float, Tensor]:
    logits = logits.detach().clone().requires_grad_()
    value = loss(logits, target)
    value.backward()
    assert logits.grad is not None
    return value.item(), logits.grad


@pytest.mark.parametrize("setting", [NVIDIA, OPENSEG, *OTHERS], ids=str)
@pytest.mark.parametrize("ignored", [0.0, 0.2])
def test_equals_the_slow_reference(setting: dict[str, Any], ignored: float) -> None:
    logits, target = batch(0, ignored=ignored)
    slow = reference.rmi_loss(logits.numpy(), target.numpy(), **setting)
    assert RMILoss(K, **setting)(logits, target).item() == pytest.approx(slow, rel=1e-9)


def test_nvidias_setting_is_the_default() -> None:
    logits, target = batch(1)
    assert torch.equal(RMILoss()(logits, target), RMILoss(**NVIDIA)(logits, target))


@pytest.mark.parametrize("setting", [NVIDIA, OPENSEG], ids=["nvidia", "openseg"])
def test_gradient_is_the_difference_quotient(setting: dict[str, Any]) -> None:
    logits, target = batch(0)
    loss = RMILoss(**setting)
    assert torch.autograd.gradcheck(lambda x: loss(x, target), logits.requires_grad_(), fast_mode=True)


@pytest.mark.parametrize("setting", [NVIDIA, OPENSEG], ids=["nvidia", "openseg"])
def test_gradient_is_the_difference_quotient_of_the_slow_reference(setting: dict[str, Any]) -> None:
    logits, target = batch(0, number=1, classes=2, size=(9, 10))
    _, gradient = value_and_gradient(RMILoss(**setting), logits, target)
    for place in np.random.default_rng(0).permutation(list(np.ndindex(*logits.shape)))[:12]:
        step = torch.zeros_like(logits)
        step[tuple(place)] = 1e-5
        above, below = (
            reference.rmi_loss(moved.numpy(), target.numpy(), **setting) for moved in (logits + step, logits - step)
        )
        assert gradient[tuple(place)].item() == pytest.approx((above - below) / 2e-5, rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("setting", [NVIDIA, OPENSEG], ids=["nvidia", "openseg"])
def test_gradient_of_small_logits_in_float32(setting: dict[str, Any]) -> None:
    logits, _ = batch(0, size=(6, 7))
    _, target = batch(0, size=(24, 28))
    value, gradient = value_and_gradient(RMILoss(**setting), logits, target)
    value_single, gradient_single = value_and_gradient(RMILoss(**setting), logits.float(), target)
    assert value_single == pytest.approx(value, rel=1e-5)
    assert gradient_single.dtype == torch.float32
    torch.testing.assert_close(gradient_single.double(), gradient, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_information_is_the_joint_entropy_less_that_of_the_prediction(seed: int) -> None:
    # H(Y|P) = H(Y, P) - H(P) of Gaussians, whose entropies are half the log-determinants of their covariances
    logits, target = batch(seed, number=1, classes=1)
    total = RMILoss(bce_weight=0.0)(logits, target).item()
    probability, label = reference.planes(logits[0].numpy(), target[0].numpy(), 0)
    points = [reference.regions(reference.pooled(plane, "average", 4), 3) for plane in (probability, label)]
    both = np.concatenate(points, axis=1).T
    joint = np.cov(both) * (both.shape[1] - 1) + 5e-4 * np.eye(18)
    entropies = [0.5 * np.linalg.slogdet(matrix)[1] for matrix in (joint, joint[:9, :9])]
    assert total == pytest.approx((entropies[0] - entropies[1]) / 9, rel=1e-6)


@pytest.mark.parametrize("setting", [NVIDIA, OPENSEG], ids=["nvidia", "openseg"])
@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_a_right_prediction_leaves_no_more_than_alpha_twice(setting: dict[str, Any], scale: float) -> None:
    _, target = batch(0, ignored=0.0)
    logits = 2 * torch.nn.functional.one_hot(target.long(), K).movedim(-1, 1).double() - 1
    loss = RMILoss(**{**setting, "bce_weight": 0.0})
    value, gradient = value_and_gradient(loss, scale * logits, target)
    least = 0.5 * math.log(setting["alpha"])
    assert K * least <= value
    if scale > 1:
        assert value <= K * (least + 0.5 * math.log(2))
        assert not gradient.any()
    assert gradient.isfinite().all()
    wrong, _ = value_and_gradient(loss, scale * logits.roll(1, 1), target)
    assert value < wrong


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("logit", [-1e4, 0.0, 1e4])
def test_classes_that_are_constant_are_not_nan(logit: float, dtype: torch.dtype) -> None:
    # one class, predicted alike everywhere: all scatter is zero, and alpha alone remains
    logits = torch.full((2, K, 16, 16), logit, dtype=dtype)
    target = torch.zeros(2, 16, 16, dtype=torch.uint8)
    value, gradient = value_and_gradient(RMILoss(**OPENSEG), logits, target)
    bce = 512 / 513 * {-1e4: 1e4, 0.0: K * math.log(2), 1e4: (K - 1) * 1e4}[logit]
    rmi = K * math.log(math.sqrt(1e-3) + 1e-8)
    assert value == pytest.approx(0.5 * bce + 0.5 * rmi, rel=1e-6)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("setting", [NVIDIA, OPENSEG], ids=["nvidia", "openseg"])
@pytest.mark.parametrize("confidence", [1.0, 30.0, 1e3])
def test_large_and_nearly_deterministic_maps_stay_finite(setting: dict[str, Any], confidence: float) -> None:
    target = torch.zeros(1, 512, 512, dtype=torch.uint8)
    target[:, :, 256:] = 1
    logits = confidence * torch.stack([1.0 - 2 * target, 2 * target - 1.0, -torch.ones(1, 512, 512)], 1)
    value, gradient = value_and_gradient(RMILoss(**setting), logits, target)
    assert math.isfinite(value)
    assert gradient.isfinite().all()


def test_classes_are_summed_and_images_averaged() -> None:
    logits, target = batch(0)
    loss = RMILoss(bce_weight=0.0)
    alone = torch.stack([loss(logits[i : i + 1], target[i : i + 1]) for i in range(2)])
    torch.testing.assert_close(loss(logits, target), alone.mean())
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    renamed = torch.where(target == 255, 255, order.argsort()[target.long().where(target != 255, 0)])
    torch.testing.assert_close(loss(logits[:, order], renamed), loss(logits, target))


def test_ignored_pixels_may_hold_anything() -> None:
    logits, target = batch(0)
    value, gradient = value_and_gradient(RMILoss(), logits, target)
    broken = logits.masked_fill((target == 255).unsqueeze(1), math.nan)
    value_broken, gradient_broken = value_and_gradient(RMILoss(), broken, target)
    assert value == value_broken
    assert torch.equal(gradient, gradient_broken)


def test_the_ignore_index_may_be_the_number_of_a_class() -> None:
    logits, target = batch(0, ignored=0.0)
    expected = RMILoss()(logits, target.masked_fill(target == 2, 255))
    assert torch.equal(RMILoss(ignore_index=2)(logits, target), expected)


def test_an_image_without_valid_pixels_is_averaged_in_as_in_the_official_code() -> None:
    logits, target = batch(0)
    target[1] = 255
    value, gradient = value_and_gradient(RMILoss(bce_weight=0.0), logits, target)
    expected = reference.rmi_loss(logits.numpy(), target.numpy(), **{**NVIDIA, "bce_weight": 0.0})
    assert value == pytest.approx(expected, rel=1e-9)
    alone, gradient_alone = value_and_gradient(RMILoss(bce_weight=0.0), logits[:1], target[:1])
    nothing_known = logits.shape[1] * math.log(math.sqrt(5e-4) + 1e-8)  # half the log of alpha for each class
    assert value == pytest.approx((alone + nothing_known) / 2, rel=1e-9)
    torch.testing.assert_close(gradient[:1], gradient_alone / 2)
    assert not gradient[1].any()


def test_the_loss_is_learned_from() -> None:
    _, target = batch(0, number=1, classes=3, size=(12, 16))
    logits = torch.zeros(1, 3, 12, 16, requires_grad=True)
    optimizer = torch.optim.Adam([logits], 0.3)
    loss = RMILoss(3)
    before = loss(logits, target).item()
    for _ in range(40):
        optimizer.zero_grad()
        value = loss(logits, target)
        value.backward()
        optimizer.step()
    assert value.item() < before
    right = (logits.argmax(1) == target)[target != 255]
    assert right.float().mean() > 0.99


def test_the_auxiliary_output_without_rmi() -> None:
    logits, target = batch(0)
    loss = WeightedOutputsLoss({"out": RMILoss(K), "aux": RMILoss(K, bce_weight=1.0)}, {"aux": 0.4})
    slow = reference.rmi_loss(logits.numpy(), target.numpy(), **NVIDIA)
    slow += 0.4 * reference.binary_cross_entropy(logits.numpy(), target.numpy())
    assert loss({"out": logits, "aux": logits}, target).item() == pytest.approx(slow, rel=1e-9)


class Sizes(TorchDispatchMode):
    """Notes the number of bytes of the largest tensor that an operation returns."""

    largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for x in result if isinstance(result, tuple | list) else [result]:
            if isinstance(x, Tensor):
                self.largest = max(self.largest, x.untyped_storage().nbytes())
        return result


def test_no_map_is_larger_than_that_of_a_few_classes_of_one_image() -> None:
    _, target = batch(0, classes=20, size=(128, 64))
    logits, _ = batch(0, classes=20, size=(32, 16))
    with Sizes() as sizes:
        RMILoss(20)(logits.float().requires_grad_(), target).backward()
    pixels = 128 * 64
    points = 4 * 18 * (pixels // 16) * 8
    assert sizes.largest <= max(4 * pixels * 4, points, 2 * pixels * 8)  # the last is the target in int64


def test_no_map_of_the_targets_size_is_kept_for_the_backward_pass() -> None:
    logits, _ = batch(0, size=(8, 8))
    _, target = batch(0, size=(32, 32))
    kept: list[weakref.ref[Tensor]] = []

    def note(tensor: Tensor) -> Tensor:
        tensor = tensor.view_as(tensor)  # the object that the graph holds, and nothing else
        kept.append(weakref.ref(tensor))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        value = RMILoss()(logits.requires_grad_(), target)
    alive = [tensor for tensor in (held() for held in kept) if tensor is not None]
    assert alive
    assert len(alive) < len(kept)
    assert max(tensor.numel() for tensor in alive) <= logits.numel()
    value.backward()


def test_the_value_is_the_same_without_gradients() -> None:
    logits, target = batch(0)
    expected = RMILoss()(logits.clone().requires_grad_(), target)
    with torch.no_grad():
        value = RMILoss()(logits.requires_grad_(), target)
    assert not value.requires_grad
    assert value.item() == expected.item()


def test_deterministic_mode() -> None:
    logits, target = batch(0)
    torch.use_deterministic_algorithms(True)
    try:
        RMILoss(**OPENSEG)(logits.requires_grad_(), target).backward()
    finally:
        torch.use_deterministic_algorithms(False)


def test_pixels_of_the_smallest_crop() -> None:
    logits, target = batch(0, size=(6, 6))
    assert RMILoss()(*batch(0, size=(8, 8))).isfinite()
    with pytest.raises(ConfigError, match="3 x 3 in maps pooled to 2 x 2"):
        RMILoss()(logits, target)


def test_logits_of_another_number_of_classes() -> None:
    assert RMILoss(19).num_classes == 19
    assert RMILoss().num_classes is None
    with pytest.raises(ConfigError, match="19 classes, but logits of 6"):
        RMILoss(19)(*batch(0))


@pytest.mark.parametrize(
    "options",
    [{"radius": 0}, {"pool_size": 0}, {"pooling": "bilinear"}, {"bce_weight": 1.5}, {"alpha": 0.0}],
    ids=str,
)
def test_options_out_of_range(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        RMILoss(**options)
