"""Readers of text, YAML and JSON files, with size limits."""

from __future__ import annotations

import json
import stat
import sys
from contextlib import suppress
from pathlib import Path, PureWindowsPath
from typing import Any

from hrseg.errors import ConfigError, DataFileError
from hrseg.utils.paths import expanded

_MOST_BYTES = 2**18
_MOST_NODES = 100_000  # of a YAML file with its aliases expanded
_MOST_BYTES_OF_LIST = 2**26  # ten times the list of all images of COCO
_LONGEST_NAME = 255  # bytes, of file systems
_TEXT = "expected text in UTF-8, not UTF-16 or binary"


def read_text(path: Path, most_bytes: int = _MOST_BYTES) -> str:
    """Reads a UTF-8 text file, with or without byte-order mark.

    Args:
        path: A regular file; pipes and devices are not opened.
        most_bytes: Maximum size.

    Raises:
        ConfigError: The file cannot be read, is too large, or is not text.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ConfigError(f"{path} is a folder, pipe or device; expected a text file")
        if status.st_size > most_bytes:
            raise ConfigError(f"{path} has {status.st_size} bytes; expected a text file of {most_bytes} or fewer")
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise ConfigError(f"{path} cannot be read: {error}; {_TEXT}") from error
    if "\0" in text:
        raise ConfigError(f"{path} holds NUL bytes; {_TEXT}")
    return text


def read_list(path: Path) -> list[str]:
    """Reads the list of a split, a text file with a sample per line.

    Args:
        path: The file; a line has an id or a relative path, or several separated by whitespace. Empty lines are
            skipped.

    Returns:
        The stripped lines, in the file's order.

    Raises:
        DataFileError: The file cannot be read, is empty, or has a path that is absolute or leads out of the data set's
            folder.
    """
    try:
        lines = read_text(path, _MOST_BYTES_OF_LIST).splitlines()
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


def read_yaml(path: Path) -> Any:
    """Reads a YAML file of plain values; refuses recursive and exponentially nested anchors.

    Args:
        path: As for `read_text`.

    Raises:
        ConfigError: The file cannot be read, is not YAML, or has too many values.
    """
    return _parse_yaml(read_text(path), path)


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON file of hrseg; empty if it is missing, damaged, or not an object."""
    with suppress(ConfigError, ValueError, RecursionError):
        content = json.loads(read_text(path))
        if isinstance(content, dict):
            return content
    return {}


def read_settings(source: str | Path) -> dict[str, Any]:
    """Reads a recipe, or the config.yaml of a run, as plain values.

    Args:
        source: The file; its content, which begins with a brace; or "-", the standard input.

    Raises:
        ConfigError: There is no such file, or it is not a YAML mapping.
    """
    from jsonargparse import get_loader  # it parses 1e-3 as a number, but has no limits

    where: str | Path = expanded(source)
    try:
        if source == "-":
            where = "of the standard input"
            text = sys.stdin.read(_MOST_BYTES + 1)
            if len(text) > _MOST_BYTES:
                raise ConfigError(f"{where} has more than {_MOST_BYTES} characters; expected settings")
        elif isinstance(source, str) and source.startswith("{"):
            where, text = f"{source[:40]} ...", source
        else:
            text = read_text(Path(where))
        _parse_yaml(text, where)
        content = get_loader("yaml")(text)
    except ValueError as error:
        raise ConfigError(f"the config {where} cannot be read: {error}; {_TEXT}") from error
    except ConfigError as error:
        raise ConfigError(f"the config {error}; give a recipe or RUN/config.yaml") from error
    if not isinstance(content, dict):
        found = "nothing" if content is None else f"a {type(content).__name__}"
        raise ConfigError(f"the config {where} holds {found}; expected settings such as `data:` and `model:`")
    return content


def _parse_yaml(text: str, where: str | Path) -> Any:
    import yaml

    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _count_nodes(node, {}, where)
        return loader.construct_document(node)
    except ConfigError:
        raise
    except RecursionError:
        raise ConfigError(f"{where} is nested too deeply; expected a file of settings") from None
    except Exception as error:  # invalid numbers and dates raise other errors than YAMLError
        raise ConfigError(f"{where} is no YAML: {' '.join(str(error).split())}") from error


def _count_nodes(node: Any, known: dict[int, int | None], where: str | Path) -> int:
    """Number of values in a node; `known` has those of nodes seen, None for those being counted."""
    if id(node) in known:
        number = known[id(node)]
        if number is None:
            raise ConfigError(f"{where} has an anchor that contains itself; expected plain values")
        return number
    known[id(node)] = None
    children = node.value if isinstance(node.value, list) else []
    _require_distinct([key for key, _ in filter(lambda child: isinstance(child, tuple), children)], where)
    number = 1
    for child in children:
        number += sum(_count_nodes(part, known, where) for part in (child if isinstance(child, tuple) else (child,)))
        if number > _MOST_NODES:
            raise ConfigError(f"{where} has more than {_MOST_NODES} values, its anchors resolved; expected settings")
    known[id(node)] = number
    return number


def _require_distinct(keys: list[Any], where: str | Path) -> None:
    """Raises a `ConfigError` if a mapping has a duplicate key, of which YAML would silently use the last."""
    seen: set[str] = set()
    for key in keys:
        if isinstance(key.value, str) and key.value != "<<":  # merge keys may occur more than once
            if key.value in seen:
                line = key.start_mark.line + 1
                raise ConfigError(f"{where}, line {line}: {key.value} stands twice; remove one")
            seen.add(key.value)
