"""The pool of CUDA graphs, with a stand-in for the capture: these tests need no GPU."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest.mock import MagicMock, create_autospec

import numpy as np
import pytest
import torch
from torch import Tensor

from hrseg.data.datasets.camvid import CAMVID
from hrseg.inference import Predictor, Protocol, cuda_graphs, predictor, score_images
from hrseg.inference.cuda_graphs import CudaCapture, Function, GraphedFunction, Outputs, graphed
from hrseg.models import HRNetV2
from tests.networks import TINY


class Network:
    """The function: counts its runs."""

    def __init__(self) -> None:
        self.runs = 0

    def __call__(self, images: Tensor) -> Outputs:
        self.runs += 1
        return {"out": 3 * images[..., ::2, ::2], "aux": images.mean((2, 3), keepdim=True)}


class FakeCapture:
    """As `CudaCapture`: one static input, results that the next replay overwrites, bytes in proportion to pixels."""

    def __init__(self, fault: Callable[[Tensor], Tensor] = lambda output: output) -> None:
        self.fault = fault
        self.captured: list[torch.Size] = []
        self.pools = 0

    def new_pool(self) -> FakeCapture:
        self.pools += 1
        return self

    def __call__(self, function: Function, images: Tensor) -> tuple[Function, int]:
        self.captured.append(images.shape)
        static = torch.zeros_like(images)
        results = {name: output.clone() for name, output in function(static).items()}

        def replay(images: Tensor) -> Outputs:
            static.copy_(images)
            for name, output in function(static).items():
                results[name].copy_(self.fault(output))
            return results

        return replay, images.numel()


def image(height: int, width: int = 8, seed: int = 0) -> Tensor:
    return torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(seed))


def test_a_shape_is_captured_when_it_is_seen_again() -> None:
    network, capture = Network(), FakeCapture()
    graphs = GraphedFunction(network, capture.new_pool)
    for seed in range(5):
        expected = Network()(image(8, seed=seed))
        found = graphs(image(8, seed=seed))
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected)
        assert capture.captured == [image(8).shape] * (seed >= 1)
    assert network.runs == 1 + 3 + 3  # eager; eager, in the capture, in its check; replays


def test_images_of_all_sizes_are_not_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_graphs, "_MOST_SHAPES", 20)
    capture = FakeCapture()
    graphs = GraphedFunction(Network(), capture.new_pool)
    for height in range(2, 102):
        graphs(image(height))
    assert capture.captured == []
    assert len(graphs._sights) == 20


def test_types_have_graphs_of_their_own() -> None:
    capture = FakeCapture()
    graphs = GraphedFunction(Network(), capture.new_pool)
    for _ in range(3):
        for dtype in (torch.float32, torch.float64):
            assert graphs(image(8).to(dtype))["out"].dtype == dtype
    assert len(capture.captured) == 2


def test_results_are_not_overwritten_by_the_next_image() -> None:
    graphs = GraphedFunction(Network(), FakeCapture().new_pool)
    kept = [graphs(image(8, seed=seed))["out"] for seed in range(5)]
    for seed, found in enumerate(kept):
        assert torch.equal(found, 3 * image(8, seed=seed)[..., ::2, ::2])


def test_scores_of_all_views_are_equal() -> None:
    protocol = Protocol((0.5, 1.0), flip=True, window=(32, 32), stride=(16, 16))
    images = torch.randn(2, 3, 48, 64, generator=torch.Generator().manual_seed(0))
    capture = FakeCapture()
    graphs = GraphedFunction(Network(), capture.new_pool)
    expected = [scores["out"] for scores in score_images(Network(), images, protocol)]
    for _ in range(2):
        found = [scores["out"] for scores in score_images(graphs, images, protocol)]
        assert all(map(torch.equal, found, expected))
    assert capture.captured


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (lambda output: 1.02 * output, "its results differ by 2.0e-02 of the largest"),
        (lambda output: output / 0, "its results differ by"),  # NaN and infinity
    ],
)
def test_a_graph_that_computes_something_else_is_dropped(
    fault: Callable[[Tensor], Tensor], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    capture = FakeCapture(fault)
    graphs = GraphedFunction(Network(), capture.new_pool)
    for seed in range(20):
        assert torch.equal(graphs(image(8, seed=seed))["out"], 3 * image(8, seed=seed)[..., ::2, ::2])
    assert len(capture.captured) == 1
    (record,) = caplog.records
    assert record.getMessage().startswith(
        "images of shape (1, 3, 8, 8) run without a CUDA graph, which failed: " + reason
    )


def test_rounding_is_no_difference(caplog: pytest.LogCaptureFixture) -> None:
    graphs = GraphedFunction(Network(), FakeCapture(lambda output: output * (1 + 1e-3)).new_pool)
    for _ in range(3):
        found = graphs(image(8))["out"]
    assert torch.equal(found, 3 * image(8)[..., ::2, ::2] * (1 + 1e-3))
    assert caplog.records == []


def test_a_function_that_ignores_its_input_buffer_is_noticed(caplog: pytest.LogCaptureFixture) -> None:
    """Values read on the CPU would be constants of the graph: it is captured with other values than it is checked."""

    class Constant(FakeCapture):
        def __call__(self, function: Function, images: Tensor) -> tuple[Function, int]:
            constant = function(torch.zeros_like(images))
            return lambda images: constant, 0

    graphs = GraphedFunction(Network(), Constant().new_pool)
    for seed in range(4):
        assert torch.equal(graphs(image(8, seed=seed))["out"], 3 * image(8, seed=seed)[..., ::2, ::2])
    assert len(caplog.records) == 1


@pytest.mark.parametrize("error", [RuntimeError("CUDA error: operation not permitted\nCompile with"), TypeError("new")])
def test_what_cannot_be_captured_runs_eagerly(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    calls = []

    def capture(function: Function, images: Tensor) -> tuple[Function, int]:
        calls.append(images.shape)
        raise error

    graphs = GraphedFunction(Network(), lambda: capture)
    for _ in range(10):
        assert torch.equal(graphs(image(8))["out"], 3 * image(8)[..., ::2, ::2])
    assert len(calls) == 1
    (record,) = caplog.records
    assert record.getMessage().endswith(f"which failed: {error}".partition("\n")[0])


def test_a_replay_that_fails_is_computed_eagerly(caplog: pytest.LogCaptureFixture) -> None:
    def fault(output: Tensor) -> Tensor:
        if network.runs > 10:
            raise RuntimeError("CUDA error: out of memory")
        return output

    network = Network()
    graphs = GraphedFunction(network, FakeCapture(fault).new_pool)
    for seed in range(20):
        assert torch.equal(graphs(image(8, seed=seed))["out"], 3 * image(8, seed=seed)[..., ::2, ::2])
    assert len(caplog.records) == 1


def test_the_least_recently_used_graph_makes_room() -> None:
    capture = FakeCapture()
    graphs = GraphedFunction(Network(), capture.new_pool, max_graphs=2)
    for height in (4, 4, 6, 6, 4, 8, 8):
        graphs(image(height))
    assert [key[0][2] for key in graphs._graphs] == [4, 8]
    assert capture.pools == 1


def test_shapes_that_take_turns_are_not_captured_again_and_again() -> None:
    capture = FakeCapture()
    graphs = GraphedFunction(Network(), capture.new_pool, max_graphs=2)
    for _ in range(200):
        for height in (4, 6, 8):
            graphs(image(height))
    assert len(capture.captured) <= 3 * math.log2(200)


def test_the_pool_is_emptied_when_it_is_too_large() -> None:
    capture = FakeCapture()
    graphs = GraphedFunction(Network(), capture.new_pool, max_bytes=3 * 8 * 10)
    for height in (4, 4, 6, 6):
        graphs(image(height))
    assert graphs.num_graphs == 2
    graphs(image(2))
    graphs(image(2))
    assert graphs.num_graphs == 0
    for _ in range(4):
        graphs(image(4))
    assert [key[0][2] for key in graphs._graphs] == [4]
    assert capture.pools == 2


def test_graphs_make_room_for_an_image_that_does_not_fit() -> None:
    class Full(Network):
        def __call__(self, images: Tensor) -> Outputs:
            if images.shape[2] > 16 and graphs.num_graphs:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().__call__(images)

    graphs = GraphedFunction(Full(), FakeCapture().new_pool)
    for _ in range(3):
        graphs(image(8))
    assert torch.equal(graphs(image(32))["out"], 3 * image(32)[..., ::2, ::2])
    assert graphs.num_graphs == 0


def test_memory_that_does_not_suffice_is_the_callers_error() -> None:
    def full(images: Tensor) -> Outputs:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        GraphedFunction(full, FakeCapture().new_pool)(image(8))


def test_no_graphs_under_autocast_of_the_caller() -> None:
    capture = FakeCapture()
    graphs = GraphedFunction(Network(), capture.new_pool)
    with torch.autocast("cpu", torch.bfloat16):
        for _ in range(5):
            graphs(image(8))
    assert capture.captured == []


def test_threads_do_not_mix_their_images() -> None:
    graphs = GraphedFunction(Network(), FakeCapture().new_pool)
    wrong: list[int] = []

    def segment(seed: int) -> None:
        for number in range(100):
            images = image(8, seed=1000 * seed + number)
            if not torch.equal(graphs(images)["out"], 3 * images[..., ::2, ::2]):
                wrong.append(number)

    threads = [threading.Thread(target=segment, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_cpu_needs_no_graphs() -> None:
    network = Network()
    assert graphed(network, torch.device("cpu")) is network


def test_a_predictor_with_graphs_gives_the_same_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    network = HRNetV2(TINY, CAMVID.num_classes)
    pixels = np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8)
    expected = Predictor(network, CAMVID, device="cpu")(pixels)
    capture = FakeCapture()
    monkeypatch.setattr(predictor, "graphed", lambda function, _: GraphedFunction(function, capture.new_pool))
    predict = Predictor(network, CAMVID, device="cpu")
    for _ in range(4):
        assert np.array_equal(predict(pixels), expected)
    assert capture.captured == [(1, 3, 40, 56)]


class FakeCuda:
    """Stands in for torch.cuda: checks arguments, and replays what a function adds to `captured`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.log: list[str] = []
        self.stream: object = "the caller's"
        for name in ("graph_pool_handle", "synchronize", "empty_cache"):
            monkeypatch.setattr(torch.cuda, name, create_autospec(getattr(torch.cuda, name)))
        reserved = iter([1000, 1600])
        monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: next(reserved))
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: self.stream)
        monkeypatch.setattr(torch.cuda, "Stream", lambda device: MagicMock(name="stream"))
        monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: self)
        self.signature = create_autospec(torch.cuda.graph)
        monkeypatch.setattr(torch.cuda, "device", self.block)
        monkeypatch.setattr(torch.cuda, "stream", self.block)
        monkeypatch.setattr(torch.cuda, "graph", self.capturing)
        self.captured: list[Callable[[], object]] = []
        self.is_capturing = False

    @contextmanager
    def block(self, _: object) -> Iterator[None]:
        before, self.stream = self.stream, "the side stream"
        yield
        self.stream = before

    @contextmanager
    def capturing(self, *arguments: object, **named: object) -> Iterator[None]:
        self.signature(*arguments, **named)
        self.is_capturing = True
        yield
        self.is_capturing = False

    def replay(self) -> None:
        for step in self.captured:
            step()


def test_the_calls_of_a_capture(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = FakeCuda(monkeypatch)
    runs: list[tuple[object, bool]] = []

    def network(images: Tensor) -> Outputs:
        runs.append((cuda.stream, cuda.is_capturing))
        output = 2 * images
        if cuda.is_capturing:
            cuda.captured.append(lambda: torch.mul(images, 2, out=output))
        return {"out": output}

    replay, size = CudaCapture(torch.device("cuda:0"))(network, image(8))
    assert runs == 3 * [("the side stream", False)] + [("the side stream", True)]
    assert size == 600
    for seed in range(3):
        assert torch.equal(replay(image(8, seed=seed))["out"], 2 * image(8, seed=seed))
    assert len(runs) == 4
    cuda.stream = "another"
    assert torch.equal(replay(image(8, seed=4))["out"], 2 * image(8, seed=4))
    assert len(runs) == 5
