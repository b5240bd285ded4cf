"""Batch norm, at full speed on narrow maps as well."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.func import functional_call

from hrseg.errors import ConfigError

_LINE = 16  # floats of a cache line
_ONE_THREAD = 2**15  # up to as many elements torch works on one


class BatchNorm2d(nn.BatchNorm2d):
    """`torch.nn.BatchNorm2d`, up to twice as fast on a CPU in training on less than 32 channels in channels_last.

    There torch 2.14 with two threads takes three times as long for 18 channels as for 16. Each thread adds up pixels in
    a row of C floats of its own, and where rows are no whole cache lines, two threads seem to wait for each other at
    every pixel. Here as many pixels as fill whole lines, 8 of them with 18 channels, count as one pixel with so many
    times the channels. In all other cases this is torch's. What it computes itself cannot be differentiated twice.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Maps (B, C, h, w) to the same shape."""
        if not self._is_slow(input):
            return super().forward(input)
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        normalised: Tensor = _FoldedBatchNorm.apply(
            input, self.weight, self.bias, self.running_mean, self.running_var, self.momentum, self.eps
        )
        return normalised

    def _is_slow(self, x: Tensor) -> bool:
        """Whether torch's threads would wait for each other, and ours need not."""
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


@contextmanager
def single_values_as_config_error(images: Tensor) -> Iterator[None]:
    """Names the remedy where batch norm in training gets one value per channel, for which torch raises.

    These are 1x1 features of a batch of one image: of crops of one output stride, of global pooling, as in ASPP, and of
    object regions of a single class. Synchronised batch norm has the values of all ranks.

    Args:
        images: (B, 3, H, W), the batch that goes through the network in the block.

    Raises:
        ConfigError: A map has one value per channel.
    """
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        height, width = images.shape[-2:]
        remedy = ", or crops of more than 32x32 (data.crop_size)" if max(height, width) <= 32 else ""
        raise ConfigError(
            f"batch norm cannot be trained on one value per channel, which a batch of {len(images)} image of "
            f"{height}x{width} gives (torch: {error}); give data.batch_size 2 or more{remedy}"
        ) from error


def check_single_values(network: nn.Module, images: Tensor) -> None:
    """Puts a batch through a network as a training step would, and leaves its running statistics as they are.

    Args:
        network: In training mode, but for what is frozen.
        images: (B, 3, H, W), of any values.

    Raises:
        ConfigError: A map has one value per channel.
    """
    buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
    with torch.no_grad(), single_values_as_config_error(images):
        functional_call(network, buffers, images)


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
        torch.batch_norm(folded, None, None, means, variances, True, 1.0, eps, False)  # for what it puts there
        means, variances = means.view(copies, channels), variances.view(copies, channels)
        mean = means.mean(0)
        # torch divides by one pixel less
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
        # as if mean and variance were given, which yields the sums without what they contribute
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
    """(B, C, h, w) in channels_last as (1, C * n, 1, B * h * w / n), n pixels making whole cache lines."""
    channels = x.shape[1]
    return x.permute(0, 2, 3, 1).view(1, 1, -1, channels * (_LINE // math.gcd(channels, _LINE))).permute(0, 3, 1, 2)


def _repeat(values: Tensor, copies: int) -> Tensor:
    """(C,) for every pixel of a folded one, to be combined with folded maps."""
    return values.repeat(copies).view(1, -1, 1, 1)
