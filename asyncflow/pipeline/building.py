"""From a pipeline to its graph: at once, in slices of time, or a part of it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Generator, Iterable, Mapping
from typing import Any

import msgspec

from asyncflow.errors import GraphError
from asyncflow.graph.compile import Blueprint
from asyncflow.graph.graph import Graph
from asyncflow.graph.names import nearest
from asyncflow.graph.node import Node
from asyncflow.graph.selection import inside, select
from asyncflow.pipeline.arguments import replaced_steps
from asyncflow.step import Step

__all__ = ["in_slices", "log_advice", "part_of", "with_replacements"]

_LOGGER = logging.getLogger("asyncflow")
_BUILD_SECONDS = 0.004


async def in_slices(steps: Generator[None, None, Graph]) -> Graph:
    """Run a build, giving other tasks a turn every few milliseconds."""
    loop = asyncio.get_running_loop()
    until = loop.time() + _BUILD_SECONDS
    while True:
        try:
            next(steps)
        except StopIteration as done:
            graph: Graph = done.value
            return graph
        if loop.time() >= until:
            await asyncio.sleep(0)
            until = loop.time() + _BUILD_SECONDS


def log_advice(graph: Graph) -> None:
    """What a build advises, once, for people who do not look at the plan."""
    for warning in graph.warnings:
        _LOGGER.warning("pipeline %r: %s", graph.name, warning)


# -- a part ------------------------------------------------------------------------------


def part_of(
    whole: Blueprint, graph: Graph, targets: Iterable[str] | None, given: Mapping[str, Any]
) -> Blueprint:
    """What of a pipeline has to run.

    Args:
        whole: what ``graph`` was built from.
        targets: nodes, assets and inlined pipelines that are wanted; None for all.
        given: values that stand in for assets.

    Raises:
        GraphError: a name is unknown, or nothing is left.
    """
    wanted = None if targets is None else list(targets)
    nodes = select(graph, wanted, given)
    if not nodes:
        raise GraphError(f"pipeline {whole.name!r}: given= leaves nothing to run")
    names = {node.name for node in nodes}
    labels = {node.execution_group for node in nodes}
    return msgspec.structs.replace(
        whole,
        nodes=nodes,
        outputs=_outputs_among(whole, graph, nodes, given, wanted or ()),
        groups={label: said for label, said in whole.groups.items() if label in labels},
        given=frozenset(given),
        absent=frozenset(node.name for node in whole.nodes if node.name not in names),
        elsewhere=frozenset(graph.outside),
    )


def _outputs_among(
    whole: Blueprint,
    graph: Graph,
    nodes: Iterable[Node],
    given: Mapping[str, Any],
    wanted: Iterable[str],
) -> tuple[str, ...] | None:
    """What a part of a pipeline keeps: the declared outputs it has, and its targets."""
    if whole.outputs is None:
        return None
    there = {name for node in nodes for name in (node.name, *node.asset_names)}
    within = [graph.nodes[index].name for name in wanted for index in inside(graph, name)]
    kept = dict.fromkeys((*whole.outputs, *wanted, *within))
    return tuple(name for name in kept if name in there | given.keys())


# -- other steps -------------------------------------------------------------------------


def with_replacements(
    pipeline: str, nodes: list[Node], replacements: Mapping[Any, Any]
) -> list[Node]:
    """The nodes of a pipeline with other functions or steps in the place of some.

    Raises:
        GraphError: a name is unknown, or what stands for it is no function.
    """
    names = {node.name for node in nodes}
    others = replaced_steps(replacements)
    for name in others:
        if name not in names:
            raise GraphError(
                f"pipeline {pipeline!r}: with_steps names {name!r}, which is no step"
                + nearest(name, names)
            )
    return [_replaced(node, others) for node in nodes]


def _replaced(node: Node, replacements: Mapping[str, Any]) -> Node:
    if node.name not in replacements:
        return node
    other = replacements[node.name]
    if isinstance(other, Step):
        return msgspec.structs.replace(node, step=other)
    if not callable(other):
        raise GraphError(f"with_steps takes functions or steps, got {other!r} for {node.name!r}")
    return msgspec.structs.replace(node, step=Step(other, **node.step.options))
