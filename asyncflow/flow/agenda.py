"""What is left to do in one run of a project: pure bookkeeping, no await, no I/O, no clock."""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from types import MappingProxyType
from typing import Any, Literal

import msgspec

from asyncflow.flow.aggregates import Aggregate
from asyncflow.flow.groups import FlowGroup

__all__ = ["Agenda", "Entry", "EntryState", "Order"]

Order = Literal["none", "by-job", "cyclic", "random"] | Callable[["Entry"], Any] | None


_NEVER: Mapping[str, int] = MappingProxyType({})


class EntryState(Enum):
    """Where an entry stands: ``IDLE`` until its jobs change, ``UNJUDGED`` until its conditions
    are asked, ``JUDGING`` while they are, ``QUEUED`` while it waits for a place, ``RUNNING``;
    ``SPENT`` for good."""

    IDLE = "idle"
    UNJUDGED = "unjudged"
    JUDGING = "judging"
    QUEUED = "queued"
    RUNNING = "running"
    SPENT = "spent"


class Entry(msgspec.Struct, eq=False, gc=False):
    """One group on one aggregate; nothing it refers to refers to it.

    Attributes:
        place: its place among all entries, by job and then by group.
        executions: by operation, how often it was executed.
        judged_at: how many executions had ended when its conditions were last asked.
        is_outdated: whether its jobs changed while they were asked.
    """

    group: FlowGroup
    aggregate_id: str
    jobs: Aggregate
    place: int
    is_concurrent: bool
    state: EntryState = EntryState.UNJUDGED
    executions: Mapping[str, int] = _NEVER
    judged_at: int = 0
    is_outdated: bool = False

    @property
    def name(self) -> str:
        """The group's name: what a function given as ``order`` sees of an operation."""
        return self.group.name

    def __repr__(self) -> str:
        return f"{self.group.name}({self.aggregate_id})"


class Agenda:
    """Which entries are to be judged, which wait for a place, which are running.

    Args:
        order: among those that wait, see :meth:`FlowProject.run`.
        num: how many may be executed in all; None for any number.
        num_passes: how often an operation may be executed on an aggregate; None for any number.
    """

    def __init__(self, order: Order, num: int | None, num_passes: int | None) -> None:
        self._order = order
        self._left = num
        self._num_passes = num_passes
        self._entries: list[Entry] = []
        self._of_job: dict[str, list[Entry]] = {}
        self._unjudged: deque[Entry] = deque()
        self._waiting: dict[bool, list[tuple[Any, int, Entry]]] = {True: [], False: []}
        self._arrivals = 0
        self._rounds: dict[str, int] = {}
        self._ended = 0
        self.cut_short = False

    def add(self, group: FlowGroup, aggregate_id: str, jobs: Aggregate, concurrent: bool) -> None:
        """Take on one more entry.

        Args:
            concurrent: whether it runs on the event loop beside any number of others.
        """
        entry = Entry(group, aggregate_id, jobs, len(self._entries), concurrent)
        self._entries.append(entry)
        self._unjudged.append(entry)
        for job in jobs:
            self._of_job.setdefault(job.id, []).append(entry)

    def allowed(self, entry: Entry) -> tuple[str, ...]:
        """The operations of an entry that may be executed (once more)."""
        most = self._num_passes
        if not entry.executions and most != 0:
            return entry.group.operation_names
        return tuple(
            name
            for name in entry.group.operations
            if most is None or entry.executions.get(name, 0) < most
        )

    def to_judge(self, most: int) -> list[Entry]:
        """Entries whose conditions are to be asked, each handed out once."""
        found: list[Entry] = []
        while self._unjudged and len(found) < most:
            entry = self._unjudged.popleft()
            if entry.state is EntryState.UNJUDGED:
                entry.state, entry.judged_at = EntryState.JUDGING, self._ended
                entry.is_outdated = False
                found.append(entry)
        return found

    def judged(self, entry: Entry, eligible: bool) -> None:
        """The conditions of an entry were asked."""
        if entry.is_outdated:
            entry.state = EntryState.UNJUDGED
            self._unjudged.append(entry)
            return
        if not eligible:
            entry.state = EntryState.IDLE
            return
        self._queue(entry)

    def _queue(self, entry: Entry) -> None:
        entry.state = EntryState.QUEUED
        self._arrivals += 1
        item = self._key(entry), self._arrivals, entry
        heapq.heappush(self._waiting[entry.is_concurrent], item)

    def _key(self, entry: Entry) -> Any:
        order = self._order
        if callable(order):
            return order(entry)
        if order == "by-job":
            return entry.place
        if order == "cyclic":
            rounds = self._rounds[entry.aggregate_id] = self._rounds.get(entry.aggregate_id, 0) + 1
            return rounds, entry.place
        return random.random() if order == "random" else 0

    def take(self, concurrent: bool, only: Callable[[Entry], bool] | None = None) -> Entry | None:
        """The next entry to be executed, of those on the event loop or of the others.

        Args:
            only: None is given where the next one is not of this kind.
        """
        waiting = self._waiting[concurrent]
        if not waiting:
            return None
        if self._left == 0:
            self.cut_short = True
            return None
        if only is not None and not only(waiting[0][2]):
            return None
        entry = heapq.heappop(waiting)[2]
        entry.state = EntryState.RUNNING
        if self._left is not None:
            self._left -= 1
        return entry

    def count_waiting(self, concurrent: bool) -> int:
        """How many wait for a place."""
        return len(self._waiting[concurrent])

    def put_back(self, entry: Entry) -> None:
        """An entry was not begun after all."""
        if self._left is not None:
            self._left += 1
        self._queue(entry)

    def ended(self, entry: Entry, executed: Iterable[str]) -> None:
        """An entry is over: what was executed has changed its jobs, nothing has not.

        Without anything executed it does not count, and is looked at again when its jobs change.
        """
        names = list(executed)
        entry.state = EntryState.IDLE
        if not names:
            if self._left is not None:
                self._left += 1
            return
        self._ended += 1
        counts = entry.executions
        entry.executions = {**counts, **{name: counts.get(name, 0) + 1 for name in names}}
        if not self.allowed(entry):
            entry.state = EntryState.SPENT
        for job in entry.jobs:
            self._look_again(self._of_job[job.id])

    def failed(self, entry: Entry) -> None:
        """An entry failed: it is not tried again, what it did to its jobs counts."""
        self._ended += 1
        entry.state = EntryState.SPENT
        for job in entry.jobs:
            self._look_again(self._of_job[job.id])

    def look_once_more(self) -> bool:
        """At the end: entries whose conditions were asked before others ended, for conditions
        may look at other jobs than their own. Returns whether there are any."""
        late = [entry for entry in self._entries if entry.judged_at < self._ended]
        self._look_again(late)
        return bool(self._unjudged)

    def _look_again(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            if entry.state is EntryState.IDLE:
                entry.state = EntryState.UNJUDGED
                self._unjudged.append(entry)
            elif entry.state is EntryState.JUDGING:
                entry.is_outdated = True

    @property
    def idle(self) -> bool:
        """Whether nothing is to be judged, and nothing that may be executed waits."""
        return not self._unjudged and (self._left == 0 or not any(self._waiting.values()))
