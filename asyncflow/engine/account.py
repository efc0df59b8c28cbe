"""The account of all capacity as it stands: totals, what is free, who holds what.

How it changes is the business of `asyncflow.engine.limiter`.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from asyncflow.engine.capacity import Capacity, Demand, Device, DevicePool, Lease, Reserve
from asyncflow.engine.named import NamedCapacity, Slots
from asyncflow.engine.sharing import NOTHING, Fit, beyond, own_share, spare_above
from asyncflow.limits import Definitions, Keys
from asyncflow.resources import DEVICE_MICRO_UNITS, format_bytes, format_cpu

__all__ = ["Account", "KeyStatistics", "LimiterStatistics", "refuse_twins"]


class KeyStatistics(msgspec.Struct, frozen=True):
    """A named key that so many may hold at once, at one moment.

    Parameters:
        total, held, free: how many; free is negative after the total was made smaller.
        waiting: queues of requests that wait at it.
    """

    total: int
    held: int
    free: int
    waiting: int


class LimiterStatistics(msgspec.Struct, frozen=True):
    """The account at one moment.

    Parameters:
        cpu_millis_total, cpu_millis_held, cpu_millis_free: thousandths of a CPU; free is
            negative after the total was made smaller than what is held.
        memory_bytes_total, memory_bytes_held, memory_bytes_free: bytes, likewise.
        gpu_micro_units_total, gpu_micro_units_held, gpu_micro_units_free: millionths of a
            device, over all devices that are not lost.
        busy_devices: ids of those of which any part is held.
        leases: leases that are not released.
        waiting: requests not granted yet.
        granted_total: grants since the beginning, CPUs taken back included.
        keys: the named keys that are held or waited at; rates are not held.
    """

    cpu_millis_total: int
    cpu_millis_held: int
    cpu_millis_free: int
    memory_bytes_total: int
    memory_bytes_held: int
    memory_bytes_free: int
    gpu_micro_units_total: int
    gpu_micro_units_held: int
    gpu_micro_units_free: int
    busy_devices: tuple[str, ...]
    leases: int
    waiting: int
    granted_total: int
    keys: dict[str, KeyStatistics] = {}


class Account:
    """What there is, what of it is free, and what could ever be granted.

    Parameters:
        capacity: what there is to share.
        limits: the named keys.

    Raises:
        ValueError: if an amount is negative or two devices share an id.
    """

    def __init__(self, capacity: Capacity, limits: Definitions | None = None) -> None:
        if min(capacity.cpu_millis, capacity.memory_bytes) < 0:
            raise ValueError(f"{capacity}: no amount is negative.")
        refuse_twins(capacity.devices)
        self._total = capacity
        self._cpu_free = capacity.cpu_millis
        self._memory_free = capacity.memory_bytes
        self._devices = DevicePool(capacity.devices)
        self._leases: dict[Lease, None] = {}
        self._named = NamedCapacity(Definitions() if limits is None else limits)
        self._now = 0.0  # the latest time that was told, for rates

    @property
    def capacity(self) -> Capacity:
        """What there is to share, as of the last `resize` and without lost devices."""
        total, pool = self._total, self._devices
        if not pool.lost:
            return total
        return total._replace(devices=tuple(total.devices[index] for index in pool.alive))

    # ------------------------------------------------------- what can be met

    def refusal(self, demand: Demand) -> str | None:
        """Return in one sentence why a demand can never be met, or None if it can."""
        total = self._total
        if demand.gpu is not None:
            why = self._devices.refusal(demand.gpu)
            if why is not None:
                return why
        if demand.cpu_millis > total.cpu_millis:
            return (
                f"{format_cpu(demand.cpu_millis)} asked for, "
                f"but there are {format_cpu(total.cpu_millis)}."
            )
        if demand.memory_bytes > total.memory_bytes:
            return (
                f"{format_bytes(demand.memory_bytes)} of memory asked for, "
                f"but there are {format_bytes(total.memory_bytes)}."
            )
        return self._named.refusal(demand.keys) if demand.keys else None

    def refusal_of_keys(self, keys: Keys) -> str | None:
        """Return why these keys can never be had together, or None if they can."""
        return self._named.refusal(keys)

    def refusal_within(self, keys: Keys, above: Iterable[Lease]) -> str | None:
        """Return why keys cannot be had while those leases are held, or None if they can."""
        return self._named.refusal_within(keys, above)

    def clamped(self, demand: Demand) -> Demand:
        """Return a demand that can be met: above the machine in CPU or memory means all of both.

        It then runs alone. GPUs and named keys are left as they are.
        """
        total = self._total
        if demand.cpu_millis <= total.cpu_millis and demand.memory_bytes <= total.memory_bytes:
            return demand
        return Demand(total.cpu_millis, total.memory_bytes, demand.gpu, demand.keys)

    def _fit(self, wanted: Demand, under: Lease | None = None) -> Fit | None:
        """Return what a demand would take now, or None if it does not fit.

        Named keys are left out. What it does not ask for does not hold it up, not even an amount
        below zero: what is nested under a holder has to run before the holder can release.
        """
        if wanted.cpu_millis and wanted.cpu_millis > self._cpu_free:
            return None
        spare = NOTHING if under is None else spare_above(under)
        memory = max(0, wanted.memory_bytes - spare.memory_bytes)
        if memory and memory > self._memory_free:
            return None
        gpus = self._devices.choose(wanted.gpu, spare.gpus)
        if gpus is None:
            return None
        pool_gpus = beyond(gpus, spare) if spare.gpus else gpus
        return Fit(wanted.cpu_millis, memory, pool_gpus, gpus)

    def _is_at_expense(self, fit: Fit, of: Demand) -> bool:
        """Return whether a grant leaves another request too little of something both want."""
        return (
            _falls_short(of.cpu_millis, self._cpu_free, fit.cpu_millis)
            or _falls_short(of.memory_bytes, self._memory_free, fit.memory_bytes)
            or (of.gpu is not None and self._devices.falls_short(of.gpu, fit.pool_gpus))
        )

    def _takes_keys_from(self, wanted: Demand, keys: Keys) -> bool:
        """Return whether a grant leaves too little of these named keys."""
        return bool(keys and wanted.keys) and self._named.falls_short(keys, wanted.keys, self._now)

    def _spares(self, wanted: Demand, fit: Fit, kept: Reserve) -> bool:
        """Return whether a grant leaves what is kept for others."""
        if self._takes_keys_from(wanted, kept.keys):
            return False
        return not any(self._is_at_expense(fit, of) for of in kept)

    def _statistics(self, *, waiting: int, granted_total: int) -> LimiterStatistics:
        total, pool = self._total, self._devices
        free = [pool.free[index] for index in pool.alive]
        gpu_total = DEVICE_MICRO_UNITS * len(free)
        return LimiterStatistics(
            cpu_millis_total=total.cpu_millis,
            cpu_millis_held=total.cpu_millis - self._cpu_free,
            cpu_millis_free=self._cpu_free,
            memory_bytes_total=total.memory_bytes,
            memory_bytes_held=total.memory_bytes - self._memory_free,
            memory_bytes_free=self._memory_free,
            gpu_micro_units_total=gpu_total,
            gpu_micro_units_held=gpu_total - sum(free),
            gpu_micro_units_free=sum(free),
            busy_devices=tuple(
                total.devices[index].id
                for index, left in zip(pool.alive, free, strict=True)
                if left < DEVICE_MICRO_UNITS
            ),
            leases=len(self._leases),
            waiting=waiting,
            granted_total=granted_total,
            keys={
                name: KeyStatistics(key.total, key.held, key.free, len(key.waiters))
                for name, key in self._named.open.items()
                if isinstance(key, Slots)
            },
        )

    def validate(self) -> None:
        """Check every invariant; for tests, after each event.

        Raises:
            AssertionError: if the account does not add up.
        """
        held = [DEVICE_MICRO_UNITS - free for free in self._devices.free]
        keys = {n: key.held for n, key in self._named.open.items() if isinstance(key, Slots)}
        memory = 0
        for lease in self._leases:
            assert not lease.released, lease
            assert not any(below.released for below in lease.nest), lease
            own, spare = own_share(lease), spare_above(lease)
            assert min(own.memory_bytes, spare.memory_bytes, *own.gpus.values()) >= 0, lease
            assert min(spare.gpus.values(), default=0) >= 0, lease
            memory += own.memory_bytes
            for index, micro_units in own.gpus.items():
                held[index] -= micro_units
            for name, amount in lease.keys:
                keys[name] -= amount
        assert not any(keys.values()), f"named keys off by {keys}"
        assert not any(held), f"devices off by {held}"
        assert all(0 <= free <= DEVICE_MICRO_UNITS for free in self._devices.free)
        cpu = sum(lease.cpu_millis_held for lease in self._leases)
        assert self._cpu_free + cpu == self._total.cpu_millis
        assert self._memory_free + memory == self._total.memory_bytes


def _falls_short(wanted: int, free: int, taken: int) -> bool:
    return taken > 0 and wanted > max(0, free - taken)


def refuse_twins(devices: tuple[Device, ...]) -> None:
    ids = [device.id for device in devices]
    if len(set(ids)) < len(ids):
        raise ValueError(f"Two devices share an id among {ids}; each device needs its own.")
