"""Running a part of a pipeline: only some targets, or with values given for some assets."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from asyncflow.errors import GraphError
from asyncflow.graph.graph import Graph
from asyncflow.graph.names import nearest
from asyncflow.graph.node import Node
from asyncflow.graph.scope import scopes_of

__all__ = ["inside", "select"]


def select(graph: Graph, targets: Iterable[str] | None, given: Collection[str]) -> tuple[Node, ...]:
    """The nodes that have to run.

    Args:
        graph: the whole pipeline.
        targets: nodes or assets that are wanted; None wants all that nothing else needs.
        given: assets whose values are there already. What produces them does not run, nor
            what only that needs.

    Raises:
        GraphError: a name is unknown, a target is given, or only some outputs of a needed step are.
    """
    problems = list(_unknown(graph, targets, given))
    if problems:
        raise GraphError([f"pipeline {graph.name!r}: {problem}" for problem in problems])
    stood_in = {node for name in given for node in graph.producers_of(graph.assets[name])}
    needed = _needed(graph, _wanted(graph, targets, stood_in), stood_in, given)
    _add_cleanup(graph, needed, stood_in)
    for node in sorted(needed & stood_in):
        outputs = graph.nodes[node].asset_names
        missing = [name for name in outputs if name not in given]
        problems.append(
            f"step {graph.nodes[node].name!r} would run for {', '.join(map(repr, missing))} though "
            f"{', '.join(repr(name) for name in outputs if name in given)} is given; give all its "
            "outputs"
        )
    if problems:
        raise GraphError([f"pipeline {graph.name!r}: {problem}" for problem in problems])
    return tuple(node for index, node in enumerate(graph.nodes) if index in needed)


def _unknown(graph: Graph, targets: Iterable[str] | None, given: Collection[str]) -> Iterable[str]:
    for name in given:
        if name not in graph.assets:
            yield f"given= names {name!r}, which is no asset{nearest(name, graph.assets)}"
    for name in targets or ():
        if name not in graph.assets and name not in graph.index and not inside(graph, name):
            known = [*graph.index, *graph.assets]
            yield f"targets= names {name!r}, which is no step and no asset{nearest(name, known)}"
        elif _is_given(graph, name, given):
            yield f"targets= names {name!r}, whose value is given; take it out of one of the two"


def inside(graph: Graph, prefix: str) -> list[int]:
    """The nodes of an inlined pipeline, by its full name; none if there is no such pipeline."""
    return [i for i, node in enumerate(graph.nodes) if node.name.startswith(f"{prefix}/")]


def _is_given(graph: Graph, target: str, given: Collection[str]) -> bool:
    if target not in graph.index:
        return target in given
    return all(name in given for name in graph.nodes[graph.index[target]].asset_names)


def _wanted(graph: Graph, targets: Iterable[str] | None, stood_in: set[int]) -> list[int]:
    if targets is None:
        return [i for i in range(len(graph)) if _is_end(graph, i) and i not in stood_in]
    wanted: list[int] = []
    for name in targets:
        wanted.extend(inside(graph, name))
        if name in graph.index:
            wanted.append(graph.index[name])
        elif name in graph.assets:
            wanted.extend(graph.producers_of(graph.assets[name]))
    return wanted


def _add_cleanup(graph: Graph, needed: set[int], stood_in: set[int]) -> None:
    """Clean up after what was selected: the steps with a ``when`` that wait for nothing else."""
    left = [node for node in graph.cleanup if node not in needed]
    while left:
        found = {node for node in left if _cleans_up(graph, node, needed, stood_in)}
        if not found:
            return
        needed |= found
        left = [node for node in left if node not in found]


def _cleans_up(graph: Graph, node: int, needed: set[int], stood_in: set[int]) -> bool:
    parents = set(graph.parents[node])
    scope = graph.nodes[node].scope
    if graph.cleanup[node]:  # it waits for whatever there is, in its pipeline
        return scope is None or any(scope in scopes_of(graph.nodes[n].scope) for n in needed)
    return not parents.isdisjoint(needed) and parents <= needed | stood_in


def _is_end(graph: Graph, node: int) -> bool:
    """Whether nothing needs a node; clean-up that waits for everything needs nothing."""
    return all(graph.cleanup.get(child, False) for child in graph.children[node])


def _needed(
    graph: Graph, wanted: list[int], stood_in: set[int], given: Collection[str]
) -> set[int]:
    numbers = {graph.assets[name] for name in given}
    needed: set[int] = set()
    while wanted:
        node = wanted.pop()
        if node in needed:
            continue
        needed.add(node)
        makers: set[int] = set()
        for asset in graph.slots[node]:
            makers.update(graph.producers_of(asset))
            if asset not in numbers:
                wanted.extend(graph.producers_of(asset))
        if not graph.cleanup.get(node, False):
            before = set(graph.parents[node]) - makers - stood_in
            wanted.extend(before)
    return needed
