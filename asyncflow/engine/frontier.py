"""Which units are ready, and which wait for how many parents. Pure: no await, no clock."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import islice

from asyncflow.engine.nested_first import NestedFirst
from asyncflow.engine.one_at_a_time import OneAtATime
from asyncflow.engine.ranked import RankedQueue

__all__ = ["Frontier"]

Ready = deque[int] | RankedQueue[int] | NestedFirst[int] | OneAtATime[int]

# A node with more dependents than this is worked off in slices, so that the end of one
# step with 100,000 children does not hold the event loop.
SLICE = 2000
# A unit that waits for so many edges is never ready.
_NEVER = 1 << 60


class Frontier:
    """The counters of a graph that is being run.

    Nodes finish, units become ready: a unit waits for one *edge* after the other, each
    from a node outside it to one of its members. Ready units stand in ``ready`` in the
    order in which they became ready; taking one from there starts it.

    Args:
        unlocks: by node, the units that wait for it, once for each edge.
        wait: by unit, how many edges it waits for.
        roots: the units that wait for none, where they are known.

    They are not changed: graphs share them between runs.

    Example:
        >>> frontier = Frontier(unlocks=[[1], []], wait=[0, 1])
        >>> frontier.ready.popleft()
        0
        >>> frontier.finished(0)
        False
        >>> list(frontier.ready)
        [1]
    """

    __slots__ = ("_added", "_backlog", "_only", "_size", "_turnstile", "_unlocks", "_wait", "ready")

    def __init__(
        self,
        unlocks: Sequence[Sequence[int]] = (),
        wait: Sequence[int] = (),
        roots: Sequence[int] | None = None,
    ) -> None:
        self._unlocks = unlocks
        self._size = len(unlocks)
        self._wait = list(wait)
        # Tuples, which the collector soon leaves alone: elements of maps have one parent each.
        self._added: dict[int, tuple[int, ...]] = {}
        self._backlog: deque[Iterator[int]] = deque()
        self._only: Collection[int] | None = None
        if roots is None:
            roots = [unit for unit, count in enumerate(wait) if not count]
        self.ready: Ready = deque(roots)
        self._turnstile: OneAtATime[int] | None = None

    def add(self, unit: int, parents: Iterable[int] = ()) -> None:
        """Grow by one unit that waits for ``parents``: nodes that have not finished.

        Args:
            unit: the next free number.
            parents: one for each edge.

        Raises:
            ValueError: the number is taken or leaves a hole.
        """
        if unit != len(self._wait):
            raise ValueError(f"unit {unit} is out of turn; the next number is {len(self._wait)}")
        count = 0
        for parent in parents:
            self._added[parent] = (*self._added.get(parent, ()), unit)
            count += 1
        self._wait.append(count)
        if not count:
            self.ready.append(unit)

    def add_retired(self, unit: int) -> None:
        """Grow by one unit that is done already.

        Raises:
            ValueError: the number is taken or leaves a hole.
        """
        if unit != len(self._wait):
            raise ValueError(f"unit {unit} is out of turn; the next number is {len(self._wait)}")
        self._wait.append(_NEVER)

    def retire(self, units: Iterable[int]) -> None:
        """These units never become ready: they are done already."""
        retired = set(units)
        for unit in retired:
            self._wait[unit] = _NEVER
        kept = [unit for unit in self.ready if unit not in retired]
        self.ready.clear()
        self.ready.extend(kept)

    def finished(self, node: int) -> bool:
        """A node reached a final state, whichever: those that waited for it wait for one less.

        Returns:
            Whether dependents are left over for :meth:`work_off`.
        """
        if self._added and node in self._added:
            self._release(self._added.pop(node))
        if node >= self._size or not (unlocks := self._unlocks[node]):
            return False
        if len(unlocks) > SLICE:
            self._backlog.append(iter(unlocks))
            return True
        if self._only is not None:
            self._release(unlocks)
            return False
        wait = self._wait
        for unit in unlocks:  # _release, without the call: this is every step of every run
            left = wait[unit] = wait[unit] - 1
            if not left:
                self.ready.append(unit)
        return False

    def release(self, units: Iterable[int]) -> None:
        """Units that waited for something other than the end of a node wait for one less."""
        self._release(units)

    def _release(self, units: Iterable[int]) -> None:
        wait, only = self._wait, self._only
        for unit in units:
            left = wait[unit] = wait[unit] - 1
            if not left and (only is None or unit in only):
                self.ready.append(unit)

    def work_off(self) -> bool:
        """Count a slice of the dependents that are left over; returns whether more are."""
        if self._backlog:
            part = list(islice(self._backlog[0], SLICE))
            self._release(part)
            if len(part) < SLICE:
                self._backlog.popleft()
        return bool(self._backlog)

    def rank(self, ready: RankedQueue[int]) -> None:
        """Keep what is ready in another order than that of arrival."""
        ready.extend(self.ready)
        self.ready = ready

    def let_one_through(self) -> None:
        """From now on let a unit out only when the one before :meth:`came_back`.

        Nested units go on as they are asked for.
        """
        assert not isinstance(self.ready, NestedFirst | OneAtATime)
        self.ready = self._turnstile = OneAtATime(self.ready)

    def came_back(self, unit: int) -> None:
        """A unit has given back what it held; the next may go, where one goes at a time."""
        if self._turnstile is not None:
            self._turnstile.came_back(unit)

    def put_nested_first(self, is_nested: Callable[[int], bool]) -> None:
        """From now on let nested units go before all others that are ready."""
        assert not isinstance(self.ready, NestedFirst)
        self.ready = NestedFirst(self.ready, is_nested)

    def waits_for(self, unit: int) -> int:
        """How many edges a unit still waits for."""
        return self._wait[unit]

    def keep_only(self, units: Collection[int]) -> None:
        """From now on let no units become ready but these and those that are added."""
        self._only = units
        kept = [unit for unit in self.ready if unit in units]
        self.ready.clear()
        self.ready.extend(kept)

    def clear(self) -> None:
        """Let nothing become ready any more."""
        self.ready.clear()
        self._backlog.clear()

    def validate(self) -> None:
        """Check the invariants; called after every event in tests."""
        assert all(count >= 0 for count in self._wait), "a unit was released too often"
        assert len(set(self.ready)) == len(self.ready), "a unit is ready twice"
        assert all(not self._wait[unit] for unit in self.ready), "a ready unit still waits"
