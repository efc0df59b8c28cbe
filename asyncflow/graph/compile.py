"""Building: from nodes to a :class:`Graph` with every fault found on the way.

The build is a generator that pauses every few hundred nodes, so that ``await run()`` of
100,000 steps leaves the caller's event loop free; :func:`compile_graph` runs it through.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from asyncflow.errors import GraphError
from asyncflow.graph.advice import advise
from asyncflow.graph.graph import Graph
from asyncflow.graph.grouping import Group, Units, make_units
from asyncflow.graph.inlining import check_pipelines
from asyncflow.graph.names import nearest
from asyncflow.graph.node import Node
from asyncflow.graph.order import children_of, find_cycles, topological_order
from asyncflow.graph.placing import place_cleanup, place_pipelines
from asyncflow.graph.wiring import CHUNK, Wiring, wire

__all__ = ["Blueprint", "at_once", "building", "check_sendable", "compile_graph"]


class Blueprint(msgspec.Struct, frozen=True):
    """What a graph is built from.

    Args:
        name: of the pipeline.
        nodes: in order of declaration.
        inputs: names of declared run inputs → their types (``object`` for any); None
            where none are declared and whatever nothing else fills is one.
        outputs: assets or nodes whose values a result keeps; None for all.
        context: values that parameters find by name.
        groups: what is said about groups as a whole.
        given: assets that nothing produces because their values are there.
        absent: nodes that do not run; nobody waits for them.
        elsewhere: run inputs and services that those take.
    """

    name: str
    nodes: tuple[Node, ...]
    inputs: Mapping[str, Any] | None = None
    outputs: tuple[str, ...] | None = None
    context: Mapping[str, Any] = {}
    groups: Mapping[str, Group] = {}
    given: frozenset[str] = frozenset()
    absent: frozenset[str] = frozenset()
    elsewhere: frozenset[str] = frozenset()

    @property
    def is_part(self) -> bool:
        """Whether it is a part of a pipeline that was built as a whole before."""
        return bool(self.absent or self.given)


def compile_graph(blueprint: Blueprint) -> Graph:
    """Build in one go.

    Raises:
        GraphError: the pipeline is wrong; ``problems`` has every fault.
    """
    return at_once(building(blueprint))


def at_once(steps: Generator[None, None, Graph]) -> Graph:
    """Run a build through."""
    while True:
        try:
            next(steps)
        except StopIteration as done:
            graph: Graph = done.value
            return graph


def building(blueprint: Blueprint) -> Generator[None, None, Graph]:
    """Build bit by bit; the graph is the generator's return value."""
    problems: list[str] = []
    nodes = blueprint.nodes
    warnings = yield from _check_nodes(nodes, problems)
    offered = set(blueprint.inputs or ()) | set(blueprint.context)
    closed = blueprint.inputs is not None
    wiring = yield from wire(
        nodes, offered, problems, blueprint.given, blueprint.absent, closed=closed
    )
    yield from place_pipelines(nodes, wiring, problems, blueprint.absent)
    if not blueprint.is_part:
        check_pipelines(nodes, wiring, problems)
    _check_names(blueprint, wiring, problems)
    _check_maps(nodes, wiring, problems)
    wiring.cleanup = yield from place_cleanup(nodes, wiring)
    children = yield from children_of(wiring.parents)
    labels = yield from _labels_of(nodes)
    order = yield from topological_order(wiring.parents, children, labels)
    if len(order) < len(nodes):
        _report_cycles(nodes, wiring, order, problems)
    units = yield from make_units(nodes, order if labels else None, blueprint.groups, problems)
    warnings.extend((yield from _check_devices(nodes, units, problems)))
    yield from check_sendable(nodes, (units.lanes[unit] for unit in units.of_node), problems)
    if problems:
        _refuse(blueprint, problems)
    warnings.extend(advise(nodes, order, wiring.parents, units))
    return (yield from Graph.assemble(blueprint, wiring, order, children, units, tuple(warnings)))


def _refuse(blueprint: Blueprint, problems: list[str]) -> None:
    raise GraphError([f"pipeline {blueprint.name!r}: {problem}" for problem in problems])


def _check_nodes(nodes: Sequence[Node], problems: list[str]) -> Generator[None, None, list[str]]:
    checked: set[int] = set()
    warnings: list[str] = []
    for index, node in enumerate(nodes):
        if not index % CHUNK:
            yield
        if id(node.step) in checked:
            continue
        checked.add(id(node.step))
        if node.step.is_generator:
            problems.append(
                f"step {node.name!r} is a generator function, which cannot be a step; return a "
                "list, or yield inside a function that the step calls"
            )
        if node.step.when != "success" and not _is_single(node):
            problems.append(
                f"step {node.name!r} has when={node.step.when!r} and an execution group; a "
                "clean-up step has to run when its group cannot: leave execution_group out"
            )
        if node.step.is_coroutine and node.step.lane == "thread" and _is_single(node):
            warnings.append(
                f"step {node.name!r} is a coroutine function and runs on the event loop although "
                "its lane is 'thread'; leave lane out, or make it a sync function"
            )
    return warnings


def _check_maps(nodes: Sequence[Node], wiring: Wiring, problems: list[str]) -> None:
    for node in (nodes[index] for index in wiring.mapped):
        if not _is_single(node) or node.step.when != "success":
            problems.append(
                f"step {node.name!r} is mapped over {node.map!r} and has an execution group or a "
                "when=; its elements run each on their own: leave that out"
            )
        declared = node.declared_inputs
        if isinstance(declared, Mapping) and node.map not in declared.values():
            problems.append(
                f"step {node.name!r} is mapped over {node.map!r}, which its inputs= gives to no "
                f"parameter; add {{'parameter': {node.map!r}}}"
            )


def _is_single(node: Node) -> bool:
    return node.execution_group is None


def _labels_of(nodes: Sequence[Node]) -> Generator[None, None, list[str | None] | None]:
    """Each node's execution group; None where no node has one."""
    labels: list[str | None] = []
    for index in range(0, len(nodes), CHUNK):
        labels.extend(node.execution_group for node in nodes[index : index + CHUNK])
        yield
    return labels if any(labels) else None


def _check_names(blueprint: Blueprint, wiring: Wiring, problems: list[str]) -> None:
    for name in blueprint.outputs or ():
        if name not in wiring.assets.numbers and name not in wiring.index:
            problems.append(
                f"outputs= names {name!r}, which is no asset and no step"
                + nearest(
                    name,
                    [*wiring.assets.numbers, *wiring.index],
                    "add a step that makes it, or take it out of outputs=",
                )
            )
    labels = {node.execution_group for node in blueprint.nodes} if blueprint.groups else ()
    for label in blueprint.groups:
        if label not in labels:
            known = [known for known in labels if known]
            problems.append(
                f"groups= names {label!r}, but no step has that execution_group"
                + nearest(label, known, "give it to a step, or take it out of groups=")
            )


def _report_cycles(
    nodes: Sequence[Node], wiring: Wiring, order: Sequence[int], problems: list[str]
) -> None:
    for cycle in find_cycles(wiring.parents, order):
        names = [nodes[index].name for index in cycle]
        if len(names) == 1:
            remedy = (
                "take it out of after="
                if names[0] in nodes[cycle[0]].after
                else "rename its output or its input"
            )
            problems.append(f"step {names[0]!r} depends on itself; {remedy}")
            continue
        if len(names) > 8:
            names = [*names[:4], f"… {len(names) - 7} more …", *names[-3:]]
        path = " → ".join([*names, names[0]])
        problems.append(f"these steps wait for each other: {path}; cut one of the links")


def check_sendable(
    nodes: Sequence[Node], lanes: Iterable[str], problems: list[str]
) -> Generator[None]:
    """The functions of steps that run in processes have to get there."""
    checked: set[int] = set()
    for index, (node, lane) in enumerate(zip(nodes, lanes, strict=False)):
        if not index % CHUNK:
            yield
        if lane != "process" or id(node.step) in checked:
            continue
        checked.add(id(node.step))
        from asyncflow.pickling.sending import unsendable_function

        problem = unsendable_function(node.step.func, f"step {node.name!r}")
        if problem is not None:
            problems.append(problem)


def _check_devices(
    nodes: Sequence[Node], units: Units, problems: list[str]
) -> Generator[None, None, list[str]]:
    """A step that asks for a GPU must be told which one is its own."""
    warnings: list[str] = []
    for index, node in enumerate(nodes):
        if not index % CHUNK:
            yield
        step = node.step
        if step.resources is None or step.resources.gpu is None:
            continue
        if any(parameter.wants_context for parameter in step.parameters):
            continue
        lane = units.lanes[units.of_node[index]]
        if lane == "process":
            continue  # there it sees no other
        sentence = (
            f"step {node.name!r} asks for a GPU in the {lane} lane, where nothing tells it which "
            "device is its own; take a StepContext parameter and use its lease.gpu_ids"
        )
        chosen = step.lane is not None or step.is_coroutine
        (problems if chosen else warnings).append(sentence)
    return warnings
