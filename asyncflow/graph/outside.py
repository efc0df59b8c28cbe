"""What comes from outside a graph: run inputs, services and context, checked."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from asyncflow.errors import GraphError
from asyncflow.graph.graph import Graph
from asyncflow.graph.names import nearest

__all__ = ["outside_values", "service_problems"]


def outside_values(
    graph: Graph,
    inputs: Mapping[str, Any],
    services: Mapping[str, Any],
    shared_services: Mapping[str, Any],
) -> dict[str, Any]:
    """What parameters find by name: run inputs, else services, else context.

    Args:
        inputs: the values of this run.
        services: live objects for this run; every one must be taken by some step.
        shared_services: those of the runtime, which other pipelines may take.

    Raises:
        GraphError: an input is missing, unknown or of the wrong type, or a parameter could be
            an asset as well as an input or a service.
    """
    offered = {**graph.context, **shared_services, **services}
    problems = [
        *_missing(graph, inputs, offered),
        *(problem for name in inputs for problem in _input_problems(graph, name, inputs[name])),
        *(problem for name in services for problem in _service_problems(graph, name)),
        *(problem for name in shared_services for problem in _shared_problems(graph, name)),
    ]
    if problems:
        raise GraphError([f"pipeline {graph.name!r}: {problem}" for problem in problems])
    return {**offered, **inputs}


def service_problems(
    graph: Graph, lane_of: Callable[[int], str], services: Collection[str]
) -> list[str]:
    """A sentence for each step in a process that wants a service, which stays where it is."""
    if not services:
        return []
    return [
        f"step {graph.nodes[index].name!r} runs in a process and wants the service "
        f"{source.name!r}, a live object that cannot go there; use lane='thread', or make it in "
        "the step"
        for index, template in enumerate(graph.templates)
        for source in template.outside()
        if source.name in services and lane_of(graph.units.of_node[index]) == "process"
    ]


def _missing(graph: Graph, inputs: Mapping[str, Any], offered: Mapping[str, Any]) -> Iterator[str]:
    declared = graph.inputs or {}
    for name in declared:
        if name not in inputs and (name in graph.outside or not graph.absent):
            yield f"the run input {name!r} is missing; pass inputs={{{name!r}: …}}"
    for name, (has_default, index) in graph.outside.items():
        if has_default or name in inputs or name in offered or name in declared:
            continue
        hint = nearest(
            name,
            [*graph.assets, *offered, *inputs, *declared],
            f"pass inputs={{{name!r}: …}} or services={{{name!r}: …}}",
        )
        node = graph.nodes[index]
        # In an inlined pipeline the parameter itself may be called otherwise.
        what = f"parameter {name!r} of" if node.scope is None else f"{name!r}, asked for by"
        yield (
            f"{what} step {node.name!r} has no value: no asset, "
            f"params, run input, service or context has that name{hint}"
        )


def _input_problems(graph: Graph, name: str, value: Any) -> Iterator[str]:
    if graph.inputs is None:
        if _is_only_asset(graph, name):
            yield f"the run input {name!r} has the name of an asset; rename one"
        elif name not in graph.outside and name not in graph.elsewhere:
            hint = nearest(name, graph.outside, "leave it out, or add a parameter of that name")
            yield f"no step takes the run input {name!r}{hint}"
    elif name not in graph.inputs:
        hint = nearest(name, graph.inputs, "add it to the pipeline's inputs=, or leave it out")
        yield f"the run input {name!r} is not declared{hint}"
    for wanted in dict.fromkeys(((graph.inputs or {}).get(name), graph.names.types.get(name))):
        if isinstance(wanted, type) and not _fits(value, wanted):
            yield (
                f"the run input {name!r} is of type {type(value).__name__}, declared as "
                f"{wanted.__name__}; pass one of that type, or declare another"
            )


def _fits(value: Any, wanted: type) -> bool:
    return isinstance(value, wanted) or (wanted is float and isinstance(value, int))


def _is_only_asset(graph: Graph, name: str) -> bool:
    """Whether a name is that of an asset, for those who would take a value of that name."""
    if name in graph.names.found_by_name:
        return True
    return name in graph.assets and name not in graph.outside


def _service_problems(graph: Graph, name: str) -> Iterator[str]:
    if _is_only_asset(graph, name):
        yield f"the service {name!r} has the name of an asset; rename one"
    elif name not in graph.outside and name not in graph.elsewhere:
        hint = nearest(name, graph.outside, "leave it out, or add a parameter of that name")
        yield f"no step takes the service {name!r}{hint}"


def _shared_problems(graph: Graph, name: str) -> Iterator[str]:
    """Nobody has to take what a runtime offers; but whoever could must not have to guess."""
    if name in graph.names.found_by_name:
        yield (
            f"parameter {name!r} could be the asset of that name or the runtime's service; rename "
            f"one, or say inputs=[{name!r}]"
        )
