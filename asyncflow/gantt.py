"""The course of a finished run as SVG: bars along an axis of time, packed into rows.

Rows are slots, not steps: a bar goes to the first row that is free, so there are as many rows
as steps ran at once. A retried step takes one row from its first try to its end, and so does a
group. Of a run with very many steps each kind is one row that shows how many ran at once.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from asyncflow.graph.kinds import common_name, first_word, kind_of, mapped_node, needless_start
from asyncflow.paper import (
    GRID,
    LOOKS,
    MUTED,
    WHITE,
    Paper,
    Title,
    number,
    shortened,
    text_width,
    tint,
)
from asyncflow.quantities import format_seconds
from asyncflow.states import NodeState
from asyncflow.timeline import (
    NARROWEST,
    Axis,
    Bar,
    Slot,
    Span,
    at_once,
    pack,
    peak_of,
    slots_of,
    spans_of,
)

__all__ = ["draw_gantt"]

_WIDTH, _MARGIN = 1200.0, 30.0
_MOST_BARS, _MOST_KINDS = 800, 60
_OVERVIEW, _KIND_ROW, _KIND_NAME = 54.0, 30.0, 250.0
# Room for the names of short steps at the very end.
_ENDS = 110.0
_TALL = 900.0
# Rows are as high as their number allows: up to so many rows, so many pixels.
_ROW_HEIGHTS = ((40, 20.0), (90, 16.0), (200, 9.0))
_LEAST_ROW_HEIGHT = 5.0
_LEAST_NAMED = 14.0
# Less room than this shows too little of a name to tell it.
_LEAST_NAME = 44.0
_OVERVIEW_COLOUR = "#5d7fa3"
_LANES = {"inline": "event loop", "thread": "threads", "process": "worker processes"}
_BAD = frozenset({NodeState.FAILED, NodeState.TIMED_OUT, NodeState.ABANDONED, NodeState.CANCELLED})


def draw_gantt(
    name: str,
    about: str,
    bars: Iterable[Bar],
    *,
    duration_seconds: float,
    counts: Mapping[NodeState, int],
) -> str:
    """The chart as SVG that scales, with no script and no reference to anything outside.

    Args:
        name: of the pipeline.
        about: what to say of the run.
        bars: the nodes that ran, in any order; what a mapped node waited is left out.
        duration_seconds: of the run.
        counts: how many nodes ended in each state.
    """
    known = list(bars)
    mapped = {mapped_node(bar.name) for bar in known if mapped_node(bar.name) != bar.name}
    shown = sorted(
        (bar for bar in known if bar.name not in mapped),
        key=lambda bar: (bar.first_seconds, bar.end_seconds),
    )
    remarks: tuple[str, ...] = ()
    if len(shown) > _MOST_BARS:
        remarks = (f"more than {_MOST_BARS} steps: how many of each kind ran at once",)
    title = Title(name, about, counts, remarks)
    return _Chart(title, shown, duration_seconds).draw()


# -- the chart ---------------------------------------------------------------------------


class _Chart:
    """Draws from top to bottom; ``y`` is where the next part begins."""

    def __init__(self, title: Title, bars: Sequence[Bar], duration_seconds: float) -> None:
        self.title = title
        self.bars = bars
        self.summed_up = len(bars) > _MOST_BARS
        left = _MARGIN + _KIND_NAME if self.summed_up else _MARGIN
        self.needless = 0 if self.summed_up else needless_start([bar.name for bar in bars])
        right = _WIDTH - (_MARGIN if self.summed_up else _ENDS)
        self.axis = Axis(bars, duration_seconds, left, right)
        self.front = Paper()
        self.y = 0.0

    def draw(self) -> str:
        paper = Paper()
        self.y = paper.head(self.title, _WIDTH) + 8
        if not self.bars:
            paper.text(20, self.y + 12, "Nothing ran.", fill=MUTED)
            return paper.render(_WIDTH, self.y + 40, self.title.name)
        self._draw_overview()
        top = self.y - _OVERVIEW
        self._draw_ticks(self.y + 14)
        self.y += 28
        if self.summed_up:
            self._draw_kinds()
        else:
            self._draw_lanes()
        if self.y > _TALL:
            self._draw_ticks(self.y + 14)
            self.y += 24
        for moment, _ in self.axis.ticks():
            x = number(self.axis.x(moment))
            paper.path(f"M{x} {number(top)}V{number(self.y)}", stroke=GRID)
        paper.put(self.front)
        return paper.render(_WIDTH, self.y + 16, self.title.name)

    def _draw_ticks(self, y: float) -> None:
        for moment, label in self.axis.ticks():
            self.front.text(self.axis.x(moment), y, label, size=11, fill=MUTED, anchor="middle")

    def _draw_overview(self) -> None:
        spans = list(spans_of(self.bars))
        peak = peak_of(spans)
        self.front.text(20, self.y + 4, f"at once: up to {peak:,}", size=11, fill=MUTED)
        self.y += 10 + _OVERVIEW
        self._draw_area(spans, self.y, _OVERVIEW, _OVERVIEW_COLOUR)

    def _draw_area(self, spans: Sequence[Span], bottom: float, height: float, colour: str) -> None:
        """How many at once, as steps; within a pixel the most there were."""
        columns = self._columns(at_once(spans))
        peak = max((count for _, count in columns), default=0)
        if not peak:
            return
        points = [f"M{number(columns[0][0])} {number(bottom)}"]
        for x, count in columns:
            points.append(f"H{number(x)}V{number(bottom - height * count / peak)}")
        points.append("Z")
        self.front.path("".join(points), fill=tint(colour, 0.45), stroke=colour)

    def _columns(self, steps: Sequence[tuple[float, int]]) -> list[tuple[float, int]]:
        columns: list[tuple[float, int]] = []
        for moment, count in steps:
            x = self.axis.x(moment)
            if columns and x - columns[-1][0] < 0.5 and count:
                columns[-1] = (columns[-1][0], max(count, columns[-1][1]))
            else:
                columns.append((x, count))
        return columns

    # -- lanes ---------------------------------------------------------------------------

    def _draw_lanes(self) -> None:
        by_lane: dict[str, list[Bar]] = defaultdict(list)
        for bar in self.bars:
            by_lane[bar.lane].append(bar)
        packed = {lane: pack(slots_of(by_lane[lane]), self.axis) for lane in _sorted(by_lane)}
        total = sum(map(len, packed.values()))
        height = next((h for most, h in _ROW_HEIGHTS if total <= most), _LEAST_ROW_HEIGHT)
        for lane, rows in packed.items():
            self._draw_lane_title(lane, by_lane[lane])
            for row in rows:
                self._draw_row(row, height)
            self.y += 10

    def _draw_lane_title(self, lane: str, bars: Sequence[Bar]) -> None:
        peak = peak_of(spans_of(bars))
        words = f"{_LANES.get(lane, lane)}: {_steps(len(bars))}, up to {peak:,} at once"
        self.front.rect(20, self.y, text_width(words, 12, bold=True) + 8, 18, WHITE)
        self.front.text(20, self.y + 13, words, bold=True)
        self.y += 22

    def _draw_row(self, row: Sequence[Slot], height: float) -> None:
        bars = [bar for slot in row for bar in slot.bars]
        for slot in row:
            if len(slot.bars) > 1:
                x, end = self.axis.x(slot.start), self.axis.x(slot.end)
                self.front.rect(x, self.y, end - x, height, WHITE, stroke=MUTED, dash="3 2")
        starts = [self.axis.x(bar.first_seconds) for bar in bars[1:]] + [_WIDTH - 4]
        for bar, until in zip(bars, starts, strict=True):
            self._draw_bar(bar, until, height)
        self.y += height + (2 if height >= _LEAST_NAMED else 1)

    def _draw_bar(self, bar: Bar, until: float, height: float) -> None:
        x = self.axis.x(bar.start_seconds)
        width = max(self.axis.x(bar.end_seconds) - x, NARROWEST)
        colour = LOOKS[bar.state].colour
        named = height >= _LEAST_NAMED
        self._draw_tries(bar, x, height)
        with self.front.together(_hint(bar)):
            fill = tint(colour, 0.35) if named and width > 4 else tint(colour, 0.75)
            inset = 2 if named else 0
            edge = colour if named else ""
            self.front.rect(
                x, self.y + inset, width, height - 2 * inset, fill, stroke=edge, radius=2
            )
            if named:
                self._draw_words(bar, x, x + width, until, height)
            elif bar.state is not NodeState.SUCCEEDED and until - x - width > height + 2:
                middle = self.y + height / 2
                self.front.badge(x + width + height / 2 + 1, middle, bar.state, height / 14)

    def _draw_tries(self, bar: Bar, until: float, height: float) -> None:
        """Earlier tries as hollow bars, and a dotted line for the waits between."""
        if bar.attempts < 2:
            return
        middle = self.y + height / 2
        start = self.axis.x(bar.first_seconds)
        colour = LOOKS[NodeState.RETRYING].colour
        if until - start > 0.5:
            path = f"M{number(start)} {number(middle)}H{number(until)}"
            self.front.path(path, stroke=colour, width=1.5, dash="0.1 4")
        for begun, ended in bar.earlier:
            x = self.axis.x(begun)
            width = max(self.axis.x(ended) - x, NARROWEST)
            inset = 3 if height >= _LEAST_NAMED else 1
            self.front.rect(
                x, self.y + inset, width, height - 2 * inset, WHITE, stroke=colour, radius=2
            )

    def _draw_words(self, bar: Bar, x: float, end: float, until: float, height: float) -> None:
        """The badge of what did not succeed, and the name: in the bar, or behind it."""
        inside, outside = (x + 4, end - 4), (end + 3, until - 4)
        middle = self.y + height / 2
        if bar.state is not NodeState.SUCCEEDED:
            room = end - x
            if room >= 22:
                self.front.badge(x + 11, middle, bar.state)
                inside = (x + 22, inside[1])
            elif outside[1] - end >= 18:
                self.front.badge(end + 10, middle, bar.state)
                outside = (end + 21, outside[1])
            elif room >= 6:
                self.front.badge(x + room / 2, middle, bar.state, (room - 2) / 14)
        size = 11.0 if height >= 20 else 10.0
        name = f"…{bar.name[self.needless :]}" if self.needless else bar.name
        words = name + (f" ({bar.attempts} tries)" if bar.attempts > 1 else "")
        wanted = text_width(words, size)
        rooms = [(start, stop - start) for start, stop in (inside, outside)]
        best = next((room for room in rooms if room[1] >= wanted), max(rooms, key=lambda r: r[1]))
        if best[1] >= min(wanted, _LEAST_NAME):
            shown = shortened(words, best[1], size)
            self.front.text(best[0], middle + size * 0.36, shown, size=size)

    # -- kinds ---------------------------------------------------------------------------

    def _draw_kinds(self) -> None:
        for (lane, _), bars in _by_kind(self.bars).items():
            spans = list(spans_of(bars))
            name = common_name([mapped_node(bar.name) for bar in bars])
            self._draw_kind_title(name, lane, bars, peak_of(spans))
            bottom = self.y + _KIND_ROW - 6
            self._draw_area(spans, bottom, _KIND_ROW - 8, LOOKS[NodeState.SUCCEEDED].colour)
            self._draw_troubles(bars, bottom - 8)
            self.y += _KIND_ROW

    def _draw_kind_title(self, name: str, lane: str, bars: Sequence[Bar], peak: int) -> None:
        room = _KIND_NAME - 10
        shown = shortened(name, room, 12)
        self.front.text(20, self.y + 11, shown, hint=name if shown != name else "")
        tries = sum(bar.attempts - 1 for bar in bars)
        facts = f"{_LANES.get(lane, lane)}: {_steps(len(bars))}, up to {peak:,} at once"
        if tries:
            facts += f", {tries:,} retries"
        self.front.text(20, self.y + 23, shortened(facts, room, 10), size=10, fill=MUTED)

    def _draw_troubles(self, bars: Sequence[Bar], y: float) -> None:
        """A badge where steps did not succeed, as many as there is room for."""
        last = -math.inf
        for bar in sorted(bars, key=lambda bar: bar.end_seconds):
            x = self.axis.x(bar.end_seconds)
            if bar.state in _BAD and x - last >= 16:
                self.front.badge(x, y, bar.state)
                last = x


def _sorted(lanes: Iterable[str]) -> list[str]:
    known = list(_LANES)
    return sorted(lanes, key=lambda lane: (known.index(lane) if lane in known else 99, lane))


def _steps(count: int) -> str:
    return f"{count:,} step" + ("" if count == 1 else "s")


def _hint(bar: Bar) -> str:
    seconds = bar.end_seconds - bar.start_seconds
    parts = [
        bar.name,
        bar.state.replace("_", " "),
        f"{format_seconds(bar.start_seconds)} to {format_seconds(bar.end_seconds)}",
        f"took {format_seconds(seconds)}",
    ]
    if bar.attempts > 1:
        parts.append(f"{bar.attempts} tries")
    if bar.worker:
        parts.append(f"in {bar.worker}")
    return " · ".join(parts)


def _by_kind(bars: Sequence[Bar]) -> dict[tuple[str, str], list[Bar]]:
    """The bars of each lane and kind of step, the earliest first, at most so many kinds."""
    for kind in (kind_of, first_word):
        found: dict[tuple[str, str], list[Bar]] = defaultdict(list)
        for bar in bars:
            found[bar.lane, kind(bar.name, bar.step)].append(bar)
        if len(found) <= _MOST_KINDS:
            return found
    by_lane: dict[tuple[str, str], list[Bar]] = defaultdict(list)
    for bar in bars:
        by_lane[bar.lane, ""].append(bar)
    return by_lane
