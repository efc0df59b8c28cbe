"""A small drawing board: SVG without a library."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from html import escape

__all__ = [
    "BLUE",
    "GRID",
    "INK",
    "LIBRARY_AND_TESTS",
    "MUTED",
    "ORANGE",
    "Drawing",
    "Scale",
    "linear",
    "logarithmic",
    "mixed",
    "round_ticks",
    "square_root",
    "text_width",
]

INK, MUTED, GRID, PAPER = "#1b2733", "#5f6c7b", "#e3e8ee", "#ffffff"
BLUE, ORANGE = "#2d6cb5", "#e2813b"
LIBRARY_AND_TESTS = [(BLUE, "library"), (ORANGE, "its tests")]
_FONT = "Inter, 'Segoe UI', 'Helvetica Neue', Arial, 'DejaVu Sans', sans-serif"

Scale = Callable[[float], float]


class Drawing:
    """Shapes on white paper under a title; ``str()`` gives the SVG.

    Args:
        title: what the drawing shows, as a statement or a name.
        subtitle: how to read it.
        width, height: in pixels; the drawing area begins below the titles, at 84.
    """

    def __init__(self, title: str, subtitle: str, *, width: int = 960, height: int = 560) -> None:
        self.width, self.height = width, height
        self._title = title
        self._shapes: list[str] = []
        self.rect(0, 0, width, height, PAPER)
        self.text(32, 42, title, size=22, weight=700)
        self.text(32, 66, subtitle, size=14, fill=MUTED)

    def rect(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        fill: str,
        *,
        hint: str = "",
        stroke: str = "",
        radius: float = 0,
    ) -> None:
        extra = f' stroke="{stroke}"' if stroke else ""
        extra += f' rx="{radius:g}"' if radius else ""
        self._add(
            f'rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" '
            f'fill="{fill}"{extra}',
            hint,
        )

    def line(
        self, x1: float, y1: float, x2: float, y2: float, stroke: str = GRID, *, dash: str = ""
    ) -> None:
        extra = f' stroke-dasharray="{dash}"' if dash else ""
        self._add(
            f'line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{stroke}"{extra}'
        )

    def circle(
        self, x: float, y: float, radius: float, fill: str, *, opacity: float = 1, hint: str = ""
    ) -> None:
        self._add(
            f'circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}" fill="{fill}" '
            f'fill-opacity="{opacity:g}"',
            hint,
        )

    def area(
        self, points: list[tuple[float, float]], fill: str, *, opacity: float = 1, stroke: str = ""
    ) -> None:
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        extra = f' stroke="{stroke}" stroke-width="2"' if stroke else ""
        self._add(f'polygon points="{path}" fill="{fill}" fill-opacity="{opacity:g}"{extra}')

    def text(
        self,
        x: float,
        y: float,
        words: str,
        *,
        size: float = 13,
        fill: str = INK,
        anchor: str = "start",
        weight: int = 400,
        turned: bool = False,
        halo: bool = False,
    ) -> None:
        extra = f' transform="rotate(-90 {x:.1f} {y:.1f})"' if turned else ""
        if halo:  # keeps a name legible on top of shapes
            extra += f' stroke="{PAPER}" stroke-width="3" paint-order="stroke"'
        self._shapes.append(
            f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size:g}" fill="{fill}" '
            f'text-anchor="{anchor}" font-weight="{weight}"{extra}>{escape(words)}</text>'
        )

    def legend(self, x: float, y: float, entries: list[tuple[str, str]]) -> None:
        """Colours and their names in a row that ends at ``x``."""
        for colour, name in reversed(entries):
            x -= text_width(name, 13)
            self.text(x, y, name, fill=MUTED)
            self.rect(x - 19, y - 11, 13, 13, colour, radius=2)
            x -= 38

    def _add(self, shape: str, hint: str = "") -> None:
        if not hint:
            self._shapes.append(f"<{shape}/>")
            return
        tag = shape.partition(" ")[0]
        self._shapes.append(f"<{shape}><title>{escape(hint)}</title></{tag}>")

    def __str__(self) -> str:
        size = f'width="{self.width}" height="{self.height}"'
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} '
            f'viewBox="0 0 {self.width} {self.height}" font-family="{_FONT}" role="img">\n'
            f"<title>{escape(self._title)}</title>\n" + "\n".join(self._shapes) + "\n</svg>\n"
        )


def text_width(words: str, size: float) -> float:
    """About how many pixels words take; no font is at hand to measure them."""
    return len(words) * size * 0.56


# -- scales ----------------------------------------------------------------------------------


def linear(low: float, high: float, start: float, end: float) -> Scale:
    """From ``low…high`` in the data to ``start…end`` in pixels."""
    return lambda value: start + (value - low) / (high - low) * (end - start)


def logarithmic(low: float, high: float, start: float, end: float) -> Scale:
    """Like :func:`linear`, every factor of ten as wide as any other; values above 0 only."""
    inner = linear(math.log10(low), math.log10(high), start, end)
    return lambda value: inner(math.log10(value))


def square_root(high: float, start: float, end: float) -> Scale:
    """From ``0…high`` to pixels, small values given more room than large ones."""
    inner = linear(0, math.sqrt(high), start, end)
    return lambda value: inner(math.sqrt(value))


def round_ticks(high: float, at_most: int = 6) -> Iterator[float]:
    """Round numbers from 0 to ``high``, steps of 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(high / at_most))
    step = next(power * k for k in (1, 2, 5, 10) if high / (power * k) <= at_most)
    for number in range(int(high / step) + 1):
        yield number * step


def mixed(colours: Sequence[str], share: float) -> str:
    """The colour at ``share``, from 0 to 1, of the way along ``#rrggbb`` colours."""
    place = share * (len(colours) - 1)
    number = min(int(place), len(colours) - 2)
    first, second, share = colours[number], colours[number + 1], place - number
    ends = [[int(colour[at : at + 2], 16) for at in (1, 3, 5)] for colour in (first, second)]
    parts = (round(a + (b - a) * share) for a, b in zip(*ends, strict=True))
    return "#" + "".join(f"{part:02x}" for part in parts)
