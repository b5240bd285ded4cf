"""Lists of a split: text files that name its samples, one a line."""

from __future__ import annotations

from pathlib import Path, PureWindowsPath

from hrseg.errors import ConfigError, DataFileError
from hrseg.utils.text_files import read_text

_MOST_BYTES = 2**26  # ten times the list of all images of COCO
_LONGEST_NAME = 255  # bytes, of file systems


def read_list(path: Path) -> list[str]:
    """Reads a list.

    Args:
        path: A text file; a line holds an id, a relative path, or several of them parted by blanks or tabs. Empty lines
            are passed over, and so are the line ends of Windows.

    Returns:
        The lines, without blanks at their ends, in the file's order.

    Raises:
        DataFileError: The file cannot be read, holds no line, or an entry is an absolute path or leads out of the
            data set's folder.
    """
    try:
        lines = read_text(path, _MOST_BYTES).splitlines()
    except ConfigError as error:
        raise DataFileError(f"list {error}; expected a sample a line") from error
    for number, line in enumerate(lines, 1):
        for entry in line.split():
            parts = PureWindowsPath(entry)  # knows both kinds of separators
            is_too_long = any(len(part.encode()) > _LONGEST_NAME for part in parts.parts)
            if parts.drive or parts.root or ".." in parts.parts or is_too_long:
                raise DataFileError(
                    f"list {path}, line {number}: {entry:.{_LONGEST_NAME}}; expected an id or a path below the data "
                    "set's folder"
                )
    found = [line.strip() for line in lines if line.strip()]
    if not found:
        raise DataFileError(f"list {path} is empty; expected a sample a line")
    return found
