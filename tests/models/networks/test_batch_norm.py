"""Batch norm of narrow maps, against torch's own in double precision."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from hrseg.models import HRNetV2, HRNetVariant
from hrseg.models.networks import batch_norm
from hrseg.models.networks.batch_norm import BatchNorm2d


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)  # with one there is nobody to wait for
    yield
    torch.set_num_threads(before)


@pytest.fixture
def folded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of the maps that were computed in the other way."""
    shapes: list[tuple[int, ...]] = []
    fold = batch_norm._fold
    monkeypatch.setattr(batch_norm, "_fold", lambda x: shapes.append(tuple(x.shape)) or fold(x))
    return shapes


def pair(channels: int, **options: float) -> tuple[BatchNorm2d, nn.BatchNorm2d]:
    """Ours, and torch's in double precision, with the same random weights and statistics."""
    torch.manual_seed(0)
    ours, reference = BatchNorm2d(channels, **options), nn.BatchNorm2d(channels, **options)
    for values in (ours.weight, ours.bias, ours.running_mean, ours.running_var):
        nn.init.uniform_(values, 0.5, 2)
    reference.load_state_dict(ours.state_dict())
    return ours, reference.double()


def maps(*shape: int) -> Tensor:
    """Maps in channels_last whose channels differ in mean and spread."""
    channels = torch.arange(1.0, shape[1] + 1).view(1, -1, 1, 1)
    return (torch.randn(shape) * channels + 3 * channels).contiguous(memory_format=torch.channels_last)


def assert_close(ours: Tensor, reference: Tensor) -> None:
    assert (ours - reference).abs().max() <= 1e-4 * reference.abs().max()


@pytest.mark.parametrize("shape", [(4, 18, 64, 128), (1, 18, 61, 80), (3, 30, 32, 16), (2, 5, 64, 64), (2, 8, 48, 64)])
def test_narrow_maps_give_what_torch_gives(folded: list[tuple[int, ...]], shape: tuple[int, ...]) -> None:
    ours, reference = pair(shape[1], momentum=0.3, eps=1e-3)
    for _ in range(2):
        x = maps(*shape).requires_grad_()
        y = x.detach().double().requires_grad_()
        gradient = torch.randn(shape) + 0.5  # in another memory format than the maps
        out, expected = ours(x), reference(y)
        out.backward(gradient)
        expected.backward(gradient.double())
        assert out.is_contiguous(memory_format=torch.channels_last)
        assert_close(out, expected)
        assert x.grad is not None
        assert y.grad is not None
        assert x.grad.is_contiguous(memory_format=torch.channels_last)
        assert_close(x.grad, y.grad)
    for mine, other in zip(ours.parameters(), reference.parameters(), strict=True):
        assert mine.grad is not None
        assert other.grad is not None
        assert_close(mine.grad, other.grad)
    for (name, mine), other in zip(ours.named_buffers(), reference.buffers(), strict=True):
        assert mine.dtype == (torch.int64 if name == "num_batches_tracked" else torch.float32)
        assert_close(mine, other)
    assert shape in folded


@pytest.mark.parametrize("shape", [(2, 16, 64, 64), (2, 32, 64, 64), (2, 36, 64, 64), (2, 18, 16, 16), (1, 18, 61, 81)])
def test_other_shapes_are_left_to_torch(folded: list[tuple[int, ...]], shape: tuple[int, ...]) -> None:
    ours, reference = pair(shape[1])
    x = maps(*shape)
    assert torch.equal(ours(x), reference.float()(x))
    assert not folded


@pytest.mark.parametrize("case", ["NCHW", "float64", "evaluation", "one thread", "momentum of None", "no statistics"])
def test_other_cases_are_left_to_torch(folded: list[tuple[int, ...]], case: str) -> None:
    ours, reference = pair(18)
    reference.float()
    x = maps(2, 18, 64, 64)
    if case == "NCHW":
        x = x.contiguous()
    elif case == "float64":
        x = x.double()
    elif case == "one thread":
        torch.set_num_threads(1)
    for norm in (ours, reference):
        if case == "float64":
            norm.double()
        elif case == "evaluation":
            norm.eval()
        elif case == "momentum of None":
            norm.momentum = None
        elif case == "no statistics":
            norm.track_running_stats, norm.running_mean, norm.running_var = False, None, None
    assert torch.equal(ours(x), reference(x))
    assert not folded


def test_recomputed_blocks_count_the_statistics_of_a_batch_once(folded: list[tuple[int, ...]]) -> None:
    torch.manual_seed(0)
    variant = HRNetVariant(18, blocks=1, modules=(1, 1, 1), layer1_blocks=1, layer1_width=4)
    network = HRNetV2(variant, init="kaiming").to(memory_format=torch.channels_last)
    images = maps(2, 3, 256, 256)
    results = []
    for stages in ([], [1, 2, 3, 4]):
        twin = copy.deepcopy(network)
        twin.checkpoint_stages = frozenset(stages)
        twin(images).square().mean().backward()
        results.append((twin, len(folded)))
    (plain, calls), (recomputed, all_calls) = results
    assert all_calls > 2 * calls > 0
    for mine, other in zip(recomputed.buffers(), plain.buffers(), strict=True):
        assert torch.equal(mine, other)
    for mine, other in zip(recomputed.parameters(), plain.parameters(), strict=True):
        assert mine.grad is not None
        assert other.grad is not None
        assert_close(mine.grad, other.grad)


def test_a_second_derivative_is_refused_rather_than_wrong() -> None:
    ours, _ = pair(18)
    x = maps(2, 18, 64, 64).requires_grad_()
    (gradient,) = torch.autograd.grad(ours(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()
