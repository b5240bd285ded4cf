"""Parameter groups and the poly learning-rate schedule."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from hrseg.errors import ConfigError


def parameter_groups(
    net: nn.Module,
    head_lr_factor: float = 1.0,
    decay_norm_and_bias: bool = True,
    head_names: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """Sorts the parameters of a network into named groups for an optimiser.

    Args:
        net: The network.
        head_lr_factor: The head's learning rate over the trunk's; stands in the groups as `lr_factor`, which
            `create_optimizer` applies.
        decay_norm_and_bias: Whether weight decay also acts on norms and biases. The HRNet papers decay everything.
        head_names: Names of the network's attributes that make the head, `net.head_names`.

    Returns:
        Groups with "params", "name" and "lr_factor", and "weight_decay" 0 where there is to be none; none is empty.

    Raises:
        ConfigError: The factor is not positive, or it is given for a head that the network does not have.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
        >>> [(group["name"], len(group["params"])) for group in parameter_groups(net, decay_norm_and_bias=False)]
        [('network', 1), ('network_no_decay', 3)]
    """
    if head_lr_factor <= 0:
        raise ConfigError(f"head_lr_factor {head_lr_factor}; expected a number above 0, 1 for no difference")
    if head_lr_factor != 1:
        _check_head(net, head_names)
    groups: dict[str, dict[str, Any]] = {}
    for name, parameter in net.named_parameters():
        in_head = any(name == head or name.startswith(f"{head}.") for head in head_names)
        part = "network" if head_lr_factor == 1 else "head" if in_head else "trunk"
        is_norm_or_bias = parameter.ndim <= 1 or name.endswith("bias")  # norms have one-dimensional parameters only
        decays = decay_norm_and_bias or not is_norm_or_bias
        key = part if decays else f"{part}_no_decay"
        if key not in groups:
            groups[key] = {"params": [], "name": key, "lr_factor": head_lr_factor if part == "head" else 1.0}
            groups[key] |= {} if decays else {"weight_decay": 0.0}
        groups[key]["params"].append(parameter)
    return list(groups.values())


def _check_head(net: nn.Module, head_names: Sequence[str]) -> None:
    children = [name for name, _ in net.named_children()]
    missing = [head for head in head_names if head.split(".")[0] not in children]
    if missing or not head_names:
        raise ConfigError(
            f"head_lr_factor is given, but {type(net).__name__} has no head {', '.join(missing) or 'names'}; "
            f"head_names must be among {', '.join(children)}, or set head_lr_factor to 1"
        )


def create_optimizer(factory: Callable[[list[dict[str, Any]]], Optimizer], groups: list[dict[str, Any]]) -> Optimizer:
    """Creates an optimiser in which each group's learning rate is the common one times the group's `lr_factor`.

    Args:
        factory: Makes an optimiser from parameter groups, with the common learning rate already in it.
        groups: The result of `parameter_groups`.
    """
    optimizer = factory(groups)
    for group in optimizer.param_groups:
        group["lr"] *= group["lr_factor"]
    return optimizer


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
            f"warm-up of {warmup_steps} steps from ratio {warmup_ratio}; "
            f"expected 0 to {total_steps - 1} steps, fewer than the whole training, and a ratio of 0 to 1"
        )

    def factor(step: int) -> float:
        remaining: float = max(0.0, 1 - max(step - 1, 0) / total_steps) ** power
        if step < warmup_steps:
            return remaining * (warmup_ratio + (1 - warmup_ratio) * step / warmup_steps)
        return remaining

    return LambdaLR(optimizer, factor)
