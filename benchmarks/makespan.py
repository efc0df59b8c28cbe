"""Makespan: recorded workflows in virtual time, against the shortest that any schedule has."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from random import Random
from statistics import fmean

from asyncflow.testing import VirtualRuntime
from benchmarks.graphs import random_graph
from benchmarks.report import Goal, Row
from benchmarks.sampling import FULL, Scale
from examples.replay import Task, Workflow, load_graph, lower_bound_seconds, pipeline_of

__all__ = ["makespan_seconds", "measure_makespan"]

# Recorded workflows stand beside the repository, if they are there at all.
FOLDER = Path(__file__).resolve().parents[2] / "shared" / "workflows"
CPUS = (8, 32, 128)
MEMORY = "64Gi"


def makespan_seconds(workflow: Workflow, cpus: int, *, known: bool) -> float:
    """Virtual seconds that a workflow takes on so many CPUs.

    Args:
        workflow: with durations, cores and memory.
        cpus: how many there are to share.
        known: whether the runtime is told the durations before.
    """
    durations = {task.id: task.runtime_s for task in workflow.tasks}
    virtual = VirtualRuntime(
        None,
        cpus=cpus,
        memory=MEMORY,
        durations=durations,
        expected_seconds=durations if known else None,
    )
    result = virtual.run(pipeline_of(workflow))
    if not result.success:
        raise RuntimeError(f"a measured run failed: {result.summary()}")
    return result.duration_seconds


def _workflows(scale: Scale) -> Iterator[Workflow]:
    found = sorted(FOLDER.glob("*.json*")) if scale is FULL else []
    recorded = [path for path in found if path.name != "digests.json"]
    if not recorded:
        yield _made_up(scale.of(2000))
    for path in recorded:
        yield load_graph(path)


def _made_up(size: int) -> Workflow:
    """A random graph, for machines that have none of the recorded ones."""
    random = Random(1)
    tasks = [
        Task(f"t{i}", tuple(f"t{p}" for p in parents), random.expovariate(0.1), 1, None)
        for i, parents in enumerate(random_graph(size, parents=2))
    ]
    return Workflow("made up", tuple(tasks))


def measure_makespan(scale: Scale) -> list[Row]:
    """Virtual makespans on 8, 32 and 128 CPUs, against max(critical path, work / CPUs)."""
    rows: dict[bool, list[Row]] = {False: [], True: []}
    for workflow in _workflows(scale):
        for cpus in CPUS:
            bound = lower_bound_seconds(workflow, cpus)
            for known, listed in rows.items():
                seconds = makespan_seconds(workflow, cpus, known=known)
                listed.append(Row(f"{workflow.name}, {cpus} CPUs, {_order(known)}", seconds, bound))
    each = [row for pair in zip(rows[False], rows[True], strict=True) for row in pair]
    return [*each, _mean(rows[False], known=False), _mean(rows[True], known=True)]


def _order(known: bool) -> str:
    return "durations known" if known else "order of arrival"


def _mean(rows: list[Row], *, known: bool) -> Row:
    """Geometric means: their ratio is the geometric mean of the ratios."""
    ours = math.exp(fmean(math.log(row.ours) for row in rows))
    bound = math.exp(fmean(math.log(row.reference or 1.0) for row in rows))
    goal = Goal("ratio", 1.08) if known else None
    return Row(f"geometric mean of {len(rows)}, {_order(known)}", ours, bound, goal=goal)
