"""The errors that a user can cause, each one line: what was found, where, what was expected, what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_NAMES_LISTED = 12  # more would hide the message itself


class HrsegError(Exception):
    """Base of every error that hrseg raises for a mistake in what it was given."""


class ConfigError(HrsegError):
    """Two settings contradict each other, or one is outside its range."""


class UnknownNameError(HrsegError):
    """A name that is not in a list of known names.

    Args:
        kind: What the name stands for, such as "model".
        name: The name that was given.
        known: All names that would have been accepted.
    """

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        names = list(known)
        nearest = difflib.get_close_matches(str(name), names, n=3, cutoff=0.5)
        listed = ", ".join(names[:_NAMES_LISTED]) + (
            f", ... ({len(names)} names)" if len(names) > _NAMES_LISTED else ""
        )
        hint = f"did you mean {' or '.join(nearest)}?" if nearest else f"known: {listed}"
        super().__init__(f"unknown {kind} {name!r}; {hint}")


class DataNotFoundError(HrsegError):
    """A data set, split, or one file of it is not where it was looked for."""


class DataFileError(HrsegError):
    """An image or label file cannot be read, is truncated, or does not fit its partner."""


class LabelRangeError(DataFileError):
    """A label holds a value that the label table does not know."""


class LossyLabelError(DataFileError):
    """A label was saved in a format that changes values, such as JPEG."""


class FileSystemError(HrsegError):
    """The file system that holds the data has been away for longer than was waited for."""


class OutputError(HrsegError):
    """A file cannot be written: the disk is full, or its place is not to be written to."""


class WeightsError(HrsegError):
    """A file of weights cannot be read, or does not fit the network."""


class TrainingError(HrsegError):
    """A training cannot go on: its loss is not finite, its memory is used up, or another process of it is gone."""
