"""A run is admitted: all that could never start is refused before anything starts."""

from __future__ import annotations

from asyncflow.engine.process_steps import admit_processes
from asyncflow.engine.record import RunRecord
from asyncflow.engine.supply import Supply
from asyncflow.errors import CapacityError

__all__ = ["admit_run"]


def admit_run(run: RunRecord, supply: Supply) -> None:
    """See that a runtime can run a graph, and note what its units take.

    Raises:
        CapacityError: a step asks for what can never be granted.
        GraphError: a step cannot go to a process.
    """
    graph = run.graph
    if run.backend == "process" or "process" in graph.units.lanes:
        admit_processes(run)
    if not graph.units.resources and not graph.limits and not supply.taints:
        return
    admission = supply.check(graph, run.lane_of, run.process_cpu_millis)
    if admission.refusals:
        faults = [f"step {name!r}: {why}" for name, why in admission.refusals.items()]
        raise CapacityError(f"pipeline {graph.name!r} cannot run here: {' '.join(faults)}")
    run.demands = admission.demands
    run.warnings += [f"step {name!r}: {why}" for name, why in admission.clamped.items()]
    run.warnings += supply.faults_for(graph)
