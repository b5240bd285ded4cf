from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from hrseg.errors import ConfigError, DataFileError
from hrseg.utils.files import write_json
from hrseg.utils.text_files import read_json, read_list, read_text, read_yaml


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_text_is_utf_8_with_or_without_byte_order_mark(mark: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(mark + "größe".encode())
    assert read_text(tmp_path / "a.txt") == "größe"


def test_text_is_read_up_to_a_limit(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x" * 11)
    assert read_text(tmp_path / "a.txt", most_bytes=11) == "x" * 11
    with pytest.raises(ConfigError, match="has 11 bytes; expected a text file of 10 or fewer"):
        read_text(tmp_path / "a.txt", most_bytes=10)


def test_an_anchor_may_stand_for_many_values_but_not_for_any_number(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("a: &a [1, 2]\nb: [*a, *a]\n")
    assert read_yaml(tmp_path / "a.yaml") == {"a": [1, 2], "b": [[1, 2], [1, 2]]}
    lines = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    (tmp_path / "a.yaml").write_text("\n".join(["a0: &a0 [x]", *lines]))
    with pytest.raises(ConfigError, match="more than 100000 values, its anchors resolved"):
        read_yaml(tmp_path / "a.yaml")


def test_json_round_trip(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"a": [1, None, "ü"], "b": {}})
    assert read_json(tmp_path / "a.json") == {"a": [1, None, "ü"], "b": {}}


@pytest.mark.parametrize("content", ["", "[1]", "3", "{", "[" * 10**5, "\0", json.dumps({"a": "x" * 2**18})])
def test_other_json_counts_as_missing(content: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(content)
    assert read_json(tmp_path / "a.json") == {}


def test_json_that_is_a_pipe_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert [read_json(tmp_path / name) for name in ("pipe", "missing", "")] == [{}, {}, {}]


def test_lines_with_any_ends_and_with_blanks_in_names(tmp_path: Path) -> None:
    path = tmp_path / "train.txt"
    path.write_bytes(b"\xef\xbb\xbf2008_000002 \r\n\r\na/b.jpg\tc/d.png\r\nmy images/first one\n")
    assert read_list(path) == ["2008_000002", "a/b.jpg\tc/d.png", "my images/first one"]


@pytest.mark.parametrize("entry", ["/etc/passwd", "../a", "a/../../b", "C:\\a", "a\\..\\b", "\\\\host\\a", "x" * 300])
def test_entries_outside_the_root_are_refused(tmp_path: Path, entry: str) -> None:
    path = tmp_path / "train.txt"
    path.write_text(f"good\n{entry} x\n")
    with pytest.raises(DataFileError, match=r"train.txt, line 2: .*; expected an id or a path below"):
        read_list(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read: .*No such file"),
        (b"\n \n", "is empty"),
        (b"\xff\xfe\x00", "cannot be read"),
        ("a\n".encode("utf-16"), "cannot be read: .*expected text in UTF-8, not UTF-16"),
        (b"\x89PNG\r\n\x1a\n\0", "cannot be read: .*expected text in UTF-8"),
        (b"a\0b\n", "holds NUL bytes"),
    ],
)
def test_other_files_are_refused_as_lists(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "train.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataFileError, match=rf"train.txt {message}"):
        read_list(path)


def test_pipes_and_large_files_are_refused_before_reading(tmp_path: Path) -> None:
    (tmp_path / "a.txt").mkdir()
    os.mkfifo(tmp_path / "b.txt")
    (tmp_path / "c.txt").symlink_to(tmp_path / "c.txt")
    with (tmp_path / "d.txt").open("wb") as file:
        file.truncate(2**40)
    for name, message in {
        "a": "is a folder, pipe or device",
        "b": "is a folder, pipe or device",
        "c": "cannot be read",
        "d": "has 1099511627776 bytes",
    }.items():
        with pytest.raises(DataFileError, match=rf"{name}\.txt {message}"):
            read_list(tmp_path / f"{name}.txt")
