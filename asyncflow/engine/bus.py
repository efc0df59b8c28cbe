"""The event bus of a run: every subscriber has a cursor of its own.

A record is built only while somebody listens. A subscriber that does not read costs its
buffer and no more: it never slows the run, and learns by a :class:`Gap` what it missed.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Literal, Self

from asyncflow.events import Event, Gap
from asyncflow.quantities import at_least_one

__all__ = ["EventBus", "Overflow", "RuntimeBus", "Subscription"]

Overflow = Literal["drop_oldest", "close"]


class EventBus:
    """Numbers the events of one run and hands them to whoever listens."""

    def __init__(self, run_id: str, clock: Callable[[], float]) -> None:
        self.run_id = run_id
        self.clock = clock
        self.wall_clock = time.time
        self.sequence = 0
        self.earlier = 0  # what sequence was when this life of the run began
        self.listening = False
        self.closed = False
        self._subscriptions: list[Subscription] = []
        self._guests: list[Subscription] = []  # cursors over all runs; they outlive this bus

    def publish(self, kind: type[Event], **fields: Any) -> None:
        """Number an event and, if somebody listens, build and hand out its record."""
        self.sequence += 1
        if not self.listening:
            return
        self.hand_out(
            kind(
                sequence=self.sequence,
                run_id=self.run_id,
                wall_time=self.wall_clock(),
                monotonic_seconds=self.clock(),
                **fields,
            )
        )

    def hand_out(self, event: Event) -> None:
        """Give a record to everybody who listens."""
        for subscription in (*self._subscriptions, *self._guests):  # one that overflows leaves
            subscription.put(event)

    def count(self, events: int) -> None:
        """Number events that nobody listens to, without building them."""
        self.sequence += events

    def subscribe(self, since: int, buffer: int, overflow: Overflow) -> Subscription:
        """A new cursor; see :meth:`Run.events`."""
        subscription = Subscription(self, since, buffer, overflow)
        if self.closed:
            subscription.end()
        else:
            self._subscriptions.append(subscription)
            self.listening = True
        return subscription

    def drop(self, subscription: Subscription) -> None:
        """Forget a subscriber; a second time does nothing."""
        if subscription in self._subscriptions:
            self._subscriptions.remove(subscription)
        self._look_who_listens()

    def _look_who_listens(self) -> None:
        self.listening = bool(self._subscriptions or self._guests)

    def admit(self, guest: Subscription) -> None:
        """Let a cursor over all runs see this one."""
        self._guests.append(guest)
        self.listening = True

    def dismiss(self, guest: Subscription) -> None:
        """Undo :meth:`admit`."""
        if guest in self._guests:
            self._guests.remove(guest)
        self._look_who_listens()

    def close(self) -> None:
        """No event follows: every cursor ends after what it still holds."""
        self.closed = True
        self.listening = False
        for subscription in self._subscriptions:
            subscription.end()
        self._subscriptions.clear()
        self._guests.clear()

    def gap(self, missed: int, last: int) -> Gap:
        """The marker for events that a cursor does not have, ``last`` the latest of them."""
        return Gap(
            sequence=last,
            run_id=self.run_id,
            wall_time=self.wall_clock(),
            monotonic_seconds=self.clock(),
            missed=missed,
        )


class RuntimeBus(EventBus):
    """The events of all runs of a runtime, for cursors that see each run from its begin.

    Args:
        buses: those of the runs in progress.
    """

    def __init__(self, clock: Callable[[], float], buses: Callable[[], Iterable[EventBus]]) -> None:
        super().__init__("", clock)
        self._buses = buses

    def subscribe(self, since: int, buffer: int, overflow: Overflow) -> Subscription:
        subscription = super().subscribe(since, buffer, overflow)
        for bus in self._buses():
            bus.admit(subscription)
        return subscription

    def welcome(self, bus: EventBus) -> None:
        """A run begins: let every cursor see it."""
        for subscription in self._subscriptions:
            bus.admit(subscription)

    def drop(self, subscription: Subscription) -> None:
        super().drop(subscription)
        for bus in self._buses():
            bus.dismiss(subscription)


class Subscription:
    """An asynchronous iterator over events, with a bounded buffer.

    Use it in ``async for``; ``aclose()`` (any number of times) ends it early.
    """

    def __init__(self, bus: EventBus, since: int, buffer: int, overflow: Overflow) -> None:
        at_least_one("events(buffer=…)", buffer)
        if overflow not in ("drop_oldest", "close"):
            raise ValueError(f"events(overflow=…) is 'drop_oldest' or 'close', not {overflow!r}")
        self._bus = bus
        self._buffer: deque[Event] = deque()
        self._limit = buffer
        self._overflow = overflow
        self._since = since
        self._missed = max(0, bus.sequence - since)
        self._last_missed = bus.sequence
        self._cut_at = 0  # the first event that overflow="close" left out
        self._ended = False
        self._waiter: asyncio.Future[None] | None = None

    def put(self, event: Event) -> None:
        """Take an event, or note that it was missed."""
        if event.sequence <= self._since or self._ended:
            return
        if len(self._buffer) >= self._limit:
            if self._overflow == "close":
                self._cut_at = event.sequence
                self._ended = True
                self._bus.drop(self)
                return
            self._last_missed = self._buffer.popleft().sequence
            self._missed += 1
        self._buffer.append(event)
        self._wake()

    def end(self) -> None:
        """Stop after what is buffered."""
        self._ended = True
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        while not self._buffer and not self._missed and not self._ended:
            await self._event()
        if self._missed:
            missed, self._missed = self._missed, 0
            return self._bus.gap(missed, self._last_missed)
        if self._buffer:
            return self._buffer.popleft()
        if self._cut_at:
            cut_at, self._cut_at = self._cut_at, 0
            last = max(cut_at, self._bus.sequence)
            return self._bus.gap(last - cut_at + 1, last)
        raise StopAsyncIteration

    async def _event(self) -> None:
        """Wait until there is something to give, or the end."""
        if self._waiter is not None:
            # The first reader would never be woken.
            raise RuntimeError(
                "two tasks read one stream of events; call run.events() once for each"
            )
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    async def aclose(self) -> None:
        """Let go of the cursor; the iteration ends."""
        self._ended = True
        self._buffer.clear()
        self._missed = self._cut_at = 0
        self._bus.drop(self)
        self._wake()
