"""Requests that want the same CPUs, memory and devices, and different keys. Pure.

While these do not fit, none of them fits: so one stands in the line for all of them, the one
whose turn comes first, and looking through the line costs the same however many there are.
"""

from __future__ import annotations

from collections.abc import Hashable
from heapq import heappop, heappush, heapreplace
from itertools import count
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from asyncflow.engine.queues import Queue, Turn

__all__ = ["Shelf", "Shelves"]


class Shelf:
    """Queues that wait behind ``front``, which stands in the line for them.

    ``passes`` are the grants that overtook those that stood there before.
    """

    __slots__ = ("_arrivals", "_heap", "_places", "front", "key", "passes")

    def __init__(self, key: Hashable) -> None:
        self.key = key
        self.front: Queue | None = None
        self.passes: list[Turn] = []
        self._heap: list[tuple[Turn, int, Queue]] = []
        self._places: dict[Queue, int] = {}
        self._arrivals = count()

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, queue: Queue) -> bool:
        return queue in self._places

    def add(self, queue: Queue) -> None:
        """Let a queue wait behind the front."""
        place = self._places[queue] = next(self._arrivals)
        heappush(self._heap, (queue.turn_of(queue.head), place, queue))

    def remove(self, queue: Queue) -> None:
        """Take a queue out."""
        del self._places[queue]

    def pop_first(self) -> Queue | None:
        """Take out the queue whose turn comes first; None if there is none."""
        heap, places = self._heap, self._places
        while heap:
            turn, place, queue = heap[0]
            if places.get(queue) != place:
                heappop(heap)
            elif (moved := queue.turn_of(queue.head)) != turn:
                heapreplace(heap, (moved, place, queue))  # turns only move back
            else:
                heappop(heap)
                del places[queue]
                return queue
        return None


class Shelves:
    """All shelves of a line."""

    def __init__(self) -> None:
        self._shelves: dict[Hashable, Shelf] = {}
        self._without_front: list[Shelf] = []

    def of(self, queue: Queue) -> Shelf:
        """The shelf for what a queue wants."""
        key = queue.wanted[:3], queue.nested
        found = self._shelves.get(key)
        if found is None:
            found = self._shelves[key] = Shelf(key)
        return found

    def leave(self, queue: Queue) -> None:
        """A queue stands in the line for others no longer, if it did."""
        shelf = queue.shelf
        if shelf is None:
            return
        queue.shelf = shelf.front = None
        shelf.passes = [turn.moved(queue.back) for turn in queue.overtaken_by]
        self._without_front.append(shelf)

    def remove(self, shelf: Shelf, queue: Queue) -> None:
        """A queue waits there no longer."""
        shelf.remove(queue)
        if shelf.front is None and not len(shelf):
            self._without_front.append(shelf)

    def next_front(self) -> Queue | None:
        """Let the next queue stand in the line for its shelf; None if no shelf lacks one."""
        while self._without_front:
            shelf = self._without_front.pop()
            if shelf.front is not None:
                continue
            queue = shelf.pop_first()
            if queue is None:
                self._shelves.pop(shelf.key, None)
                continue
            shelf.front, queue.shelf, queue.parked = queue, shelf, None
            turn = queue.turns[queue.head]
            inherited = (passed.moved(-queue.back) for passed in shelf.passes)
            queue.overtaken_by.extend(passed for passed in inherited if passed > turn)
            return queue
        return None
