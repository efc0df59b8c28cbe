"""Who is next: the order of waiting requests, fair between owners and free of starvation.

**Turns.** A waiting request has a turn: a round, then its arrival. Each request of an owner
gets a later round than the one before it, and a round after the one being served, so owners
take turns one by one, a lone owner is served in order of arrival, and a stream of new owners
does not keep joining ahead of those that wait.

**Overtaking.** A request that fits may be granted before earlier ones that do not. It overtakes
those at whose expense it is: of something that both want (CPUs, memory, a device that would do
for both) it leaves less than the earlier one wants. Whatever shares nothing with a request, or
leaves it enough, passes freely and does not count. A request that was overtaken `max_overtakes`
times is closed: what it wants is kept for it, that is, nothing behind it may overtake it.

**Nests.** A nested request belongs to work that already holds capacity. It takes its owner's
next turn and moves the owner's other requests back by one round, so that what was started ends
before more is started. Nothing is kept from it, and it does not overtake: the request that is
closed may be waiting for what the work above the nested one holds. Memory and devices it takes
first from what that work holds, at nobody's expense. A request is pressed instead, each time
that something nested, or what a nest moved it behind, is granted at its expense. A request
pressed more than `max_overtakes` times shuts the line: nothing at all behind it is granted
outside nests, for any new work could bring a nest that presses it again.

**Ranks.** An owner may rank its requests. Those outside nests then share one round, the lowest
rank first, and when one is granted the others move on to the next round: the owner still has one
turn a round, and only which of its own requests takes it depends on the ranks.

**CPUs taken back** come before everything, and once closed they are kept from nests too:
whoever holds CPUs runs, so these turns always come, and until then the holder keeps its memory
from all others.

**Why every turn comes**, if each lease ends, each work nests a finite number of requests, and
the totals are not changed for ever. No request joins the round being served, so only finitely
many get a turn before the one that a request was given. If it shuts the line, then nothing moves
it back for ever, only finitely many remain ahead, no other work starts, the work there is ends
with its nests, and all is free. If it does not, there is a last time that it is overtaken or
pressed. From then on whatever is granted shares nothing with it or leaves it enough, and leases
that end only add to that; so once the leases from before have ended, memory and devices suffice
for good. CPUs can fall short again only where lenders take theirs back; then nothing takes any
of what is short, so there are no new lenders, and once enough of them have ended, everything it
wants is free at the same moment. A ranked request has its turn once those of its owner that rank
before it have had theirs; they are as many as the owner goes on to ask for.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from heapq import heappop, heappush
from operator import attrgetter
from typing import NamedTuple

from asyncflow.engine.capacity import Demand, Lease, Reserve

__all__ = ["Line", "Queue", "Turn"]

_OWNERS_BEFORE_SWEEP = 64
_NO_ROUND = -1


class Turn(NamedTuple):
    """A place in the order: earlier rounds first, then lower ranks, then earlier arrivals."""

    round: int
    rank: float
    arrival: int

    def moved(self, rounds: int) -> Turn:
        """Return the turn so many rounds later."""
        return Turn(self.round + rounds, self.rank, self.arrival)


_FIRST = Turn(_NO_ROUND, 0.0, 0)
# Demand, whether nested, and the lease whose memory and devices it may use.
QueueKey = tuple[Demand, bool, Lease | None]


def _no_rounds() -> dict[bool, int]:
    return {False: _NO_ROUND, True: _NO_ROUND}


@dataclass(eq=False, slots=True)
class _Owner:
    """How far one owner has come.

    `last` and `granted` are the latest rounds given and granted, for requests that are nested
    (True) and not (False). `back` counts the rounds that nests, and for a ranked owner its own
    grants, moved the others back by.
    """

    name: Hashable
    ranked: bool = False
    back: int = 0
    last: dict[bool, int] = field(default_factory=_no_rounds)
    granted: dict[bool, int] = field(default_factory=_no_rounds)
    queues: dict[QueueKey, Queue] = field(default_factory=dict)

    def next_round(self, nested: bool, joined: int) -> int:
        if self.ranked and not nested and self.queues_of(nested=False):
            return self.last[False]
        own = self.last[True] if nested else max(self.last.values())
        return max(joined, own + 1)

    def queues_of(self, nested: bool) -> list[Queue]:
        return [queue for queue in self.queues.values() if queue.nested is nested]


@dataclass(eq=False, slots=True)
class Queue:
    """Waiting requests of one owner for one demand, in order of arrival: only the head competes.

    Nested ones that may take from what the work above them holds wait apart for each such work:
    one may fit where another does not.

    `turns` and `overtaken_by` are counted without the owner's `back`, so that moving a queue
    back need not touch them; `by_rank` is a heap of them where they are ranked, with some that have
    left. `turn` is the head's, as it is listed; `first_turn` is what it was
    when it became head, before nests moved it back. `wanted` is what a grant takes. `lease` is
    set if this is the one request to take that lease's CPUs back. `under` is the lease above these
    requests, where they ask for memory or devices and it, or one above it, has any.
    """

    owner: _Owner
    demand: Demand
    wanted: Demand
    nested: bool
    lease: Lease | None = None
    under: Lease | None = None
    turn: Turn = _FIRST
    first_turn: Turn = _FIRST
    turns: OrderedDict[Hashable, Turn] = field(default_factory=OrderedDict)
    by_rank: list[tuple[Turn, Hashable]] = field(default_factory=list)
    overtaken_by: list[Turn] = field(default_factory=list)
    pressed: int = 0

    @property
    def back(self) -> int:
        """Rounds to add to the turns kept here."""
        return 0 if self.nested else self.owner.back

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
        self.pressed = 0
        self.first_turn = self.turn_of(self.head)


_by_turn = attrgetter("turn")


class Line:
    """All waiting requests, in the order of their turns.

    Finding the next one costs as much as there are distinct demands, however many wait.

    Parameters:
        max_overtakes: how often a request may be overtaken before what it wants is kept for it.
    """

    def __init__(self, max_overtakes: int) -> None:
        self.max_overtakes = max_overtakes
        self.heads: list[Queue] = []  # by turn; a queue is in here exactly while it has turns
        self._waiting: dict[Hashable, Queue] = {}
        self._moved: set[Queue] = set()  # whose heads are not where they were first
        self._owners: dict[Hashable, _Owner] = {}
        self._sweep_owners_at = _OWNERS_BEFORE_SWEEP
        self._arrivals = 0
        self._latest_round = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def queue_of(self, ticket: Hashable) -> Queue | None:
        """Return the queue a ticket waits in, None if it does not wait."""
        return self._waiting.get(ticket)

    def tickets(self) -> list[Hashable]:
        """Return all waiting tickets in the order of their turns."""
        turns = {ticket: queue.turn_of(ticket) for ticket, queue in self._waiting.items()}
        return sorted(turns, key=turns.__getitem__)

    def tickets_of(self, owner: Hashable) -> list[Hashable]:
        """Return an owner's waiting tickets."""
        return [ticket for ticket, queue in self._waiting.items() if queue.owner.name == owner]

    # -------------------------------------------------------- joining, leaving

    def join(
        self,
        ticket: Hashable,
        demand: Demand,
        owner: Hashable,
        *,
        nested: bool,
        rank: float | None = None,
        under: Lease | None = None,
    ) -> bool:
        """Add a request; return whether it is the head of its queue.

        Parameters:
            ticket, demand, owner, nested: the request.
            under: the lease that it may take memory and devices from.
            rank: its place among those of its owner, lower first; None for arrival order. The
                first request that an owner has waiting decides whether it ranks them.
        """
        account = self._owner(owner)
        if not account.queues:
            account.ranked = rank is not None
        turn = self._next_turn(account, nested, rank)
        key = (demand, nested, under)
        queue = account.queues.get(key)
        if queue is None:
            queue = account.queues[key] = Queue(account, demand, demand, nested, under=under)
        return self._append(queue, ticket, turn.moved(-queue.back))

    def join_first(
        self, ticket: Hashable, wanted: Demand, owner: Hashable, *, lease: Lease
    ) -> None:
        """Add the request of a lease to take its CPUs back."""
        queue = Queue(self._owner(owner), wanted, wanted, True, lease)
        self._arrivals += 1
        self._append(queue, ticket, _FIRST._replace(arrival=self._arrivals))

    def leave(self, ticket: Hashable) -> Queue:
        """Remove a request; return the queue it waited in."""
        queue = self._waiting.pop(ticket)
        headed = queue.head == ticket
        if headed:
            self._unlist(queue)
            self._moved.discard(queue)
        del queue.turns[ticket]
        if not queue.turns:
            self._retire(queue)
        elif headed:
            queue.note_new_head()
            self._list(queue)
        return queue

    def leave_granted(self, queue: Queue, at_expense_of: Iterable[Queue]) -> Hashable:
        """Remove the head of a queue because it was granted; return its ticket.

        Parameters:
            queue: the queue.
            at_expense_of: those `passed_by` it whose heads it leaves too little.
        """
        for earlier in at_expense_of:
            earlier.note_pass(queue)
        if queue.lease is None:
            granted, round_ = queue.owner.granted, queue.turn.round
            granted[queue.nested] = max(granted[queue.nested], round_)
            self._latest_round = max(self._latest_round, round_)
        ticket = queue.head
        self.leave(ticket)
        if queue.is_ranked and len(self.heads) > len(queue.owner.queues):
            self._move_back(queue.owner, by_nest=False)
        return ticket

    def _append(self, queue: Queue, ticket: Hashable, turn: Turn) -> bool:
        self._waiting[ticket] = queue
        if not queue.add(ticket, turn):
            return False
        if len(queue.turns) > 1:
            # It ranks before the head, and is held up by what held that up.
            self._unlist(queue)
            self._moved.discard(queue)
            queue.first_turn = queue.turn_of(ticket)
        else:
            queue.note_new_head()
        self._list(queue)
        return True

    def _retire(self, queue: Queue) -> None:
        if queue.lease is not None:
            return
        account, nested = queue.owner, queue.nested
        del account.queues[queue.demand, nested, queue.under]
        if not account.queues_of(nested):
            # Rounds that were withdrawn, not granted, must not count against the owner.
            account.last[nested] = account.granted[nested]

    def _list(self, queue: Queue) -> None:
        queue.turn = queue.turn_of(queue.head)
        insort(self.heads, queue, key=_by_turn)

    def _unlist(self, queue: Queue) -> None:
        del self.heads[bisect_left(self.heads, queue.turn, key=_by_turn)]

    # ----------------------------------------------------------------- rounds

    def _owner(self, name: Hashable) -> _Owner:
        account = self._owners.get(name)
        if account is None:
            if len(self._owners) >= self._sweep_owners_at:
                self._sweep_owners()
            account = self._owners[name] = _Owner(name)
        return account

    def _sweep_owners(self) -> None:
        """Drop owners whose past no longer counts, or a long-lived line would only grow."""
        joined = self._round_to_join()
        waiting = {queue.owner for queue in self.heads}
        for account in list(self._owners.values()):
            if account not in waiting and max(account.granted.values()) < joined:
                del self._owners[account.name]
        self._sweep_owners_at = max(_OWNERS_BEFORE_SWEEP, 2 * len(self._owners))

    def _round_to_join(self) -> int:
        """Return the round a newcomer joins: after that of the last grants or, if older, waiters.

        Joining that very round would keep it open, and all later ones waiting, for as long as
        newcomers come.
        """
        for queue in self.heads:
            if queue.lease is None:
                return 1 + min(queue.turn.round, self._latest_round)
        return 1 + self._latest_round

    def _next_turn(self, account: _Owner, nested: bool, rank: float | None) -> Turn:
        round_ = account.next_round(nested, self._round_to_join())
        account.last[nested] = round_
        if nested:
            self._move_back(account, by_nest=True)
        self._arrivals += 1
        if rank is None or nested or not account.ranked:
            rank = 0.0
        return Turn(round_, rank, self._arrivals)

    def _move_back(self, account: _Owner, *, by_nest: bool) -> None:
        """Move an owner's requests outside nests back by one round.

        Nests do it at the cost of those requests; an owner's own grant does not.
        """
        queues = account.queues_of(nested=False)
        if not queues:
            return
        for queue in queues:
            self._unlist(queue)
        account.back += 1
        account.last[False] += 1
        for queue in queues:
            if not by_nest:
                queue.first_turn = queue.first_turn.moved(1)
            self._list(queue)
        if by_nest:
            self._moved.update(queues)

    # ------------------------------------------------------------- overtaking

    def candidates(self) -> Iterator[tuple[Queue, Reserve]]:
        """Yield the queues whose heads may be granted, in order, and what each has to leave."""
        kept, kept_from_nests, shut = Reserve(), Reserve(), False
        for queue in self.heads:
            if queue.nested or not shut:
                yield queue, kept_from_nests if queue.nested else kept
            shut = shut or self.is_shutting(queue)
            if self.is_closed(queue):
                kept.add(queue.wanted)
                if queue.lease is not None:
                    kept_from_nests.add(queue.wanted)

    def earlier(self, turn: Turn) -> list[Queue]:
        """Return the queues whose heads come before this turn."""
        return self.heads[: bisect_left(self.heads, turn, key=_by_turn)]

    def passed_by(self, queue: Queue) -> list[Queue]:
        """Return the queues whose heads had an earlier turn at first than that of a queue."""
        turn = queue.turn
        moved = [other for other in self._moved if other.first_turn < turn < other.turn]
        return self.earlier(turn) + moved

    def is_closed(self, queue: Queue) -> bool:
        """Return whether the head of a queue has been overtaken as often as is allowed."""
        return len(queue.overtaken_by) >= self.max_overtakes

    def is_shutting(self, queue: Queue) -> bool:
        """Return whether nests have pressed the head of a queue more often than is allowed."""
        return queue.pressed > self.max_overtakes

    def count_before(self, ticket: Hashable) -> int:
        """Return how many requests have an earlier turn."""
        turn = self._waiting[ticket].turn_of(ticket)
        return sum(queue.turn_of(other) < turn for other, queue in self._waiting.items())

    def validate(self) -> None:
        """Check that all is in order; for tests.

        Raises:
            AssertionError: if it is not.
        """
        listed = [queue.turn for queue in self.heads]
        assert listed == sorted(set(listed)), "heads out of order"
        assert set(self.heads) == set(self._waiting.values())
        assert self._moved == {queue for queue in self.heads if queue.first_turn != queue.turn}
        assert sum(len(queue.turns) for queue in self.heads) == len(self._waiting)
        for queue in self.heads:
            turns = list(queue.turns.values())
            ordered = queue.is_ranked or turns == sorted(turns)
            assert ordered, f"a queue of {queue.owner.name!r} is out of order"
            assert queue.turn == queue.turn_of(queue.head)
            assert queue.turns[queue.head] == min(turns)
            assert all(other > min(turns) for other in queue.overtaken_by)
            assert len(queue.overtaken_by) <= self.max_overtakes
