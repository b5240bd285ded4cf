"""Parameters of a network by name pattern, and freezing of them."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn

from hrseg.errors import ConfigError


def freeze_layers(net: nn.Module, patterns: Sequence[str], head_names: Sequence[str] = ()) -> list[str]:
    """Sets `requires_grad` of the parameters that match a pattern to False.

    Args:
        net: The network.
        patterns: See `parameters_of`.
        head_names: See `parameters_of`.

    Returns:
        Names of the modules whose parameters are all frozen. They have to stay in evaluation mode, or batch norm would
        update its running statistics, and dropout would be active.

    Raises:
        ConfigError: A pattern matches nothing, or no trainable parameter is left.
    """
    if isinstance(patterns, str):
        raise ConfigError(f"freeze is {patterns!r}; expected a list, [{patterns}]")
    frozen = {p for pattern in patterns for p in parameters_of(net, pattern, head_names, "freeze")}
    for parameter in frozen:
        parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in net.parameters()):
        raise ConfigError(f"freeze {', '.join(patterns)} leaves nothing of {type(net).__name__} to train")
    own = {name: set(module.parameters()) for name, module in net.named_modules()}
    return [name for name, parameters in own.items() if parameters and parameters <= frozen]


def parameters_of(net: nn.Module, pattern: str, head_names: Sequence[str], setting: str) -> set[nn.Parameter]:
    """The parameters of a network that match a pattern.

    Args:
        net: The network.
        pattern: Name of a parameter or of a module that contains it, with wildcards: "layer1", "stage4.2", "*.bn1"; or
            "head", the modules of `head_names`, or "backbone", all others. A network's attribute named "backbone" takes
            precedence, and one named "head" if `head_names` is empty.
        head_names: Names of the attributes that form the head, `net.head_names`.
        setting: The setting that has the pattern, for messages.

    Raises:
        ConfigError: None does.
    """
    named = dict(net.named_parameters())
    if pattern in ("head", "backbone") and (not hasattr(net, pattern) or (pattern == "head" and head_names)):
        _check_head(net, head_names, setting)
        is_head = pattern == "head"
        found = {p for name, p in named.items() if any(place in head_names for place in _places(name)) == is_head}
    else:
        found = {p for name, p in named.items() if any(fnmatchcase(place, pattern) for place in _places(name))}
    if not found:
        tops = [*dict.fromkeys(name.split(".")[0] for name in named), *(("head", "backbone") if head_names else ())]
        nearest = difflib.get_close_matches(pattern, tops, n=1)
        raise ConfigError(
            f"{setting} {pattern!r} fits no parameter of {type(net).__name__}; "
            f"{f'did you mean {nearest[0]}? ' if nearest else ''}It has {', '.join(tops)}, and what is inside, "
            f"such as {next(iter(named), 'nothing')}"
        )
    return found


def _check_head(net: nn.Module, head_names: Sequence[str], setting: str) -> None:
    children = [name for name, _ in net.named_children()]
    missing = [head for head in head_names if head.split(".")[0] not in children]
    if missing or not head_names:
        raise ConfigError(
            f"{setting} is given, but {type(net).__name__} has no head {', '.join(missing) or 'names'}; "
            f"head_names must be among {', '.join(children)}, or give one of these as the pattern"
        )


def _places(name: str) -> list[str]:
    """The name of a parameter and of all modules that contain it: "a", "a.b", "a.b.c"."""
    names = name.split(".")
    return [".".join(names[: end + 1]) for end in range(len(names))]
