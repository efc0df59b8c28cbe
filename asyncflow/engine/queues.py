"""Waiting requests as queues: one for each owner and demand, of which only the head competes.

What the order of turns means is told in `asyncflow.engine.turns`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import NamedTuple

from asyncflow.engine.capacity import Demand, Lease
from asyncflow.engine.named import Key
from asyncflow.engine.shelves import Shelf

__all__ = ["FIRST", "Owner", "Queue", "Turn"]

_NO_ROUND = -1


class Turn(NamedTuple):
    """A place in the order: earlier rounds first, then lower ranks, then earlier arrivals."""

    round: int
    rank: float
    arrival: int

    def moved(self, rounds: int) -> Turn:
        """Return the turn so many rounds later."""
        return Turn(self.round + rounds, self.rank, self.arrival)


FIRST = Turn(_NO_ROUND, 0.0, 0)


def _no_rounds() -> dict[bool, int]:
    return {False: _NO_ROUND, True: _NO_ROUND}


# Demand, and the lease whose memory and devices it may use.
QueueKey = tuple[Demand, Lease | None]


def _no_queues() -> dict[bool, dict[QueueKey, Queue]]:
    return {False: {}, True: {}}


@dataclass(eq=False, slots=True)
class Owner:
    """How far one owner has come.

    `last` and `granted` are the latest rounds given and granted, for requests that are nested
    (True) and not (False). `back` counts the rounds that nests, and for a ranked owner its own
    grants, moved the others back by; `back_by_nests` those of nests alone.
    """

    name: Hashable
    ranked: bool = False
    back: int = 0
    back_by_nests: int = 0
    last: dict[bool, int] = field(default_factory=_no_rounds)
    granted: dict[bool, int] = field(default_factory=_no_rounds)
    queues: dict[bool, dict[QueueKey, Queue]] = field(default_factory=_no_queues)

    def next_round(self, nested: bool, joined: int) -> int:
        if self.ranked and not nested and self.queues[False]:
            return self.last[False]
        own = self.last[True] if nested else max(self.last.values())
        return max(joined, own + 1)


@dataclass(eq=False, slots=True)
class Queue:
    """Waiting requests of one owner for one demand, in order of arrival: only the head competes.

    Nested ones that may take from what the work above them holds wait apart for each such work:
    one may fit where another does not.

    `turns` and `overtaken_by` are counted without the owner's `back`, so that moving a queue
    back need not touch them; `by_rank` is a heap of them where they are ranked, with some that have
    left. `turn` is the head's, as it is listed. `wanted` is what a grant takes. `lease` is
    set if this is the one request of a holder to take that lease's CPUs back. `under` is the lease
    above these requests, where they ask for memory or devices and it, or one above it, has any.

    `parked` is the named key that the head waits at, out of the line; `passes` are those at
    which it had its turn, `offered_by` the last of them while it is listed because of that,
    and `moved` counts how often it had to wait again after having had its turn. `shelf` has those
    that the head stands in the line for.
    """

    owner: Owner
    demand: Demand
    wanted: Demand
    nested: bool
    lease: Lease | None = None
    under: Lease | None = None
    turn: Turn = FIRST
    turns: OrderedDict[Hashable, Turn] = field(default_factory=OrderedDict)
    by_rank: list[tuple[Turn, Hashable]] = field(default_factory=list)
    overtaken_by: list[Turn] = field(default_factory=list)
    pressed: int = 0
    parked: Key | Shelf | None = None
    shelf: Shelf | None = None
    offered_by: Key | None = None
    passes: set[str] = field(default_factory=set)
    moved: int = 0
    back_when_head: int = 0

    @property
    def back(self) -> int:
        """Rounds to add to the turns kept here."""
        return 0 if self.nested else self.owner.back

    @property
    def first_turn(self) -> Turn:
        """The head's turn as it was before nests moved it back."""
        if self.nested or self.back_when_head == self.owner.back_by_nests:
            return self.turn
        return self.turn.moved(self.back_when_head - self.owner.back_by_nests)

    @property
    def head(self) -> Hashable:
        """The ticket that competes."""
        if not self.is_ranked:
            return next(iter(self.turns))
        while self.turns.get(self.by_rank[0][1]) != self.by_rank[0][0]:
            heappop(self.by_rank)
        return self.by_rank[0][1]

    @property
    def is_ranked(self) -> bool:
        """Whether those who wait here are ordered by rank."""
        return self.owner.ranked and not self.nested

    def add(self, ticket: Hashable, turn: Turn) -> bool:
        """Let a ticket wait here; return whether it is the head."""
        self.turns[ticket] = turn
        if self.is_ranked:
            heappush(self.by_rank, (turn, ticket))
        return self.head == ticket

    def turn_of(self, ticket: Hashable) -> Turn:
        """Return the turn of one of the tickets waiting here."""
        return self.turns[ticket].moved(self.back)

    def yields_to(self, earlier: Queue) -> bool:
        """Return whether granting from here can overtake the head of an earlier queue."""
        return not self.nested or earlier.lease is not None

    def note_pass(self, later: Queue) -> None:
        """Remember that the head of another queue was granted at the expense of this head."""
        if later.turn > self.turn and later.yields_to(self):
            self.overtaken_by.append(later.turn.moved(-self.back))
        else:
            self.pressed += 1

    def note_new_head(self) -> None:
        """Keep, for a new head, only the grants that overtook it as well."""
        if self.is_ranked:
            # All share a round, so turns do not tell who was there to be overtaken.
            self.overtaken_by.clear()
        turn = self.turns[self.head]
        self.overtaken_by = [other for other in self.overtaken_by if other > turn]
        self.pressed = self.moved = 0
        self.begin_as_head()

    def begin_as_head(self) -> None:
        """Another ticket is the head; it has had no turn anywhere."""
        self.passes.clear()
        self.back_when_head = self.owner.back_by_nests
