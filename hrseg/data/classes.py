"""Reads the classes file of a user's own data, YAML, as a label table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from hrseg.data.labels import Color, LabelTable
from hrseg.errors import ConfigError, UnknownNameError
from hrseg.utils.text_files import read_yaml

T = TypeVar("T")

_LONGEST = 200  # characters of a value in a message

_EXPECTED = {
    "names": "a list of names, each once, in quotes where YAML reads something else (yes, no, on, 1), "
    "none empty or with control characters",
    "colors": "a list of colours, one per name, each [red, green, blue]",
    "ids": "a list of label ids, one per name",
    "ignore": "a list of label ids, or of colours, each [red, green, blue]",
    "flip_pairs": "a list of pairs, each of two names or train ids",
    "categories": "a list of names or train ids for each category, whose name is not empty and printable",
}


def read_classes(classes: Path | Mapping[str, Any], data_name: str) -> LabelTable:
    """Reads the classes of a data set whose masks hold label ids or colours.

    Args:
        classes: A YAML file, or its content. `names` is a list; all other keys are optional: `colors`, [red, green,
            blue] per name; `ids`, the label id on disk per name, 0, 1, 2, ... by default; `ignore`, label ids and
            colours that are neither trained nor scored, in addition to 255, which is ignored unless it is one of the
            ids; `flip_pairs`, names or train ids that are swapped when an image is flipped; `categories`, lists of
            names or train ids that are also scored as groups.
        data_name: Name of the data set in messages.

    Returns:
        The label table.

    Raises:
        ConfigError: The file cannot be read, or a value is not as described.
        UnknownNameError: A key is none of the above.
    """
    source = "data.classes" if isinstance(classes, Mapping) else str(classes)
    entries = classes if isinstance(classes, Mapping) else _load(classes)
    for key in entries:
        if key not in _EXPECTED:
            raise UnknownNameError(f"key of {source}", _short(key).strip("'"), _EXPECTED)

    def read(key: str, convert: Callable[[Any], T]) -> T:
        value = entries.get(key)
        if value is None:
            value = {} if key == "categories" else []
        try:
            return convert(value)
        except (TypeError, ValueError, AttributeError) as error:
            raise ConfigError(f"{source}: {key} is {_short(value)}; expected {_EXPECTED[key]}") from error

    names = read("names", _names)

    def train_id(entry: Any) -> int:
        return names.index(entry) if isinstance(entry, str) else _integer(entry)

    colors = read("colors", lambda value: tuple(map(_color, value)))
    ids = read("ids", lambda value: tuple(map(_integer, value)))
    void_ids = read("ignore", lambda value: tuple(_integer(entry) for entry in value if not _is_list(entry)))
    void_colors = read("ignore", lambda value: tuple(_color(entry) for entry in value if _is_list(entry)))
    flip_pairs = read("flip_pairs", lambda value: tuple((train_id(left), train_id(right)) for left, right in value))

    def categories_of(value: Any) -> dict[str, tuple[int, ...]]:
        return {name: tuple(map(train_id, value[name])) for name in _names([*value])}

    categories = read("categories", categories_of)
    try:
        return LabelTable(
            data_name,
            names,
            colors or default_colors(len(names)),
            ids or None,
            void_ids,
            flip_pairs=flip_pairs,
            categories=categories,
            void_colors=void_colors,
        )
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from error


def default_colors(number: int) -> tuple[Color, ...]:
    """Distinct colours: the PASCAL VOC colour map without its black.

    >>> default_colors(3)
    ((128, 0, 0), (0, 128, 0), (128, 128, 0))

    Args:
        number: Number of colours, 255 at most.

    Source:
        VOC2012 development kit, VOCcode/VOClabelcolormap.m.
    """

    def channel(index: int, which: int) -> int:
        # every third bit of the index belongs to the channel, lowest bit first
        return sum(((index >> (3 * bit + which)) & 1) << (7 - bit) for bit in range(8))

    return tuple((channel(index, 0), channel(index, 1), channel(index, 2)) for index in range(1, number + 1))


def _load(path: Path) -> Mapping[Any, Any]:
    remedy = "`hrseg verify --guess FOLDER` writes such a file"
    try:
        entries = read_yaml(path)
    except ConfigError as error:
        raise ConfigError(f"{error}; {remedy}") from error
    if not isinstance(entries, Mapping):
        raise ConfigError(f"{path} holds {_short(entries)}; expected the keys {', '.join(_EXPECTED)}; {remedy}")
    return entries


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..."


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple))


def _names(value: Any) -> tuple[str, ...]:
    are_names = _is_list(value) and all(isinstance(name, str) and name.isprintable() and name.strip() for name in value)
    if not are_names or len({*value}) < len(value):
        raise TypeError
    return tuple(value)


def _integer(value: Any) -> int:
    if type(value) is not int:  # True is an int to isinstance
        raise TypeError
    return value


def _color(value: Any) -> Color:
    red, green, blue = map(_integer, value)
    return red, green, blue
