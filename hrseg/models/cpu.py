"""Layers that compute the same faster on a CPU; `optimize_for_cpu` swaps them in."""

from __future__ import annotations

import math
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from hrseg.models.networks.hrnet import Maps
from hrseg.models.networks.hrnetv2 import V2Head
from hrseg.models.networks.ocr import SpatialOCR
from hrseg.utils.upsample import upsample

_LINE = 16  # floats in a cache line
_ONE_THREAD = 2**15  # elements up to which torch uses one thread

Network = TypeVar("Network", bound=nn.Module)


def optimize_for_cpu(network: Network) -> Network:
    """Swaps layers of a network, in place, for ones that are faster on a CPU and equal but for rounding.

    Parameters, buffers, hooks and keys of the state dict stay. On other devices, and wherever they are not faster, the
    new layers do what the old ones did. Subclasses of the layers are left alone. `SegmentationTask` and `Predictor`
    call this for hrseg's networks; in your own training loop, call it yourself.

    Returns:
        The network.

    >>> type(optimize_for_cpu(nn.BatchNorm2d(18))).__name__
    'NarrowBatchNorm2d'
    """
    for module in network.modules():
        module.__class__ = _LAYERS.get(type(module), type(module))
    return network


class SplitV2Head(V2Head):
    """`V2Head` with its first convolution applied to each map before upsampling, with that map's slice of the weights.

    A 1x1 convolution and bilinear upsampling commute. The convolution then has less to compute, and only the small maps
    are kept for the backward pass. In evaluation, keeps the published order of operations unless batch norm is folded.
    """

    def forward(self, maps: Maps) -> Tensor:
        """Maps (B, C * 2**k, h / 2**k, w / 2**k), finest first, to logits (B, K, h, w)."""
        convolution = self[0]
        assert isinstance(convolution, nn.Conv2d)
        as_published = not self.training and isinstance(self[1], nn.BatchNorm2d)
        if as_published or convolution.kernel_size != (1, 1) or maps[0].device.type != "cpu":
            return super().forward(maps)
        return self.split(maps)

    def split(self, maps: Maps) -> Tensor:
        """As `forward`, with the convolution before upsampling in any mode and on any device; it must be 1x1."""
        convolution, *layers = self
        assert isinstance(convolution, nn.Conv2d)
        finest, *coarser = maps
        weight, *weights = torch.split(convolution.weight, [x.shape[1] for x in maps], dim=1)
        x = F.conv2d(finest, weight, convolution.bias)
        for coarse, weight in zip(coarser, weights, strict=True):
            x += upsample(F.conv2d(coarse, weight), finest.shape[-2:], self.align_corners)
        for layer in layers:
            x = layer(x)
        return x


class SplitSpatialOCR(SpatialOCR):
    """`SpatialOCR` with its convolution of [context, pixels] as the sum of two, which saves the concatenation."""

    def forward(self, pixels: Tensor, regions: Tensor) -> Tensor:
        """Maps pixels (B, mid, h, w) and regions (B, mid, K, 1) to (B, mid, h, w)."""
        if pixels.device.type != "cpu":
            return super().forward(pixels, regions)
        convolution, *layers = self.conv_bn_dropout
        assert isinstance(convolution, nn.Conv2d)
        for_context, for_pixels = convolution.weight.chunk(2, dim=1)
        x = F.conv2d(self.object_context_block(pixels, regions), for_context, convolution.bias)
        x += F.conv2d(pixels, for_pixels)
        for layer in layers:
            x = layer(x)
        return x


class NarrowBatchNorm2d(nn.BatchNorm2d):
    """`torch.nn.BatchNorm2d`, up to twice as fast in training on less than 32 channels in channels_last.

    With two threads, torch 2.14 takes three times as long for 18 channels as for 16. Each thread sums pixels into its
    own row of C floats; where rows are not whole cache lines, threads seem to contend for a line at every pixel (false
    sharing). Here as many pixels as fill whole lines, 8 for 18 channels, are treated as one pixel with that many times
    the channels. Does not support double backward.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Maps (B, C, h, w) to the same shape."""
        if not self._is_slow(input):
            return super().forward(input)
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        normalized: Tensor = _FoldedBatchNorm.apply(
            input, self.weight, self.bias, self.running_mean, self.running_var, self.momentum, self.eps
        )
        return normalized

    def _is_slow(self, x: Tensor) -> bool:
        """Whether torch's threads would contend for cache lines, and the folded form applies."""
        return (
            self.training
            and self.affine
            and self.track_running_stats
            and self.momentum is not None
            and self.num_features < 2 * _LINE
            and self.num_features % _LINE != 0
            and x.device.type == "cpu"
            and x.dtype == self.weight.dtype == torch.float32
            and x.numel() > _ONE_THREAD
            and x.numel() // self.num_features % _LINE == 0
            and x.is_contiguous(memory_format=torch.channels_last)
            and torch.get_num_threads() > 1
            and not torch.compiler.is_compiling()
        )


_LAYERS: dict[type[nn.Module], type[nn.Module]] = {
    nn.BatchNorm2d: NarrowBatchNorm2d,
    V2Head: SplitV2Head,
    SpatialOCR: SplitSpatialOCR,
}


class _FoldedBatchNorm(torch.autograd.Function):
    """Batch norm of (B, C, h, w) in channels_last, computed on (1, C * n, 1, B * h * w / n)."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        running_mean: Tensor,
        running_var: Tensor,
        momentum: float,
        eps: float,
    ) -> Tensor:
        channels = len(weight)
        folded = _fold(x)
        copies, pixels = folded.shape[1] // channels, folded.shape[3]
        means, variances = x.new_zeros(2, folded.shape[1])
        torch.batch_norm(folded, None, None, means, variances, True, 1.0, eps, False)  # writes means and variances
        means, variances = means.view(copies, channels), variances.view(copies, channels)
        mean = means.mean(0)
        # torch's variances are the unbiased ones
        variance = ((means - mean).square() + variances * ((pixels - 1) / pixels)).mean(0)
        count = copies * pixels
        running_mean.lerp_(mean, momentum)
        running_var.lerp_(variance * (count / (count - 1)), momentum)
        scale = weight * (variance + eps).rsqrt()
        out = torch.empty_like(x)
        torch.addcmul(_repeat(bias - mean * scale, copies), folded, _repeat(scale, copies), out=_fold(out))
        ctx.save_for_backward(x, weight, mean, variance)
        ctx.eps = eps
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, variance = ctx.saved_tensors
        channels = len(weight)
        folded, gradient = _fold(x), _fold(gradient.contiguous(memory_format=torch.channels_last))
        copies, count = folded.shape[1] // channels, x.numel() // channels
        # as in evaluation, with given mean and variance: yields the sums alone, without the gradient through these
        _, for_weight, for_bias = torch.ops.aten.native_batch_norm_backward(
            gradient,
            folded,
            None,
            mean.repeat(copies),
            variance.repeat(copies),
            None,
            None,
            False,
            ctx.eps,
            [False, True, True],
        )
        for_weight, for_bias = (total.view(copies, channels).sum(0) for total in (for_weight, for_bias))
        inverse = (variance + ctx.eps).rsqrt()
        scale = weight * inverse
        slope = -scale * inverse * for_weight / count
        shift = -scale * for_bias / count - slope * mean
        for_x = torch.empty_like(x)
        torch.addcmul(_repeat(shift, copies), folded, _repeat(slope, copies), out=_fold(for_x))
        _fold(for_x).addcmul_(gradient, _repeat(scale, copies))
        return for_x, for_weight, for_bias, None, None, None, None


def _fold(x: Tensor) -> Tensor:
    """Views (B, C, h, w) in channels_last as (1, C * n, 1, B * h * w / n), where n pixels fill whole cache lines."""
    channels = x.shape[1]
    return x.permute(0, 2, 3, 1).view(1, 1, -1, channels * (_LINE // math.gcd(channels, _LINE))).permute(0, 3, 1, 2)


def _repeat(values: Tensor, copies: int) -> Tensor:
    """Repeats (C,) for each of the n pixels, to be combined with folded maps."""
    return values.repeat(copies).view(1, -1, 1, 1)
