"""Bar charts: the largest packages, the most imported modules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from examples.census.svg import (
    BLUE,
    INK,
    LIBRARY_AND_TESTS,
    MUTED,
    ORANGE,
    Drawing,
    linear,
    round_ticks,
)
from examples.census.totals import Census

__all__ = ["lines_by_package", "most_imported"]

TOP = 20


class Bar(NamedTuple):
    """A bar of several colours, each with its part."""

    name: str
    parts: tuple[tuple[str, float], ...]

    @property
    def total(self) -> float:
        return sum(part for _, part in self.parts)


def _bars(drawing: Drawing, bars: Sequence[Bar], unit: str) -> None:
    left, right, top, bottom = 170, drawing.width - 100, 100, drawing.height - 56
    high = max((bar.total for bar in bars), default=0) or 1
    scale = linear(0, high, left, right)
    for tick in round_ticks(high):
        drawing.line(scale(tick), top - 6, scale(tick), bottom)
        drawing.text(scale(tick), bottom + 20, f"{tick:,.0f}", fill=MUTED, anchor="middle")
    drawing.text((left + right) / 2, bottom + 42, unit, fill=MUTED, anchor="middle")
    pitch = (bottom - top) / (len(bars) or 1)
    for number, bar in enumerate(bars):
        y = top + number * pitch
        drawing.text(left - 10, y + pitch / 2 + 4, bar.name, anchor="end")
        x = float(left)
        for colour, part in bar.parts:
            width = scale(part) - left
            drawing.rect(x, y + 2, width, pitch - 4, colour, hint=f"{bar.name}: {part:,.0f}")
            x += width
        drawing.text(x + 8, y + pitch / 2 + 4, f"{bar.total:,.0f}", fill=MUTED)
    drawing.line(left, top - 6, left, bottom, INK)


def lines_by_package(census: Census) -> Drawing:
    """Stacked bars of the largest packages."""
    comments, blank = "#7fb3a6", "#d4dae1"
    packages = census.library_packages or census.packages
    shown = packages[:TOP]
    drawing = Drawing(
        "Lines by package",
        f"the {len(shown)} largest of {len(packages)} packages of {census.about}"
        + (", tests left out" if census.library_packages else ""),
        height=680,
    )
    drawing.legend(928, 42, [(BLUE, "code"), (comments, "comments"), (blank, "blank")])
    bars = [Bar(p.name, ((BLUE, p.code), (comments, p.comments), (blank, p.blank))) for p in shown]
    _bars(drawing, bars, "lines")
    return drawing


def most_imported(census: Census) -> Drawing:
    """Bars of the modules that most files import."""
    library, tests = census.importers(tests=False), census.importers(tests=True)
    drawing = Drawing(
        f"What {census.about} imports most",
        "files that import a module at least once, relative imports left out",
        height=680,
    )
    drawing.legend(928, 42, LIBRARY_AND_TESTS)
    bars = [
        Bar(name, ((BLUE, library[name]), (ORANGE, tests[name])))
        for name, _ in (library + tests).most_common(TOP)
    ]
    _bars(drawing, bars, "files")
    return drawing
