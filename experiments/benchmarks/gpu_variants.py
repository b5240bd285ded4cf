"""Changes to networks that may make them faster on a GPU, which `gpu.py` measures: equal results but for rounding."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hrseg.models import HRNetV2, V2Head
from hrseg.models.cpu import SplitV2Head
from hrseg.models.networks.hrnet import BasicBlock, HighResolutionModule, Maps

Result = TypeVar("Result")


def pad_channels(network: HRNetV2, multiple: int = 8) -> HRNetV2:
    """Copies a network with its maps padded by channels of zeros, as tensor cores compute multiples of 8 channels.

    Args:
        network: Without batch norm, as `fold_batch_norm` returns it.
        multiple: What the channels of all maps are rounded up to, except images and logits.
    """
    padded = copy.deepcopy(network)
    images, head = padded.conv1, padded.last_layer
    for parent in list(padded.modules()):
        for name, conv in list(parent.named_children()):
            if isinstance(conv, nn.Conv2d):
                inputs = padded.widths if conv is head[0] else [conv.in_channels]
                of_inputs, of_outputs = (1 if conv is end else multiple for end in (images, head[3]))
                setattr(parent, name, _pad_convolution(conv, inputs, of_inputs, of_outputs))
    return padded


def _pad_convolution(conv: nn.Conv2d, inputs: Sequence[int], of_inputs: int, of_outputs: int) -> nn.Conv2d:
    """Pads the channels of each of the concatenated inputs, and those of the output, to multiples."""
    assert conv.groups == 1
    new_inputs = [_round_up(channels, of_inputs) for channels in inputs]
    outputs = conv.out_channels
    weight = conv.weight.new_zeros(_round_up(outputs, of_outputs), sum(new_inputs), *conv.kernel_size)
    start = 0
    for part, channels in zip(torch.split(conv.weight.detach(), list(inputs), dim=1), new_inputs, strict=True):
        weight[:outputs, start : start + part.shape[1]] = part
        start += channels
    padded = copy.deepcopy(conv)
    padded.out_channels, padded.in_channels = weight.shape[:2]
    padded.weight = nn.Parameter(weight)
    if conv.bias is not None:
        padded.bias = nn.Parameter(F.pad(conv.bias.detach(), (0, len(weight) - outputs)))
    return padded


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


class EarlyHead(SplitV2Head):
    """The head with its first convolution before upsampling, on any device."""

    def forward(self, maps: Maps) -> Tensor:
        """Maps (B, C * 2**k, h / 2**k, w / 2**k), finest first, to logits (B, K, h, w)."""
        return self.split(maps)


class CudnnBlock(BasicBlock):
    """A block without batch norm in two calls of cuDNN, each of convolution, bias, sum and ReLU."""

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, width, h, w) to the same shape."""
        first, second = self.conv1, self.conv2
        if not x.is_cuda:
            out = F.relu(F.conv2d(x, first.weight, first.bias, padding=1))
            return F.relu(F.conv2d(out, second.weight, second.bias, padding=1) + x)
        ones = (1, 1)  # stride, padding and dilation
        out = torch.cudnn_convolution_relu(x, first.weight, first.bias, ones, ones, ones, 1)
        return torch.cudnn_convolution_add_relu(out, second.weight, x, 1.0, second.bias, ones, ones, ones, 1)


class ParallelModule(HighResolutionModule):
    """A module whose branches, and then whose sums, run on a CUDA stream each."""

    def forward(self, maps: Maps) -> Maps:
        """See `HighResolutionModule.forward`."""
        maps = _in_parallel([partial(branch, x) for branch, x in zip(self.branches, maps, strict=True)])
        return _in_parallel([partial(self._fuse, maps, target) for target in range(len(self.fuse_layers))])


def _in_parallel(tasks: Sequence[Callable[[], Tensor]]) -> tuple[Tensor, ...]:
    """Runs tasks on streams of their own, forked from the current stream and joined to it; on a CPU, in turn.

    What they read is alive until all have joined, so that its memory is not used again in between.
    """
    if not torch.cuda.is_available():
        return tuple(task() for task in tasks)
    current = torch.cuda.current_stream()
    streams = _streams(len(tasks) - 1)
    results = []
    for task, stream in zip(tasks[1:], streams, strict=True):
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            results.append(task())
    first = tasks[0]()
    for stream in streams:
        current.wait_stream(stream)
    return first, *results


@cache
def _streams(number: int) -> list[torch.cuda.Stream]:
    return [torch.cuda.Stream() for _ in range(number)]  # type: ignore[no-untyped-call]


def swap(network: HRNetV2, *layers: type[nn.Module]) -> HRNetV2:
    """Makes the layers of a network, in place, instances of subclasses: `EarlyHead`, `CudnnBlock`, `ParallelModule`."""
    bases = {EarlyHead: V2Head, CudnnBlock: BasicBlock, ParallelModule: HighResolutionModule}
    for module in network.modules():
        for layer in layers:
            if type(module) is bases[layer]:
                module.__class__ = layer
    return network
