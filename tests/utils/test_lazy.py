"""Sequences that are read element by element."""

from __future__ import annotations

from hrseg.utils.lazy import Lazy


def test_images_are_read_when_they_are_needed() -> None:
    read: list[int] = []
    images = Lazy(range(5), lambda index: read.append(index) or index)
    assert len(images) == 5
    assert not read
    assert images[-1] == 4
    assert list(images) == [0, 1, 2, 3, 4]
    assert read == [4, 0, 1, 2, 3, 4]
