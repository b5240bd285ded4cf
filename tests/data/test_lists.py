from __future__ import annotations

import os
from pathlib import Path

import pytest

from hrseg.data.lists import read_list
from hrseg.errors import DataFileError


def test_lines_with_any_ends_and_with_blanks_in_names(tmp_path: Path) -> None:
    path = tmp_path / "train.txt"
    path.write_bytes(b"\xef\xbb\xbf2008_000002 \r\n\r\na/b.jpg\tc/d.png\r\nmy images/first one\n")
    assert read_list(path) == ["2008_000002", "a/b.jpg\tc/d.png", "my images/first one"]


@pytest.mark.parametrize("entry", ["/etc/passwd", "../a", "a/../../b", "C:\\a", "a\\..\\b", "\\\\host\\a", "x" * 300])
def test_entries_that_lead_elsewhere_are_refused(tmp_path: Path, entry: str) -> None:
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
def test_what_is_no_list_is_told(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "train.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataFileError, match=rf"train.txt {message}"):
        read_list(path)


def test_what_is_no_file_or_too_large_is_told_before_it_is_read(tmp_path: Path) -> None:
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
