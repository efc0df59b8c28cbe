"""The longest remaining path: how many seconds must pass, at least, from the start of a unit.

Units with more to come start first. The rule is as old as list scheduling (Hu, "Parallel
Sequencing and Assembly Line Problems", 1961); without known durations it gains nothing over
the order of arrival.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Generator, Mapping

from asyncflow.engine.ranked import RankedQueue
from asyncflow.engine.record import RunRecord
from asyncflow.graph.graph import Graph
from asyncflow.graph.node import Node

__all__ = ["ordering", "remaining_seconds"]

_CHUNK = 1000


def remaining_seconds(
    graph: Graph, expected: Mapping[str, float]
) -> Generator[None, None, array[float]]:
    """By unit, the seconds of the longest path from its start to the end of the graph.

    Args:
        graph: what is run.
        expected: seconds by the name of a node or its step; what it does not name counts as 0.

    Yields:
        Every thousand nodes, so that a large graph need not hold the event loop.
    """
    units = graph.units
    by_node = array("d", bytes(8 * len(graph)))
    by_unit = array("d", bytes(8 * len(units)))
    for count, index in enumerate(reversed(graph.order)):
        if not count % _CHUNK:
            yield
        below = max((by_node[child] for child in graph.children[index]), default=0.0)
        unit = units.of_node[index]
        if units.members is not None:
            # Members run one after the other: the next one comes after this in any case.
            below = max(below, by_unit[unit])
        by_node[index] = by_unit[unit] = below + _seconds(graph.nodes[index], expected)
    return by_unit


def _seconds(node: Node, expected: Mapping[str, float]) -> float:
    seconds = expected.get(node.name)
    return seconds if seconds is not None else expected.get(node.step.name, 0.0)


def ordering(
    run: RunRecord, expected: Mapping[str, float], tie: Callable[[], float] | None
) -> Generator[None]:
    """Have what is ready in a run start in order of the longest remaining path.

    Args:
        run: one that has not begun.
        expected: as for :func:`remaining_seconds`; where it is empty, only ``tie`` decides.
        tie: a number that decides between equals; None leaves them in order of arrival.
    """
    if expected:
        run.remaining = yield from remaining_seconds(run.graph, expected)
    if tie is None:
        run.frontier.rank(RankedQueue(run.rank))
    else:
        run.frontier.rank(RankedQueue(lambda unit: (run.rank(unit), tie())))
