"""The one account of all capacity: who holds what, and who gets it next.

Nothing here awaits, reads a clock or touches the machine, so every event can be replayed in a
test. Amounts are integers; requests are granted all-or-nothing, in the order that
`asyncflow.engine.turns` keeps; free plus held is always the total. Where a rate makes time
matter, the caller tells it, and is told when it is worth asking again.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from math import inf
from typing import Any

from asyncflow.engine.account import KeyStatistics, LimiterStatistics, refuse_twins
from asyncflow.engine.capacity import (
    Capacity,
    Demand,
    Device,
    DevicePool,
    GpuDemand,
    Lease,
    demand_of,
)
from asyncflow.engine.named import Key
from asyncflow.engine.queues import Queue
from asyncflow.engine.sharing import Fit, give_back, sharing, take
from asyncflow.engine.story import Story
from asyncflow.engine.turns import Line
from asyncflow.limits import Definitions, Keys, Limit

__all__ = [
    "Capacity",
    "Demand",
    "Device",
    "GpuDemand",
    "KeyStatistics",
    "Lease",
    "Limiter",
    "LimiterStatistics",
    "demand_of",
]

# How many that are to wait at named keys, or have their turn there, are looked at in one go,
# and how many goes there are in one call.
_LOOKS, _GOES = 64, 8


class Limiter(Story):
    """Grants requests all-or-nothing, so that free plus held is always the total.

    Parameters:
        capacity: what there is to share.
        limits: the named keys.
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

    def __init__(
        self,
        capacity: Capacity,
        limits: Definitions | None = None,
        *,
        max_overtakes: int = 64,
    ) -> None:
        super().__init__(capacity, limits)
        if max_overtakes < 0:
            raise ValueError(f"max_overtakes={max_overtakes} is negative; 0 is the least.")
        self.max_overtakes = max_overtakes
        self._line = Line(max_overtakes, self._named)
        self._retakes: dict[Lease, Hashable] = {}
        # By nested request, the nearest lease above it that has memory or devices to share.
        self._above: dict[Hashable, Lease] = {}
        self._granted_total = 0
        self._possible: set[tuple[Any, ...]] = set()
        self._changed = True  # since grant() last found nothing; spares a scan of the heads
        # When a closed request, which stays in the line, may find the tokens that it lacks.
        self._closed_at = inf
        # Whether grant() gave up before it had looked at all that may be granted.
        self.has_more = False

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
        self._refuse_impossible(ticket, demand)
        above = None if under is None else sharing(under)
        if above is not None:
            self._above[ticket] = above
        takes = above if demand.memory_bytes or demand.gpu else None
        nested = under is not None
        if self._line.join(ticket, demand, owner, nested=nested, rank=rank, under=takes):
            self._changed = True

    def request_cpus(
        self, ticket: Hashable, lease: Lease, *, owner: Hashable, keys: Keys = ()
    ) -> None:
        """Queue the request of a holder to take its lent CPUs back, before all others.

        Its grant is `(ticket, lease)` with the same lease, which then holds its CPUs again:
        fewer of them if the total has become smaller than the lease.

        Parameters:
            ticket, lease, owner: the request.
            keys: named keys that it wants with them, for another attempt under its lease.

        Raises:
            ValueError: if the ticket waits already, or there is no such key.
            RuntimeError: if the lease is released, asks already, or asks for nothing.
        """
        self._refuse_duplicate(ticket)
        _refuse_released(lease, "take CPUs back")
        if not lease.lent and not keys:
            raise RuntimeError(f"{lease} cannot take CPUs back: lend_cpus() was not called.")
        if lease in self._retakes:
            waiting = self._retakes[lease]
            raise RuntimeError(f"{lease} cannot take CPUs back twice: {waiting!r} waits for them.")
        if keys:
            self._refuse_impossible(ticket, Demand(keys=keys))
        self._retakes[lease] = ticket
        self._line.join_first(ticket, self._retaken(lease, keys), owner, lease=lease)
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

    @property
    def waiting_count(self) -> int:
        """How many requests wait."""
        return len(self._line)

    def _refuse_duplicate(self, ticket: Hashable) -> None:
        if self._line.queue_of(ticket) is not None:
            raise ValueError(f"The request {ticket!r} waits already; give each its own ticket.")

    def _refuse_impossible(self, ticket: Hashable, demand: Demand) -> None:
        # A limit may have become smaller since a run was admitted: it then gives all it has.
        why = self._named.unknown(demand.keys) if demand.keys else None
        hardware = demand[:3]
        if why is None and hardware not in self._possible:
            why = self.refusal(Demand(*hardware))
        if why is not None:
            raise ValueError(f"The request {ticket!r} can never be granted: {why}")
        self._possible.add(hardware)

    # ----------------------------------------------------- granting, giving back

    def grant(
        self, now: float | None = None, *, to: Callable[[Hashable], bool] | None = None
    ) -> tuple[Hashable, Lease] | None:
        """Grant the next request that can be granted now; None if none can.

        Call it as often as there are free slots to run what it grants, and again at `wake_at`.
        It looks at a bounded number of those that wait at named keys: if `has_more` is set
        after it granted nothing, ask again.

        Parameters:
            now: the time, for rates; None for that of the call before.
            to: grants only to owners for which it is true.
        """
        if now is not None and now > self._now:
            self._now = now
        self.has_more = False
        look = self._changed = self._changed or self._closed_at <= self._now
        for _ in range(_GOES):
            if self._line.list_offered(self._now, most=_LOOKS):
                self._changed = look = True
            if not look:
                return None
            found = self._find(to)
            if found is not None:
                return self._give(*found)
            look = self.has_more
            # Whom it may not be granted to now may have it at the next call.
            self._changed = look or to is not None
        self.has_more = True
        return None

    def wake_at(self) -> float:
        """When it is worth asking again if nothing happens before; infinity for never."""
        return min(self._named.wake_at(), self._closed_at)

    def _find(self, to: Callable[[Hashable], bool] | None) -> tuple[Queue, Fit] | None:
        """The next queue whose head can be granted; those that find a key short are parked."""
        found = None
        short: dict[Queue, Key] = {}
        short_keys: set[Key] = set()
        unfit: list[Queue] = []
        now, named = self._now, self._named
        self.has_more, self._closed_at = False, inf
        for queue, kept in self._line.candidates(self._kept_for):
            if len(short) + len(unfit) == _LOOKS:
                self.has_more = True
                break
            wanted, key = queue.wanted, None
            if wanted.keys:
                stays = self._line.stays(queue)
                key = named.short_of(queue, now, None if stays else short_keys)
                if key is not None and stays:
                    self._closed_at = min(self._closed_at, key.ready_for(queue))
                elif key is not None:
                    short[queue] = key
                    short_keys.add(key)
                    continue
            if key is None and (to is None or to(queue.owner.name)):
                fit = self._fit(wanted, queue.under)
                if fit is None:
                    if wanted.keys and self._line.may_be_shelved(queue):
                        unfit.append(queue)
                elif self._spares(wanted, fit, kept):
                    found = queue, fit
                    break
                elif self._takes_keys_from(wanted, kept.keys):
                    self._line.step_aside(queue)
            # It has to wait for something else: others may have their turn at its key.
            named.settle_offer(queue)
        for queue in unfit:
            self._line.shelve(queue)
        if not self._line.park(short):
            self.has_more = True  # one of them is closed now, and is looked at as such
        return found

    def _kept_for(self, queue: Queue) -> Demand:
        """What is kept for a closed request: tokens of a rate only if all else is there."""
        wanted = queue.wanted
        if not wanted.keys:
            return wanted
        lasting = self._named.lasting(wanted.keys)
        if self._fit(wanted, queue.under) is None or not self._named.fits(lasting, self._now):
            return wanted._replace(keys=lasting)
        return wanted

    def _give(self, queue: Queue, fit: Fit) -> tuple[Hashable, Lease]:
        wanted, lease = queue.wanted, queue.lease
        harmed = [
            other
            for other in self._line.passed_by(queue)
            if self._is_at_expense(fit, other.wanted)
            or self._takes_keys_from(wanted, other.wanted.keys)
        ]
        ticket = self._line.leave_granted(queue, harmed)
        self._cpu_free -= fit.cpu_millis
        self._granted_total += 1
        self._changed = True
        if lease is None:
            lease = self._lease_of(ticket, queue, fit)
        else:
            del self._retakes[lease]
            if lease.lent:
                lease.cpu_millis, lease.lent = wanted.cpu_millis, False
        if wanted.keys:
            lease.keys, lease.taken = self._named.take(wanted.keys, self._now)
        return ticket, lease

    def _lease_of(self, ticket: Hashable, queue: Queue, fit: Fit) -> Lease:
        wanted = queue.wanted
        ids = tuple(self._total.devices[index].id for index, _ in fit.gpus)
        lease = Lease(ticket, queue.owner.name, wanted[0], wanted[1], fit.gpus, ids)
        lease.under = self._above.pop(ticket, None)
        missing = take(lease)
        self._memory_free -= missing.memory_bytes
        self._devices.take(missing.gpus.items())
        self._leases[lease] = None
        return lease

    def started(self, lease: Lease, at: float) -> None:
        """The attempt a lease was granted for started then, or had not at that time.

        Its rates count from then, so that no window of starts has too many.
        """
        for taken in lease.taken:
            taken.at = at

    def release(self, lease: Lease, *, unused: bool = False) -> None:
        """End a lease: what it holds is free again, and its wish for lent CPUs is withdrawn.

        Parameters:
            lease: the lease.
            unused: nothing was started with it, so rates do not count it.

        Raises:
            RuntimeError: if it has been released before.
        """
        _refuse_released(lease, "be released again")
        if lease in self._retakes:
            self.withdraw(self._retakes[lease])
        if unused:
            self._named.undo(lease.taken)
        self._give_keys_back(lease)
        self._cpu_free += lease.cpu_millis_held
        own = give_back(lease)
        self._memory_free += own.memory_bytes
        self._devices.give_back(own.gpus.items())
        del self._leases[lease]
        lease.released = True
        self._changed = True

    def release_keys(self, lease: Lease) -> None:
        """End an attempt under a lease that goes on: its named keys are free again.

        Raises:
            RuntimeError: if it has been released before.
        """
        _refuse_released(lease, "give keys back")
        self._give_keys_back(lease)
        self._changed = True

    def _give_keys_back(self, lease: Lease) -> None:
        if lease.keys:
            self._named.give_back(lease.keys, self._now)
        lease.keys = lease.taken = ()

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
        for queue in self._line.queues():
            if queue.lease is None:
                queue.wanted = self.clamped(queue.demand)
            else:
                queue.wanted = self._retaken(queue.lease, queue.demand.keys)
        self._changed = True

    def set_limit(self, name: str, limit: Limit, now: float | None = None) -> None:
        """Give a named key another limit while things run; what is held stays held.

        A waiting request that wants more of it than there now is gets all there is; with a
        limit of 0 it waits for the next change.

        Parameters:
            name: as it was defined, a pattern included.
            limit: of the same kind as before.
            now: the time; None for that of the call before.

        Raises:
            KeyError: no such key is defined.
            TypeError, ValueError: the limit makes no sense, or is of the other kind.
        """
        if now is not None:
            self._now = max(self._now, now)
        self._named.change(name, limit, self._now)
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
        reasons = {
            queue: self.refusal(queue.wanted._replace(keys=())) for queue in self._line.queues()
        }
        return {
            ticket: why
            for queue, why in reasons.items()
            if why is not None
            for ticket in queue.turns
        }

    def _retaken(self, lease: Lease, keys: Keys) -> Demand:
        cpu = min(lease.cpu_millis, self._total.cpu_millis) if lease.lent else 0
        return Demand(cpu, keys=keys)

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
            queue.lease: queue.head for queue in self._line.queues() if queue.lease is not None
        }


def _refuse_released(lease: Lease, deed: str) -> None:
    if lease.released:
        raise RuntimeError(
            f"The lease of {lease.ticket!r} (owner {lease.owner!r}) cannot {deed}: it was released."
        )
