"""Named capacity: how many hold a key, and how often it was taken. Pure: time is passed in.

A key with a number is held while an attempt runs. A key with a :class:`Rate` is taken when an
attempt starts, and comes back with time alone: a log of the starts in the last window sees to
it that no window has too many, a bucket of tokens that no more start at one moment than its
burst allows.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Collection, Iterable
from heapq import heappop, heappush
from itertools import count
from math import inf, nextafter
from typing import TYPE_CHECKING

from asyncflow.engine.waiters import Waiters
from asyncflow.limits import Definitions, Keys, Limit, Rate

if TYPE_CHECKING:
    from asyncflow.engine.capacity import Lease
    from asyncflow.engine.queues import Queue

__all__ = ["Key", "NamedCapacity", "Slots", "Taken", "Tokens"]

_KEYS_BEFORE_SWEEP = 64


class Taken:
    """One start that a rate counts: when, and for how many."""

    __slots__ = ("at", "key", "weight")

    def __init__(self, key: Tokens, at: float, weight: int) -> None:
        self.key, self.at, self.weight = key, at, weight


class Key(ABC):
    """One key, and who waits at it.

    ``offered`` has had its turn here and is among those that may be granted; until that is
    decided nobody else is offered this key. ``due`` is when to look at it again.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.waiters = Waiters()
        self.offered: Queue | None = None
        self.is_to_be_offered = False
        self.due = inf

    @property
    @abstractmethod
    def most_at_once(self) -> int:
        """How much one request may take; 0 while nothing may be taken."""

    @abstractmethod
    def ready_at(self, weight: int) -> float:
        """When there is enough, if nothing is taken or given back; infinity for never."""

    @abstractmethod
    def is_idle(self, now: float) -> bool:
        """Whether forgetting what happened at this key changes nothing."""

    @abstractmethod
    def change(self, limit: Limit, now: float) -> None:
        """Give it another limit of the same kind."""

    def needs(self, weight: int) -> int:
        """What a request takes: as it was asked for, or all if the limit has become smaller."""
        return min(weight, self.most_at_once) or weight

    def leaves(self, weight: int, taken: int, now: float) -> bool:
        """Whether there is still enough for a request after another took so much."""
        return self.ready_at(self.needs(weight) + taken) <= now

    def ready_for(self, queue: Queue) -> float:
        """When there is enough for a queue."""
        return self.ready_at(self.needs(weight_of(queue.wanted.keys, self.name)))


class Slots(Key):
    """A key that so many may hold at once."""

    def __init__(self, name: str, total: int) -> None:
        super().__init__(name)
        self.total = total
        self.held = 0

    @property
    def most_at_once(self) -> int:
        return self.total

    @property
    def free(self) -> int:
        """What nobody holds; negative after the total was made smaller."""
        return self.total - self.held

    def ready_at(self, weight: int) -> float:
        return -inf if weight <= self.free else inf

    def is_idle(self, now: float) -> bool:
        return not self.held

    def change(self, limit: Limit, now: float) -> None:
        assert isinstance(limit, int)
        self.total = limit


class Tokens(Key):
    """A key that may be taken so often in a time.

    ``full_at`` is when the bucket is (or was) full if nothing more is taken; ``log`` has the
    starts of the last window. ``short``: somebody waits for tokens that are dripping in. A
    token that does so while it is waited for is not lost when it is taken a little late, or a
    late timer would waste part of the allowance each time.
    """

    def __init__(self, name: str, rate: Rate) -> None:
        super().__init__(name)
        self.rate = rate
        self.full_at = -inf
        self.log: deque[Taken] = deque()
        self.in_log = 0
        self.short = False

    @property
    def most_at_once(self) -> int:
        return self.rate.most_at_once

    @property
    def _spacing_seconds(self) -> float:
        return self.rate.window_seconds / self.rate.n

    def ready_at(self, weight: int) -> float:
        rate = self.rate
        if not rate.n:
            return inf
        if weight > rate.most_at_once:
            return inf
        return max(
            self.full_at + (weight - rate.most_at_once) * self._spacing_seconds,
            self._window_has_room_at(weight),
        )

    def _window_has_room_at(self, weight: int) -> float:
        excess = self.in_log + weight - self.rate.most
        if excess <= 0:
            return -inf
        latest = -inf
        for taken in self.log:
            latest = max(latest, taken.at)
            excess -= taken.weight
            if excess <= 0:
                break
        return _after(latest, self.rate.window_seconds)

    def take(self, weight: int, now: float) -> Taken:
        """Count a start."""
        self._forget(now)
        spacing = self._spacing_seconds
        # Just below a whole token, or one more than the burst could start at one moment.
        since = now - 0.999 * spacing if self.short else now
        self.full_at = max(self.full_at, since) + weight * spacing
        self.short = bool(self.waiters)
        taken = Taken(self, now, weight)
        self.log.append(taken)
        self.in_log += weight
        return taken

    def give_back(self, taken: Taken) -> None:
        """Nothing started after all."""
        if taken.weight and self.rate.n:
            self.full_at -= taken.weight * self._spacing_seconds
        self.in_log -= taken.weight
        taken.weight = 0

    def _forget(self, now: float) -> None:
        log, window = self.log, self.rate.window_seconds
        while log and _after(log[0].at, window) <= now:
            self.in_log -= log.popleft().weight

    def is_idle(self, now: float) -> bool:
        self._forget(now)
        return not self.log and self.full_at <= now

    def change(self, limit: Limit, now: float) -> None:
        assert isinstance(limit, Rate)
        missing = max(0.0, self.full_at - now) / self._spacing_seconds if self.rate.n else 0.0
        self.rate = limit
        if limit.n:
            self.full_at = now + missing * self._spacing_seconds


def _after(at: float, seconds: float) -> float:
    """The first moment at which a window that began then is over, to the last digit."""
    when = nextafter(at + seconds, inf)
    while when - at <= seconds and when < inf:
        when = nextafter(when, inf)
    return when


def weight_of(keys: Keys, name: str) -> int:
    """How much of a key is wanted; 0 where it is not among them."""
    return next((weight for key, weight in keys if key == name), 0)


class NamedCapacity:
    """All keys of one limiter.

    Only those that are held, waited at or were taken lately take memory: a pattern may stand
    for any number of them.
    """

    def __init__(self, definitions: Definitions) -> None:
        self.definitions = definitions
        self.open: dict[str, Key] = {}
        self._to_offer: deque[Key] = deque()
        self._due: list[tuple[float, int, Key]] = []
        self._counter = count()
        self._sweep_at = _KEYS_BEFORE_SWEEP

    # -- keys ----------------------------------------------------------------------------

    def key(self, name: str, now: float) -> Key:
        """A key by its name; it is defined."""
        found = self.open.get(name)
        if found is None:
            if len(self.open) >= self._sweep_at:
                self._sweep(now)
            defined = self.definitions.defined_as(name)
            assert defined is not None, name
            limit = self.definitions.limit_of(defined)
            found = Tokens(name, limit) if isinstance(limit, Rate) else Slots(name, limit)
            self.open[name] = found
        return found

    def _sweep(self, now: float) -> None:
        for key in list(self.open.values()):
            self._close_if_idle(key, now)
        self._sweep_at = max(_KEYS_BEFORE_SWEEP, 2 * len(self.open))

    def _close_if_idle(self, key: Key, now: float) -> None:
        if not key.waiters and key.offered is None and key.is_idle(now):
            del self.open[key.name]

    def unknown(self, keys: Keys) -> str | None:
        """The sentence about the first of these that is not defined, or None."""
        for name, _ in keys:
            if name not in self.open and self.definitions.defined_as(name) is None:
                return self.definitions.unknown(name)
        return None

    def refusal(self, keys: Keys) -> str | None:
        """Why these can never be had together, or None if they can."""
        why = self.unknown(keys)
        if why is not None:
            return why
        for name, weight in keys:
            defined = self.definitions.defined_as(name)
            assert defined is not None
            limit = self.definitions.limit_of(defined)
            most = limit.most_at_once if isinstance(limit, Rate) else limit
            if 0 < most < weight:
                return f"{weight} of the limit {name!r} asked for at once, but there are {most}."
        return None

    def refusal_within(self, keys: Keys, above: Iterable[Lease]) -> str | None:
        """Why these cannot be had as long as the leases above are held, or None if they can."""
        for name, weight in keys:
            key = self.open.get(name)
            holders = [lease for lease in above if weight_of(lease.keys, name)]
            if not isinstance(key, Slots) or not holders:
                continue
            held = sum(weight_of(lease.keys, name) for lease in holders)
            if 0 < key.total < weight + held:
                names = " and ".join(repr(lease.ticket) for lease in holders)
                return (
                    f"{weight} of the limit {name!r} asked for, but of {key.total} the work that "
                    f"it is nested in holds {held} ({names}) and waits for it."
                )
        return None

    def change(self, name: str, limit: Limit, now: float) -> None:
        """Give a defined key, or all that a pattern stands for, another limit."""
        self.definitions.change(name, limit)
        for key in self.open.values():
            if self.definitions.defined_as(key.name) == name:
                key.change(limit, now)
                self.look_at(key)

    # -- taking, giving back -------------------------------------------------------------

    def fits(self, keys: Keys, now: float) -> bool:
        """Whether all of these are there now."""
        for name, weight in keys:
            key = self.key(name, now)
            if key.ready_at(key.needs(weight)) > now:
                return False
        return True

    def take(self, keys: Keys, now: float) -> tuple[Keys, tuple[Taken, ...]]:
        """Take what is there; returns what is held, and what was counted as starts."""
        held: list[tuple[str, int]] = []
        taken: list[Taken] = []
        for name, weight in keys:
            key = self.key(name, now)
            weight = key.needs(weight)
            if isinstance(key, Tokens):
                taken.append(key.take(weight, now))
            else:
                assert isinstance(key, Slots)
                key.held += weight
                held.append((name, weight))
        return tuple(held), tuple(taken)

    def give_back(self, held: Keys, now: float) -> None:
        """What was held is free again."""
        for name, weight in held:
            key = self.open[name]
            assert isinstance(key, Slots)
            key.held -= weight
            if key.waiters:
                self.look_at(key)
            else:
                self._close_if_idle(key, now)

    def undo(self, taken: Iterable[Taken]) -> None:
        """What was counted as starts did not start."""
        for one in taken:
            one.key.give_back(one)
            self.look_at(one.key)

    def falls_short(self, of: Keys, taken: Keys, now: float) -> bool:
        """Whether taking these leaves too little of a key that another request wants too."""
        return any(
            not self.key(name, now).leaves(wanted, self.key(name, now).needs(weight), now)
            for name, weight in taken
            if (wanted := weight_of(of, name))
        )

    def lasting(self, keys: Keys) -> Keys:
        """Those that are held; tokens, which come back by themselves, left out."""
        defined, limit_of = self.definitions.defined_as, self.definitions.limit_of
        return tuple(
            (name, weight)
            for name, weight in keys
            if not isinstance(limit_of(defined(name) or name), Rate)
        )

    # -- waiting -------------------------------------------------------------------------

    def short_of(self, queue: Queue, now: float, short: Collection[Key] | None) -> Key | None:
        """The key at which a queue has to wait before it can be granted, if any.

        Parameters:
            queue, now: the queue and the time.
            short: keys at which earlier ones are about to wait; None if it need not take turns.
        """
        for name, weight in queue.wanted.keys:
            key = self.key(name, now)
            had_its_turn = short is None or name in queue.passes
            if not had_its_turn and (key.waiters or key in (short or ())):
                return key
            if key.ready_at(key.needs(weight)) > now:
                return key
        return None

    def park(self, queue: Queue, key: Key) -> None:
        """Let a queue wait at a key."""
        queue.parked = key
        key.waiters.add(queue, first=queue.lease is not None or key.name in queue.passes)
        if isinstance(key, Tokens):
            key.short = True
        self.look_at(key)

    def unpark(self, queue: Queue) -> None:
        """A queue waits at a key no longer."""
        key = queue.parked
        assert isinstance(key, Key)
        key.waiters.remove(queue)
        queue.parked = None
        self.look_at(key)

    def look_at(self, key: Key) -> None:
        """See that whoever waits at a key has its turn when there is enough."""
        if key.waiters and key.offered is None and not key.is_to_be_offered:
            key.is_to_be_offered = True
            self._to_offer.append(key)

    def settle_offer(self, queue: Queue) -> None:
        """It is decided what becomes of a queue that was offered a key."""
        key = queue.offered_by
        if key is not None:
            queue.offered_by = key.offered = None
            self.look_at(key)

    def offer(self, now: float) -> tuple[Queue, Queue | None] | None:
        """Let go the next one that waits at a key that has enough now.

        Returns:
            The queue, and the one outside nests that it passed; None if there is none.
        """
        while self._due and self._due[0][0] <= now:
            when, _, key = heappop(self._due)
            if key.due == when:
                key.due = inf
                self.look_at(key)
        while self._to_offer:
            key = self._to_offer.popleft()
            key.is_to_be_offered = False
            if key.offered is not None or not key.waiters:
                continue
            found = key.waiters.find(key.ready_for, now)
            queue = found.queue
            if queue is not None:
                key.waiters.remove(queue)
                key.offered, queue.offered_by, queue.parked = queue, key, None
                queue.passes.add(key.name)
                return queue, found.passed if queue.nested else None
            if found.soonest < inf and found.soonest != key.due:
                key.due = found.soonest
                heappush(self._due, (found.soonest, next(self._counter), key))
        return None

    def wake_at(self) -> float:
        """When it is worth looking again, if nothing happens before; infinity for never."""
        while self._due:
            when, _, key = self._due[0]
            if key.due == when and key.waiters:
                return when
            heappop(self._due)
            if key.due == when:
                key.due = inf
        return inf
