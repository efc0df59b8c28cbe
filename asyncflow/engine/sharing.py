"""What a nest takes of the memory and devices that the work above it holds.

Memory and devices stay with a lease while its holder waits for its nest, and the nest may use
them: children, their children, and so on down. What one of them takes is taken: nobody else in
the nest gets it before that one has ended, so siblings take turns at what their parent holds.
What is missing comes from the pool. Pure: no await, no clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from asyncflow.engine.capacity import Lease

__all__ = [
    "NOTHING",
    "Fit",
    "Share",
    "beyond",
    "give_back",
    "own_share",
    "sharing",
    "spare_above",
    "take",
]


class Share(NamedTuple):
    """A part of what there is: bytes of memory, and millionths of devices by their index."""

    memory_bytes: int
    gpus: Mapping[int, int]

    @property
    def is_nothing(self) -> bool:
        return not self.memory_bytes and not self.gpus

    def plus(self, other: Share) -> Share:
        """Both together."""
        both = {i: self.gpus.get(i, 0) + other.gpus.get(i, 0) for i in {*self.gpus, *other.gpus}}
        return Share(self.memory_bytes + other.memory_bytes, both)

    def minus(self, other: Share) -> Share:
        """What is left without the other, which is a part of it."""
        left = {i: units - other.gpus.get(i, 0) for i, units in self.gpus.items()}
        return Share(
            self.memory_bytes - other.memory_bytes, {i: units for i, units in left.items() if units}
        )

    def within(self, other: Share) -> Share:
        """As much of it as the other has."""
        common = {i: min(units, other.gpus.get(i, 0)) for i, units in self.gpus.items()}
        return Share(
            min(self.memory_bytes, other.memory_bytes),
            {i: units for i, units in common.items() if units},
        )


NOTHING = Share(0, {})


class Fit(NamedTuple):
    """What a grant would take from the pool, and all the devices that its holder would get."""

    cpu_millis: int
    memory_bytes: int
    pool_gpus: tuple[tuple[int, int], ...]
    gpus: tuple[tuple[int, int], ...]


def sharing(lease: Lease) -> Lease | None:
    """The nearest of a lease and those above it that has memory or devices."""
    for above in _upwards(lease):
        if above.memory_bytes or above.gpus:
            return above
    return None


def beyond(gpus: Iterable[tuple[int, int]], spare: Share) -> tuple[tuple[int, int], ...]:
    """The parts of devices that are not to be had from those above."""
    lacking = [(index, units - spare.gpus.get(index, 0)) for index, units in gpus]
    return tuple((index, units) for index, units in lacking if units > 0)


def spare_above(under: Lease | None) -> Share:
    """What a lease and all those above it hold and their nests have not taken."""
    spare = NOTHING
    for lease in _upwards(under):
        spare = spare.plus(_spare_of(lease))
    return spare


def take(lease: Lease) -> Share:
    """Let a new lease take from those above it, the nearest first; returns what they lack."""
    missing = Share(lease.memory_bytes, dict(lease.gpus))
    for above in _upwards(lease.under):
        if missing.is_nothing:
            break
        part = missing.within(_spare_of(above))
        if not part.is_nothing:
            above.nest[lease] = part
            missing = missing.minus(part)
    return missing


def own_share(lease: Lease) -> Share:
    """What a lease has from the pool, and not from those above it."""
    own = Share(lease.memory_bytes, dict(lease.gpus))
    for above in _upwards(lease.under):
        own = own.minus(above.nest.get(lease, NOTHING))
    return own


def give_back(lease: Lease) -> Share:
    """End what a lease takes from those above it; returns what goes back to the pool.

    What its nest has taken from it and still holds is that nest's own from now on, as if it had
    been taken from the pool or from those further up.
    """
    own = own_share(lease)
    for heir, owed in lease.nest.items():
        part = owed.within(own)
        own, owed = own.minus(part), owed.minus(part)
        for above in _upwards(lease.under):
            held = above.nest.get(lease, NOTHING)
            part = owed.within(held)
            owed = owed.minus(part)
            if not part.is_nothing:
                above.nest[lease] = held.minus(part)
                above.nest[heir] = above.nest.get(heir, NOTHING).plus(part)
    lease.nest.clear()
    for above in _upwards(lease.under):
        above.nest.pop(lease, None)
    return own


def _spare_of(lease: Lease) -> Share:
    if lease.released or not (lease.memory_bytes or lease.gpus):
        return NOTHING
    spare = Share(lease.memory_bytes, dict(lease.gpus))
    return _without(spare, lease.nest.values())


def _without(share: Share, parts: Iterable[Share]) -> Share:
    for part in parts:
        share = share.minus(part)
    return share


def _upwards(lease: Lease | None) -> Iterator[Lease]:
    while lease is not None:
        yield lease
        lease = lease.under
