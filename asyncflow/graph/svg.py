"""The picture of a graph as SVG: columns from left to right, groups in frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from asyncflow.graph.graph import Graph
from asyncflow.graph.layering import Block, Port, Wire
from asyncflow.graph.layout import Layout, lay_out
from asyncflow.graph.sketch import Figure, Frame, Joint, Sketch, sketch_of
from asyncflow.paper import LOOKS, MUTED, WHITE, Paper, number, shortened, text_width, tint
from asyncflow.states import NodeState

__all__ = ["draw_svg"]

_MARGIN = 20.0
_NARROWEST, _MOST_LINE = 340.0, 700.0

_NAME, _LABEL, _FRAME_TITLE = 12.0, 10.5, 11.0
_MOST_NAME, _MOST_LABEL = 250.0, 130.0
_INSET, _BADGE = 9.0, 18.0
_HEIGHT, _SHARES = 26.0, 9.0
_PORT_STEP = 15.0

_FRAME_TOP, _FRAME_PAD, _GUTTER, _RAIL = 24.0, 12.0, 14.0, 7.0
_BETWEEN, _BETWEEN_LABELLED, _DOWN = 14.0, 22.0, 20.0

_LINE, _BOX, _BOX_EDGE, _FRAME_EDGE = "#8796a6", "#f2f6fa", "#8fa1b5", "#a9b4c0"
_FAINT = 0.13
_DASHED = {"after": "4 4"}


def draw_svg(graph: Graph, states: Mapping[str, NodeState] | None = None, about: str = "") -> str:
    """The graph as SVG that scales, with no script and no reference to anything outside.

    Args:
        graph: a built pipeline.
        states: those of the nodes of a run, by name; they colour the picture.
        about: what to say of that run.
    """
    sketch = sketch_of(graph, states, about)
    joints = _by_start(sketch)
    cells = [_Cell(sketch, frame, joints) for frame in sketch.frames]
    return _Picture(sketch, cells).draw()


def _by_start(sketch: Sketch) -> Mapping[int, list[Joint]]:
    joints: dict[int, list[Joint]] = {}
    for joint in sketch.joints:
        joints.setdefault(joint.start, []).append(joint)
    return joints


# -- one block ---------------------------------------------------------------------------


class _Outlet(msgspec.Struct):
    """Where values leave a figure to the right; ``at`` is how far down its block."""

    label: str
    shown: str
    at: float


class _Cell:
    """The inside of a block: a figure, or a group's figures one below the other.

    A line between members that follow each other is an arrow down; one that skips members
    runs in the gutter at their left.
    """

    def __init__(self, sketch: Sketch, frame: Frame, joints: Mapping[int, list[Joint]]) -> None:
        self.frame = frame
        self.figures = sketch.figures
        self.place = {figure: place for place, figure in enumerate(frame.figures)}
        self.inner = [
            joint
            for figure in frame.figures
            for joint in joints.get(figure, ())
            if joint.end in self.place
        ]
        self.outlets = {figure: self._outlets_of(joints, figure) for figure in frame.figures}
        self.labels = {figure: self._inner_label(figure) for figure in frame.figures}
        self.rails = self._assign_rails()
        rails = max(self.rails.values(), default=-1) + 1
        self.left = _GUTTER + _RAIL * rails if frame.title else 0.0
        self.right = _FRAME_PAD if frame.title else 0.0
        self.tops: dict[int, float] = {}
        self.block = Block(self._width(), self._place_figures(), self._tail())

    def _outlets_of(self, joints: Mapping[int, list[Joint]], figure: int) -> list[_Outlet]:
        outside = [joint for joint in joints.get(figure, ()) if joint.end not in self.place]
        labels = sorted(dict.fromkeys(joint.label for joint in outside), key=bool)
        return [_Outlet(label, shortened(label, _MOST_LABEL, _LABEL), 0.0) for label in labels]

    def _inner_label(self, figure: int) -> str:
        labels = (joint.label for joint in self.inner if joint.start == figure)
        return ", ".join(dict.fromkeys(label for label in labels if label))

    def _assign_rails(self) -> dict[int, int]:
        """For each figure whose values skip members, a rail that is free all the way down."""
        last: dict[int, int] = {}
        for joint in self.inner:
            if self.place[joint.end] > self.place[joint.start] + 1:
                last[joint.start] = max(last.get(joint.start, 0), self.place[joint.end])
        free_from: list[int] = []
        rails: dict[int, int] = {}
        for figure in sorted(last, key=self.place.__getitem__):
            start = self.place[figure]
            rail = next((r for r, end in enumerate(free_from) if end <= start), len(free_from))
            free_from[rail : rail + 1] = [last[figure]]
            rails[figure] = rail
        return rails

    # -- measures ------------------------------------------------------------------------

    def _width(self) -> float:
        boxes = max(self.width_of(self.figures[figure]) for figure in self.frame.figures)
        named = max((text_width(label, _LABEL) for label in self.labels.values()), default=0.0)
        if named:
            boxes = max(boxes, _DOWN + 8 + min(named, _MOST_LABEL))
        title = text_width(self.frame.title, _FRAME_TITLE, bold=True) + 16
        return max(boxes + self.left + self.right, min(title, _MOST_NAME))

    @staticmethod
    def width_of(figure: Figure) -> float:
        """What a figure's own box takes."""
        name = text_width(_name_and_size(figure)[0], _NAME) + text_width(
            _name_and_size(figure)[1], _NAME
        )
        badge = _BADGE if figure.counts else 0.0
        return max(44.0, min(name, _MOST_NAME) + 2 * _INSET + badge)

    def height_of(self, figure: int) -> float:
        """A figure's own box, high enough for the names of what leaves it."""
        outlets = self.outlets[figure]
        own = _HEIGHT + (_SHARES if len(self.figures[figure].counts) > 1 else 0.0)
        labelled = any(outlet.label for outlet in outlets)
        return max(own, _PORT_STEP * len(outlets) + (6.0 if labelled else 0.0))

    def _place_figures(self) -> float:
        down = _FRAME_TOP if self.frame.title else 0.0
        for figure in self.frame.figures:
            height = self.height_of(figure)
            self.tops[figure] = down
            self._place_outlets(figure, down, height)
            down += height + (_BETWEEN_LABELLED if self.labels[figure] else _BETWEEN)
        last = self.frame.figures[-1]
        end = self.tops[last] + self.height_of(last)
        return end + (_FRAME_PAD if self.frame.title else 0.0)

    def _place_outlets(self, figure: int, down: float, height: float) -> None:
        outlets = self.outlets[figure]
        # A line's name stands upon it, so that line and name together are in the middle.
        lift = 4.0 if len(outlets) > 1 or (outlets and outlets[0].label) else 0.0
        middle = down + height / 2 + lift
        if len(outlets) == 1:
            middle = down + height / 2
        for place, outlet in enumerate(outlets):
            outlet.at = middle + _PORT_STEP * (place - (len(outlets) - 1) / 2)

    def _tail(self) -> float:
        shown = [outlet.shown for outlets in self.outlets.values() for outlet in outlets]
        widest = max((text_width(words, _LABEL) for words in shown), default=0.0)
        return widest + 12 if widest else 0.0

    def middle_of(self, figure: int) -> float:
        return self.tops[figure] + self.height_of(figure) / 2

    def outlet(self, figure: int, label: str) -> float:
        return next(found.at for found in self.outlets[figure] if found.label == label)


def _name_and_size(figure: Figure) -> tuple[str, str]:
    return figure.name, f" × {figure.size:,}" if figure.size > 1 else ""


# -- all of it ---------------------------------------------------------------------------


class _Picture:
    """Draws cells where the layout puts them."""

    def __init__(self, sketch: Sketch, cells: Sequence[_Cell]) -> None:
        self.sketch = sketch
        self.cells = cells
        self.cell_of = {f: number for number, cell in enumerate(cells) for f in cell.place}
        self.paper = Paper()
        self.layout: Layout = lay_out([cell.block for cell in cells], self._wires())
        self.top = 0.0

    def _wires(self) -> list[Wire]:
        wires: list[Wire] = []
        for joint in self.sketch.joints:
            start, end = self.cell_of[joint.start], self.cell_of[joint.end]
            if start != end:
                out = self.cells[start].outlet(joint.start, joint.label)
                into = self.cells[end].middle_of(joint.end)
                wires.append(Wire((start, out), (end, into), "value" if joint.carries else "after"))
        return wires

    def draw(self) -> str:
        title = self.sketch.title
        lines = max(text_width(line, _NAME) for line in (title.about, *title.remarks))
        width = max(self.layout.width, _NARROWEST, min(lines, _MOST_LINE)) + 2 * _MARGIN
        self.top = self.paper.head(self.sketch.title, width)
        for number_, cell in enumerate(self.cells):
            if cell.frame.title:
                self._draw_frame(number_, cell)
        self._draw_lines()
        for number_, cell in enumerate(self.cells):
            self._draw_cell(number_, cell)
        height = self.top + self.layout.height + _MARGIN
        return self.paper.render(width, height, self.sketch.title.name)

    def _corner(self, cell: int) -> tuple[float, float]:
        x, y = self.layout.places[cell]
        return x + _MARGIN, y + self.top

    # -- lines ---------------------------------------------------------------------------

    def _draw_lines(self) -> None:
        at = (_MARGIN, self.top)
        arrows: list[str] = []
        for line in self.layout.lines:
            dash = _DASHED.get(line.kind, "")
            self.paper.path(
                line.path + self._stubs(line.starts, line.ends), stroke=_LINE, dash=dash, at=at
            )
            arrows += [self._arrow(port) for port in line.ends]
        if arrows:
            self.paper.path("".join(dict.fromkeys(arrows)), fill=_LINE)

    def _stubs(self, starts: Sequence[Port], ends: Sequence[Port]) -> str:
        """Within frames, from a member to the frame's edge and from there to a member."""
        pieces = []
        for cell, at in starts:
            x, y = self.layout.places[cell]
            edge = x + self.layout.widths[cell]
            if self.cells[cell].right:
                pieces.append(f"M{number(edge - self.cells[cell].right)} {number(y + at)}h12")
        for cell, at in ends:
            x, y = self.layout.places[cell]
            if self.cells[cell].left:
                pieces.append(f"M{number(x)} {number(y + at)}h{number(self.cells[cell].left)}")
        return "".join(pieces)

    def _arrow(self, port: Port) -> str:
        cell, at = port
        x, y = self._corner(cell)
        return _tip_right(x + self.cells[cell].left, y + at)

    # -- frames and boxes ----------------------------------------------------------------

    def _draw_frame(self, number_: int, cell: _Cell) -> None:
        x, y = self._corner(number_)
        width = self.layout.widths[number_]
        self.paper.rect(
            x,
            y,
            width,
            cell.block.height,
            "#f8fafc",
            stroke=_FRAME_EDGE,
            radius=8,
            dash="5 3",
            hint=cell.frame.title,
        )
        shown = shortened(cell.frame.title, width - 16, _FRAME_TITLE, bold=True)
        hint = cell.frame.title if shown != cell.frame.title else ""
        self.paper.text(x + 8, y + 16, shown, size=_FRAME_TITLE, fill=MUTED, bold=True, hint=hint)

    def _draw_cell(self, number_: int, cell: _Cell) -> None:
        x, y = self._corner(number_)
        width = self.layout.widths[number_]
        inner = width - cell.left - cell.right
        self._draw_inner_lines(cell, x, y, inner)
        for figure in cell.frame.figures:
            top = y + cell.tops[figure]
            self._draw_figure(self.sketch.figures[figure], x + cell.left, top, inner, cell, figure)
            for outlet in cell.outlets[figure]:
                hint = outlet.label if outlet.shown != outlet.label else ""
                if outlet.label:
                    self.paper.text(
                        x + width + 5,
                        y + outlet.at - 3,
                        outlet.shown,
                        size=_LABEL,
                        fill=MUTED,
                        hint=hint,
                    )

    def _draw_figure(
        self, figure: Figure, x: float, y: float, width: float, cell: _Cell, index: int
    ) -> None:
        height = cell.height_of(index)
        fill, edge = _colours(figure)
        with self.paper.together(figure.hint):
            if figure.stacked:
                self.paper.rect(x + 3, y + 3, width, height, WHITE, stroke=edge, radius=5)
            dash = "5 3" if figure.conditional else ""
            self.paper.rect(x, y, width, height, fill, stroke=edge, radius=5, dash=dash)
            left = x + _INSET
            shares = len(figure.counts) > 1
            middle = y + height / 2 - (_SHARES / 2 if shares else 0)
            if figure.counts:
                self.paper.badge(left + 5, middle, _worst(figure.counts))
                left += _BADGE
            name, size = _name_and_size(figure)
            room = x + width - _INSET - left - text_width(size, _NAME)
            self.paper.text(left, middle + 4.2, shortened(name, room + 0.1, _NAME) + size)
            if shares:
                self._draw_shares(figure, x + _INSET, y + height - 11, width - 2 * _INSET)

    def _draw_shares(self, figure: Figure, x: float, y: float, width: float) -> None:
        total = sum(figure.counts.values())
        for state, count in figure.counts.items():
            share = width * count / total
            words = state.replace("_", " ")
            self.paper.rect(x, y, share, 6, LOOKS[state].colour, hint=f"{count:,} {words}")
            x += share

    # -- within a group ------------------------------------------------------------------

    def _draw_inner_lines(self, cell: _Cell, x: float, y: float, width: float) -> None:
        left = x + cell.left
        centre = left + _DOWN
        arrows: list[str] = []
        for joint in cell.inner:
            start, end = joint.start, joint.end
            bottom = y + cell.tops[start] + cell.height_of(start)
            dash = "" if joint.carries else _DASHED["after"]
            if cell.place[end] == cell.place[start] + 1:
                tip = y + cell.tops[end]
                path = f"M{number(centre)} {number(bottom)}V{number(tip - 1)}"
                arrows.append(_tip_down(centre, tip))
            else:
                rail = left - 10 - _RAIL * cell.rails[start]
                middle = y + cell.middle_of(end)
                path = (
                    f"M{number(left)} {number(bottom - 5)}H{number(rail)}V{number(middle)}"
                    f"H{number(left)}"
                )
                arrows.append(_tip_right(left, middle))
            self.paper.path(path, stroke=_LINE, dash=dash)
        if arrows:
            self.paper.path("".join(dict.fromkeys(arrows)), fill=_LINE)
        for figure, label in cell.labels.items():
            self._draw_inner_label(cell, figure, label, centre + 7, left + width, y)

    def _draw_inner_label(
        self, cell: _Cell, figure: int, label: str, x: float, right: float, y: float
    ) -> None:
        shown = shortened(label, right - x, _LABEL)
        if shown:
            hint = label if shown != label else ""
            bottom = y + cell.tops[figure] + cell.height_of(figure)
            self.paper.text(x, bottom + 14, shown, size=_LABEL, fill=MUTED, hint=hint)


def _tip_right(x: float, y: float) -> str:
    return f"M{number(x)} {number(y)}l-7 -3.5v7z"


def _tip_down(x: float, y: float) -> str:
    return f"M{number(x)} {number(y)}l-3.5 -7h7z"


# Worst first: a box for many steps wears the badge of what needs attention.
_WORST = (
    NodeState.FAILED,
    NodeState.TIMED_OUT,
    NodeState.ABANDONED,
    NodeState.RETRYING,
    NodeState.RUNNING,
    NodeState.CANCELLED,
    NodeState.UPSTREAM_FAILED,
    NodeState.WAITING,
    NodeState.SUCCEEDED,
    NodeState.SKIPPED,
)


def _worst(counts: Mapping[NodeState, int]) -> NodeState:
    return next(state for state in _WORST if state in counts)


def _colours(figure: Figure) -> tuple[str, str]:
    if not figure.counts:
        return _BOX, _BOX_EDGE
    colour = LOOKS[_worst(figure.counts)].colour
    return tint(colour, _FAINT), colour
