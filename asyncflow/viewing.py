"""What is to be seen of a pipeline, in whichever dialect it was written: its plan, its picture."""

from __future__ import annotations

from asyncflow.errors import GraphError
from asyncflow.graph.drawing import draw
from asyncflow.graph.graph import Graph
from asyncflow.graph.plan import Plan, make_plan
from asyncflow.result import PipelineResult
from asyncflow.run import Run
from asyncflow.runtime import Runtime

__all__ = ["picture_of", "plan_of"]


def plan_of(graph: Graph, runtime: Runtime | None) -> Plan:
    """The plan of a graph; with a runtime, also what that would clamp or refuse."""
    if runtime is None:
        return make_plan(graph)
    admission = runtime.check(graph)
    return make_plan(graph, refusals=admission.refusals, clamped=admission.clamped)


def picture_of(graph: Graph, format: str, run: Run | PipelineResult | None) -> str:
    """A picture of a graph; with a run of it, or its result, one of the states of its nodes.

    Raises:
        GraphError: there is no such format, or the run is of another pipeline.
    """
    if run is None:
        return draw(graph, format)
    states = run.states()
    if states.keys().isdisjoint(graph.index):
        raise GraphError(f"pipeline {graph.name!r}: visualize(run=…) got {run!r}, not its own")
    run_id = run.run_id if isinstance(run, PipelineResult) else run.id
    return draw(graph, format, states, f"run {run_id} {run.state}")
