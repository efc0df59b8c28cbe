"""The one account of all capacity: who holds what, and who gets it next.

Nothing here awaits, reads a clock or touches the machine, so every event can be replayed in a
test. Amounts are integers; requests are granted all-or-nothing, in the order that
`asyncflow.engine.turns` keeps; free plus held is always the total.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator

from asyncflow.engine.account import Account, LimiterStatistics, refuse_twins
from asyncflow.engine.capacity import (
    Capacity,
    Demand,
    Device,
    DevicePool,
    GpuDemand,
    Lease,
    demand_of,
    describe_gpus,
)
from asyncflow.engine.sharing import Fit, Share, give_back, sharing, spare_above, take
from asyncflow.engine.turns import Line, Queue
from asyncflow.resources import DEVICE_MICRO_UNITS, format_bytes, format_cpu

__all__ = [
    "Capacity",
    "Demand",
    "Device",
    "GpuDemand",
    "Lease",
    "Limiter",
    "LimiterStatistics",
    "demand_of",
]

_NAMED_HOLDERS = 3


class Limiter(Account):
    """Grants requests all-or-nothing, so that free plus held is always the total.

    Parameters:
        capacity: what there is to share.
        max_overtakes: how often others may be granted at the expense of an earlier request
            before what it wants is kept for it; with 0 it is kept from the start.

    Raises:
        ValueError: if an amount is negative or two devices share an id.

    Example:
        >>> limiter = Limiter(Capacity(cpu_millis=2000, memory_bytes=0))
        >>> limiter.request("a", Demand(cpu_millis=2000), owner="run")
        >>> limiter.request("b", Demand(cpu_millis=500), owner="run")
        >>> ticket, lease = limiter.grant()
        >>> ticket, limiter.grant()
        ('a', None)
        >>> limiter.release(lease)
        >>> limiter.grant()[0]
        'b'
    """

    def __init__(self, capacity: Capacity, *, max_overtakes: int = 64) -> None:
        super().__init__(capacity)
        if max_overtakes < 0:
            raise ValueError(f"max_overtakes={max_overtakes} is negative; 0 is the least.")
        self.max_overtakes = max_overtakes
        self._line = Line(max_overtakes)
        self._retakes: dict[Lease, Hashable] = {}
        # By nested request, the nearest lease above it that has memory or devices to share.
        self._above: dict[Hashable, Lease] = {}
        self._granted_total = 0
        self._possible: set[Demand] = set()
        self._changed = True  # since grant() last found nothing; spares a scan of the heads

    # ------------------------------------------------------------- asking

    def request(
        self,
        ticket: Hashable,
        demand: Demand,
        *,
        owner: Hashable,
        under: Lease | None = None,
        rank: float | None = None,
    ) -> None:
        """Queue a request.

        Parameters:
            ticket: names the request; unique among those that wait.
            demand: what it takes; CPU or memory above the machine must be `clamped` first.
            owner: whom it is counted for in the fair order.
            under: the lease of the work that made the request and waits for it, if any; memory
                and devices are taken from what that holds, as far as they are free there.
            rank: its place among the requests of its owner, lower first; None for the order of
                arrival.

        Raises:
            ValueError: if the ticket waits already, or the demand can never be met.
            RuntimeError: if the lease above has been released.
        """
        self._refuse_duplicate(ticket)
        if under is not None:
            _refuse_released(under, f"be above the request {ticket!r}")
        if demand not in self._possible:
            self._refuse_impossible(ticket, demand)
        above = None if under is None else sharing(under)
        if above is not None:
            self._above[ticket] = above
        takes = above if demand.memory_bytes or demand.gpu else None
        nested = under is not None
        if self._line.join(ticket, demand, owner, nested=nested, rank=rank, under=takes):
            self._changed = True

    def request_cpus(self, ticket: Hashable, lease: Lease, *, owner: Hashable) -> None:
        """Queue the request of a holder to take its lent CPUs back, before all others.

        Its grant is `(ticket, lease)` with the same lease, which then holds its CPUs again:
        fewer of them if the total has become smaller than the lease.

        Raises:
            ValueError: if the ticket waits already.
            RuntimeError: if the lease is released, has not lent its CPUs, or asks already.
        """
        self._refuse_duplicate(ticket)
        _refuse_released(lease, "take CPUs back")
        if not lease.lent:
            raise RuntimeError(f"{lease} cannot take CPUs back: lend_cpus() was not called.")
        if lease in self._retakes:
            waiting = self._retakes[lease]
            raise RuntimeError(f"{lease} cannot take CPUs back twice: {waiting!r} waits for them.")
        self._retakes[lease] = ticket
        self._line.join_first(ticket, self._retaken(lease), owner, lease=lease)
        self._changed = True

    def withdraw(self, ticket: Hashable) -> bool:
        """Take a waiting request out of the queue; False if no such request waits."""
        if self._line.queue_of(ticket) is None:
            return False
        queue = self._line.leave(ticket)
        self._above.pop(ticket, None)
        if queue.lease is not None:
            del self._retakes[queue.lease]
        self._changed = True
        return True

    def withdraw_owner(self, owner: Hashable) -> list[Hashable]:
        """Take all waiting requests of an owner out of the queue and return their tickets."""
        tickets = self._line.tickets_of(owner)
        for ticket in tickets:
            self.withdraw(ticket)
        return tickets

    def waiting(self) -> list[Hashable]:
        """Return the tickets of all waiting requests in the order of their turns."""
        return self._line.tickets()

    def _refuse_duplicate(self, ticket: Hashable) -> None:
        if self._line.queue_of(ticket) is not None:
            raise ValueError(f"The request {ticket!r} waits already; give each its own ticket.")

    def _refuse_impossible(self, ticket: Hashable, demand: Demand) -> None:
        why = self.refusal(demand)
        if why is not None:
            raise ValueError(f"The request {ticket!r} can never be granted: {why}")
        self._possible.add(demand)

    # ----------------------------------------------------- granting, giving back

    def grant(self) -> tuple[Hashable, Lease] | None:
        """Grant the next request that can be granted now; None if none can.

        Raises:
            Nothing: call it as often as there are free slots to run what it grants.
        """
        if not self._changed:
            return None
        for queue, kept in self._line.candidates():
            fit = self._fit(queue.wanted, queue.under)
            if fit is not None and not any(self._is_at_expense(fit, of) for of in kept):
                return self._give(queue, fit)
        self._changed = False
        return None

    def release(self, lease: Lease) -> None:
        """End a lease: what it holds is free again, and its wish for lent CPUs is withdrawn.

        Raises:
            RuntimeError: if it has been released before.
        """
        _refuse_released(lease, "be released again")
        if lease in self._retakes:
            self.withdraw(self._retakes[lease])
        self._cpu_free += lease.cpu_millis_held
        own = give_back(lease)
        self._memory_free += own.memory_bytes
        self._devices.give_back(own.gpus.items())
        del self._leases[lease]
        lease.released = True
        self._changed = True

    def lend_cpus(self, lease: Lease) -> int:
        """Give a lease's CPUs to the pool while its holder waits; return their thousandths.

        Raises:
            RuntimeError: if the lease is released or has lent them already.
        """
        _refuse_released(lease, "lend its CPUs")
        if lease.lent:
            raise RuntimeError(f"{lease} cannot lend its CPUs: it has lent them already.")
        self._cpu_free += lease.cpu_millis
        lease.lent = True
        self._changed = True
        return lease.cpu_millis

    def resize(self, *, cpu_millis: int | None = None, memory_bytes: int | None = None) -> None:
        """Change the totals while things run.

        Free amounts go negative if more is held than there now is; then nothing that asks for
        such an amount is granted until enough is released. Waiting requests above the new
        totals are clamped to them.

        Parameters:
            cpu_millis: thousandths of a CPU; None leaves them.
            memory_bytes: bytes; None leaves them.

        Raises:
            ValueError: if an amount is negative.
        """
        old = self._total
        cpu = old.cpu_millis if cpu_millis is None else cpu_millis
        memory = old.memory_bytes if memory_bytes is None else memory_bytes
        if min(cpu, memory) < 0:
            raise ValueError(f"Cannot resize to {cpu} thousandths of a CPU and {memory} bytes.")
        self._total = Capacity(cpu, memory, old.devices)
        self._cpu_free += cpu - old.cpu_millis
        self._memory_free += memory - old.memory_bytes
        self._possible.clear()
        for queue in self._line.heads:
            lease = queue.lease
            queue.wanted = self.clamped(queue.demand) if lease is None else self._retaken(lease)
        self._changed = True

    def provide(self, devices: tuple[Device, ...]) -> None:
        """Give the devices to an account that had none: they were looked for only now.

        Raises:
            RuntimeError: if it has devices.
            ValueError: if two devices share an id.
        """
        if self._total.devices:
            raise RuntimeError(f"The devices are {self._total.devices}; they are given once.")
        refuse_twins(devices)
        self._total = self._total._replace(devices=devices)
        self._devices = DevicePool(devices)
        self._changed = True

    def lose(self, ids: Iterable[str]) -> tuple[str, ...]:
        """Hand these devices out no more; whoever holds them keeps them until the release.

        Returns:
            The ids of those that were there until now.
        """
        gone = self._devices.lose(ids)
        if gone:
            self._possible.clear()
            self._changed = True
        return gone

    def hopeless(self) -> dict[Hashable, str]:
        """The waiting requests that can never be granted any more, each with the reason."""
        reasons = {queue: self.refusal(queue.wanted) for queue in self._line.heads}
        return {
            ticket: why
            for queue, why in reasons.items()
            if why is not None
            for ticket in queue.turns
        }

    def _retaken(self, lease: Lease) -> Demand:
        return Demand(min(lease.cpu_millis, self._total.cpu_millis))

    def _give(self, queue: Queue, fit: Fit) -> tuple[Hashable, Lease]:
        wanted, lease = queue.wanted, queue.lease
        passed = self._line.passed_by(queue)
        harmed = [other for other in passed if self._is_at_expense(fit, other.wanted)]
        ticket = self._line.leave_granted(queue, harmed)
        self._cpu_free -= fit.cpu_millis
        self._granted_total += 1
        if lease is None:
            ids = tuple(self._total.devices[index].id for index, _ in fit.gpus)
            lease = Lease(ticket, queue.owner.name, wanted[0], wanted[1], fit.gpus, ids)
            lease.under = self._above.pop(ticket, None)
            missing = take(lease)
            self._memory_free -= missing.memory_bytes
            self._devices.take(missing.gpus.items())
            self._leases[lease] = None
        else:
            del self._retakes[lease]
            lease.cpu_millis, lease.lent = wanted.cpu_millis, False
        return ticket, lease

    # ------------------------------------------------------------ telling about it

    def explain(self, ticket: Hashable) -> str:
        """Return in words what a waiting request waits for, or what a granted one holds.

        Raises:
            LookupError: if no request of this name waits or holds anything.
        """
        queue = self._line.queue_of(ticket)
        if queue is None:
            return self._explain_holder(ticket)
        before = self._line.count_before(ticket)
        return " ".join(
            (
                self._explain_shortage(ticket, queue),
                f"{before} request{' is' if before == 1 else 's are'} before it.",
                *self._explain_closing(ticket, queue),
            )
        )

    def _explain_holder(self, ticket: Hashable) -> str:
        for lease in self._leases:
            if lease.ticket == ticket:
                lent = " (lent while it waits)" if lease.lent else ""
                devices = f", GPUs {', '.join(lease.gpu_ids)}" if lease.gpu_ids else ""
                memory = format_bytes(lease.memory_bytes)
                return f"{ticket!r} holds {format_cpu(lease.cpu_millis)}{lent}, {memory}{devices}."
        raise LookupError(f"No request {ticket!r} waits or holds anything.")

    def _explain_shortage(self, ticket: Hashable, queue: Queue) -> str:
        short = list(self._shortages(queue.wanted, spare_above(queue.under)))
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

    def _explain_closing(self, ticket: Hashable, queue: Queue) -> Iterator[str]:
        line = self._line
        closed = f"has been overtaken as often as is allowed ({self.max_overtakes})"
        shutting = "has been held up by nested requests more often than is allowed"
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
        return queue.yields_to(earlier) and self._is_at_expense(fit, earlier.wanted)

    def statistics(self) -> LimiterStatistics:
        """Return the account at this moment."""
        return self._statistics(waiting=len(self._line), granted_total=self._granted_total)

    def validate(self) -> None:
        """Check every invariant; for tests, after each event.

        Raises:
            AssertionError: if the account does not add up or the queue is out of order.
        """
        super().validate()
        self._line.validate()
        assert self._retakes == {
            queue.lease: queue.head for queue in self._line.heads if queue.lease is not None
        }


def _refuse_released(lease: Lease, deed: str) -> None:
    if lease.released:
        raise RuntimeError(
            f"The lease of {lease.ticket!r} (owner {lease.owner!r}) cannot {deed}: it was released."
        )


def _held_by(leases: list[Lease]) -> str:
    if not leases:
        return "held by nobody"
    named = ", ".join(repr(lease.ticket) for lease in leases[:_NAMED_HOLDERS])
    more = len(leases) - _NAMED_HOLDERS
    return f"held by {named}" + (f" and {more} more" if more > 0 else "")
