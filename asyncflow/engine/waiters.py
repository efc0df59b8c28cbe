"""Those that wait at one named key, and which of them has its turn there. Pure.

Owners take turns one by one, so that a newcomer does not wait for all that an older owner has
asked for. Outside nests nobody passes the one whose turn it is, however much that one wants:
so a key that is short serves in order and starves nobody. Nested requests are not kept waiting
by others: one that does not get what it wants may be waiting for what the work above them
holds. Who had its turn at this key and then had to wait for something else comes first.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterator
from heapq import heappop, heappush
from itertools import count
from math import inf
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from asyncflow.engine.queues import Queue, Turn

__all__ = ["Found", "Waiters"]


class Found(NamedTuple):
    """Whose turn it is.

    Parameters:
        queue: the one that may go on; None if none can now.
        soonest: when that may change by itself; infinity for never.
        passed: the one outside nests that a nested one goes before.
    """

    queue: Queue | None
    soonest: float
    passed: Queue | None


class _Own:
    """Waiting queues of one owner, its nested ones apart."""

    __slots__ = ("nested", "outside")

    def __init__(self) -> None:
        self.nested: dict[Queue, None] = {}
        self.outside: list[tuple[Turn, int, Queue]] = []


class Waiters:
    """The line at one key."""

    __slots__ = ("_arrivals", "_first", "_nested", "_owners", "_places")

    def __init__(self) -> None:
        self._first: deque[Queue] = deque()
        self._owners: OrderedDict[Hashable, _Own] = OrderedDict()
        self._places: dict[Queue, int] = {}  # queue → its arrival; -1 for those in _first
        self._arrivals = count()
        self._nested = 0

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[Queue]:
        return iter(self._places)

    def add(self, queue: Queue, *, first: bool) -> None:
        """Let a queue wait.

        Parameters:
            queue: it waits nowhere else.
            first: it had its turn here already.
        """
        self._nested += queue.nested
        if first:
            self._places[queue] = -1
            self._first.append(queue)
            return
        place = self._places[queue] = next(self._arrivals)
        own = self._owners.get(queue.owner.name)
        if own is None:
            own = self._owners[queue.owner.name] = _Own()
        if queue.nested:
            own.nested[queue] = None
        else:
            # Moving an owner's turns back leaves their order as it is.
            heappush(own.outside, (queue.turns[queue.head], place, queue))

    def remove(self, queue: Queue) -> None:
        """Take a queue out."""
        self._nested -= queue.nested
        if self._places.pop(queue) == -1:
            self._first.remove(queue)
            return
        name = queue.owner.name
        own = self._owners[name]
        if queue.nested:
            del own.nested[queue]
        self._drop_gone(own)
        if not own.nested and not own.outside:
            del self._owners[name]

    def _drop_gone(self, own: _Own) -> None:
        while own.outside and self._places.get(own.outside[0][2]) != own.outside[0][1]:
            heappop(own.outside)

    def find(self, ready_at: Callable[[Queue], float], now: float) -> Found:
        """Find the one whose turn it is, and have the next owner follow it.

        Parameters:
            ready_at: when the key has enough for a queue.
            now: the time.
        """
        search = _Search(ready_at, now)
        for queue in self._first:
            if search.takes(queue):
                return search.found(queue)
        for name, own in self._owners.items():
            taken = next(filter(search.takes, _in_order(own)), None)
            if taken is not None:
                self._owners.move_to_end(name)
                return search.found(taken)
            if not self._nested:
                break  # the first one blocks all others
        return search.found(None)


class _Search:
    """One look for whose turn it is."""

    __slots__ = ("_now", "_ready_at", "passed", "soonest")

    def __init__(self, ready_at: Callable[[Queue], float], now: float) -> None:
        self._ready_at, self._now = ready_at, now
        self.soonest = inf
        self.passed: Queue | None = None

    def takes(self, queue: Queue) -> bool:
        if self.passed is not None and not queue.nested:
            return False
        when = self._ready_at(queue)
        if when <= self._now:
            return True
        self.soonest = min(self.soonest, when)
        if not queue.nested:
            self.passed = queue
        return False

    def found(self, queue: Queue | None) -> Found:
        return Found(queue, self.soonest, None if queue is None else self.passed)


def _in_order(own: _Own) -> Iterator[Queue]:
    yield from own.nested
    if own.outside:
        yield own.outside[0][2]
