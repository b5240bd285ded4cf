"""Serialisation of objects as {"class_path": ..., "init_args": {...}}, as in recipes, and back."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Collection, Mapping
from copy import deepcopy
from dataclasses import fields, is_dataclass
from functools import partial, wraps
from importlib import import_module
from math import prod
from pathlib import PurePath
from re import split
from typing import Any, TypeVar

from hrseg.errors import ConfigError

_GIVEN = "_constructor_arguments"
_MOST_NUMBERS = 1000  # of an array to be described as a list
Base = TypeVar("Base")


class NotDescribableError(Exception):
    """A value cannot be described by class path and plain arguments."""


class RecordsArguments:
    """Base class of objects that record the arguments of their constructor, for `describe`.

    Raises:
        ConfigError: The constructor fails on an argument that is None, such as `crop_size: null`, which jsonargparse
            accepts.
    """

    def __init_subclass__(cls, **settings: Any) -> None:
        super().__init_subclass__(**settings)
        if "__init__" in vars(cls):
            cls.__init__ = _recording(cls.__init__)  # type: ignore[method-assign]


def _recording(init: Callable[..., None]) -> Callable[..., None]:
    # hrseg's own signatures only; a user's may have any annotations
    types = init.__annotations__ if init.__module__.startswith("hrseg.") else {}
    never_null = {name: text for name, text in types.items() if not {"None", "Any", "object"} & {*split(r"\W+", text)}}
    names = [*inspect.signature(init).parameters][1:]

    @wraps(init)
    def recording_init(self: Any, *args: Any, **kwargs: Any) -> None:
        vars(self).setdefault(_GIVEN, (args, kwargs))  # keeps those of the subclass, whose constructor runs first
        try:
            init(self, *args, **kwargs)
        except (TypeError, AttributeError) as error:
            for name, value in (*zip(names, args, strict=False), *kwargs.items()):
                if value is None and name in never_null:
                    raise ConfigError(f"{name} is null; expected {never_null[name]}") from error
            raise

    return recording_init


def record(class_type: Callable[..., Base], *args: Any, **kwargs: Any) -> Base:
    """Constructs an object of any class and records its arguments; an instantiator for jsonargparse."""
    made = class_type(*args, **kwargs)
    vars(made).setdefault(_GIVEN, (args, kwargs))
    return made


def describe(value: Any) -> Any:
    """Describes a value by numbers, strings, lists and dictionaries.

    Args:
        value: A plain value, a path, a small array or tensor, a dataclass, a class, a `functools.partial` of a class,
            an object with recorded arguments, a network of the Hugging Face hub, or an albumentations transform.

    Raises:
        NotDescribableError: The value, or one inside it, is none of these.

    >>> describe({"size": (1, 2.5), "root": PurePath("data")})
    {'size': [1, 2.5], 'root': 'data'}
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return next((kind(value) for kind in (bool, int, float, str) if isinstance(value, kind)), None)
    if isinstance(value, PurePath):
        return str(value)
    if hasattr(value, "tolist") and hasattr(value, "shape") and prod(value.shape) <= _MOST_NUMBERS:
        return describe(value.tolist())  # of numpy and torch
    if isinstance(value, Mapping):
        return {str(key): describe(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [describe(item) for item in value]
    if isinstance(value, type):
        return class_path(value)
    if isinstance(value, partial):
        return _described_partial(value)
    if is_dataclass(value):
        return {field.name: describe(getattr(value, field.name)) for field in fields(value)}
    arguments = arguments_of(value)
    return {"class_path": class_path(type(value)), "init_args": describe(arguments)}


def arguments_of(value: Any) -> dict[str, Any]:
    """All constructor arguments of an object, including defaults.

    Raises:
        NotDescribableError: The arguments were not recorded.
    """
    if inspect.isroutine(value):
        raise NotDescribableError(f"the function {value.__name__}")
    if (given := getattr(value, _GIVEN, None)) is not None:
        return _named(type(value), *given)
    hub_config = getattr(value, "_hub_mixin_config", None)  # of huggingface_hub's ModelHubMixin, as in SMP
    if isinstance(hub_config, Mapping):
        return dict(hub_config)
    if "albumentations" in sys.modules and hasattr(value, "to_dict"):
        return _arguments_of_transform(value)
    raise NotDescribableError(f"a {type(value).__name__}, whose arguments are not known")


def given_names(value: Any) -> frozenset[str]:
    """Names of the arguments passed to the constructor of an object, without defaults; empty if unknown."""
    args, kwargs = getattr(value, _GIVEN, ((), {}))
    return frozenset(inspect.signature(type(value).__init__).bind_partial(value, *args, **kwargs).arguments) - {"self"}


def _named(kind: type, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments by name, with defaults; those in `*args` by the names of the parent class."""
    constructors = (vars(ancestor)["__init__"] for ancestor in kind.__mro__ if "__init__" in vars(ancestor))
    signature = inspect.signature(next(constructors))
    bound = signature.bind(None, *args, **kwargs)
    bound.apply_defaults()
    arguments = dict(list(bound.arguments.items())[1:])
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            arguments |= arguments.pop(parameter.name)
        elif parameter.kind is parameter.VAR_POSITIONAL and (passed_on := arguments.pop(parameter.name)):
            names = list(inspect.signature(next(constructors)).parameters)[1:]
            arguments |= dict(zip(names, passed_on, strict=False))
    return arguments


def _arguments_of_transform(value: Any) -> dict[str, Any]:
    try:
        arguments = dict(value.to_dict()["transform"])
    except Exception as error:  # a user's transform may raise anything
        raise NotDescribableError(f"a {type(value).__name__}, whose arguments are not known") from error
    arguments.pop("__class_fullname__", None)
    if "transforms" in arguments:
        arguments["transforms"] = list(value.transforms)
    return arguments


def _described_partial(value: partial[Any]) -> dict[str, Any]:
    # in jsonargparse's partials the class is an argument of the function
    of_jsonargparse = getattr(value.func, "__module__", "").startswith("jsonargparse") and value.args
    made = value.args[-1] if of_jsonargparse else value.func
    if not isinstance(made, type) or (value.args and not of_jsonargparse):
        raise NotDescribableError(
            f"a partial of {getattr(made, '__name__', made)}, which is no class with named arguments"
        )
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(made).parameters.items()
        if parameter.default is not parameter.empty
    }
    return {"class_path": class_path(made), "init_args": describe({**defaults, **value.keywords})}


def class_path(kind: type) -> str:
    """The shortest import path of a class.

    Raises:
        NotDescribableError: The class is defined in a script, a notebook or a function.

    >>> class_path(PurePath)
    'pathlib.PurePath'
    """
    path = f"{kind.__module__}.{kind.__qualname__}"
    found: Any = sys.modules.get(kind.__module__)
    for name in kind.__qualname__.split("."):
        found = getattr(found, name, None)
    if found is not kind or kind.__module__ == "__main__":
        raise NotDescribableError(f"the class {kind.__qualname__}, which cannot be imported from elsewhere")
    parts = kind.__module__.split(".")
    packages = (".".join(parts[:length]) for length in range(1, len(parts)))
    offered = (package for package in packages if getattr(sys.modules.get(package), kind.__qualname__, None) is kind)
    return next((f"{package}.{kind.__qualname__}" for package in offered), path)


def import_class(path: str, base: type[Base]) -> type[Base]:
    """The class at an import path.

    Raises:
        ConfigError: There is no class, or it is no subclass of `base`.
    """
    module, _, name = path.rpartition(".")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"there is no class {path} here ({error}); is its module on the Python path?") from error
    if not (isinstance(found, type) and issubclass(found, base)):
        raise ConfigError(f"{path} is no {base.__name__}")
    return found


def described_arguments(value: Any, skip: Collection[str] = ()) -> tuple[dict[str, Any], dict[str, str]]:
    """The describable constructor arguments of an object as plain values, and the others with reasons."""
    plain: dict[str, Any] = {}
    left_out: dict[str, str] = {}
    for name, argument in arguments_of(value).items():
        if name in skip:
            continue
        try:
            plain[name] = describe(argument)
        except NotDescribableError as error:
            left_out[name] = str(error)
    return plain, left_out


def build(description: Mapping[str, Any], base: type[Base]) -> Base:
    """Builds an object from its description, importing the classes that it names.

    Raises:
        ConfigError: The class is no subclass of `base`, or does not accept these arguments.
    """
    return _parsed({"it": dict(description)}, lambda parser: parser.add_subclass_arguments(base, "it"))["it"]  # type: ignore[no-any-return]


def build_arguments(kind: type, arguments: Mapping[str, Any], skip: Collection[str] = ()) -> dict[str, Any]:
    """Builds constructor arguments from the output of `described_arguments`.

    Raises:
        ConfigError: The class does not accept these arguments.
    """

    def add(parser: Any) -> None:
        parser.add_class_arguments(kind, None, skip=set(skip), instantiate=False, fail_untyped=False)

    return {name: value for name, value in _parsed(dict(arguments), add).items() if name in arguments}


def _parsed(settings: dict[str, Any], add: Callable[[Any], Any]) -> dict[str, Any]:
    from jsonargparse import ArgumentParser  # heavy, and rarely needed
    from torch import nn

    parser = ArgumentParser(exit_on_error=False)
    try:
        add(parser)
        config = parser.parse_object(deepcopy(settings))
        made = parser.instantiate(config, instantiators=[(record, nn.Module, True)])
        return {name: made[name] for name in vars(made)}
    except Exception as error:  # constructors may raise anything
        raise ConfigError(f"cannot be built: {' '.join(str(error).split())}") from error
