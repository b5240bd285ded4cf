"""Networks optimized for the CPU against plain ones, and narrow batch norm against torch's in double precision."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.flop_counter import FlopCounterMode

from hrseg.models import HRNetV2, HRNetVariant, cpu, create_model, fold_batch_norm, optimize_for_cpu
from hrseg.models.cpu import NarrowBatchNorm2d, SplitSpatialOCR, SplitV2Head
from hrseg.models.networks.ocr import SpatialOCR

VARIANT = HRNetVariant(18, blocks=1, modules=(1, 1, 1), layer1_blocks=1, layer1_width=4)


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)  # with one thread there is no contention
    yield
    torch.set_num_threads(before)


@pytest.fixture
def folded(monkeypatch: pytest.MonkeyPatch, two_threads: None) -> list[tuple[int, ...]]:
    """Shapes of the maps that were folded."""
    shapes: list[tuple[int, ...]] = []
    fold = cpu._fold
    monkeypatch.setattr(cpu, "_fold", lambda x: shapes.append(tuple(x.shape)) or fold(x))
    return shapes


def pair(channels: int, **options: float) -> tuple[NarrowBatchNorm2d, nn.BatchNorm2d]:
    """Our layer, and torch's in double precision, with the same random weights and statistics."""
    torch.manual_seed(0)
    ours, reference = NarrowBatchNorm2d(channels, **options), nn.BatchNorm2d(channels, **options)
    for values in (ours.weight, ours.bias, ours.running_mean, ours.running_var):
        nn.init.uniform_(values, 0.5, 2)
    reference.load_state_dict(ours.state_dict())
    return ours, reference.double()


def maps(*shape: int) -> Tensor:
    """Maps in channels_last whose channels differ in mean and std."""
    channels = torch.arange(1.0, shape[1] + 1).view(1, -1, 1, 1)
    return (torch.randn(shape) * channels + 3 * channels).contiguous(memory_format=torch.channels_last)


def assert_close(ours: Tensor, reference: Tensor) -> None:
    assert (ours - reference).abs().max() <= 1e-4 * reference.abs().max()


@pytest.mark.parametrize("shape", [(4, 18, 64, 128), (1, 18, 61, 80), (3, 30, 32, 16), (2, 5, 64, 64), (2, 8, 48, 64)])
def test_narrow_maps_equal_torch(folded: list[tuple[int, ...]], shape: tuple[int, ...]) -> None:
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


def test_recomputed_blocks_update_running_statistics_once(folded: list[tuple[int, ...]]) -> None:
    torch.manual_seed(0)
    network = optimize_for_cpu(HRNetV2(VARIANT, init="kaiming").to(memory_format=torch.channels_last))
    images = maps(2, 3, 128, 128)
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


@pytest.mark.usefixtures("two_threads")
def test_double_backward_is_refused() -> None:
    ours, _ = pair(18)
    x = maps(2, 18, 64, 64).requires_grad_()
    (gradient,) = torch.autograd.grad(ours(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


# ------------------------------------------------------------------------------------------------ whole networks


@pytest.fixture(scope="module")
def plain() -> HRNetV2:
    """In training mode, in double precision, with running statistics of a few batches."""
    torch.manual_seed(0)
    network = HRNetV2(VARIANT, num_classes=5, init="kaiming", bn_momentum=0.5).double()
    for _ in range(3):
        network(images_of(32, 48))
    return network


@pytest.fixture
def networks(plain: HRNetV2) -> tuple[HRNetV2, HRNetV2]:
    """The same network plain and optimized."""
    return copy.deepcopy(plain), optimize_for_cpu(copy.deepcopy(plain))


def images_of(height: int, width: int, batch: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(batch, 3, height, width, generator=generator, dtype=torch.float64)


def assert_same(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)


def test_layers_are_swapped_in_place(plain: HRNetV2) -> None:
    network = copy.deepcopy(plain)
    calls: list[str] = []
    network.last_layer.register_forward_hook(lambda *_: calls.append("head"))
    network.bn1.register_forward_hook(lambda *_: calls.append("bn1"))
    network.bn2.eval()
    before = network.state_dict(keep_vars=True)
    assert optimize_for_cpu(network) is network
    assert type(network.last_layer) is SplitV2Head
    assert type(network.bn1) is NarrowBatchNorm2d
    assert isinstance(network.bn1, nn.BatchNorm2d)
    assert (network.bn1.training, network.bn2.training) == (True, False)
    after = network.state_dict(keep_vars=True)
    assert list(after) == list(before)
    assert all(after[key] is value for key, value in before.items())
    network(images_of(32, 48))
    assert calls == ["bn1", "head"]
    plain.load_state_dict(network.state_dict())
    optimize_for_cpu(network)  # a second time
    assert type(network.last_layer) is SplitV2Head


def test_ocr_without_concatenation_keeps_results_and_gradients() -> None:
    torch.manual_seed(0)
    plain = SpatialOCR(8, 4, dropout=0.0, bias=True, negative_slope=0.01).double()
    optimized = optimize_for_cpu(copy.deepcopy(plain))
    assert type(optimized) is SplitSpatialOCR
    for is_training in (True, False):
        results = []
        for block in (plain.train(is_training), optimized.train(is_training)):
            generator = torch.Generator().manual_seed(1)
            shapes = ((2, 8, 6, 10), (2, 8, 3, 1))
            inputs = [torch.randn(s, generator=generator, dtype=torch.float64).requires_grad_() for s in shapes]
            out = block(*inputs)
            results.append([out, *torch.autograd.grad(out.square().sum(), [*inputs, *block.parameters()])])
        for theirs, ours in zip(*results, strict=True):
            assert_same(ours, theirs)


def test_subclasses_are_left_alone() -> None:
    other = type("Other", (nn.BatchNorm2d,), {})
    assert type(optimize_for_cpu(other(18))) is other
    assert type(optimize_for_cpu(nn.SyncBatchNorm(18))) is nn.SyncBatchNorm


@pytest.mark.parametrize(
    "name",
    [
        "hrnetv2_w18_small_v1",
        pytest.param("hrnetv2_w18_small_v2_ocr", marks=pytest.mark.slow),
        pytest.param("hrnetv2_w18_small_v1_psa_s_ocr_hmsa", marks=pytest.mark.slow),
        pytest.param("hrformer_t_ocr", marks=pytest.mark.slow),
    ],
)
def test_logits_and_gradients_equal_those_of_the_plain_network(name: str) -> None:
    torch.manual_seed(0)
    network = create_model(name).double()
    results = []
    for each in (network, optimize_for_cpu(copy.deepcopy(network))):
        torch.manual_seed(1)  # of dropout
        images = images_of(61, 80).requires_grad_()
        logits = each(images)
        logits.square().mean().backward()
        with torch.no_grad():
            evaluated = each.eval()(images)
        results.append([logits, images.grad, evaluated, *(p.grad for p in each.parameters()), *each.buffers()])
    for ours, theirs in zip(*results, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            assert (ours - theirs).abs().max() <= 1e-9 * max(theirs.abs().max(), 1e-3)


def test_the_head_convolves_small_maps_on_cpus_only(networks: tuple[HRNetV2, HRNetV2]) -> None:
    def multiply_adds(network: nn.Module) -> int:
        device = next(network.parameters()).device
        with FlopCounterMode(display=False) as counter:
            network(images_of(64, 64).to(device))
        return counter.get_total_flops()

    network, optimized = networks
    assert multiply_adds(optimized) < multiply_adds(network)
    assert multiply_adds(optimized.eval()) == multiply_adds(network.eval())  # published order of operations
    assert multiply_adds(optimize_for_cpu(fold_batch_norm(network))) < multiply_adds(fold_batch_norm(network))
    assert multiply_adds(optimized.to("meta").train()) == multiply_adds(network.to("meta").train())


def test_copies_and_pickles(networks: tuple[HRNetV2, HRNetV2]) -> None:
    _, network = networks
    images = images_of(40, 40)
    averaged = AveragedModel(network.eval()).module
    for twin in (copy.deepcopy(network), pickle.loads(pickle.dumps(network)), averaged):
        assert type(twin.last_layer) is SplitV2Head
        assert torch.equal(twin(images), network(images))


def test_folds_and_converts_to_synchronised_batch_norm(networks: tuple[HRNetV2, HRNetV2]) -> None:
    network, optimized = networks
    folded = fold_batch_norm(optimized)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    assert_same(folded(images_of(45, 33)), network.eval()(images_of(45, 33)))
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(optimized)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in converted.modules())
    assert list(converted.state_dict()) == list(network.state_dict())


def test_compiles_as_one_graph(networks: tuple[HRNetV2, HRNetV2]) -> None:
    torch.compiler.reset()
    network, optimized = networks
    compiled = torch.compile(optimized, fullgraph=True, backend="eager", dynamic=True)
    with torch.no_grad():
        for size in ((64, 96), (97, 65)):
            assert_same(compiled(images_of(*size)), network(images_of(*size)))
    torch.compiler.reset()


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")  # deprecated, but still used by many runtimes
def test_exports_and_traces_to_graphs_for_any_size(networks: tuple[HRNetV2, HRNetV2]) -> None:
    network = networks[0].eval()
    optimized = optimize_for_cpu(fold_batch_norm(network))
    sizes = {0: torch.export.Dim("batch"), 2: torch.export.Dim("h", min=33), 3: torch.export.Dim("w", min=33)}
    exported = torch.export.export(optimized, (images_of(64, 96),), dynamic_shapes=(sizes,)).module()
    traced = torch.jit.trace(optimized, images_of(64, 96))
    with torch.no_grad():
        for images in (images_of(97, 65, batch=3), images_of(33, 47, batch=1)):
            assert_same(exported(images), network(images))
            assert_same(traced(images), network(images))
