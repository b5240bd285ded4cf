"""`LabelTable`: everything about a data set's classes, in one place.

Transforms, losses, metrics, drawing and submissions all read this table, so that what varies by data set stands once.
Two numberings occur: the *label id* is what the files on disk hold; the *train id*, 0 to K - 1, is what networks see.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import cv2
import numpy as np

from hrseg.errors import ConfigError, LabelRangeError

Color: TypeAlias = tuple[int, int, int]

_LONGEST_NAME = 200  # characters; names stand in tables, legends and files
_UNKNOWN = 254  # marks label ids that the table does not list; train ids stay below it, the ignore index is 255


@dataclass(frozen=True)
class LabelTable:
    """The classes of a data set.

    Args:
        name: The data set's name, as messages show it.
        class_names: Names in train id order.
        colors: RGB colours in train id order, 0-255.
        label_ids: Label id on disk of each class, in train id order; None where files hold train ids.
        void_ids: Label ids on disk that are ignored in training and scoring. The ignore index is always one of them.
        ignore_index: Value of ignored pixels in targets.
        flip_pairs: Pairs of train ids that change places when an image is mirrored (left arm, right arm).
        categories: Groups of train ids that are also scored together, by name.
        counts: Images per split in the complete data set, or a tuple where several numbers are right; what differs
            is a partial copy.
        void_colors: RGB colours that are ignored in label files that are pictures painted in `colors`; None where
            label files are never pictures.

    Raises:
        ConfigError: Lengths differ, ids or the colours of pictures repeat, or a number lies outside its range.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}  # of tables that are read from checkpoints

    name: str
    class_names: tuple[str, ...]
    colors: tuple[Color, ...]
    label_ids: tuple[int, ...] | None = None
    void_ids: tuple[int, ...] = ()
    ignore_index: int = 255
    flip_pairs: tuple[tuple[int, int], ...] = ()
    categories: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    counts: Mapping[str, int | tuple[int, ...]] = field(default_factory=dict)
    void_colors: tuple[Color, ...] | None = None

    def __post_init__(self) -> None:
        number = self.num_classes
        ids = self.label_ids if self.label_ids is not None else tuple(range(number))
        if not 0 < number < _UNKNOWN:
            raise ConfigError(f"label table {self.name}: {number} classes; expected 1 to {_UNKNOWN - 1}")
        for text in (self.name, *self.class_names, *self.categories):
            if len(text) > _LONGEST_NAME or not text.isprintable():
                raise ConfigError(
                    f"label table {self.name!r:.40}: the name {text!r:.40}; expected up to {_LONGEST_NAME} "
                    "characters that can be printed"
                )
        if len(self.colors) != number or len(ids) != number:
            raise ConfigError(
                f"label table {self.name}: {number} names, {len(self.colors)} colours, {len(ids)} label ids; "
                "give one of each per class"
            )
        in_range = {
            "label id": ((*ids, *self.void_ids), 256),
            "colour": ([value for color in (*self.colors, *(self.void_colors or ())) for value in color], 256),
            "flip pair": ([train_id for pair in self.flip_pairs for train_id in pair], number),
            "category": ([train_id for members in self.categories.values() for train_id in members], number),
        }
        for what, (values, end) in in_range.items():
            for value in values:
                if not 0 <= value < end:
                    raise ConfigError(f"label table {self.name}: {what} with {value}; expected 0 to {end - 1}")
        if not number <= self.ignore_index <= 255 or self.ignore_index == _UNKNOWN:
            raise ConfigError(f"label table {self.name}: ignore index {self.ignore_index}; expected 255")
        if len(set(ids) | set(self.void_ids)) != number + len(set(self.void_ids)):
            raise ConfigError(f"label table {self.name}: a label id stands for two classes, or for a class and void")
        if self.void_colors is not None and len({*self.colors, *self.void_colors}) != number + len({*self.void_colors}):
            raise ConfigError(f"label table {self.name}: a colour stands for two classes, or for a class and void")

    @property
    def num_classes(self) -> int:
        """Number of classes that are trained and scored, K."""
        return len(self.class_names)

    def complete_counts(self, split: str) -> tuple[int, ...]:
        """How many images the complete split may have; nothing if that is not known."""
        counts = self.counts.get(split, ())
        return counts if isinstance(counts, tuple) else (counts,)

    @cached_property
    def _to_train_id(self) -> np.ndarray:
        table = np.full(256, _UNKNOWN, np.uint8)
        table[[*self.void_ids, self.ignore_index]] = self.ignore_index
        table[list(self.label_ids if self.label_ids is not None else range(self.num_classes))] = range(self.num_classes)
        return table

    @cached_property
    def _to_label_id(self) -> np.ndarray:
        table = np.full(256, self.void_ids[0] if self.void_ids else self.ignore_index, np.uint8)
        table[: self.num_classes] = self.label_ids if self.label_ids is not None else range(self.num_classes)
        return table

    @cached_property
    def _to_color(self) -> np.ndarray:
        table = np.zeros((256, 3), np.uint8)
        table[: self.num_classes] = self.colors
        return table

    def encode(self, label: np.ndarray, path: Path | str) -> np.ndarray:
        """Maps label ids, or the colours of a picture of the label, to train ids.

        Args:
            label: As on disk: (H, W) uint8 label ids, or (H, W, 3) uint8 RGB.
            path: The file that the label came from, for the message.

        Returns:
            (H, W) uint8, train ids and the ignore index.

        Raises:
            LabelRangeError: A value or colour is not in the table.
        """
        target: np.ndarray
        if label.ndim == 3:
            label = pack_colors(label)
            target = _color_table(self.colors, self.void_colors or (), self.ignore_index)[label]
        else:
            target = cv2.LUT(label, self._to_train_id)
        if (target == _UNKNOWN).any():
            raise LabelRangeError(self._unknown(label[target == _UNKNOWN], path))
        return target

    def _unknown(self, values: np.ndarray, path: Path | str) -> str:
        """The message on label ids, or packed colours, that the table does not list."""
        are_colors = values.dtype == np.uint32
        counted = list(zip(*np.unique(values, return_counts=True), strict=True))[:5]
        found = ", ".join(
            f"{unpack_color(value) if are_colors else value} ({number} pixels)" for value, number in counted
        )
        if not are_colors:
            return (
                f"value {found} in {path}; {self.name} has {self._allowed()}. "
                "Do the labels belong to another data set, or are they in another numbering?"
            )
        allowed = ", ".join(map(str, (*self.colors, *(self.void_colors or ()))))
        return (
            f"colour {found} in {path}; {self.name} has the colours {allowed}. "
            "Is one missing in the list, or were the labels saved with smoothed edges?"
        )

    def _allowed(self) -> str:
        known = np.flatnonzero(self._to_train_id != _UNKNOWN)
        runs = np.split(known, np.flatnonzero(np.diff(known) > 1) + 1)
        spans = [str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs]
        return f"{'label ids' if self.label_ids else 'train ids'} {', '.join(spans)}"

    def for_train_ids(self) -> LabelTable:
        """The same classes for files that hold train ids and the ignore index already."""
        return replace(self, label_ids=None, void_ids=())

    def decode(self, target: np.ndarray) -> np.ndarray:
        """Maps train ids (H, W) uint8 back to the label ids of files; the ignore index becomes the first void id."""
        decoded: np.ndarray = cv2.LUT(target, self._to_label_id)
        return decoded

    def colorize(self, target: np.ndarray) -> np.ndarray:
        """Paints train ids (H, W) uint8 as an RGB image (H, W, 3) uint8; ignored pixels are black."""
        return np.take(self._to_color, target, axis=0)  # several times as fast as indexing

    def flip_permutation(self) -> list[int]:
        """Train ids after mirroring: entry k is the class that class k turns into.

        >>> grey = ((0, 0, 0), (1, 1, 1), (2, 2, 2))
        >>> table = LabelTable("toy", ("body", "left", "right"), grey, flip_pairs=((1, 2),))
        >>> table.flip_permutation()
        [0, 2, 1]
        """
        order = list(range(self.num_classes))
        for left, right in self.flip_pairs:
            order[left], order[right] = right, left
        return order

    def to_dict(self) -> dict[str, Any]:
        """The table as plain lists, numbers and strings, to be stored in a checkpoint."""
        return asdict(self)

    @classmethod
    def from_dict(cls, entries: Mapping[str, Any]) -> LabelTable:
        """The table that `to_dict` described; lists may stand for tuples, as they do after YAML or JSON.

        Raises:
            ConfigError: An entry is missing, unknown, or of another type or range.
        """
        from pydantic import TypeAdapter, ValidationError  # a fifth of a second

        try:
            table: LabelTable = TypeAdapter(cls).validate_python(dict(entries))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(map(str, first["loc"]))
            raise ConfigError(f"label table: {place} is {first['input']!r:.60}: {first['msg'].lower()}") from error
        return table


def pack_colors(picture: np.ndarray) -> np.ndarray:
    """One number for each pixel of an RGB picture (H, W, 3) uint8, as (H, W) uint32: red + 256 green + 65536 blue."""
    packed: np.ndarray = cv2.cvtColor(picture, cv2.COLOR_RGB2RGBA).view("<u4")[..., 0] & np.uint32(0xFFFFFF)
    return packed


def unpack_color(code: int) -> Color:
    """The colour that `pack_colors` packed.

    >>> unpack_color(1 + 2 * 256 + 3 * 65536)
    (1, 2, 3)
    """
    red, green, blue, _ = int(code).to_bytes(4, "little")
    return red, green, blue


@lru_cache(maxsize=2)  # 16 MB each: kept beside the tables, which travel to other processes and into checkpoints
def _color_table(colors: tuple[Color, ...], void_colors: tuple[Color, ...], ignore_index: int) -> np.ndarray:
    table = np.full(1 << 24, _UNKNOWN, np.uint8)
    for values, train_ids in ((colors, range(len(colors))), (void_colors, ignore_index)):
        if values:
            table[pack_colors(np.array([values], np.uint8))[0]] = train_ids
    return table
