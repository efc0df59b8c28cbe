"""A queue that gives the lowest rank first; equal ranks in order of arrival. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from heapq import heapify, heappop, heappush
from typing import Any, Generic, TypeVar

__all__ = ["RankedQueue"]

T = TypeVar("T")


class RankedQueue(Generic[T]):
    """What the engine uses of a deque, in an order of its own.

    Args:
        rank: gives what to compare, once for each item when it is appended.

    Example:
        >>> queue = RankedQueue(len)
        >>> queue.extend(["three", "one", "two"])
        >>> queue.popleft(), queue[0], list(queue)
        ('one', 'two', ['two', 'three'])
    """

    __slots__ = ("_arrivals", "_heap", "_rank")

    def __init__(self, rank: Callable[[T], Any]) -> None:
        self._rank = rank
        self._heap: list[tuple[Any, int, T]] = []
        self._arrivals = 0

    def empty_twin(self) -> RankedQueue[T]:
        """An empty queue in the same order."""
        return RankedQueue(self._rank)

    def append(self, item: T) -> None:
        self._arrivals += 1
        heappush(self._heap, (self._rank(item), self._arrivals, item))

    def extend(self, items: Iterable[T]) -> None:
        for item in items:
            self._arrivals += 1
            self._heap.append((self._rank(item), self._arrivals, item))
        heapify(self._heap)

    def popleft(self) -> T:
        return heappop(self._heap)[2]

    def remove(self, item: T) -> None:
        """Take an item out.

        Raises:
            ValueError: it is not there.
        """
        place = next((i for i, (*_, other) in enumerate(self._heap) if other is item), None)
        if place is None:
            raise ValueError(f"{item!r} is not in this queue")
        del self._heap[place]
        heapify(self._heap)

    def __getitem__(self, place: int) -> T:
        return sorted(self._heap)[place][2] if place else self._heap[0][2]

    def clear(self) -> None:
        self._heap.clear()

    def __len__(self) -> int:
        return len(self._heap)

    def __iter__(self) -> Iterator[T]:
        return iter([item for *_, item in sorted(self._heap)])
