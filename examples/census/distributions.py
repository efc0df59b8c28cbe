"""How functions are spread: by their length, and by how much they branch."""

from __future__ import annotations

import itertools
import math
import statistics
from bisect import bisect
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from examples.census.facts import FileFacts
from examples.census.svg import (
    BLUE,
    INK,
    LIBRARY_AND_TESTS,
    MUTED,
    ORANGE,
    Drawing,
    Scale,
    linear,
    logarithmic,
    round_ticks,
    square_root,
    text_width,
)
from examples.census.totals import Census

__all__ = ["branching", "function_lengths"]


class _Group(NamedTuple):
    """The lengths of the library's functions, or of its tests'."""

    colour: str
    name: str
    lengths: list[int]


def function_lengths(census: Census) -> Drawing:
    """Two histograms over a logarithmic axis, with medians."""
    drawing = Drawing(
        "How long functions are",
        f"functions of {census.about} by their lines, on a logarithmic axis; dashed: the medians",
    )
    left, right, top, bottom = 84, drawing.width - 40, 104, drawing.height - 64
    groups = _groups(census)
    edges = _edges(max((max(group.lengths) for group in groups), default=1))
    shares = [_shares(group.lengths, edges) for group in groups]
    high = max((max(share) for share in shares), default=1.0)
    x, y = logarithmic(edges[0], edges[-1], left, right), linear(0, high, bottom, top)
    _percent_axis(drawing, y, high, (left, right))
    for group, share in zip(groups, shares, strict=True):
        _outline(drawing, group.colour, edges, share, (x, y))
    _log_axis(drawing, x, (edges[0], edges[-1]), bottom, "lines of a function")
    middle = (top + bottom) / 2
    drawing.text(
        28, middle, "share of functions per doubling", fill=MUTED, anchor="middle", turned=True
    )
    for number, group in enumerate(groups):
        median = x(statistics.median(group.lengths))
        drawing.line(median, top, median, bottom, group.colour, dash="5 4")
        _describe(drawing, group, top + 14 + number * 48)
    return drawing


def _groups(census: Census) -> list[_Group]:
    groups = [
        _Group(colour, name, [f.lines for f in census.functions(tests=tests)])
        for (colour, name), tests in zip(LIBRARY_AND_TESTS, (False, True), strict=True)
    ]
    return [group for group in groups if group.lengths]


def _outline(
    drawing: Drawing,
    colour: str,
    edges: Sequence[float],
    share: Sequence[float],
    axes: tuple[Scale, Scale],
) -> None:
    x, y = axes
    points = [(x(edges[0]), y(0))]
    for (low, up), part in zip(itertools.pairwise(edges), share, strict=True):
        points += [(x(low), y(part)), (x(up), y(part))]
    points.append((x(edges[-1]), y(0)))
    drawing.area(points, colour, opacity=0.28, stroke=colour)


def _describe(drawing: Drawing, group: _Group, at: float) -> None:
    left = drawing.width - 350
    ordered = sorted(group.lengths)
    drawing.rect(left, at - 11, 13, 13, group.colour, radius=2)
    drawing.text(left + 22, at, f"{group.name}: {len(ordered):,} functions", weight=600)
    drawing.text(
        left + 22,
        at + 18,
        f"median {statistics.median(ordered):g} lines, 95 % have at most "
        f"{ordered[int(0.95 * len(ordered))]}, the longest {ordered[-1]:,}",
        size=12,
        fill=MUTED,
    )


def _edges(longest: int) -> list[float]:
    """Borders between whole numbers, each bin about a quarter wider than the last."""
    edges = [0.5]
    while edges[-1] < longest:
        edges.append(max(edges[-1] + 1, math.floor(edges[-1] * 1.25) + 0.5))
    return edges


def _shares(lengths: Sequence[int], edges: Sequence[float]) -> list[float]:
    """Shares of all lengths by bin, as if each bin were one doubling wide.

    On a logarithmic axis bins around whole numbers differ in width; equal areas must stand
    for equally many functions.
    """
    bins = Counter(bisect(edges, length) - 1 for length in lengths)
    return [
        bins[number] / len(lengths) / math.log2(up / low)
        for number, (low, up) in enumerate(itertools.pairwise(edges))
    ]


# -- axes ------------------------------------------------------------------------------------


def _percent_axis(drawing: Drawing, y: Scale, high: float, span: tuple[float, float]) -> None:
    for tick in round_ticks(high, 5):
        drawing.line(span[0], y(tick), span[1], y(tick))
        drawing.text(span[0] - 10, y(tick) + 4, f"{tick * 100:g} %", fill=MUTED, anchor="end")


def _log_axis(
    drawing: Drawing, x: Scale, ends: tuple[float, float], bottom: float, unit: str
) -> None:
    low, high = ends
    for tick in (k * 10**power for power in range(7) for k in (1, 2, 5)):
        if low <= tick <= high:
            drawing.line(x(tick), bottom, x(tick), bottom + 5, MUTED)
            drawing.text(x(tick), bottom + 20, f"{tick:,}", fill=MUTED, anchor="middle")
    drawing.line(x(low), bottom, x(high), bottom, INK)
    drawing.text((x(low) + x(high)) / 2, bottom + 44, unit, fill=MUTED, anchor="middle")


# -- the scatter -----------------------------------------------------------------------------


_BRANCH_TICKS = (0, 0.5, 1, 2, 3, 5, 7, 10, 15, 20, 30, 50)


class _Dot(NamedTuple):
    """A file: where it stands and what it is called."""

    found: FileFacts
    lines: int
    branches: float


def branching(census: Census) -> Drawing:
    """One dot for each file: its length against how much its functions branch."""
    drawing = Drawing(
        "Where the branches are",
        "each dot a file of three functions or more, sized by their number; "
        "named: those that branch most, tests left out",
        height=620,
    )
    drawing.legend(928, 42, LIBRARY_AND_TESTS)
    left, right, top, bottom = 84, drawing.width - 40, 104, drawing.height - 64
    dots = _dots(census)
    high = max((dot.branches for dot in dots), default=1.0) * 1.04
    longest = max((dot.lines for dot in dots), default=1)
    ends = (max(1.0, min((dot.lines for dot in dots), default=1) * 0.8), longest * 1.25)
    x, y = logarithmic(*ends, left, right), square_root(high, bottom, top)
    for tick in (tick for tick in _BRANCH_TICKS if tick <= high):
        drawing.line(left, y(tick), right, y(tick))
        drawing.text(left - 10, y(tick) + 4, f"{tick:g}", fill=MUTED, anchor="end")
    _log_axis(drawing, x, ends, bottom, "lines of the file")
    middle = (top + bottom) / 2
    drawing.text(28, middle, "branches per function", fill=MUTED, anchor="middle", turned=True)
    # Small dots last, so that large ones do not hide them.
    for dot in sorted(dots, key=lambda dot: (not dot.found.is_test, -len(dot.found.functions))):
        _draw_dot(drawing, dot, (x(dot.lines), y(dot.branches)))
    _name_extremes(drawing, dots, (x, y))
    return drawing


def _dots(census: Census) -> list[_Dot]:
    lines = {found.path: found.lines for package in census.packages for found in package.files}
    return [
        _Dot(found, lines[found.path], statistics.fmean(f.branches for f in found.functions))
        for found in census.parsed or ()
        if len(found.functions) >= 3
    ]


def _radius(dot: _Dot) -> float:
    return 1.4 + math.sqrt(len(dot.found.functions)) * 0.4


def _draw_dot(drawing: Drawing, dot: _Dot, at: tuple[float, float]) -> None:
    colour = ORANGE if dot.found.is_test else BLUE
    hint = (
        f"{dot.found.module}: {dot.lines:,} lines, {len(dot.found.functions)} functions, "
        f"{dot.branches:.1f} branches each"
    )
    drawing.circle(*at, _radius(dot), colour, opacity=0.5, hint=hint)


def _name_extremes(drawing: Drawing, dots: Sequence[_Dot], axes: tuple[Scale, Scale]) -> None:
    """Names beside the most branching files, as far as they do not cover each other."""
    x, y = axes
    taken: list[tuple[float, float, float]] = []
    library = [dot for dot in dots if not dot.found.is_test]
    for dot in sorted(library, key=lambda dot: -dot.branches)[:24]:
        start, height = x(dot.lines) + _radius(dot) + 4, y(dot.branches) + 4
        end = start + text_width(dot.found.module, 12)
        covers = any(a < end and start < b and abs(h - height) < 15 for a, b, h in taken)
        if not covers and end < drawing.width - 20:
            taken.append((start, end, height))
            drawing.text(start, height, dot.found.module, size=12, halo=True)
