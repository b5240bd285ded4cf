"""What Lightning's verbs need to know of their command line before it is parsed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from hrseg.text_files import read_settings


def names_a_task(arguments: Sequence[str]) -> bool:
    """Whether a class of the task is given, `--model CLASS` or `model: {class_path: CLASS}`, not its settings alone.

    A recipe's plain `model: {network: ...}` then holds for that class.
    """
    if any(argument.split("=")[0] in ("--model", "--model.class_path") for argument in arguments):
        return True
    # those of stdin can be read once only
    models = (read_settings(config).get("model") for config in _configs(arguments) if config != "-")
    return any(isinstance(model, dict) and "class_path" in model for model in models)


def experiment_of(arguments: Sequence[str]) -> str:
    """The name of the first config."""
    config = next(_configs(arguments), "default")
    return "stdin" if config == "-" else "default" if config.startswith("{") else Path(config).stem


def value_of(option: str, arguments: Sequence[str]) -> str | None:
    """The value of an option, the last if it is given several times; None without any."""
    return next(reversed(list(_values((option,), arguments))), None)


def _configs(arguments: Sequence[str]) -> Iterator[str]:
    return _values(("--config", "-c"), arguments)


def _values(options: Sequence[str], arguments: Sequence[str]) -> Iterator[str]:
    for argument, following in zip(arguments, [*arguments[1:], ""], strict=True):
        name, is_joined, value = argument.partition("=")
        if name in options:
            yield value if is_joined else following
