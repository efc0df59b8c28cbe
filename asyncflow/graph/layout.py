"""Where blocks and lines go, in pixels: the second half of a layout.

Each column keeps its order; within it, blocks and lines stand as near as they can to the mean
height of what they are joined with. A picture that would be a long strip is cut into rows.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

import msgspec

from asyncflow.graph.layering import Block, Layered, Port, Segment, Wire, lay_out_columns
from asyncflow.paper import number

__all__ = ["Layout", "Line", "lay_out"]

_ROUNDS = 6
_LEAST_GAP, _MOST_GAP = 40.0, 150.0
_LANE = 8.0
# How much one thing wants to be level with another: a long line had better be straight, and
# a line that branches does not follow its branches.
_STRAIGHT, _TIED, _LOOSE = 8.0, 2.0, 0.05
_ROW_GAP = 36.0
# A picture is cut into rows when it is wider than high by more than this ...
_STRIP = 6.0
_LEAST_STRIP, _LEAST_ROW = 380.0, 1200.0
# ... and where no more lines than this have to go back to the left.
_MOST_RETURNS = 4


class Line(msgspec.Struct, frozen=True):
    """All that is drawn as one line: its path from right sides to left sides of blocks.

    ``starts`` and ``ends`` are where it meets them.
    """

    kind: str
    path: str
    starts: tuple[Port, ...]
    ends: tuple[Port, ...]


class Layout(msgspec.Struct, frozen=True):
    """Places in pixels: the top left corner of each block, and the width it has there.

    Attributes:
        places: by block.
        widths: by block; blocks of one column are equally wide.
        lines: what joins them.
        width, height: of all of it.
    """

    places: list[tuple[float, float]]
    widths: list[float]
    lines: list[Line]
    width: float
    height: float


def lay_out(blocks: Sequence[Block], wires: Sequence[Wire]) -> Layout:
    """Place blocks in columns from left to right, and the lines between them.

    Args:
        blocks: what is placed, at least one.
        wires: between blocks, without a cycle.
    """
    ends = {port[0] for wire in wires for port in (wire.start, wire.end)}
    joined = [block for block in range(len(blocks)) if block in ends]
    main = _lay_out_joined([blocks[b] for b in joined], _renumbered(wires, joined))
    alone = [block for block in range(len(blocks)) if block not in ends]
    return _with_grid(blocks, main, joined, alone) if alone else main


def _renumbered(wires: Sequence[Wire], joined: Sequence[int]) -> list[Wire]:
    at = {block: place for place, block in enumerate(joined)}
    return [
        Wire((at[wire.start[0]], wire.start[1]), (at[wire.end[0]], wire.end[1]), wire.kind)
        for wire in wires
    ]


def _lay_out_joined(blocks: Sequence[Block], wires: Sequence[Wire]) -> Layout:
    if not blocks:
        return Layout([], [], [], 0.0, 0.0)
    layered = lay_out_columns(blocks, wires)
    tops = _Heights(blocks, layered).settle()
    return _Drafting(blocks, layered, tops).layout()


def _with_grid(
    blocks: Sequence[Block], main: Layout, joined: Sequence[int], alone: Sequence[int]
) -> Layout:
    """Blocks that nothing joins stand in rows below the others."""
    cell = max(blocks[block].width + blocks[block].tail for block in alone)
    room = max(
        main.width, 1.5 * math.sqrt(sum((cell + 16) * (blocks[b].height + 12) for b in alone))
    )
    across = max(1, int((room + 16) / (cell + 16)))
    places = dict(zip(joined, main.places, strict=True))
    widths = dict(zip(joined, main.widths, strict=True))
    top = main.height + (_ROW_GAP if joined else 0.0)
    for start in range(0, len(alone), across):
        row = alone[start : start + across]
        for column, block in enumerate(row):
            places[block] = (column * (cell + 16), top)
            widths[block] = cell - blocks[block].tail
        top += max(blocks[block].height for block in row) + 12
    lines = [
        Line(
            line.kind,
            line.path,
            tuple((joined[block], at) for block, at in line.starts),
            tuple((joined[block], at) for block, at in line.ends),
        )
        for line in main.lines
    ]
    return Layout(
        [places[block] for block in range(len(blocks))],
        [widths[block] for block in range(len(blocks))],
        lines,
        max(main.width, min(across, len(alone)) * (cell + 16) - 16),
        top - 12,
    )


# -- how high ----------------------------------------------------------------------------


class _Pull(msgspec.Struct, frozen=True):
    """A vertex wants to stand ``offset`` below another."""

    other: int
    offset: float
    weight: float


class _Heights:
    """The top of each vertex."""

    def __init__(self, blocks: Sequence[Block], layered: Layered) -> None:
        self.columns = layered.columns
        self.blocks = len(blocks)
        points = len(layered.column_of) - len(blocks)
        self.heights = [block.height for block in blocks] + [0.0] * points
        self.tops = [0.0] * len(self.heights)
        self.before: dict[int, list[_Pull]] = defaultdict(list)
        self.after: dict[int, list[_Pull]] = defaultdict(list)
        for segment in layered.segments:
            self._tie(segment, layered.nets[segment.net].anchor)

    def _tie(self, segment: Segment, anchor: Port) -> None:
        (a, out), (b, into) = segment.start, segment.end
        passing = (a >= self.blocks) + (b >= self.blocks)
        weight = (1.0, _LOOSE, _STRAIGHT)[passing]
        if passing == 1 and anchor[0] in (a, b):
            weight = _TIED
        if passing == 1 and a >= self.blocks and b != anchor[0]:
            # A block far along a line looks to where that begins, not to where it passes.
            self.before[b].append(_Pull(anchor[0], anchor[1] - into, 1.0))
        else:
            self.before[b].append(_Pull(a, out - into, weight))
        if passing == 1 and b >= self.blocks and a != anchor[0]:
            self.after[a].append(_Pull(anchor[0], anchor[1] - out, 1.0))
        else:
            self.after[a].append(_Pull(b, into - out, weight))

    def settle(self) -> list[float]:
        for column in self.columns:
            self._place(column, [0.0] * len(column), [1.0] * len(column))
        for _ in range(_ROUNDS):
            for column in self.columns[1:]:
                self._pull(column, self.before)
            for column in reversed(self.columns[:-1]):
                self._pull(column, self.after)
        for columns in (self.columns, self.columns[::-1]):
            for column in columns:
                self._pull(column, self.before, self.after)
        lowest = min(self.tops, default=0.0)
        return [top - lowest for top in self.tops]

    def _pull(self, column: Sequence[int], *sides: dict[int, list[_Pull]]) -> None:
        wanted, weights = [], []
        for vertex in column:
            pulls = [pull for side in sides for pull in side[vertex]]
            weight = sum(pull.weight for pull in pulls)
            if pulls:
                places = ((self.tops[p.other] + p.offset) * p.weight for p in pulls)
                wanted.append(sum(places) / weight)
            else:
                wanted.append(self.tops[vertex])
            weights.append(min(max(weight, 0.1), 16.0))
        self._place(column, wanted, weights)

    def _place(self, column: Sequence[int], wanted: list[float], weights: list[float]) -> None:
        """As near to what is wanted as the order and the distances allow (least squares)."""
        shifts = [0.0]
        for upper, lower in pairwise(column):
            shifts.append(shifts[-1] + self.heights[upper] + self._distance(upper, lower))
        level = _rising([w - s for w, s in zip(wanted, shifts, strict=False)], weights)
        for vertex, top, shift in zip(column, level, shifts, strict=False):
            self.tops[vertex] = top + shift

    def _distance(self, upper: int, lower: int) -> float:
        return (12.0, 9.0, 6.0)[(upper >= self.blocks) + (lower >= self.blocks)]


def _rising(values: Sequence[float], weights: Sequence[float]) -> Iterator[float]:
    """The nearest values that never fall: neighbours that do are put at their mean."""
    pools: list[tuple[float, float, int]] = []
    for value, weight in zip(values, weights, strict=True):
        mean, total, count = value, weight, 1
        while pools and pools[-1][0] > mean:
            other, more, further = pools.pop()
            mean = (mean * total + other * more) / (total + more)
            total, count = total + more, count + further
        pools.append((mean, total, count))
    for mean, _, count in pools:
        yield from [mean] * count


# -- where across, and the lines ---------------------------------------------------------


class _Column(msgspec.Struct):
    """Where a column begins, how wide its blocks are, and where it ends."""

    left: float
    width: float
    right: float
    row: int = 0
    down: float = 0.0


class _Drafting:
    """Sets the columns side by side, and in rows, and draws the lines."""

    def __init__(self, blocks: Sequence[Block], layered: Layered, tops: list[float]) -> None:
        self.blocks = blocks
        self.layered = layered
        self.tops = tops
        self.column_of = layered.column_of
        self.gaps: list[list[Segment]] = [[] for _ in layered.columns]
        for segment in layered.segments:
            self.gaps[self.column_of[segment.start[0]]].append(segment)
        self.columns: list[_Column] = []
        self.bottoms: dict[int, float] = {}
        self.width = 0.0
        self.height = 0.0

    def layout(self) -> Layout:
        self._set_columns()
        self._cut_into_rows()
        return Layout(
            places=[(self._column(b).left, self._y(b)) for b in range(len(self.blocks))],
            widths=[self._column(b).width for b in range(len(self.blocks))],
            lines=list(self._lines()),
            width=self.width,
            height=self.height,
        )

    def _column(self, vertex: int) -> _Column:
        return self.columns[self.column_of[vertex]]

    def _y(self, vertex: int, at: float = 0.0) -> float:
        return self.tops[vertex] + at + self._column(vertex).down

    def _set_columns(self) -> None:
        left = 0.0
        for column, gap in zip(self.layered.columns, self.gaps, strict=True):
            here = [self.blocks[v] for v in column if v < len(self.blocks)]
            width = max((block.width for block in here), default=0.0)
            tail = max((block.tail for block in here), default=0.0)
            self.columns.append(_Column(left, width, left + width + tail))
            rise = max((abs(self._rise(segment)) for segment in gap), default=0.0)
            spread = _LEAST_GAP + 0.12 * rise + 4 * math.sqrt(len(gap))
            left += width + tail + min(_MOST_GAP, spread)

    def _rise(self, segment: Segment) -> float:
        (a, out), (b, into) = segment.start, segment.end
        return self.tops[b] + into - self.tops[a] - out

    # -- rows ----------------------------------------------------------------------------

    def _cut_into_rows(self) -> None:
        total = self.columns[-1].right
        heights = [self._extent([number])[1] for number in range(len(self.columns))]
        strip = max(heights) + _ROW_GAP
        count = 1
        if total > _STRIP * max(strip, _LEAST_STRIP):
            count = round(total / max(math.sqrt(total * strip * 2), _LEAST_ROW))
        rows = self._rows(total / count) if count > 1 else []
        if len(rows) < 2 or self._span(rows[-1]) < 0.4 * max(map(self._span, rows)):
            # What hardly fills another row had better stay where it is.
            rows = [list(range(len(self.columns)))]
        down = 0.0
        for row, numbers in enumerate(rows):
            top, bottom = self._extent(numbers)
            start = self.columns[numbers[0]].left - (self._returns(numbers[0] - 1) if row else 0)
            for number_ in numbers:
                column = self.columns[number_]
                column.row, column.down = row, down - top
                column.left, column.right = column.left - start, column.right - start
            self.bottoms[row] = down + bottom - top
            back = self._returns(numbers[-1])
            self.width = max(self.width, self.columns[numbers[-1]].right + back)
            down = self.bottoms[row] + _ROW_GAP + back
        self.height = self.bottoms[len(rows) - 1]

    def _extent(self, numbers: Sequence[int]) -> tuple[float, float]:
        chosen = [v for number_ in numbers for v in self.layered.columns[number_]]
        heights = [self.blocks[v].height if v < len(self.blocks) else 0.0 for v in chosen]
        bottoms = [self.tops[v] + height for v, height in zip(chosen, heights, strict=True)]
        return min(self.tops[v] for v in chosen), max(bottoms)

    def _rows(self, wanted: float) -> list[list[int]]:
        rows: list[list[int]] = [[0]]
        for number_ in range(1, len(self.columns)):
            column = self.columns[number_]
            beyond = (column.left + column.right) / 2 > wanted * len(rows)
            if beyond and self._crossing(number_ - 1) <= _MOST_RETURNS:
                rows.append([number_])
            else:
                rows[-1].append(number_)
        return rows

    def _span(self, numbers: Sequence[int]) -> float:
        return self.columns[numbers[-1]].right - self.columns[numbers[0]].left

    def _crossing(self, column: int) -> int:
        return len({(segment.net, segment.start) for segment in self.gaps[column]})

    def _returns(self, column: int) -> float:
        """The room beside a row for lines that go on in the next."""
        last = column == len(self.columns) - 1
        return 0.0 if last else _LANE * (self._crossing(column) + 1)

    # -- lines ---------------------------------------------------------------------------

    def _lines(self) -> Iterator[Line]:
        by_net: dict[int, list[Segment]] = defaultdict(list)
        for segment in self.layered.segments:
            by_net[segment.net].append(segment)
        lanes = self._lanes()
        for number_, net in enumerate(self.layered.nets):
            segments = by_net[number_]
            starts = dict.fromkeys(segment.start for segment in segments)
            pieces = [self._across(start) for start in starts]
            pieces += [self._between(segment, lanes) for segment in segments]
            ends = dict.fromkeys(segment.end for segment in segments)
            yield Line(net.kind, "".join(pieces), self._at_blocks(starts), self._at_blocks(ends))

    def _at_blocks(self, ports: Iterable[Port]) -> tuple[Port, ...]:
        return tuple(port for port in ports if port[0] < len(self.blocks))

    def _across(self, start: Port) -> str:
        """The level part: from the block, or through the column that is passed."""
        vertex, at = start
        column = self._column(vertex)
        left = column.left + (column.width if vertex < len(self.blocks) else 0.0)
        if left == column.right:
            return ""
        return f"M{number(left)} {number(self._y(vertex, at))}H{number(column.right)}"

    def _between(self, segment: Segment, lanes: dict[tuple[int, Port], int]) -> str:
        (a, out), (b, into) = segment.start, segment.end
        x, y = self._column(a).right, self._y(a, out)
        to_x, to_y = self._column(b).left, self._y(b, into)
        if self._column(a).row != self._column(b).row:
            lane = lanes[segment.net, segment.start]
            return self._back(x, y, to_x, to_y, lane, self._column(a).row)
        if abs(y - to_y) < 0.05:
            return f"M{number(x)} {number(y)}H{number(to_x)}"
        half = (to_x - x) / 2
        return (
            f"M{number(x)} {number(y)}c{number(half)} 0 {number(half)} {number(to_y - y)} "
            f"{number(to_x - x)} {number(to_y - y)}"
        )

    def _back(self, x: float, y: float, to_x: float, to_y: float, lane: int, row: int) -> str:
        """From the end of one row, between the two, to the beginning of the next."""
        right, left = x + _LANE * (lane + 1), to_x - _LANE * (lane + 1)
        between = self.bottoms[row] + _ROW_GAP / 2 + _LANE * lane
        return (
            f"M{number(x)} {number(y)}H{number(right)}V{number(between)}"
            f"H{number(left)}V{number(to_y)}H{number(to_x)}"
        )

    def _lanes(self) -> dict[tuple[int, Port], int]:
        lanes: dict[tuple[int, Port], int] = {}
        for gap in self.gaps:
            seen: dict[tuple[int, Port], None] = dict.fromkeys((s.net, s.start) for s in gap)
            lanes.update({key: lane for lane, key in enumerate(seen)})
        return lanes
