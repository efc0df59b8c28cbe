"""Which column each block stands in, and in which order: the first half of a layout.

Columns come from the longest path. A column too tall for the picture is folded into several.
Lines that pass columns get a point in each of them; lines that begin (or end) at one place
share their points, so that a value many blocks take is one line that branches. The order
within the columns is that of the barycentre sweeps with the fewest crossings.
"""

from __future__ import annotations

import math
from bisect import bisect_right, insort
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

import msgspec

__all__ = ["Block", "Layered", "Net", "Port", "Segment", "Wire", "lay_out_columns"]

_SWEEPS = 12
_LEAST_ROWS = 30

Port = tuple[int, float]


class Block(msgspec.Struct, frozen=True):
    """What takes a place of its own: pixels of width and height.

    ``tail`` is the room that its right side needs for the names of what leaves there.
    """

    width: float
    height: float
    tail: float = 0.0


class Wire(msgspec.Struct, frozen=True):
    """A line from one block's right side to another's left side.

    Each end is a block's number and how far down its side the line meets it. Lines of
    another ``kind`` never share a way.
    """

    start: Port
    end: Port
    kind: str = ""


class Segment(msgspec.Struct, frozen=True):
    """A piece of a line, from one column to the next; ``net`` numbers what belongs together."""

    start: Port
    end: Port
    net: int


class Net(msgspec.Struct, frozen=True):
    """Lines of one kind that begin, or all end, at one place: its anchor."""

    kind: str
    anchor: Port


class Layered(msgspec.Struct):
    """Columns from left to right, each a list of vertices from top to bottom.

    Vertices below ``len(blocks)`` are blocks, the others points that lines pass.
    """

    columns: list[list[int]]
    segments: list[Segment]
    column_of: list[int]
    nets: list[Net]


def lay_out_columns(blocks: Sequence[Block], wires: Sequence[Wire]) -> Layered:
    """Find the columns and the order within them; the same blocks give the same answer.

    Args:
        blocks: what is placed.
        wires: between blocks, without a cycle.
    """
    column_of = _columns(len(blocks), wires)
    layered = _ordered(blocks, wires, column_of)
    folded = _fold(blocks, layered)
    return layered if folded is None else _ordered(blocks, wires, folded)


# -- columns -----------------------------------------------------------------------------


def _columns(count: int, wires: Sequence[Wire]) -> list[int]:
    """The longest path to each block; what has nothing before it stands near what follows."""
    above: list[set[int]] = [set() for _ in range(count)]
    below: list[set[int]] = [set() for _ in range(count)]
    for wire in wires:
        above[wire.end[0]].add(wire.start[0])
        below[wire.start[0]].add(wire.end[0])
    waits = [len(parents) for parents in above]
    column_of = [0] * count
    ready = [block for block in range(count) if not waits[block]]
    for block in ready:
        for child in sorted(below[block]):
            column_of[child] = max(column_of[child], column_of[block] + 1)
            waits[child] -= 1
            if not waits[child]:
                ready.append(child)
    for block in range(count):
        if not above[block] and below[block]:
            column_of[block] = min(column_of[child] for child in below[block]) - 1
    return column_of


def _fold(blocks: Sequence[Block], layered: Layered) -> list[int] | None:
    """Wider pictures instead of towers: columns by block with the tallest ones cut."""
    heights = [
        sum(blocks[v].height + 12 for v in column if v < len(blocks)) for column in layered.columns
    ]
    area = sum((block.width + block.tail + 70) * (block.height + 12) for block in blocks)
    most = max(_LEAST_ROWS * 38.0, 1.25 * math.sqrt(area))
    if max(heights, default=0) <= 1.25 * most:
        return None
    column_of = [0] * len(blocks)
    at = 0
    for column, height in zip(layered.columns, heights, strict=True):
        pieces = max(1, math.ceil(height / most - 0.25))
        # Taken in turn, so that each piece is as high as the next and families stay level.
        for place, block in enumerate(vertex for vertex in column if vertex < len(blocks)):
            column_of[block] = at + place % pieces
        at += pieces
    return column_of


# -- lines in pieces ---------------------------------------------------------------------


class _Router:
    """Cuts lines into pieces, with shared points in the columns they pass."""

    def __init__(self, column_of: list[int]) -> None:
        self.column_of = list(column_of)
        self.segments: dict[Segment, None] = {}
        self.nets: dict[tuple[str, str, Port], int] = {}
        self.points: dict[tuple[int, int], int] = {}

    def route(self, wires: Iterable[Wire]) -> None:
        wires = list(dict.fromkeys(wires))
        long = [wire for wire in wires if self._length(wire) > 1]
        starts = Counter((wire.kind, wire.start) for wire in long)
        ends = Counter((wire.kind, wire.end) for wire in long)
        for wire in wires:
            gathers = self._length(wire) > 1 and (
                ends[wire.kind, wire.end] > starts[wire.kind, wire.start]
            )
            side = "end" if gathers else "start"
            key = (side, wire.kind, wire.end if gathers else wire.start)
            self._cut(wire, self.nets.setdefault(key, len(self.nets)))

    def _length(self, wire: Wire) -> int:
        return self.column_of[wire.end[0]] - self.column_of[wire.start[0]]

    def _cut(self, wire: Wire, net: int) -> None:
        last = wire.start
        for column in range(self.column_of[wire.start[0]] + 1, self.column_of[wire.end[0]]):
            point = (self._point(net, column), 0.0)
            self.segments.setdefault(Segment(last, point, net))
            last = point
        self.segments.setdefault(Segment(last, wire.end, net))

    def _point(self, net: int, column: int) -> int:
        found = self.points.get((net, column))
        if found is None:
            found = self.points[net, column] = len(self.column_of)
            self.column_of.append(column)
        return found


def _ordered(blocks: Sequence[Block], wires: Sequence[Wire], column_of: list[int]) -> Layered:
    router = _Router(column_of)
    router.route(wires)
    columns: list[list[int]] = [[] for _ in range(max(router.column_of, default=-1) + 1)]
    for vertex, column in enumerate(router.column_of):
        columns[column].append(vertex)
    heights = [block.height for block in blocks]
    heights += [0.0] * (len(router.column_of) - len(blocks))
    segments = list(router.segments)
    best = _Sweeps(columns, segments, router.column_of, heights).run()
    return Layered(
        best, segments, router.column_of, [Net(kind, anchor) for _, kind, anchor in router.nets]
    )


# -- order within columns ----------------------------------------------------------------


class _Sweeps:
    """Sorts each column by the mean place of its neighbours, forth and back."""

    def __init__(
        self,
        columns: list[list[int]],
        segments: Sequence[Segment],
        column_of: Sequence[int],
        heights: Sequence[float],
    ) -> None:
        self.columns = columns
        self.column_of = column_of
        self.heights = heights
        self.before: dict[int, list[Port]] = defaultdict(list)
        self.after: dict[int, list[Port]] = defaultdict(list)
        self.gaps: list[list[tuple[Port, Port]]] = [[] for _ in columns]
        for segment in segments:
            self.before[segment.end[0]].append(segment.start)
            self.after[segment.start[0]].append(segment.end)
            self.gaps[column_of[segment.start[0]]].append((segment.start, segment.end))

    def run(self) -> list[list[int]]:
        self._start()
        best, fewest = [list(column) for column in self.columns], self._crossings()
        for sweep in range(_SWEEPS):
            if not fewest:
                break
            if sweep % 2:
                for column in reversed(self.columns[:-1]):
                    self._sort(column, self.after)
            else:
                for column in self.columns[1:]:
                    self._sort(column, self.before)
            crossings = self._crossings()
            if crossings < fewest:
                best, fewest = [list(column) for column in self.columns], crossings
        return best

    def _start(self) -> None:
        """Begin with families side by side: each column in the order of a walk along lines."""
        seen: dict[int, int] = {}
        roots = [v for column in self.columns for v in column if not self.before[v]]
        for root in roots:
            stack = [root]
            while stack:
                vertex = stack.pop()
                if vertex not in seen:
                    seen[vertex] = len(seen)
                    stack.extend(end for end, _ in reversed(self.after[vertex]))
        for column in self.columns:
            column.sort(key=seen.__getitem__)

    def _sort(self, column: list[int], neighbours: dict[int, list[Port]]) -> None:
        own = {vertex: place for place, vertex in enumerate(column)}
        other = next((ends[0][0] for vertex in column if (ends := neighbours[vertex])), None)
        if other is None:
            return
        beside = self.columns[self.column_of[other]]
        places = {vertex: place for place, vertex in enumerate(beside)}
        scale = len(places) / len(column)

        def mean(vertex: int) -> float:
            ends = neighbours[vertex]
            if not ends:
                return own[vertex] * scale
            return sum(places[end] + self._share(end, at) for end, at in ends) / len(ends)

        means = {vertex: mean(vertex) for vertex in column}
        column.sort(key=means.__getitem__)

    def _share(self, vertex: int, at: float) -> float:
        """How far down a block a line meets it, as less than half a place."""
        height = self.heights[vertex]
        return 0.4 * at / height if height else 0.2

    def _crossings(self) -> int:
        places = {v: place for column in self.columns for place, v in enumerate(column)}
        crossings = 0
        for gap in self.gaps:
            # One after another from the top left: each crosses those whose end is lower.
            lines = sorted(((places[a], at), (places[b], into)) for (a, at), (b, into) in gap)
            ends: list[tuple[int, float]] = []
            for _, end in lines:
                crossings += len(ends) - bisect_right(ends, end)
                insort(ends, end)
        return crossings
