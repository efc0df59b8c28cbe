"""Rectangles whose areas are shares of a whole, as square as can be.

The layout is "Squarified Treemaps" (Bruls, Huizing, van Wijk, 2000): a row along the shorter
side grows for as long as that makes its worst rectangle more square.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["Box", "squarify"]


class Box(NamedTuple):
    """A rectangle in pixels."""

    x: float
    y: float
    width: float
    height: float

    def inset(self, by: float, top: float = 0) -> Box:
        """The same box with a margin, and room for a heading of height ``top``."""
        width, height = self.width - 2 * by, self.height - 2 * by - top
        return Box(self.x + by, self.y + by + top, max(0.0, width), max(0.0, height))


def squarify(weights: Sequence[float], box: Box) -> list[Box]:
    """Divide a box among weights above 0, given largest first; the boxes keep their order."""
    whole = sum(weights)
    if not whole:
        return []
    areas = [weight / whole * box.width * box.height for weight in weights]
    placed: list[Box] = []
    while len(placed) < len(areas):
        row, box = _next_row(areas[len(placed) :], box)
        placed += row
    return placed


def _next_row(areas: Sequence[float], box: Box) -> tuple[list[Box], Box]:
    """The boxes of the best first row, and what is left of the box beside them."""
    side = min(box.width, box.height)
    count = 1
    while count < len(areas) and _worst(areas[: count + 1], side) <= _worst(areas[:count], side):
        count += 1
    area = sum(areas[:count])
    thickness = area / side if side else 0.0
    lengths = [part / thickness if thickness else 0.0 for part in areas[:count]]
    starts = [sum(lengths[:number]) for number in range(count)]
    row = list(zip(starts, lengths, strict=True))
    if box.width >= box.height:
        boxes = [Box(box.x, box.y + at, thickness, length) for at, length in row]
        return boxes, Box(box.x + thickness, box.y, max(0.0, box.width - thickness), box.height)
    boxes = [Box(box.x + at, box.y, length, thickness) for at, length in row]
    return boxes, Box(box.x, box.y + thickness, box.width, max(0.0, box.height - thickness))


def _worst(areas: Sequence[float], side: float) -> float:
    """The largest ratio of sides in a row along ``side``."""
    total = sum(areas)
    return max(
        max(side**2 * area / total**2, total**2 / (side**2 * area)) if area and side else 0.0
        for area in areas
    )
