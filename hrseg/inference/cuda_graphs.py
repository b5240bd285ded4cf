"""A network replayed from CUDA graphs, one per shape of its input, which takes no time on the CPU to launch kernels."""

from __future__ import annotations

import logging
import math
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

_log = logging.getLogger(__name__)

Outputs = dict[str, Tensor]
Function = Callable[[Tensor], Outputs]
# maps a function and an example of its input to its replay, whose results are overwritten by the next replay, and to
# the bytes by which the graph enlarged the memory pool
Capture = Callable[[Function, Tensor], tuple[Function, int]]
Key = tuple[torch.Size, torch.dtype]

_SIGHTS = 2  # of a shape before it is captured: a folder of images of all sizes is no reason to capture each
_MOST_SHAPES = 1000  # whose sights are counted
_WARM_UP_RUNS = 3  # cuDNN selects its algorithms, libraries allocate their workspaces
_TOLERANCE = 1e-2  # relative to the largest output; a graph of something else differs by about 1


class CudaCapture:
    """Captures functions on one device, all into one memory pool.

    Graphs may share a pool because they are replayed one after the other, and their results are copied at once.

    Args:
        device: The GPU.

    Source:
        PyTorch's notes on CUDA semantics, "CUDA Graphs": capture after warm-up on a side stream, and memory management.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def __call__(self, function: Function, images: Tensor) -> tuple[Function, int]:
        """Captures a function for inputs of one shape; see `Capture`.

        Raises:
            RuntimeError: Something in the function cannot be captured, or memory does not suffice.
        """
        # not the images themselves: results that do not depend on the buffer are to be noticed
        static = torch.zeros_like(images, memory_format=torch.channels_last)
        caller = torch.cuda.current_stream(self._device)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(self._device), torch.cuda.stream(self._stream):
            self._stream.wait_stream(caller)
            for _ in range(_WARM_UP_RUNS):
                function(static)
            torch.cuda.synchronize()
            torch.cuda.empty_cache()  # memory of the warm-up
            before = torch.cuda.memory_reserved()
            # other threads may use the GPU meanwhile
            with torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode="thread_local"):
                outputs = function(static)
            size = torch.cuda.memory_reserved() - before

        def replay(images: Tensor) -> Outputs:
            if torch.cuda.current_stream(self._device) != caller:  # its work might overlap with the pool's
                return function(images)
            static.copy_(images)
            graph.replay()
            return outputs

        return replay, size


def graphed(function: Function, device: torch.device) -> Function:
    """Runs a function from CUDA graphs that take up to a quarter of the GPU's memory; on a CPU, as it is."""
    if device.type != "cuda":
        return function
    quarter = torch.cuda.get_device_properties(device).total_memory / 4
    return GraphedFunction(function, partial(CudaCapture, device), max_bytes=quarter)


@dataclass
class _Sights:
    """How often a shape was computed eagerly since its graph was last dropped, and how often it has to be."""

    number: int = 0
    needed: float = _SIGHTS


@dataclass(frozen=True)
class _Graph:
    replay: Function
    size: int


class GraphedFunction:
    """Computes a function of images from CUDA graphs; falls back to the function itself wherever that fails.

    A shape is captured when it is seen for the second time. The first replay is compared with the function's results: a
    graph that differs from them is dropped, and the shape computed eagerly from then on, as if its capture had failed.
    A shape whose graph had to make room is captured again once it was seen twice as often as the last time.

    The function must not change, as graphs keep the addresses of its weights: a network must not be moved or have
    its parameters replaced. Not used under an autocast of the caller, which would free the weights that it casts.

    Args:
        function: Maps images (B, C, H, W) to outputs by name, without reading values on the CPU.
        capture: Makes a `Capture` with an empty memory pool, such as `CudaCapture` of a device.
        max_graphs: Number of graphs that are kept; the least recently used one makes room.
        max_bytes: Size of the memory pool from which on all graphs are dropped; the memory of one goes to others only.
    """

    def __init__(
        self, function: Function, capture: Callable[[], Capture], max_graphs: int = 16, max_bytes: float = math.inf
    ) -> None:
        self._function = function
        self._make_capture = capture
        self._capture: Capture | None = None
        self._max_graphs = max_graphs
        self._max_bytes = max_bytes
        self._graphs: OrderedDict[Key, _Graph] = OrderedDict()  # least recently used first
        self._pool_size = 0
        self._sights: OrderedDict[Key, _Sights] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def num_graphs(self) -> int:
        """Number of shapes that are replayed from a graph."""
        return len(self._graphs)

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Outputs:
        """Maps images (B, C, H, W) to the outputs, which are the caller's own."""
        if torch.is_autocast_enabled(images.device.type):
            return self._function(images)
        with self._lock:
            key = images.shape, images.dtype
            graph = self._graphs.get(key)
            if graph is not None:
                self._graphs.move_to_end(key)
                try:
                    return _copies(graph.replay(images))
                except RuntimeError as error:  # such as for want of memory
                    self._fail(key, error)
            outputs = self._compute(images)
            if self._is_due(key):
                self._add(key, images, outputs)
            return outputs

    def _compute(self, images: Tensor) -> Outputs:
        try:
            return self._function(images)
        except torch.OutOfMemoryError:
            if not self._graphs:
                raise
        self._drop_all()
        if images.is_cuda:
            torch.cuda.empty_cache()
        return self._function(images)

    def _is_due(self, key: Key) -> bool:
        sights = self._sights.setdefault(key, _Sights())
        self._sights.move_to_end(key)
        if len(self._sights) > _MOST_SHAPES:
            self._sights.popitem(last=False)
        sights.number += 1
        return sights.number >= sights.needed

    def _add(self, key: Key, images: Tensor, expected: Outputs) -> None:
        """Captures a shape, and keeps the graph if it computes what is expected."""
        try:
            self._capture = self._capture or self._make_capture()
            graph = _Graph(*self._capture(self._function, images))
            self._graphs[key] = graph
            self._pool_size += graph.size
            difference = _difference(graph.replay(images), expected)
        except Exception as error:  # whatever this version of torch, CUDA or cuDNN raises: graphs are no necessity
            self._fail(key, error)
            return
        if not difference <= _TOLERANCE:  # NaN, too
            self._fail(key, f"its results differ by {difference:.1e} of the largest")
        elif self._pool_size > self._max_bytes:
            self._drop_all()
        elif len(self._graphs) > self._max_graphs:
            self._drop(next(iter(self._graphs)))

    def _fail(self, key: Key, reason: object) -> None:
        """Drops a graph for good."""
        self._drop(key)
        self._sights.setdefault(key, _Sights()).needed = math.inf
        message = f"{reason}".partition("\n")[0]
        _log.warning("images of shape %s run without a CUDA graph, which failed: %s", tuple(key[0]), message)

    def _drop_all(self) -> None:
        """Drops all graphs and their pool: only a pool without graphs gives its memory back."""
        for key in list(self._graphs):
            self._drop(key)

    def _drop(self, key: Key) -> None:
        self._graphs.pop(key, None)
        sights = self._sights.setdefault(key, _Sights())
        sights.number, sights.needed = 0, 2 * sights.needed
        if not self._graphs:
            self._capture, self._pool_size = None, 0


def _copies(outputs: Outputs) -> Outputs:
    return {name: output.clone() for name, output in outputs.items()}


def _difference(outputs: Outputs, expected: Outputs) -> float:
    """Largest difference relative to the largest expected value; of all outputs, the worst."""
    differences = [
        (outputs[name] - output).abs().max() / output.abs().max().clamp_min(torch.finfo(output.dtype).tiny)
        for name, output in expected.items()
    ]
    return float(torch.stack(differences).max())
