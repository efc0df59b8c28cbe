"""A queue in which nested work goes before all other: what was started ends first. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Generic, TypeVar

from asyncflow.engine.one_at_a_time import OneAtATime
from asyncflow.engine.ranked import RankedQueue

__all__ = ["NestedFirst"]

T = TypeVar("T")


class NestedFirst(Generic[T]):
    """What the engine uses of a deque, with the nested ones in front.

    Without it, each of 10,000 steps that nest would begin, and hold its memory and its thread,
    before the first of their nests has its turn.

    Args:
        rest: the queue of all others, with what is in it.
        is_nested: tells which go in front.

    Example:
        >>> queue = NestedFirst(deque([1, 3]), is_nested=lambda number: number < 0)
        >>> queue.extend([5, -7, -8])
        >>> list(queue), queue.popleft()
        ([-7, -8, 1, 3, 5], -7)
    """

    __slots__ = ("_is_nested", "_nested", "_rest")

    def __init__(
        self, rest: deque[T] | RankedQueue[T] | OneAtATime[T], is_nested: Callable[[T], bool]
    ) -> None:
        self._rest = rest
        self._is_nested = is_nested
        self._nested = rest.empty_twin() if isinstance(rest, RankedQueue) else deque[T]()

    def append(self, item: T) -> None:
        (self._nested if self._is_nested(item) else self._rest).append(item)

    def extend(self, items: Iterable[T]) -> None:
        for item in items:
            self.append(item)

    def popleft(self) -> T:
        return (self._nested or self._rest).popleft()

    def remove(self, item: T) -> None:
        """Take an item out.

        Raises:
            ValueError: it is not there.
        """
        (self._nested if self._is_nested(item) else self._rest).remove(item)

    def __getitem__(self, place: int) -> T:
        if place < len(self._nested):
            return self._nested[place]
        return self._rest[place - len(self._nested)]

    def clear(self) -> None:
        self._nested.clear()
        self._rest.clear()

    def __len__(self) -> int:
        return len(self._nested) + len(self._rest)

    def __iter__(self) -> Iterator[T]:
        return chain(self._nested, self._rest)
