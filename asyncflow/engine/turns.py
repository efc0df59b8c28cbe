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

**Named keys.** A request that finds a key short waits at that key and not in the line, so that
granting costs the same however many wait. Others may take what else it wants meanwhile: it
could not start anyway. At each key owners take turns, see `asyncflow.engine.waiters`. A request
that has had its turn there is back in the line at its old place; if it must wait at another
key, it comes first when it is back at this one, and each such move counts like an overtake. A
closed request stays in the line: the keys it wants are kept for it like anything else, tokens of
a rate only once all else is free.

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
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from operator import attrgetter

from asyncflow.engine.capacity import Demand, Lease, Reserve
from asyncflow.engine.named import Key, NamedCapacity
from asyncflow.engine.queues import FIRST, Owner, Queue, Turn
from asyncflow.engine.shelves import Shelf, Shelves

__all__ = ["Line", "Queue", "Turn"]

_OWNERS_BEFORE_SWEEP = 64

_by_turn = attrgetter("turn")


class Line:
    """All waiting requests, in the order of their turns.

    Finding the next one costs as much as there are distinct demands, however many wait.

    Parameters:
        max_overtakes: how often a request may be overtaken before what it wants is kept for it.
        named: the named keys; who waits at one is not in the way of others.
    """

    def __init__(self, max_overtakes: int, named: NamedCapacity) -> None:
        self.max_overtakes = max_overtakes
        self.named = named
        self.heads: list[Queue] = []  # by turn; a queue with turns is in here or parked
        self.parked: dict[Queue, None] = {}
        self._shelves = Shelves()
        self._waiting: dict[Hashable, Queue] = {}
        self._moved: set[Queue] = set()  # whose heads are not where they were first
        self._owners: dict[Hashable, Owner] = {}
        self._sweep_owners_at = _OWNERS_BEFORE_SWEEP
        self._arrivals = 0
        self._latest_round = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def queue_of(self, ticket: Hashable) -> Queue | None:
        """Return the queue a ticket waits in, None if it does not wait."""
        return self._waiting.get(ticket)

    def queues(self) -> Iterator[Queue]:
        """All queues, listed or parked."""
        yield from self.heads
        yield from self.parked

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
        if not (account.queues[False] or account.queues[True]):
            account.ranked = rank is not None
        turn = self._next_turn(account, nested, rank)
        queues = account.queues[nested]
        queue = queues.get((demand, under))
        if queue is None:
            queue = queues[demand, under] = Queue(account, demand, demand, nested, under=under)
        return self._append(queue, ticket, turn.moved(-queue.back))

    def join_first(
        self, ticket: Hashable, wanted: Demand, owner: Hashable, *, lease: Lease
    ) -> None:
        """Add the request of a lease to take its CPUs back."""
        queue = Queue(self._owner(owner), wanted, wanted, True, lease)
        self._arrivals += 1
        self._append(queue, ticket, FIRST._replace(arrival=self._arrivals))

    def leave(self, ticket: Hashable) -> Queue:
        """Remove a request; return the queue it waited in."""
        queue = self._waiting.pop(ticket)
        headed = queue.head == ticket
        if headed:
            self._unlist(queue)
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
        if queue.is_ranked and self._has_others(queue.owner):
            self._move_back(queue.owner, by_nest=False)
        return ticket

    def _has_others(self, account: Owner) -> bool:
        own = sum(map(len, account.queues.values()))
        return len(self.heads) + len(self.parked) > own

    def _append(self, queue: Queue, ticket: Hashable, turn: Turn) -> bool:
        self._waiting[ticket] = queue
        if not queue.add(ticket, turn):
            return False
        if len(queue.turns) > 1:
            # It ranks before the head, and is held up by what held that up.
            self._unlist(queue)
            queue.begin_as_head()
        else:
            queue.note_new_head()
        self._list(queue)
        return True

    def _retire(self, queue: Queue) -> None:
        if queue.lease is not None:
            return
        account, nested = queue.owner, queue.nested
        del account.queues[nested][queue.demand, queue.under]
        if not account.queues[nested]:
            # Rounds that were withdrawn, not granted, must not count against the owner.
            account.last[nested] = account.granted[nested]

    def _list(self, queue: Queue) -> None:
        queue.turn = queue.turn_of(queue.head)
        insort(self.heads, queue, key=_by_turn)
        if queue.first_turn != queue.turn:
            self._moved.add(queue)

    def _unlist(self, queue: Queue) -> None:
        """Take a queue out of the line, or from the key it waits at."""
        if queue.parked is None:
            self.named.settle_offer(queue)
            self._shelves.leave(queue)
            self._take_out(queue)
            return
        del self.parked[queue]
        if isinstance(queue.parked, Shelf):
            self._shelves.remove(queue.parked, queue)
            queue.parked = None
        else:
            self.named.unpark(queue)

    def _take_out(self, queue: Queue) -> None:
        del self.heads[bisect_left(self.heads, queue.turn, key=_by_turn)]
        self._moved.discard(queue)

    # -------------------------------------------------------------- named keys

    def park(self, short: Mapping[Queue, Key]) -> bool:
        """Let listed queues wait at a key each, where they are in nobody's way.

        Returns:
            Whether all do; those that this closes stay in the line.
        """
        parked = len(self.parked)
        for queue, key in short.items():
            if queue.passes:
                queue.moved += 1
            if not self.stays(queue):
                self._shelves.leave(queue)
                self._take_out(queue)
                self.parked[queue] = None
                self.named.park(queue, key)
            self.named.settle_offer(queue)
        return len(self.parked) == parked + len(short)

    def may_be_shelved(self, queue: Queue) -> bool:
        """Whether a listed queue fits whenever others do that want the same besides keys."""
        alike = queue.lease is None and queue.under is None
        return alike and queue.shelf is None and not self.stays(queue)

    def shelve(self, queue: Queue) -> None:
        """What a listed queue wants besides keys does not fit: one stands in the line for all."""
        shelf = self._shelves.of(queue)
        front = shelf.front
        if front is queue:
            return
        if front is None and not len(shelf):
            shelf.front, queue.shelf = queue, shelf
            return
        if front is not None and queue.turn < front.turn:
            shelf.front, queue.shelf, front.shelf = queue, shelf, None
            queue = front
        self._take_out(queue)
        self.parked[queue] = None
        queue.parked = shelf
        shelf.add(queue)

    def step_aside(self, queue: Queue) -> None:
        """A queue waits for something that others on its shelf may not want."""
        self._shelves.leave(queue)

    def stays(self, queue: Queue) -> bool:
        """Whether a queue stays in the line whatever it waits for."""
        return self.is_closed(queue) or self.is_shutting(queue)

    def list_offered(self, now: float, *, most: int) -> bool:
        """List those that have their turn at a key that has enough, or on a shelf.

        Returns:
            Whether there are any.
        """
        fronts = False
        while (front := self._shelves.next_front()) is not None:
            del self.parked[front]
            self._list(front)
            fronts = True
        for count in range(most):
            found = self.named.offer(now)
            if found is None:
                return count > 0 or fronts
            queue, passed = found
            del self.parked[queue]
            self._list(queue)
            if passed is not None:
                self._press(passed)
        return True

    def _press(self, passed: Queue) -> None:
        """A nested request went before one that waits at a key."""
        passed.pressed += 1
        if self.is_shutting(passed):
            self._unlist(passed)
            self._list(passed)

    # ----------------------------------------------------------------- rounds

    def _owner(self, name: Hashable) -> Owner:
        account = self._owners.get(name)
        if account is None:
            if len(self._owners) >= self._sweep_owners_at:
                self._sweep_owners()
            account = self._owners[name] = Owner(name)
        return account

    def _sweep_owners(self) -> None:
        """Drop owners whose past no longer counts, or a long-lived line would only grow."""
        joined = self._round_to_join()
        waiting = {queue.owner for queue in self._waiting.values()}
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

    def _next_turn(self, account: Owner, nested: bool, rank: float | None) -> Turn:
        round_ = account.next_round(nested, self._round_to_join())
        account.last[nested] = round_
        if nested:
            self._move_back(account, by_nest=True)
        self._arrivals += 1
        if rank is None or nested or not account.ranked:
            rank = 0.0
        return Turn(round_, rank, self._arrivals)

    def _move_back(self, account: Owner, *, by_nest: bool) -> None:
        """Move an owner's requests outside nests back by one round.

        Nests do it at the cost of those requests; an owner's own grant does not.
        """
        queues = account.queues[False]
        if not queues:
            return
        # Where owners wait at a key their turns play no part.
        listed = [queue for queue in queues.values() if queue.parked is None]
        for queue in listed:
            self._take_out(queue)
        account.back += 1
        account.back_by_nests += by_nest
        account.last[False] += 1
        for queue in listed:
            self._list(queue)

    # ------------------------------------------------------------- overtaking

    def candidates(self, keep: Callable[[Queue], Demand]) -> Iterator[tuple[Queue, Reserve]]:
        """Yield the queues whose heads may be granted, in order, and what each has to leave.

        Parameters:
            keep: what is kept for a closed queue.
        """
        kept, kept_from_nests, shut = Reserve(), Reserve(), False
        for queue in self.heads:
            if queue.nested or not shut:
                yield queue, kept_from_nests if queue.nested else kept
            shut = shut or self.is_shutting(queue)
            if self.is_closed(queue):
                wanted = keep(queue)
                kept.add(wanted)
                if queue.lease is not None:
                    kept_from_nests.add(wanted)

    def earlier(self, turn: Turn) -> list[Queue]:
        """Return the queues whose heads come before this turn."""
        return self.heads[: bisect_left(self.heads, turn, key=_by_turn)]

    def passed_by(self, queue: Queue) -> list[Queue]:
        """Return the queues whose heads had an earlier turn at first than that of a queue."""
        turn = queue.turn
        moved = [other for other in self._moved if other.first_turn < turn < other.turn]
        return self.earlier(turn) + moved

    def is_closed(self, queue: Queue) -> bool:
        """Return whether the head of a queue has been overtaken as often as is allowed.

        Having had its turn at a key and then waiting again, because it could not have all it
        wants at the same moment, counts as well.
        """
        return len(queue.overtaken_by) + queue.moved >= self.max_overtakes

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
        assert {*self.heads, *self.parked} == set(self._waiting.values())
        assert self._moved == {queue for queue in self.heads if queue.first_turn != queue.turn}
        assert not any(queue.parked for queue in self.heads)
        for queue in self.parked:
            place = queue.parked
            assert place is not None
            assert queue in (place if isinstance(place, Shelf) else place.waiters)
        for queue in self.heads:
            assert queue.shelf is None or queue.shelf.front is queue
        assert sum(len(queue.turns) for queue in self.queues()) == len(self._waiting)
        for queue in self.heads:
            assert queue.turn == queue.turn_of(queue.head)
        for queue in self.queues():
            turns = list(queue.turns.values())
            ordered = queue.is_ranked or turns == sorted(turns)
            assert ordered, f"a queue of {queue.owner.name!r} is out of order"
            assert queue.turns[queue.head] == min(turns)
            assert all(other > min(turns) for other in queue.overtaken_by)
            assert len(queue.overtaken_by) <= self.max_overtakes
