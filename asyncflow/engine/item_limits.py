"""The named keys of a stream's calls, asked of a runtime's limiter like those of steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from asyncflow.engine.capacity import Demand
from asyncflow.engine.limiter import Lease
from asyncflow.errors import CapacityError, StepFailed, text_of
from asyncflow.limits import Keys, keys_of

if TYPE_CHECKING:
    from asyncflow.engine.items import ItemCall
    from asyncflow.engine.scheduler import Scheduler

__all__ = ["ItemKeys", "ItemLimits", "ItemRequest"]

# The keys that every item takes, or what works them out of an item.
ItemKeys = Keys | Callable[[Any], Any]


class ItemRequest(msgspec.Struct, eq=False):
    """A call that waits for its keys; a ticket of the limiter."""

    call: ItemCall
    limits: ItemLimits

    def __repr__(self) -> str:
        return f"item {self.call.place} of {self.call.name!r}"

    def granted(self, lease: Lease) -> None:
        """The keys are there."""
        self.limits.granted(self, lease)


class ItemLimits:
    """What the calls of one iteration take, and what they wait for.

    Args:
        scheduler: whose limiter is asked; it shares fairly between streams and runs.
        name: of the function that is called.
        keys: what each item takes.
        above: the leases of the step that iterates, and of those it is nested in.

    Raises:
        CapacityError: what every item takes can never be had.

    Attributes:
        start, refuse: told of a call whose keys are there, or of why they never will be.
    """

    def __init__(self, scheduler: Scheduler, name: str, keys: ItemKeys, above: list[Lease]) -> None:
        self._scheduler = scheduler
        self._keys = keys
        self._above = above
        self._requests: dict[ItemCall, ItemRequest] = {}
        self._is_closed = False
        self.start: Callable[[ItemCall], None] = _nobody
        self.refuse: Callable[[ItemCall, BaseException], None] = _nobody
        if not callable(keys):
            self._check(keys, f"stream_map({name})")
        scheduler.limited.streams.add(self)

    def __repr__(self) -> str:
        return "a stream"

    def request(self, call: ItemCall) -> None:
        """Ask for what a call takes; it is told by ``start`` or ``refuse``, at once or later."""
        try:
            keys = self._keys_of(call)
        except BaseException as error:  # noqa: BLE001 - the function is the user's
            self.refuse(call, error)
            return
        if not keys:
            self.start(call)
            return
        ticket = self._requests[call] = ItemRequest(call, self)
        above = next((lease for lease in self._above if not lease.released), None)
        self._scheduler.limiter.request(ticket, Demand(keys=keys), owner=self, under=above)
        self._scheduler.limited.items_waiting += 1
        self._scheduler.ask_again()

    def _keys_of(self, call: ItemCall) -> Keys:
        if self._is_closed:
            raise RuntimeError("the Runtime whose limits stream_map(limits=…) names was closed")
        if not callable(self._keys):
            return self._keys
        if call.keys is None:
            item = call.args[0]
            try:
                keys = keys_of(self._keys(item))
            except BaseException as error:
                raise StepFailed(
                    f"the limits of stream_map({call.name}) raised {text_of(error)}; the function "
                    "takes an item and returns a key, several, or a mapping from keys to weights",
                    step=call.name,
                    attempt=call.number,
                ) from error
            self._check(keys, f"an item of stream_map({call.name})")
            call.keys = keys
        return call.keys

    def _check(self, keys: Keys, who: str) -> None:
        limiter = self._scheduler.limiter
        above = [lease for lease in self._above if not lease.released]
        why = limiter.refusal_of_keys(keys) or limiter.refusal_within(keys, above)
        if why is not None:
            raise CapacityError(f"{who} can never start: {why}")

    def granted(self, ticket: ItemRequest, lease: Lease) -> None:
        """A call has its keys."""
        self._scheduler.limited.items_waiting -= 1
        call = ticket.call
        del self._requests[call]
        call.lease = lease
        self.start(call)
        if lease.taken:
            self._scheduler.limited.note_start(call)

    def withdraw(self, call: ItemCall) -> None:
        """A call waits no longer."""
        ticket = self._requests.pop(call, None)
        if ticket is not None:
            self._scheduler.limiter.withdraw(ticket)
            self._scheduler.limited.items_waiting -= 1
            self._scheduler.ask_again()

    def give_back(self, call: ItemCall, *, unused: bool = False) -> None:
        """A call has ended, or never began."""
        lease, call.lease = call.lease, None
        if lease is not None:
            if call.started and lease.taken:
                self._scheduler.limiter.started(lease, call.started)
            self._scheduler.limiter.release(lease, unused=unused)
            self._scheduler.ask_again()

    def close(self) -> None:
        """The iteration is over."""
        self._scheduler.limited.streams.discard(self)

    def runtime_closed(self) -> None:
        """Nothing is granted any more."""
        self._is_closed = True
        for call in list(self._requests):
            self.withdraw(call)
            self.request(call)


def _nobody(*_: Any) -> None:
    raise RuntimeError("a stream has to say whom its limits tell")
