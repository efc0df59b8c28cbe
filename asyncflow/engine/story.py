"""The account in words: what a request waits for, who holds it, who goes first."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from math import inf

from asyncflow.engine.account import Account
from asyncflow.engine.capacity import Demand, Lease, describe_gpus
from asyncflow.engine.named import Key, Slots, Tokens
from asyncflow.engine.queues import Queue
from asyncflow.engine.sharing import Fit, Share, spare_above
from asyncflow.engine.turns import Line
from asyncflow.resources import DEVICE_MICRO_UNITS, format_bytes, format_cpu

__all__ = ["Story"]

_NAMED_HOLDERS = 3


class Story(Account):
    """An account, and the line of those who wait, that can tell about them."""

    max_overtakes: int
    _line: Line

    def explain(self, ticket: Hashable, now: float | None = None) -> str:
        """Return in words what a waiting request waits for, or what a granted one holds.

        Parameters:
            ticket: the request.
            now: the time; None for the latest that was told.

        Raises:
            LookupError: if no request of this name waits or holds anything.
        """
        if now is not None:
            self._now = max(self._now, now)
        queue = self._line.queue_of(ticket)
        if queue is None:
            return self._explain_holder(ticket)
        return " ".join(
            (
                self._explain_shortage(ticket, queue),
                self._explain_place(ticket, queue),
                *self._explain_closing(ticket, queue),
            )
        )

    def paused_key(self, ticket: Hashable) -> str | None:
        """The named key with a limit of 0 that a waiting request wants, if there is one."""
        queue = self._line.queue_of(ticket)
        keys = () if queue is None else queue.wanted.keys
        return next((n for n, _ in keys if not self._named.key(n, self._now).most_at_once), None)

    def _explain_holder(self, ticket: Hashable) -> str:
        for lease in self._leases:
            if lease.ticket == ticket:
                lent = " (lent while it waits)" if lease.lent else ""
                devices = f", GPUs {', '.join(lease.gpu_ids)}" if lease.gpu_ids else ""
                keys = "".join(f", {_some_of(name, weight)}" for name, weight in lease.keys)
                cpus, memory = format_cpu(lease.cpu_millis), format_bytes(lease.memory_bytes)
                return f"{ticket!r} holds {cpus}{lent}, {memory}{devices}{keys}."
        raise LookupError(f"No request {ticket!r} waits or holds anything.")

    def _explain_place(self, ticket: Hashable, queue: Queue) -> str:
        if isinstance(queue.parked, Key):
            others = sum(len(other.turns) for other in queue.parked.waiters) - 1
            return f"{others} other{' waits' if others == 1 else 's wait'} for it as well."
        before = self._line.count_before(ticket)
        return f"{before} request{' is' if before == 1 else 's are'} before it."

    def _explain_shortage(self, ticket: Hashable, queue: Queue) -> str:
        short = [
            *self._shortages(queue.wanted, spare_above(queue.under)),
            *self._short_keys(queue),
        ]
        if short:
            return f"{ticket!r} waits for {' and '.join(short)}."
        return f"{ticket!r} waits for its turn: what it asks for is free."

    def _shortages(self, wanted: Demand, spare: Share) -> Iterator[str]:
        total = self._total
        if wanted.cpu_millis and wanted.cpu_millis > self._cpu_free:
            free = f"{format_cpu(self._cpu_free)} free of {format_cpu(total.cpu_millis)}"
            holders = [lease for lease in self._leases if lease.cpu_millis_held]
            yield f"{format_cpu(wanted.cpu_millis)} ({free}, {_held_by(holders)})"
        memory = wanted.memory_bytes - spare.memory_bytes
        if memory > 0 and memory > self._memory_free:
            free = f"{format_bytes(self._memory_free)} free of {format_bytes(total.memory_bytes)}"
            if spare.memory_bytes:
                free += f", {format_bytes(spare.memory_bytes)} left of what it is nested in"
            holders = [lease for lease in self._leases if lease.memory_bytes]
            yield f"{format_bytes(wanted.memory_bytes)} of memory ({free}, {_held_by(holders)})"
        if wanted.gpu is not None and self._devices.choose(wanted.gpu, spare.gpus) is None:
            eligible = self._devices.eligible(wanted.gpu)
            idle = sum(self._devices.free[i] == DEVICE_MICRO_UNITS for i in eligible)
            free = f"{idle} of {len(eligible)} devices that will do wholly free"
            holders = [x for x in self._leases if any(i in eligible for i, _ in x.gpus)]
            yield f"{describe_gpus(wanted.gpu)} ({free}, {_held_by(holders)})"

    def _short_keys(self, queue: Queue) -> Iterator[str]:
        for name, weight in queue.wanted.keys:
            key = self._named.key(name, self._now)
            needed = key.needs(weight)
            ready_at = key.ready_at(needed)
            if ready_at > self._now:
                yield f"{_some_of(name, needed)} ({self._state_of(key, ready_at)})"
            elif queue.parked is key:
                yield f"its turn at the limit {name!r}"

    def _state_of(self, key: Key, ready_at: float) -> str:
        if not key.most_at_once:
            return "nothing until the limit is set to more than 0"
        if isinstance(key, Tokens):
            soon = "" if ready_at == inf else f", there in {ready_at - self._now:.3g} s"
            return f"{key.rate}{soon}"
        assert isinstance(key, Slots)
        holders = [
            lease for lease in self._leases if any(name == key.name for name, _ in lease.keys)
        ]
        return f"{key.free} free of {key.total}, {_held_by(holders)}"

    def _explain_closing(self, ticket: Hashable, queue: Queue) -> Iterator[str]:
        line = self._line
        closed = f"has been overtaken as often as is allowed ({self.max_overtakes})"
        shutting = "has been held up by nested requests more often than is allowed"
        if isinstance(queue.parked, Key):
            return
        for earlier in line.earlier(queue.turn_of(ticket)):
            if line.is_shutting(earlier) and not queue.nested:
                yield f"{earlier.head!r} goes first, because it {shutting}."
                return
            if line.is_closed(earlier) and self._is_held_up(queue, earlier):
                yield f"{earlier.head!r} goes first, because it {closed} and both want the same."
                return
        if queue.head == ticket and line.is_shutting(queue):
            yield f"It is next: nothing behind it starts outside nests, because it {shutting}."
        elif queue.head == ticket and line.is_closed(queue):
            yield f"What it wants is kept for it from those behind it, because it {closed}."

    def _is_held_up(self, queue: Queue, earlier: Queue) -> bool:
        """Return whether requests in a queue have to leave what an earlier one wants.

        Where no devices are free for them, all that would do stand for those they would get.
        """
        wanted = queue.wanted
        gpus = self._devices.choose(wanted.gpu)
        if gpus is None and wanted.gpu is not None:
            gpus = tuple((index, 0) for index in self._devices.eligible(wanted.gpu))
        fit = Fit(wanted.cpu_millis, wanted.memory_bytes, gpus or (), ())
        return queue.yields_to(earlier) and (
            self._is_at_expense(fit, earlier.wanted)
            or self._takes_keys_from(wanted, earlier.wanted.keys)
        )


def _some_of(name: str, weight: int) -> str:
    return f"{weight} of the limit {name!r}"


def _held_by(leases: list[Lease]) -> str:
    if not leases:
        return "held by nobody"
    named = ", ".join(repr(lease.ticket) for lease in leases[:_NAMED_HOLDERS])
    more = len(leases) - _NAMED_HOLDERS
    return f"held by {named}" + (f" and {more} more" if more > 0 else "")
