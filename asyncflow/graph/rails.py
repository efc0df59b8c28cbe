"""The picture of a graph for a terminal: one row per node, a rail from each to its children.

A rail is a column that belongs to a node from its row down to that of its last child.
A node that ends one of its parents' rails goes on in that column, so chains stay straight.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import msgspec

from asyncflow.graph.graph import Graph

__all__ = ["draw_rails", "fits_rails"]

_MOST_RAILS = 24
_ROOT, _NODE = "○", "●"


class _Row(msgspec.Struct, frozen=True):
    """One node: the picture left of its name, and the rails that go on below it."""

    index: int
    picture: str
    below: str


class _Rails:
    """The columns in use while the rows are laid out from top to bottom."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.unplaced = [len(below) for below in graph.children]
        self.owners: list[int | None] = []
        self.column_of: dict[int, int] = {}

    def place(self, index: int) -> _Row:
        """Lay out the next node of the order."""
        parents = self.graph.parents[index]
        for parent in parents:
            self.unplaced[parent] -= 1
        met = {self.column_of[parent]: self.unplaced[parent] > 0 for parent in parents}
        own = self._column_for(index, met)
        picture = self._picture(own, met)
        for column, goes_on in met.items():
            if not goes_on:
                self._free(column)
        if self.unplaced[index]:
            self.owners[own] = index
            self.column_of[index] = own
        self._trim()
        return _Row(index, picture, self._below())

    def _column_for(self, index: int, met: dict[int, bool]) -> int:
        ending = [column for column, goes_on in met.items() if not goes_on]
        straight = self.unplaced[index] or len(met) > 1 or self._is_only_child(index)
        if ending and straight:
            return min(ending)
        start = min(met, default=-1) + 1
        free = (at for at in range(start, len(self.owners)) if self.owners[at] is None)
        column = next(free, max(start, len(self.owners)))
        self.owners.extend([None] * (column + 1 - len(self.owners)))
        return column

    def _is_only_child(self, index: int) -> bool:
        return all(len(self.graph.children[parent]) == 1 for parent in self.graph.parents[index])

    def _free(self, column: int) -> None:
        owner = self.owners[column]
        if owner is not None:
            del self.column_of[owner]
        self.owners[column] = None

    def _trim(self) -> None:
        while self.owners and self.owners[-1] is None:
            self.owners.pop()

    def _below(self) -> str:
        return " ".join(" " if owner is None else "│" for owner in self.owners).rstrip()

    # -- one row -----------------------------------------------------------------------

    def _picture(self, own: int, met: dict[int, bool]) -> str:
        left, right = min([own, *met]), max([own, *met])
        marks = [
            (_NODE if met else _ROOT) if column == own else self._mark(column, met, left, right)
            for column in range(len(self.owners))
        ]
        gaps = ["─" if left <= column < right else " " for column in range(len(marks))]
        return "".join(itertools.chain(*zip(marks, gaps, strict=True))).rstrip()

    def _mark(self, column: int, met: dict[int, bool], left: int, right: int) -> str:
        if column in met:
            goes_on = met[column]
            if column == left:
                return "├" if goes_on else "└"
            if column == right:
                return "┤" if goes_on else "┘"
            return "┼" if goes_on else "┴"
        if self.owners[column] is not None:
            return "│"
        return "─" if left < column < right else " "


def fits_rails(graph: Graph) -> bool:
    """Whether the picture is narrow enough to be followed by eye."""
    rails = _Rails(graph)
    for index in graph.order:
        rails.place(index)
        if len(rails.owners) > _MOST_RAILS:
            return False
    return True


def draw_rails(graph: Graph) -> Iterator[str]:
    """The lines of the picture; groups are framed."""
    rails = _Rails(graph)
    rows = [rails.place(index) for index in graph.order]
    width = max((len(row.picture) for row in rows), default=0) + 2
    above = ""
    for unit, chosen in itertools.groupby(rows, key=lambda row: graph.units.of_node[row.index]):
        block = list(chosen)
        if unit in graph.units.groups:
            yield from _framed(graph, unit, block, above, width)
        else:
            inset = "  " if graph.units.groups else ""
            yield from (f"{row.picture:{width}}{inset}{_text(graph, row.index)}" for row in block)
        above = block[-1].below


def _framed(graph: Graph, unit: int, rows: Sequence[_Row], above: str, width: int) -> Iterator[str]:
    group = graph.units.groups[unit]
    texts = [_text(graph, row.index) for row in rows]
    title = f" {group.group_name}, {group.lane} "
    inside = max(len(title) + 2, *(len(text) + 2 for text in texts))
    yield f"{above:{width}}╭─{title:─<{inside - 1}}╮"
    for row, text in zip(rows, texts, strict=True):
        yield f"{row.picture:{width}}│ {text:{inside - 1}}│"
    yield f"{rows[-1].below:{width}}╰{'─' * inside}╯"


def _text(graph: Graph, index: int) -> str:
    """A node's name, what it makes where that is called otherwise, and what it only follows."""
    node = graph.nodes[index]
    text = f"{node.name} ?" if index in graph.conditions else node.name
    if node.asset_names != (node.name,):
        prefix = node.name[: -len(node.own_name)]
        text += f" → {', '.join(name.removeprefix(prefix) for name in node.asset_names)}"
    if node.after:
        text += f" (after {', '.join(node.after)})"
    return text
