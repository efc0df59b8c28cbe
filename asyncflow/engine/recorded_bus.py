"""The event bus of a run that records: its events come from the journal, also for late readers."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from asyncflow import events
from asyncflow.engine.bus import EventBus, Overflow, Subscription
from asyncflow.events import Event

if TYPE_CHECKING:
    from asyncflow.engine.recording import Recorder

__all__ = ["RecordedBus", "ReplayingSubscription"]

# So many events are read in one go beside the loop.
_PIECE: Final = 256


class RecordedBus(EventBus):
    """Hands what happens to the recorder, and hears of it again once it is recorded.

    Args:
        read: gives the recorded events after a number; called in a thread.

    Attributes:
        recorder: where events go; None where the run only gives back what was recorded.
    """

    def __init__(
        self,
        run_id: str,
        clock: Callable[[], float],
        read: Callable[[int], Iterator[Event]],
    ) -> None:
        self.recorder: Recorder | None = None
        self.heard = False
        super().__init__(run_id, clock)
        self.read = read

    @property
    def listening(self) -> bool:
        """Every event is wanted: by the journal."""
        return True

    @listening.setter
    def listening(self, heard: bool) -> None:
        self.heard = heard

    def publish(self, kind: type[Event], **fields: Any) -> None:
        recorder = self.recorder
        if recorder is None:
            return  # it happened, and was recorded, in an earlier life
        if kind is events.NodeFinished:
            recorder.closed(fields)
        elif kind is events.UnitFinished:
            recorder.unit_ended(fields["node"])
        else:
            recorder.happened(kind, fields)

    def subscribe(self, since: int, buffer: int, overflow: Overflow) -> Subscription:
        subscription = ReplayingSubscription(self, since, buffer, overflow)
        if self.closed:
            subscription.end()
        else:
            self._subscriptions.append(subscription)
            self.heard = True
        return subscription


class ReplayingSubscription(Subscription):
    """A cursor that first reads from the journal what it came too late for.

    While it does, it takes no events: it reads on until it has caught up.
    """

    _bus: RecordedBus

    def __init__(self, bus: RecordedBus, since: int, buffer: int, overflow: Overflow) -> None:
        super().__init__(bus, since, buffer, overflow)
        self._missed = 0
        self._cursor = since
        self._behind = bus.sequence > since
        self._pieces: Iterator[Event] | None = None
        self._piece: deque[Event] = deque()

    def put(self, event: Event) -> None:
        if not self._behind:
            super().put(event)

    async def __anext__(self) -> Event:
        while self._behind:
            if self._piece:
                event = self._piece.popleft()
                self._cursor = event.sequence
                return event
            await self._read_on()
        return await super().__anext__()

    async def _read_on(self) -> None:
        """Read the next piece; with nothing left to read, go over to what happens now."""
        if self._cursor >= self._bus.sequence:
            # No turn of the loop lies between this look and the next event.
            self._behind, self._pieces = False, None
            self._since = self._cursor
            return
        begins, until = self._pieces is None, self._bus.sequence
        if self._pieces is None:
            self._pieces = self._bus.read(self._cursor)
        pieces = self._pieces
        found = await asyncio.to_thread(lambda: list(islice(pieces, _PIECE)))
        # What is in the file may not count yet: it is read again when it does.
        told = [event for event in found if event.sequence <= self._bus.sequence]
        self._piece.extend(told)
        if len(told) < _PIECE:
            self._pieces = None
        if begins and not found:
            # After a failure of the disk there are events that are not in the journal.
            self._missed, self._last_missed = until - self._cursor, until
            self._behind, self._since = False, until

    async def aclose(self) -> None:
        self._behind, self._pieces = False, None
        self._piece.clear()
        await super().aclose()
