"""Learning-rate schedules."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau, SequentialLR

from hrseg.errors import ConfigError, UnknownNameError

Schedule = Literal["poly", "cosine", "step"] | Callable[[Optimizer], LRScheduler]


def create_schedule(
    optimizer: Optimizer,
    schedule: Schedule,
    total_steps: float,
    power: float = 0.9,
    warmup_steps: int = 0,
    warmup_ratio: float = 1e-6,
) -> LRScheduler:
    """Creates a learning-rate schedule that is stepped after each iteration.

    "poly" is lr * (1 - step / total_steps) ** power, with the lag of the official code, which sets the new rate after
    each step: the first two iterations run at the full rate, and iteration t at the rate of t - 1. After `total_steps`
    the rate is zero. "cosine" is half a cosine from the full rate to zero; "step" divides the rate by 10 after 30, 60
    and 90 % of the steps.

    Args:
        optimizer: The optimiser; its groups keep the ratios of their rates.
        schedule: The name, or a function that builds a schedule for an optimiser, such as a partial of a class of
            torch. It is stepped per iteration and starts after the warm-up.
        total_steps: Number of iterations in the whole training; may be infinite for a function.
        power: The exponent of "poly".
        warmup_steps: Number of iterations over which the rate rises linearly, from `warmup_ratio` of its value.
        warmup_ratio: The factor at the first iteration, 0 to 1.

    Returns:
        The schedule. The state of a named one is the iteration only, so that a training that is resumed with another
        number of steps follows that one.

    Raises:
        ConfigError: A number is outside its range, or the schedule is unknown.

    Source:
        HRNet-Semantic-Segmentation, lib/utils/utils.py (adjust_learning_rate) and lib/core/function.py; "step" as in
        HRNet-Image-Classification (30, 60 and 90 of 100 epochs); warm-up as in the recipes of HRFormer.
    """
    if isinstance(schedule, str) and not (math.isfinite(total_steps) and total_steps >= 1):
        raise ConfigError(f"the {schedule} schedule needs an end; set trainer.max_epochs or trainer.max_steps")
    if not 0 <= power < math.inf:
        raise ConfigError(f"power of the poly schedule is {power}; expected 0 or more")
    if not 0 <= warmup_steps < total_steps or not 0 <= warmup_ratio <= 1:
        raise ConfigError(
            f"warmup_steps {warmup_steps}, warmup_ratio {warmup_ratio}; "
            f"expected 0 to {total_steps - 1} steps, fewer than the whole training, and a ratio of 0 to 1"
        )

    def warmup(step: int) -> float:
        return warmup_ratio + (1 - warmup_ratio) * step / warmup_steps if step < warmup_steps else 1.0

    def poly(step: int) -> float:
        remaining: float = max(0.0, 1 - max(step - 1, 0) / total_steps) ** power
        return remaining

    def cosine(step: int) -> float:
        return (1 + math.cos(math.pi * min(step / total_steps, 1))) / 2

    def step_down(step: int) -> float:
        return math.prod(0.1 for share in (0.3, 0.6, 0.9) if step >= share * total_steps)

    if isinstance(schedule, str):
        known = {"poly": poly, "cosine": cosine, "step": step_down}
        if schedule not in known:
            raise UnknownNameError("schedule", schedule, known)
        factor = known[schedule]
        return LambdaLR(optimizer, lambda step: factor(step) * warmup(step))
    of_user = schedule(optimizer)
    if not warmup_steps:
        return of_user
    if isinstance(of_user, ReduceLROnPlateau):
        raise ConfigError("warmup_steps and ReduceLROnPlateau cannot go together; set model.warmup_steps to 0")
    return SequentialLR(optimizer, [LambdaLR(optimizer, warmup), of_user], [warmup_steps])
