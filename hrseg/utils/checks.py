"""Checks of constructor arguments, and lists in error messages."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from hrseg.errors import ConfigError

MAX_CHANNELS = 16384  # of a layer; with more, weights alone take gigabytes, and the number is a mistake


def require(condition: bool, parameter: str, value: object, expected: str) -> None:
    """Raises a `ConfigError` that names parameter, value and expectation if the condition does not hold."""
    if not condition:
        text = repr(value)
        raise ConfigError(f"{parameter} is {text if len(text) <= 80 else text[:77] + '...'}; expected {expected}")


def join_first(texts: Iterable[str], number: int = 3) -> str:
    """Joins the first few texts with commas and counts the rest, for a one-line message.

    >>> join_first("abcde")
    'a, b, c and 2 more'
    """
    texts = list(texts)
    return ", ".join(texts[:number]) + (f" and {len(texts) - number} more" if len(texts) > number else "")


def as_list(value: Any) -> list[Any]:
    """Wraps a single value in a list; None becomes an empty list.

    >>> as_list(None), as_list("one"), as_list(("one", "two"))
    ([], ['one'], ['one', 'two'])
    """
    return [] if value is None else list(value) if isinstance(value, list | tuple) else [value]


def is_whole(value: object, least: int = 1, most: int | None = None) -> bool:
    """Whether a value is an integer, not a bool, from `least` to `most`.

    >>> is_whole(3), is_whole(0), is_whole(3.0), is_whole(True)
    (True, False, False, False)
    """
    if not isinstance(value, int) or isinstance(value, bool):
        return False
    return least <= value and (most is None or value <= most)


def is_number(value: object, least: float = -math.inf, below: float = math.inf) -> bool:
    """Whether a value is a finite number, not a bool, with `least` <= value < `below`.

    >>> is_number(0.5, 0, 1), is_number(1, 0, 1), is_number(math.nan), is_number("0.5")
    (True, False, False, False)
    """
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return math.isfinite(value) and least <= value < below


def require_channels(**numbers: object) -> None:
    """Raises a `ConfigError` unless each number is a valid number of channels."""
    for name, value in numbers.items():
        require(is_whole(value, 1, MAX_CHANNELS), name, value, f"a number from 1 to {MAX_CHANNELS}")


def require_kernel(name: str, value: object) -> None:
    """Raises a `ConfigError` unless the value is a valid size of a convolution with same padding."""
    require(is_whole(value, 1, 31) and value % 2 == 1, name, value, "an odd number from 1 to 31")  # type: ignore[operator]
