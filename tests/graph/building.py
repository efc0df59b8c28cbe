"""Short ways to say what a graph is made of, and graphs that nobody would think of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import strategies as st

from asyncflow.errors import GraphError
from asyncflow.graph.binding import CallTemplate, Frame
from asyncflow.graph.compile import Blueprint, compile_graph
from asyncflow.graph.graph import Graph
from asyncflow.graph.node import MISSING, Node
from asyncflow.step import Step, step


async def take_all(*assets: object) -> object:
    """Stands for any step: what matters here is who waits for whom."""
    return assets


TAKE_ALL = step(take_all)
ODD_NAMES = ['say "hi"', "a<b>&amp;c", "back\\slash\\", "two\nlines", "{[(|)]}", "end", "Ünï → 木"]


def node(name: str, *inputs: str, after: Sequence[str] = (), **options: Any) -> Node:
    """A node that takes any assets."""
    used = Step(take_all, **options) if options else TAKE_ALL
    return Node(name, used, after=tuple(after), inputs=inputs)


def placed(
    used: Step[..., Any],
    name: str | None = None,
    *,
    params: dict[str, Any] | None = None,
    inputs: Any = None,
    after: tuple[str, ...] = (),
    outputs: tuple[str, ...] | None = None,
) -> Node:
    """A step as a node, under its own name unless told otherwise."""
    return Node(name or used.name, used, params, after, inputs, outputs)


def build(*nodes: Node, **blueprint: Any) -> Graph:
    """The graph of a pipeline called ``p``."""
    return compile_graph(Blueprint("p", nodes, **blueprint))


def report() -> Graph:
    """A graph with a bit of everything: two outputs, a group, a condition, an order."""
    return build(
        node("load", outputs=["raw", "config"]),
        node("clean", "raw", execution_group="prep"),
        node("scale", "clean", "config", execution_group="prep"),
        node("report", "scale", condition=lambda: True),
        node("notify", after=["report"]),
        node("audit", "raw"),
    )


def problems_of(*nodes: Node, **blueprint: Any) -> tuple[str, ...]:
    """What the build refuses, each without the pipeline's name in front."""
    with pytest.raises(GraphError) as caught:
        build(*nodes, **blueprint)
    return tuple(problem.removeprefix("pipeline 'p': ") for problem in caught.value.problems)


def names(graph: Graph, indices: Sequence[int]) -> list[str]:
    return [graph.nodes[index].name for index in indices]


def call_of(
    graph: Graph, name: str, outside: dict[str, Any] | None = None, *, without: Sequence[str] = ()
) -> tuple[list[Any], dict[str, Any]]:
    """What a node is called with; the value of asset ``a`` is ``"<a>"``, or is missing."""
    return _bound(graph, graph.index[name], graph.templates[graph.index[name]], outside, without)


def condition_of(
    graph: Graph, name: str, outside: dict[str, Any] | None = None, *, without: Sequence[str] = ()
) -> tuple[list[Any], dict[str, Any]]:
    """What a node's condition is called with."""
    return _bound(graph, graph.index[name], graph.conditions[graph.index[name]], outside, without)


CONTEXT: Any = "the context"


def _bound(
    graph: Graph,
    index: int,
    template: CallTemplate,
    outside: dict[str, Any] | None,
    without: Sequence[str],
) -> tuple[list[Any], dict[str, Any]]:
    values = [MISSING if asset in without else f"<{asset}>" for asset in graph.assets]
    params = graph.nodes[index].params or {}
    return template.bind(Frame(values, graph.slots[index], params, outside or {}, lambda: CONTEXT))


@st.composite
def graphs(draw: st.DrawFn, labels: Sequence[str | None] = (None, "g", "h", "g_0")) -> list[Node]:
    """Acyclic graphs in any order of declaration, with any labels."""
    size = draw(st.integers(1, 14))
    ranks = draw(st.permutations(range(size)))
    nodes = []
    for own in ranks:
        parents = draw(st.sets(st.integers(0, own - 1), max_size=3)) if own else set()
        nodes.append(
            node(
                f"n{own}",
                *(f"n{parent}" for parent in sorted(parents)),
                execution_group=draw(st.sampled_from(labels)),
            )
        )
    return nodes
