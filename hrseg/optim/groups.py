"""Parameter groups: what of a network is trained how fast, and what decays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer

from hrseg.errors import ConfigError

_NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)


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
    of_norms = {p for module in net.modules() if isinstance(module, _NORMS) for p in module.parameters()}
    groups: dict[str, dict[str, Any]] = {}
    for name, parameter in net.named_parameters():
        in_head = any(name == head or name.startswith(f"{head}.") for head in head_names)
        part = "network" if head_lr_factor == 1 else "head" if in_head else "trunk"
        # tables of relative positions are biases too
        is_norm_or_bias = parameter in of_norms or parameter.ndim <= 1 or name.endswith(("bias", "bias_table"))
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
