"""Turns library errors before the first step into configuration errors."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType

import hrseg.losses
from hrseg.cli import REFUSALS
from hrseg.errors import ConfigError, HrsegError, UnknownNameError

# exceptions of these are configuration errors during a run, too: an unknown monitor, unsupported gradients
_REFUSING = ("pytorch_lightning", "lightning_fabric", "torch.optim")
_LONGEST = 1000  # characters; torch lists every key of a state dict
# lines around the reasons in jsonargparse's messages, and reasons that are uninformative beside others
_FRAME = ("Does not validate against any of the Union subtypes", "Subtypes:", "Errors:", "Given value")
_NONE = "Expected a <class 'NoneType'>"
_NAMES = re.compile(r"Expected a typing\.Literal\[(.*?)\]")
_OTHER_TYPES = (
    "Expected a <class",
    "Expected a path",
    "Expected a typing.",
    "Not a valid subclass",
    "Subclass types expect",
    "Import path ",
    "a class path (",
    "a dict with",
)

_UNKNOWN_CLASS = re.compile(
    r"Expected a dot import path string: (\w+)|class_path '(hrseg[\w.]*)':.* (?:has no|No hrseg[\w.]*) attribute"
)


@contextmanager
def as_config_error(has_started: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Turns exceptions of libraries, raised while settings are parsed and objects built, into a `ConfigError`.

    Other exceptions from hrseg's own code are bugs and pass unchanged, as do exceptions in a step, unless Lightning or
    the optimiser itself raised them.

    Args:
        has_started: Whether the first step has begun.

    Raises:
        HrsegError: The one among an exception's causes, which libraries wrap; else a `ConfigError` with the
            library's text.
    """
    try:
        yield
    except HrsegError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno in REFUSALS:
            raise  # `main` knows the remedy
        causes = list(_causes(error))
        ours = next((cause for cause in causes if isinstance(cause, HrsegError)), None)
        module = _origin(causes[-1])
        if has_started() and not module.startswith(_REFUSING):
            raise
        if ours is not None:
            raise ours from error
        if any(_origin(cause).startswith("hrseg") and not _is_wrong_name(cause) for cause in causes):
            raise
        raise ConfigError(_text(error, module)) from error


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)


def _origin(error: BaseException) -> str:
    """The module that raised an exception, or called the function of the standard library that did."""
    module, trace = "", error.__traceback__
    while trace is not None:
        name = str(trace.tb_frame.f_globals.get("__name__"))
        if name.split(".")[0] not in sys.stdlib_module_names:
            module = name
        trace = trace.tb_next
    return module


def _is_wrong_name(error: BaseException) -> bool:
    """Whether a module lacks a name, such as a class path's."""
    return isinstance(error, AttributeError) and isinstance(error.obj, ModuleType)


def _text(error: Exception, module: str) -> str:
    if _origin(error).startswith("jsonargparse"):
        if isinstance(error, IndexError):  # raised when it formats an empty message
            return "the constructor of a class in the settings raised an exception without a message"
        return _gist(error)
    text = str(error).strip()
    if type(error).__name__ not in ("ValueError", "RuntimeError", "MisconfigurationException") or not text:
        text = f"{type(error).__name__}: {text}".removesuffix(": ")
    return f"{_cut(text)} (raised by {module}; --trace shows where)"


def _gist(error: Exception) -> str:
    """Condenses a message of jsonargparse to one line on the innermost key.

    The messages are nested `Parser key "KEY":`, with lists of reasons why a value is none of the accepted types.
    """
    _, found, innermost = str(error).rpartition('Parser key "')
    key, _, reasons = innermost.partition('":')
    lines = [line.strip().removeprefix("- ") for line in (reasons if found else str(error)).splitlines()]
    lines = [line for line in dict.fromkeys(lines) if line and not line.startswith(_FRAME)]
    # of several accepted types, the reason of the one that was meant
    lines = [line for line in lines if not line.startswith(_OTHER_TYPES)] or lines
    text = " - ".join([line for line in lines if line != _NONE] or lines).replace(": - ", ": ")
    text = _NAMES.sub(r"expected one of \1", text)
    text = text.split(". Got value: Namespace(")[0]
    if text.endswith(("SegmentationDataModule is abstract", "arguments are required: fit.data")):
        text = "no data set is named; give --config with a recipe, or --data with a class (hrseg.FolderDataModule)"
    if unknown := _UNKNOWN_CLASS.search(text):
        name = unknown[1] or unknown[2]
        known = _known_classes(key)
        text = str(UnknownNameError("class", name, known)) if known else f"unknown class {name!r}; {_expected(reasons)}"
        if key == "model" and "did you mean" not in text:
            text += f"; a network is given as --model.network {name}"
    return f"{key}: {_cut(text)}" if found and key else _cut(text)


def _known_classes(key: str) -> list[str]:
    """Import paths of hrseg's classes that a key accepts."""
    home, kind = {
        "model": (hrseg, hrseg.SegmentationTask),
        "data": (hrseg, hrseg.SegmentationDataModule),
        "model.loss": (hrseg.losses, hrseg.losses.Criterion),
        "loss": (hrseg.losses, hrseg.losses.Criterion),  # of a user's own task
    }.get(key, (hrseg, ()))
    classes = [(name, getattr(home, name)) for name in home.__all__]
    return [f"{home.__name__}.{name}" for name, cls in classes if isinstance(cls, type) and issubclass(cls, kind)]


def _expected(reasons: str) -> str:
    """The accepted values of a key whose class was not found."""
    names = [name for names in _NAMES.findall(reasons) for name in names.split(", ")]
    types = re.findall(r"Expected a <class '(bool|int|float)'>", reasons)
    return "expected " + ", ".join([*names, *types, "or " * bool(names or types) + "the import path of a class"])


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..."
