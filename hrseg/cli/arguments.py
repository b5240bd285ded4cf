"""Lookups in the command line of Lightning's verbs before it is parsed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hrseg.utils.text_files import read_settings

_CONFIG = ("--config", "-c")


def with_stdin_read(arguments: Sequence[str]) -> list[str]:
    """Replaces `--config -` by the content of standard input, which can be read only once."""
    if "-" not in _configs(arguments):
        return list(arguments)
    settings = inline(read_settings("-"))
    return [
        argument[:-1] + settings
        if argument in [f"{option}=-" for option in _CONFIG] or (before in _CONFIG and argument == "-")
        else argument
        for before, argument in zip(["", *arguments], arguments, strict=False)
    ]


def inline(settings: Mapping[str, Any]) -> str:
    """Settings as an argument of `--config`: JSON, in which no string is read as a number."""
    return json.dumps(settings, default=str, ensure_ascii=False)  # YAML lacks the surrogate pairs of JSON's escapes


def names_a_task(arguments: Sequence[str]) -> bool:
    """Whether a task class is given, `--model CLASS` or `model: {class_path: CLASS}`, not only its settings.

    A recipe's plain `model: {network: ...}` then applies to that class.
    """
    models = [read_settings(config).get("model") for config in _configs(arguments)]  # all, which checks their size
    is_given = any(argument.split("=")[0] in ("--model", "--model.class_path") for argument in arguments)
    return is_given or any(isinstance(model, dict) and "class_path" in model for model in models)


def experiment_of(arguments: Sequence[str]) -> str:
    """The name of the first config, without its suffix."""
    config = next(_configs(arguments), "default")
    return "stdin" if config == "-" else "default" if config.startswith("{") else Path(config).stem


def value_of(option: str, arguments: Sequence[str]) -> str | None:
    """The last value of an option; None if it is not given."""
    return next(reversed(list(_values((option,), arguments))), None)


def _configs(arguments: Sequence[str]) -> Iterator[str]:
    return _values(_CONFIG, arguments)


def _values(options: Sequence[str], arguments: Sequence[str]) -> Iterator[str]:
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=False):
        name, is_joined, value = argument.partition("=")
        if name in options:
            yield value if is_joined else following
