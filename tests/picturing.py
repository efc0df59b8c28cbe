"""Reading pictures back: what an SVG says, where, and whether it keeps to itself."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple
from xml.etree import ElementTree

from asyncflow.paper import text_width

__all__ = ["Box", "Picture"]

_NAMESPACE = "{http://www.w3.org/2000/svg}"
_SHAPES = {"svg", "g", "title", "rect", "path", "text"}
_ATTRIBUTES = {
    "x", "y", "width", "height", "rx", "d", "fill", "stroke", "stroke-width", "stroke-dasharray",
    "transform", "font-size", "font-weight", "text-anchor",
}  # fmt: skip
_HALF_A_PIXEL = 0.5


class Box(NamedTuple):
    """A rectangle in pixels, and what stands in it."""

    left: float
    top: float
    right: float
    bottom: float
    words: str = ""

    def overlaps(self, other: Box) -> bool:
        return (
            self.left < other.right - _HALF_A_PIXEL
            and other.left < self.right - _HALF_A_PIXEL
            and self.top < other.bottom - _HALF_A_PIXEL
            and other.top < self.bottom - _HALF_A_PIXEL
        )

    def holds(self, other: Box) -> bool:
        return (
            self.left <= other.left + _HALF_A_PIXEL
            and self.top <= other.top + _HALF_A_PIXEL
            and other.right <= self.right + _HALF_A_PIXEL
            and other.bottom <= self.bottom + _HALF_A_PIXEL
        )


class Picture:
    """An SVG as a parser reads it."""

    def __init__(self, svg: str) -> None:
        self.root = ElementTree.fromstring(svg)

    @property
    def size(self) -> tuple[float, float]:
        return float(self.root.attrib["width"]), float(self.root.attrib["height"])

    @property
    def paper(self) -> Box:
        return Box(0, 0, *self.size)

    @property
    def labels(self) -> list[Box]:
        """All that is written, with the room it takes: from the top of an A to its base line."""
        return [_label(text) for text in self.root.iter(f"{_NAMESPACE}text")]

    @property
    def words(self) -> list[str]:
        return [label.words for label in self.labels]

    @property
    def hints(self) -> list[str]:
        """What is shown where the mouse rests."""
        return [title.text or "" for title in self.root.iter(f"{_NAMESPACE}title")]

    @property
    def rectangles(self) -> list[Box]:
        """All rectangles but the paper, with their hint or that of what they belong to."""
        found = (pair for child in self.root for pair in _with_hints(child, ""))
        return [_rectangle(rect, hint) for rect, hint in found][1:]

    @property
    def paths(self) -> list[str]:
        return [path.attrib["d"] for path in self.root.iter(f"{_NAMESPACE}path")]

    def boxes(self) -> dict[str, Box]:
        """The boxes of steps: the last rectangle of each that is drawn together, by its name."""
        found = {}
        for group in self.root.iter(f"{_NAMESPACE}g"):
            rects = group.findall(f"{_NAMESPACE}rect")
            title = group.find(f"{_NAMESPACE}title")
            if rects and title is not None:
                found[(title.text or "").split(" · ")[0]] = _rectangle(rects[-1], "")
        return found

    def badges(self) -> dict[str, str]:
        """The outline and sign of each drawn step's badge, by the step's name."""
        found = {}
        for group in self.root.iter(f"{_NAMESPACE}g"):
            title = group.find(f"{_NAMESPACE}title")
            badge = group.find(f"{_NAMESPACE}g")
            if badge is not None and title is not None:
                paths = (path.attrib["d"] for path in badge.iter(f"{_NAMESPACE}path"))
                found[(title.text or "").split(" · ")[0]] = " ".join(paths)
        return found

    def overlapping(self) -> list[tuple[str, str]]:
        """Pairs of labels of which one stands in the way of the other."""
        return list(_overlaps(self.labels))

    def beyond(self) -> list[str]:
        """Labels that reach beyond the paper."""
        return [label.words for label in self.labels if not self.paper.holds(label)]

    def foreign(self) -> list[str]:
        """What a picture that needs nothing, does nothing and clashes with nothing has not."""
        found = [tag for element in self.root.iter() if (tag := _tag(element)) not in _SHAPES]
        for element in list(self.root.iter())[1:]:
            found += [name for name in element.attrib if name not in _ATTRIBUTES]
            found += [value for value in element.attrib.values() if re.search(r"url|:|//", value)]
        return found


def _tag(element: ElementTree.Element) -> str:
    return element.tag.removeprefix(_NAMESPACE)


def _label(text: ElementTree.Element) -> Box:
    words = "".join(text.itertext())
    title = text.find(f"{_NAMESPACE}title")
    if title is not None:
        words = words.removeprefix(title.text or "")
    size = float(text.attrib["font-size"])
    width = text_width(words, size, bold="font-weight" in text.attrib)
    x, y = float(text.attrib["x"]), float(text.attrib["y"])
    if text.attrib.get("text-anchor") == "middle":
        x -= width / 2
    return Box(x, y - 0.75 * size, x + width, y, words)


def _rectangle(rect: ElementTree.Element, words: str) -> Box:
    x, y = float(rect.attrib.get("x", "0")), float(rect.attrib.get("y", "0"))
    return Box(x, y, x + float(rect.attrib["width"]), y + float(rect.attrib["height"]), words)


def _with_hints(
    element: ElementTree.Element, hint: str
) -> Iterator[tuple[ElementTree.Element, str]]:
    title = element.find(f"{_NAMESPACE}title")
    own = hint if title is None else title.text or ""
    if _tag(element) == "rect":
        yield element, own
    for child in element:
        yield from _with_hints(child, own)


def _overlaps(labels: Sequence[Box]) -> Iterator[tuple[str, str]]:
    near: list[Box] = []
    for label in sorted(labels):
        near = [other for other in near if other.right > label.left]
        yield from ((other.words, label.words) for other in near if other.overlaps(label))
        near.append(label)
