from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from hrseg.errors import ConfigError
from hrseg.models import create_model
from hrseg.optim import Muon, create_optimizer, parameter_groups
from hrseg.optim.muon import orthogonalize


def reference_direction(matrix: Tensor, steps: int = 5) -> Tensor:
    """The iteration on each singular value of one matrix, by a decomposition."""
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    s = s / s.square().sum().sqrt()
    for _ in range(steps):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return u @ torch.diag(s) @ vh


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("shape", [(3, 16, 144), (2, 64, 27), (1, 32, 32), (1, 1, 5)])
def test_directions_are_those_of_the_decomposition(shape: tuple[int, ...]) -> None:
    matrices = 1e-3 * random(*shape)
    expected = torch.stack([reference_direction(matrix) for matrix in matrices])
    torch.testing.assert_close(orthogonalize(matrices), expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(orthogonalize(matrices.float()), expected.float(), rtol=1e-3, atol=1e-3)


def test_rows_become_orthogonal() -> None:
    (direction,) = orthogonalize(random(1, 8, 72))
    values = torch.linalg.svdvals(direction)
    assert values.min() > 0.65
    assert values.max() < 1.25


def test_no_gradient_is_no_direction() -> None:
    assert not orthogonalize(torch.zeros(1, 4, 9)).any()


def test_steps_are_those_of_a_slow_reference() -> None:
    lr, decay, momentum = 0.1, 0.2, 0.9
    weight = nn.Parameter(random(4, 3, 3, 3))
    twin = nn.Parameter(random(4, 3, 3, 3, seed=1))  # of the same shape: goes through the same products
    optimizer = Muon([weight, twin], lr=lr, momentum=momentum, weight_decay=decay)
    expected, average = weight.detach().clone(), torch.zeros(4, 27, dtype=torch.float64)
    for step in range(3):
        weight.grad, twin.grad = random(4, 3, 3, 3, seed=10 + step), random(4, 3, 3, 3, seed=20 + step)
        gradient = weight.grad.reshape(4, 27)
        average = momentum * average + (1 - momentum) * gradient
        direction = reference_direction((1 - momentum) * gradient + momentum * average).reshape(4, 3, 3, 3)
        expected = expected * (1 - lr * decay) - lr * 0.2 * 27**0.5 * direction
        optimizer.step()
    torch.testing.assert_close(weight.detach(), expected, rtol=1e-9, atol=1e-9)


def test_norms_and_biases_take_the_steps_of_adamw() -> None:
    ours, theirs = (nn.Parameter(random(7)) for _ in range(2))
    arguments = {"lr": 0.03, "betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.1}
    optimizers = [Muon([ours], **arguments), torch.optim.AdamW([theirs], **arguments)]
    for step in range(5):
        for parameter, optimizer in zip((ours, theirs), optimizers, strict=True):
            parameter.grad = random(7, seed=step)
            optimizer.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_memory_format_makes_no_difference() -> None:
    plain = nn.Parameter(random(4, 3, 3, 3))
    last = nn.Parameter(plain.detach().clone(memory_format=torch.channels_last))
    for parameter in (plain, last):
        parameter.grad = random(4, 3, 3, 3, seed=1).to(memory_format=torch.preserve_format)
        Muon([parameter], lr=0.1).step()
    assert last.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(last, plain)


def test_training_continues_from_a_restored_state() -> None:
    whole, restored = (nn.ParameterList([random(3, 8), random(3)]) for _ in range(2))
    optimizer = Muon(whole, lr=0.1)

    def step(parameters: nn.ParameterList, optimizer: Muon, seed: int) -> None:
        for parameter in parameters:
            parameter.grad = random(*parameter.shape, seed=seed)
        optimizer.step()

    step(whole, optimizer, 1)
    restored.load_state_dict(whole.state_dict())
    other = Muon(restored, lr=1.0)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))  # torch shares the tensors
    step(whole, optimizer, 2)
    step(restored, other, 2)
    for ours, theirs in zip(whole, restored, strict=True):
        assert torch.equal(ours, theirs)


def test_trains_a_network_in_groups() -> None:
    torch.manual_seed(0)
    network = create_model("hrnetv2_w18_small_v1", 3, init="kaiming").train()
    groups = parameter_groups(network, head_lr_factor=2, decay_norm_and_bias=False, head_names=network.head_names)
    optimizer = create_optimizer(lambda groups: Muon(groups, lr=1e-3), groups)
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    target = torch.randint(0, 3, (2, 64, 64), generator=torch.Generator().manual_seed(0))
    target[:, :32] = 0
    losses = []
    for _ in range(12):
        loss = nn.functional.cross_entropy(network(images), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


def test_step_returns_the_loss_of_the_closure() -> None:
    weight = nn.Parameter(torch.ones(2, 2))

    def closure() -> float:
        weight.grad = None
        loss = weight.square().sum()
        loss.backward()
        return loss.item()

    assert Muon([weight], lr=0.1).step(closure) == 4.0
    assert weight.detach().square().sum() < 4.0


def test_parameters_without_a_gradient_are_unchanged() -> None:
    used, unused = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2, 2))
    used.grad = torch.eye(2)
    Muon([used, unused]).step()
    assert torch.equal(unused, torch.ones(2, 2))
    assert not torch.equal(used, torch.ones(2, 2))


@pytest.mark.parametrize("wrong", [{"lr": -1.0}, {"momentum": 1.0}, {"betas": (0.9, 1.0)}, {"weight_decay": -0.1}])
def test_numbers_out_of_range(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="Muon: lr"):
        Muon([nn.Parameter(torch.ones(2))], **wrong)
