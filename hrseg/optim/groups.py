"""Parameter groups: learning-rate factors and weight decay."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer

from hrseg.errors import ConfigError
from hrseg.optim.patterns import parameters_of

_NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)


def parameter_groups(
    net: nn.Module,
    head_lr_factor: float = 1.0,
    decay_norm_and_bias: bool = True,
    head_names: Sequence[str] = (),
    lr_factors: Mapping[str, float] | None = None,
) -> list[dict[str, Any]]:
    """Sorts the trainable parameters of a network into named groups for an optimiser.

    Args:
        net: The network.
        head_lr_factor: The head's learning rate relative to the backbone's, the same as `lr_factors` for "head";
            `create_optimizer` applies it.
        decay_norm_and_bias: Whether weight decay also applies to norms and biases, as in the HRNet papers.
        head_names: Names of the attributes that form the head, `net.head_names`.
        lr_factors: Learning-rate factors by pattern, see `parameters_of`; the last match wins.

    Returns:
        Groups with "params", "name" and "lr_factor", and "weight_decay" 0 if they do not decay; no group is empty.

    Raises:
        ConfigError: A factor is not positive, or matches no trainable parameter.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
        >>> [(group["name"], len(group["params"])) for group in parameter_groups(net, decay_norm_and_bias=False)]
        [('network', 1), ('network_no_decay', 3)]
    """
    factors = ({} if head_lr_factor == 1 else {"head": head_lr_factor}) | dict(lr_factors or {})
    rest = "network" if head_lr_factor == 1 else "backbone"
    pattern_of: dict[nn.Parameter, str] = {}
    for pattern, factor in factors.items():
        setting = "head_lr_factor" if pattern not in (lr_factors or {}) else f"lr_factors {pattern}"
        if not 0 < factor < math.inf:
            raise ConfigError(f"{setting} is {factor}; expected a number above 0, 1 for no difference")
        pattern_of |= dict.fromkeys(parameters_of(net, pattern, head_names, setting.split()[0]), pattern)
    of_norms = {p for module in net.modules() if isinstance(module, _NORMS) for p in module.parameters()}
    groups: dict[tuple[str | None, bool], dict[str, Any]] = {}  # by pattern (None for the rest) and decay
    for name, parameter in net.named_parameters():
        if not parameter.requires_grad:
            continue
        # relative position bias tables are biases too
        is_norm_or_bias = parameter in of_norms or parameter.ndim <= 1 or name.endswith(("bias", "bias_table"))
        decays = decay_norm_and_bias or not is_norm_or_bias
        match = pattern_of.get(parameter)
        if (match, decays) not in groups:
            group_name = (match or rest) + ("" if decays else "_no_decay")
            factor = 1.0 if match is None else factors[match]
            groups[match, decays] = {"params": [], "name": group_name, "lr_factor": factor}
            groups[match, decays] |= {} if decays else {"weight_decay": 0.0}
        groups[match, decays]["params"].append(parameter)
    if untrained := factors.keys() - {pattern for pattern, _ in groups}:
        raise ConfigError(
            f"the learning rate of {', '.join(sorted(untrained))} is for no parameter: all are frozen, or match "
            "a later pattern"
        )
    return list(groups.values())


def create_optimizer(factory: Callable[[list[dict[str, Any]]], Optimizer], groups: list[dict[str, Any]]) -> Optimizer:
    """Creates an optimiser whose groups have the common learning rate times their `lr_factor`.

    Args:
        factory: Creates an optimiser with the common learning rate from parameter groups.
        groups: The result of `parameter_groups`.
    """
    optimizer = factory(groups)
    for group in optimizer.param_groups:
        group["lr"] *= group["lr_factor"]
    return optimizer
