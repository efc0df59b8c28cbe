"""Recorded workflows on machines that are not there: right values, and schedules that repeat."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path
from statistics import fmean

import pytest

from asyncflow.testing import VirtualRuntime
from examples.replay import (
    Workflow,
    digest,
    expected_digest,
    load_graph,
    lower_bound_seconds,
    pipeline_of,
)

CPUS = (8, 32, 128)
MEMORY = "64Gi"
WORST_MEAN_WITH_KNOWN_DURATIONS = 1.08


@cache
def _workflows(folder: Path) -> tuple[tuple[Path, Workflow], ...]:
    paths = sorted(path for path in folder.glob("*.json*") if path.name != "digests.json")
    return tuple((path, load_graph(path)) for path in paths)


def _virtual(
    workflow: Workflow, cpus: int, *, seed: int = 1, known: bool = False
) -> VirtualRuntime:
    durations = {task.id: task.runtime_s for task in workflow.tasks}
    return VirtualRuntime(
        seed,
        cpus=cpus,
        memory=MEMORY,
        durations=durations,
        expected_seconds=durations if known else None,
    )


@pytest.mark.parametrize("cpus", CPUS)
def test_every_workflow_ends_in_its_digest_and_the_same_seed_in_the_same_log(
    shared_workflows: Path, cpus: int
) -> None:
    for path, workflow in _workflows(shared_workflows):
        pipeline = pipeline_of(workflow)
        logs = []
        for _ in range(2):
            virtual = _virtual(workflow, cpus)
            result = virtual.run(pipeline)
            assert digest({t.id: result[t.id] for t in workflow.tasks}) == expected_digest(path)
            assert result.duration_seconds >= lower_bound_seconds(workflow, cpus) - 1e-6
            logs.append(virtual.event_log())
        assert logs[0] == logs[1], f"{path.name} on {cpus} CPUs did not repeat"


def test_known_durations_bring_makespans_near_to_the_shortest(shared_workflows: Path) -> None:
    ratios = []
    for _, workflow in _workflows(shared_workflows):
        pipeline = pipeline_of(workflow)
        for cpus in CPUS:
            result = _virtual(workflow, cpus, known=True).run(pipeline)
            ratios.append(result.duration_seconds / lower_bound_seconds(workflow, cpus))
    mean = math.exp(fmean(map(math.log, ratios)))
    assert mean <= WORST_MEAN_WITH_KNOWN_DURATIONS
