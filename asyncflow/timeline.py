"""What ran when, before it is drawn: an axis of time, rows in which nothing overlaps, counts."""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from asyncflow.states import NodeState

__all__ = [
    "NARROWEST",
    "Axis",
    "Bar",
    "Slot",
    "Span",
    "at_once",
    "pack",
    "peak_of",
    "slots_of",
    "spans_of",
]

# In pixels: no bar is narrower, and so much stands between two in one row.
NARROWEST = 2.0
_SLIT = 1.0

Span = tuple[float, float]


class Bar(msgspec.Struct, frozen=True):
    """One node that ran, in seconds since its run began.

    ``earlier`` are the tries before the last one, as far as they are known; ``queued_seconds``
    is the time before the last. ``group`` is the name of its execution group, "" for none.
    """

    name: str
    step: str
    state: NodeState
    start_seconds: float
    end_seconds: float
    lane: str
    worker: str = ""
    group: str = ""
    attempts: int = 1
    queued_seconds: float = 0.0
    earlier: tuple[Span, ...] = ()

    @property
    def first_seconds(self) -> float:
        """When its first try began, or when it could have, if that is not known."""
        if self.attempts < 2:
            return self.start_seconds
        known = min((start for start, _ in self.earlier), default=self.start_seconds)
        return known if self.earlier else max(0.0, self.start_seconds - self.queued_seconds)


# -- time --------------------------------------------------------------------------------


class Axis:
    """From seconds to pixels, and round numbers of a fitting unit."""

    def __init__(
        self, bars: Sequence[Bar], duration_seconds: float, left: float, right: float
    ) -> None:
        last = max((bar.end_seconds for bar in bars), default=0.0)
        self.seconds = max(duration_seconds, last) or 1e-6
        self.left, self.right = left, right
        self.unit, self.unit_seconds = next(
            (unit, size) for unit, size, least in _UNITS if self.seconds >= least
        )

    def x(self, seconds: float) -> float:
        """Where a moment is."""
        return self.left + (self.right - self.left) * seconds / self.seconds

    def ticks(self) -> Iterator[tuple[float, str]]:
        """Moments at round numbers, with their labels."""
        step = _round_step(self.seconds / self.unit_seconds / 10)
        for place in range(int(self.seconds / self.unit_seconds / step + 1e-9) + 1):
            yield place * step * self.unit_seconds, f"{place * step:g} {self.unit}"


_UNITS = (
    ("h", 3600.0, 7200.0),
    ("min", 60.0, 180.0),
    ("s", 1.0, 1.0),
    ("ms", 1e-3, 1e-3),
    ("µs", 1e-6, 0.0),
)


def _round_step(least: float) -> float:
    """The smallest of 1, 2 and 5 times a power of ten that is not smaller."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(power * k for k in (1, 2, 5, 10) if power * k >= least * (1 - 1e-9))


# -- packing -----------------------------------------------------------------------------


class Slot(msgspec.Struct):
    """What takes a row as one: a node with its tries, or a group."""

    bars: list[Bar]

    @property
    def start(self) -> float:
        return min(bar.first_seconds for bar in self.bars)

    @property
    def end(self) -> float:
        return max(bar.end_seconds for bar in self.bars)


def slots_of(bars: Iterable[Bar]) -> list[Slot]:
    groups: dict[str, Slot] = {}
    slots: list[Slot] = []
    for bar in bars:
        if bar.group and bar.group in groups:
            groups[bar.group].bars.append(bar)
            continue
        slots.append(Slot([bar]))
        if bar.group:
            groups[bar.group] = slots[-1]
    return slots


def pack(slots: Iterable[Slot], axis: Axis) -> list[list[Slot]]:
    """Rows in which nothing overlaps: each slot goes to the topmost that is free."""
    rows: list[list[Slot]] = []
    free: list[int] = []
    busy: list[tuple[float, int]] = []
    for slot in sorted(slots, key=lambda slot: (slot.start, slot.end)):
        start = axis.x(slot.start)
        while busy and busy[0][0] <= start + 1e-6:
            heapq.heappush(free, heapq.heappop(busy)[1])
        if free:
            row = heapq.heappop(free)
        else:
            row = len(rows)
            rows.append([])
        rows[row].append(slot)
        end = max(axis.x(slot.end), start + NARROWEST) + _SLIT
        heapq.heappush(busy, (end, row))
    return rows


def at_once(spans: Iterable[Span]) -> list[tuple[float, int]]:
    """How many there are from each moment on."""
    changes: Counter[float] = Counter()
    for start, end in spans:
        changes[start] += 1
        changes[end] -= 1
    steps: list[tuple[float, int]] = []
    count = 0
    for moment in sorted(changes):
        count += changes[moment]
        steps.append((moment, count))
    return steps


def spans_of(bars: Iterable[Bar]) -> Iterator[Span]:
    for bar in bars:
        yield bar.start_seconds, max(bar.end_seconds, bar.start_seconds)
        yield from bar.earlier


def peak_of(spans: Iterable[Span]) -> int:
    # What took no time at all ran all the same.
    spans = list(spans)
    return max((count for _, count in at_once(spans)), default=0) or min(1, len(spans))
