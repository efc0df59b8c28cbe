"""What is particular to a run that has steps in processes."""

from __future__ import annotations

import sys

from asyncflow.engine.capacity import Demand
from asyncflow.engine.record import RunRecord
from asyncflow.errors import GraphError
from asyncflow.graph.compile import check_sendable
from asyncflow.graph.outside import service_problems

__all__ = ["admit_processes"]


def admit_processes(run: RunRecord) -> None:
    """See that all that goes to processes can, and what it takes.

    Raises:
        GraphError: a step wants a service, its function cannot be sent, or this is Windows.
    """
    if sys.platform == "win32":
        raise GraphError("the process lane does not work on Windows; use lane='thread'")
    graph = run.graph
    problems = service_problems(graph, run.lane_of, run.services)
    if run.backend == "process":
        # Those whose lane is their own were looked at when the pipeline was built.
        lanes = map(run.lane_of, (graph.units.of_node[i] for i in range(len(graph))))
        for _ in check_sendable(graph.nodes, lanes, problems):
            continue
    if problems:
        raise GraphError([f"pipeline {graph.name!r}: {problem}" for problem in problems])
    run.in_processes = True
    run.process_demand = Demand(run.process_cpu_millis)
