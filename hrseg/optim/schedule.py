"""The poly learning-rate schedule."""

from __future__ import annotations

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from hrseg.errors import ConfigError


def poly_schedule(
    optimizer: Optimizer,
    total_steps: int,
    power: float = 0.9,
    warmup_steps: int = 0,
    warmup_ratio: float = 1e-6,
) -> LambdaLR:
    """The poly schedule per iteration, lr * (1 - step / total_steps) ** power, exactly as the official code runs it.

    That code writes the new rate after each step, so it lags by one iteration: the first two iterations run at the full
    rate, and iteration t at the rate of t - 1. After `total_steps` the rate is zero.

    Args:
        optimizer: The optimiser; its groups keep the ratios of their rates.
        total_steps: Number of iterations in the whole training.
        power: The exponent.
        warmup_steps: Number of iterations over which a factor on the rate rises linearly from `warmup_ratio` to 1.
        warmup_ratio: The factor at the first iteration, 0 to 1.

    Returns:
        A schedule to be stepped after each iteration. Its state holds the iteration only, so that a training resumed
        with more steps follows the new total.

    Raises:
        ConfigError: A number is outside its range.

    Source:
        HRNet-Semantic-Segmentation, lib/utils/utils.py (adjust_learning_rate) and lib/core/function.py; warm-up as in
        the recipes of HRFormer.
    """
    if total_steps < 1 or power < 0:
        raise ConfigError(f"poly schedule: {total_steps} steps, power {power}; expected at least 1 step, power >= 0")
    if not 0 <= warmup_steps < total_steps or not 0 <= warmup_ratio <= 1:
        raise ConfigError(
            f"warmup_steps {warmup_steps}, warmup_ratio {warmup_ratio}; "
            f"expected 0 to {total_steps - 1} steps, fewer than the whole training, and a ratio of 0 to 1"
        )

    def factor(step: int) -> float:
        remaining: float = max(0.0, 1 - max(step - 1, 0) / total_steps) ** power
        if step < warmup_steps:
            return remaining * (warmup_ratio + (1 - warmup_ratio) * step / warmup_steps)
        return remaining

    return LambdaLR(optimizer, factor)
