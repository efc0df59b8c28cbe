"""Pictures of a graph: rails for a terminal, Mermaid for pages, DOT for Graphviz, SVG."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import count

import msgspec

from asyncflow.errors import GraphError
from asyncflow.graph.graph import Graph
from asyncflow.graph.rails import draw_rails, fits_rails
from asyncflow.graph.scope import Scope, scopes_of
from asyncflow.states import NodeState

__all__ = ["Edge", "draw", "edges_of", "label_of", "levels_of"]

# A larger picture says less than its outline.
_MOST_STEPS = 200
_NAMES_PER_LEVEL = 5
_MOST_LEVELS = 60
_FIRST_LEVELS = 50


def draw(
    graph: Graph, format: str, states: Mapping[str, NodeState] | None = None, about: str = ""
) -> str:
    """A picture of a graph; the same graph always gives the same text.

    Args:
        graph: a built pipeline.
        format: ``"text"`` (for a terminal; above 200 steps one line per level),
            ``"mermaid"``, ``"dot"`` or ``"svg"`` (above 800 steps one box for each level
            and kind of step).
        states: those of the nodes of a run, by name, which colour an SVG.
        about: what an SVG says of that run.

    Raises:
        GraphError: there is no such format, or it has no colours for ``states``.
    """
    known: Mapping[str, Callable[[Graph], str]] = {
        "text": _draw_text,
        "mermaid": _draw_mermaid,
        "dot": _draw_dot,
        "svg": partial(_draw_svg, states=states, about=about),
    }
    if format not in known:
        names = ", ".join(map(repr, known))
        raise GraphError(f"there is no drawing format {format!r}; the formats are {names}")
    if states is not None and format != "svg":
        raise GraphError(f"run= colours the format 'svg' only, not {format!r}; leave one out")
    return known[format](graph)


def _draw_svg(graph: Graph, states: Mapping[str, NodeState] | None, about: str) -> str:
    # Here, because few programs draw: importing it takes as long as the rest of the graph.
    from asyncflow.graph.svg import draw_svg

    return draw_svg(graph, states, about)


# -- what there is to draw -------------------------------------------------------------


class Edge(msgspec.Struct, frozen=True):
    """One line of a picture; without assets it only says what comes first."""

    start: int
    end: int
    assets: tuple[str, ...]

    def names(self, graph: Graph) -> Iterator[str]:
        """What its assets are called beside it; "" for one named as the node it comes from.

        Within an inlined pipeline the prefix is left out: the node has it already.
        """
        start = graph.nodes[self.start]
        prefix = "" if start.scope is None else f"{start.scope.path}/"
        for name in self.assets:
            yield "" if name == start.name else name.removeprefix(prefix)

    def label(self, graph: Graph) -> str:
        """The assets that go along it, but for one named as the node it comes from."""
        return ", ".join(filter(None, self.names(graph)))


def edges_of(graph: Graph) -> Iterator[Edge]:
    """The edges of a graph with what goes along them."""
    names = list(graph.assets)
    for index, parents in enumerate(graph.parents):
        carried: dict[int, list[str]] = {parent: [] for parent in parents}
        for slot in dict.fromkeys(graph.slots[index]):
            for producer in graph.producers_of(slot):
                carried[producer].append(names[slot])
        for parent, assets in carried.items():
            yield Edge(parent, index, tuple(assets))


def label_of(graph: Graph, index: int) -> str:
    """A node's name, with a mark where a condition decides whether it runs."""
    node = graph.nodes[index]
    return f"{node.name} ?" if index in graph.conditions else node.name


def _own_label(graph: Graph, index: int) -> str:
    """The same within the frames of what a node stands in."""
    node = graph.nodes[index]
    return label_of(graph, index).removeprefix(node.name[: -len(node.own_name)])


class _Cluster(msgspec.Struct):
    """What is framed: an inlined pipeline with all that stands in it, or a group."""

    title: str = ""
    inside: dict[tuple[str, str], _Cluster] = {}
    nodes: list[int] = []


class _Style(msgspec.Struct, frozen=True):
    """How a format writes frames and nodes; ``first`` are the lines that begin a frame."""

    indent: str
    first: Callable[[int, str], Sequence[str]]
    last: str
    node: Callable[[Graph, int], str]


def _clusters(graph: Graph) -> _Cluster:
    """The frames of a graph; the outermost stands for all of it and is none."""
    root = _Cluster()
    for unit, group in graph.units.groups.items():
        members = graph.units.members_of(unit)
        around = _cluster_of(root, graph.nodes[members[0]].scope)
        name = group.group_name.rpartition("/")[2]
        around.inside["group", name] = _Cluster(name, nodes=list(members))
    for index in graph.order:
        if graph.units.of_node[index] not in graph.units.groups:
            _cluster_of(root, graph.nodes[index].scope).nodes.append(index)
    return root


def _cluster_of(root: _Cluster, scope: Scope | None) -> _Cluster:
    cluster = root
    for here in reversed(list(scopes_of(scope))):
        cluster = cluster.inside.setdefault(("pipeline", here.name), _Cluster(here.name))
    return cluster


def _framed(
    graph: Graph, cluster: _Cluster, style: _Style, numbers: Iterator[int], depth: int = 1
) -> Iterator[str]:
    """The lines of a cluster, those of a frame in it indented."""
    inset = style.indent * depth
    for inner in cluster.inside.values():
        opening, *more = style.first(next(numbers), inner.title)
        yield inset + opening
        yield from (f"{inset}{style.indent}{line}" for line in more)
        yield from _framed(graph, inner, style, numbers, depth + 1)
        yield inset + style.last
    yield from (inset + style.node(graph, index) for index in cluster.nodes)


# -- text --------------------------------------------------------------------------------


def _draw_text(graph: Graph) -> str:
    steps = len(graph)
    title = f"{graph.name}: {steps:,} step" + ("" if steps == 1 else "s")
    if steps > _MOST_STEPS:
        return f"{title}, summarised by level (it has more than {_MOST_STEPS})\n" + _outline(graph)
    if not fits_rails(graph):
        return f"{title}, summarised by level (too wide to draw)\n" + _outline(graph)
    return "\n".join([title, *draw_rails(graph)])


def _outline(graph: Graph) -> str:
    levels = levels_of(graph)
    lines = [
        f"{number:4}. {_summary(graph, level)}" for number, level in enumerate(levels, start=1)
    ]
    if len(lines) <= _MOST_LEVELS:
        return "\n".join(lines)
    # A chain of thousands is as long as its steps; its middle says nothing new.
    left_out = len(lines) - _MOST_LEVELS
    lines[_FIRST_LEVELS : _FIRST_LEVELS + left_out] = [f"      … {left_out:,} more levels …"]
    return "\n".join(lines)


def levels_of(graph: Graph) -> list[list[int]]:
    """The nodes by how many steps there are above them on the longest path."""
    level = [0] * len(graph)
    levels: list[list[int]] = []
    for index in graph.order:
        level[index] = 1 + max((level[parent] for parent in graph.parents[index]), default=-1)
        if level[index] == len(levels):
            levels.append([])
        levels[level[index]].append(index)
    return levels


def _summary(graph: Graph, level: Sequence[int]) -> str:
    names = [label_of(graph, index) for index in level]
    if len(names) > _NAMES_PER_LEVEL:
        left_out = len(names) - _NAMES_PER_LEVEL + 1
        names = [*names[: _NAMES_PER_LEVEL - 2], f"… {left_out:,} more …", names[-1]]
    count = "" if len(level) == 1 else f"{len(level):,} steps: "
    edges = sum(len(graph.parents[index]) for index in level)
    arrows = "" if edges < 2 else f"  ({edges:,} edges from above)"
    return f"{count}{', '.join(names)}{arrows}"


# -- mermaid -----------------------------------------------------------------------------


def _draw_mermaid(graph: Graph) -> str:
    style = _Style("    ", _mermaid_frame, "end", _mermaid_node)
    lines = ["flowchart LR", *_framed(graph, _clusters(graph), style, count())]
    lines += [f"    {_mermaid_edge(graph, edge)}" for edge in edges_of(graph)]
    return "\n".join(lines)


def _mermaid_frame(number: int, title: str) -> Sequence[str]:
    return [f"subgraph g{number}[{_mermaid_text(title)}]"]


def _mermaid_node(graph: Graph, index: int) -> str:
    text = _mermaid_text(_own_label(graph, index))
    return f"n{index}{{{text}}}" if index in graph.conditions else f"n{index}[{text}]"


def _mermaid_edge(graph: Graph, edge: Edge) -> str:
    label = edge.label(graph)
    arrow = "-->" if edge.assets else "-.->"
    shown = f"|{_mermaid_text(label)}|" if label else ""
    return f"n{edge.start} {arrow}{shown} n{edge.end}"


def _mermaid_text(text: str) -> str:
    """Quoted; what Mermaid, Markdown or HTML could read as its own goes by number."""
    plain = (char if char.isalnum() or char in " _-.,:=?…" else f"#{ord(char)};" for char in text)
    return f'"{"".join(plain)}"'


# -- dot ---------------------------------------------------------------------------------


def _draw_dot(graph: Graph) -> str:
    lines = [
        "digraph pipeline {",
        "  rankdir=LR;",
        f"  label={_dot_text(graph.name)};",
        '  node [shape=box, style=rounded, fontname="sans-serif"];',
        '  edge [fontname="sans-serif", fontsize=10];',
    ]
    style = _Style("  ", _dot_frame, "}", _dot_node)
    lines += _framed(graph, _clusters(graph), style, count())
    lines += [f"  {_dot_edge(graph, edge)}" for edge in edges_of(graph)]
    return "\n".join([*lines, "}"])


def _dot_frame(number: int, title: str) -> Sequence[str]:
    return [f"subgraph cluster_{number} {{", f"label={_dot_text(title)};", "style=dashed;"]


def _dot_node(graph: Graph, index: int) -> str:
    shape = ", shape=diamond, style=solid" if index in graph.conditions else ""
    return f"n{index} [label={_dot_text(_own_label(graph, index))}{shape}];"


def _dot_edge(graph: Graph, edge: Edge) -> str:
    label = edge.label(graph)
    wanted: Mapping[str, str] = {
        "label": _dot_text(label) if label else "",
        "style": "" if edge.assets else "dotted",
    }
    chosen = ", ".join(f"{name}={value}" for name, value in wanted.items() if value)
    return f"n{edge.start} -> n{edge.end}" + (f" [{chosen}];" if chosen else ";")


# Graphviz reads backslashes and, even within quotes, HTML's entities in a label.
_DOT_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "&": "&amp;", "\n": "\\n", "\0": "�"})


def _dot_text(text: str) -> str:
    return f'"{text.translate(_DOT_ESCAPES)}"'
