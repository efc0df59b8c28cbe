"""The map: every file as an area, its colour telling how much of it is comments."""

from __future__ import annotations

from examples.census.svg import MUTED, Drawing, mixed, text_width
from examples.census.totals import Census, PackageTotals
from examples.census.treemap import Box, squarify

__all__ = ["map_of_lines"]

_FEW_TO_MANY = ("#f4efe3", "#ecb46c", "#d9692f", "#7d2414")
_MOST_COMMENTS = 0.25


def map_of_lines(census: Census) -> Drawing:
    """A treemap: packages, and in them their files."""
    drawing = Drawing(
        f"Every file of {census.about}",
        "area: lines of a file; colour: comments among its lines that are not blank",
        height=720,
    )
    _comment_legend(drawing)
    whole = Box(32, 86, drawing.width - 64, drawing.height - 110)
    packages = [package for package in census.packages if package.lines]
    boxes = squarify([package.lines for package in packages], whole)
    for package, box in zip(packages, boxes, strict=True):
        _package(drawing, package, box)
    return drawing


def _package(drawing: Drawing, package: PackageTotals, box: Box) -> None:
    """A package's frame and name, if there is room for it, and its files."""
    has_room = box.height > 34 and box.width > text_width(package.name, 12) + 10
    drawing.rect(*box.inset(1), "#eef1f5", hint=package.name)
    if has_room:
        drawing.text(box.x + 6, box.y + 15, package.name, size=12, weight=600)
    inner = box.inset(2, top=18 if has_room else 0)
    files = sorted((found for found in package.files if found.lines), key=lambda f: -f.lines)
    places = squarify([found.lines for found in files], inner)
    for found, place in zip(files, places, strict=True):
        colour = mixed(_FEW_TO_MANY, min(1.0, found.comment_share / _MOST_COMMENTS))
        hint = f"{found.path}: {found.lines:,} lines, {found.comment_share:.0%} comments"
        drawing.rect(*place.inset(0.4), colour, hint=hint)


def _comment_legend(drawing: Drawing) -> None:
    left, top = drawing.width - 232, 30
    for number in range(10):
        drawing.rect(left + number * 20, top, 20, 12, mixed(_FEW_TO_MANY, number / 9))
    drawing.text(left, top + 28, "no comments", size=12, fill=MUTED)
    most = f"{_MOST_COMMENTS:.0%} or more".replace("%", " %")
    drawing.text(left + 200, top + 28, most, size=12, fill=MUTED, anchor="end")
