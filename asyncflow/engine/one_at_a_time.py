"""A queue of which one item is out at a time: the next comes when that one is back. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Generic, TypeVar

from asyncflow.engine.ranked import RankedQueue

__all__ = ["OneAtATime"]

T = TypeVar("T")


class OneAtATime(Generic[T]):
    """What the engine uses of a deque, empty to all appearances while an item is out.

    Args:
        rest: the queue of those that wait, with what is in it.

    Example:
        >>> queue = OneAtATime(deque(["a", "b"]))
        >>> queue.popleft(), bool(queue)
        ('a', False)
        >>> queue.came_back("a")
        >>> bool(queue), list(queue)
        (True, ['b'])
    """

    __slots__ = ("_out", "_rest")

    def __init__(self, rest: deque[T] | RankedQueue[T]) -> None:
        self._rest = rest
        self._out: T | None = None

    def came_back(self, item: T) -> None:
        """An item is done with; others than the one that is out do not count."""
        if item == self._out:
            self._out = None

    def append(self, item: T) -> None:
        self._rest.append(item)

    def extend(self, items: Iterable[T]) -> None:
        self._rest.extend(items)

    def popleft(self) -> T:
        self._out = self._rest.popleft()
        return self._out

    def remove(self, item: T) -> None:
        """Take an item out.

        Raises:
            ValueError: it is not there.
        """
        self._rest.remove(item)

    def __getitem__(self, place: int) -> T:
        return self._rest[place]

    def clear(self) -> None:
        self._rest.clear()

    def __len__(self) -> int:
        return len(self._rest) if self._out is None else 0

    def __iter__(self) -> Iterator[T]:
        return iter(self._rest)
