"""`Lazy`: a sequence that is read element by element."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Lazy(Sequence[T], Generic[T]):
    """A sequence whose elements are read when they are needed, each time anew.

    Args:
        items: What `read` takes, such as files.
        read: Reads an element.
    """

    def __init__(self, items: Sequence[Any], read: Callable[[Any], T]) -> None:
        self._items = items
        self._read = read

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: Any) -> Any:
        return self._read(self._items[index])
