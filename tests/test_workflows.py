"""Real workflow graphs end in the right digest, in any lane and however narrow the machine."""

from __future__ import annotations

import json
from graphlib import TopologicalSorter
from pathlib import Path

import msgspec
import pytest

from asyncflow import Pipeline, PipelineResult, ResourceRequirements, Runtime, step
from asyncflow.events import UnitFinished, UnitStarted
from examples.replay import Task, Workflow, digest, expected_digest, load_graph, value_of
from tests.replaying import Meter, metered_pipeline

FILES = (
    "montage-2mass-005d.json",
    "rnaseq-nextflow.json",
    "airrflow-nextflow.json",
    "soykb-50fastq-20ch.json",
    "1000genome-22ch-250k.json",
    "cybershake-1000.json",
    "bwa-large.json",
    "seismology-1100p.json",
    "epigenomics-ilmn-6seq-50k.json.gz",
    "montage-dss-15d.json.gz",
)
UNLIMITED = 10**9
WINDOWS = (1, 7, UNLIMITED)
CPUS = (None, 8, 32, 128)
MEMORY_BYTES = 64 * 2**30


def digest_of(result: PipelineResult, workflow: Workflow) -> str:
    return digest({task.id: result[task.id] for task in workflow.tasks})


def clamped(workflow: Workflow, cpus: int) -> Workflow:
    """The recorded tasks, none asking for more than there is: the meter counts what they get."""

    def gets(task: Task) -> Task:
        memory_bytes = min(task.memory_bytes or 0, MEMORY_BYTES)
        return msgspec.structs.replace(task, cores=min(task.cores, cpus), memory_bytes=memory_bytes)

    return msgspec.structs.replace(workflow, tasks=tuple(map(gets, workflow.tasks)))


@pytest.mark.parametrize("cpus", CPUS)
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("lane", ["inline", "thread"])
@pytest.mark.parametrize("file", FILES)
async def test_a_recorded_workflow_ends_in_its_digest(
    shared_workflows: Path, file: str, lane: str, window: int, cpus: int | None
) -> None:
    workflow = load_graph(shared_workflows / file)
    if cpus is not None:
        workflow = clamped(workflow, cpus)
    meter = Meter()
    pipeline = metered_pipeline(workflow, meter, lane=lane, resources=cpus is not None)
    async with Runtime(
        max_concurrency=window, max_cpus=cpus or 1, max_memory=MEMORY_BYTES
    ) as runtime:
        result = await pipeline.run(runtime=runtime)
    result.raise_for_failure()
    assert digest_of(result, workflow) == expected_digest(shared_workflows / file)
    assert meter.tasks == 0
    assert meter.most_tasks <= window
    if cpus is not None:
        assert meter.most_cpu_millis <= 1000 * cpus
        assert meter.most_memory_bytes <= MEMORY_BYTES
    elif lane == "inline" and window != UNLIMITED:
        # Every graph is wider than the window: a scheduler that leaves it half empty is slow.
        assert meter.most_tasks == window


async def test_tasks_that_ask_for_all_there_is_or_more_run_alone(shared_workflows: Path) -> None:
    file = "rnaseq-nextflow.json"
    workflow = load_graph(shared_workflows / file)
    assert {task.cores for task in workflow.tasks} == {1, 2}
    meter = Meter()
    pipeline = metered_pipeline(workflow, meter, lane="inline", resources=True)
    async with Runtime(max_cpus=1, max_memory="256Mi") as runtime:
        result = await pipeline.run(runtime=runtime)
    result.raise_for_failure()
    assert digest_of(result, workflow) == expected_digest(shared_workflows / file)
    assert meter.most_tasks == 1


@step(lane="process")
def hash_in_a_process(task_id: str, *parents: bytes) -> bytes:
    return value_of(task_id, parents)


def levels_of(workflow: Workflow) -> dict[str, int]:
    """How many tasks the longest chain above each task has."""
    parents = {task.id: task.parents for task in workflow.tasks}
    levels: dict[str, int] = {}
    for name in TopologicalSorter(parents).static_order():
        levels[name] = 1 + max((levels[parent] for parent in parents[name]), default=-1)
    return levels


@pytest.mark.parametrize("grouped", [False, True], ids=["ungrouped", "grouped"])
@pytest.mark.parametrize("file", FILES)
async def test_a_recorded_workflow_ends_in_its_digest_in_processes(
    shared_workflows: Path, file: str, grouped: bool
) -> None:
    workflow = load_graph(shared_workflows / file)
    levels = levels_of(workflow)
    of_level = {
        level: hash_in_a_process.with_options(execution_group=f"level {level // 2}")
        for level in set(levels.values())
    }
    pipeline = Pipeline(workflow.name, outputs=[task.id for task in workflow.tasks])
    for task in workflow.tasks:
        used = of_level[levels[task.id]] if grouped else hash_in_a_process
        pipeline.add_step(used, name=task.id, params={"task_id": task.id}, inputs=task.parents)
    async with Runtime(max_cpus=2) as runtime:
        result = await pipeline.run(runtime=runtime)
    result.raise_for_failure()
    assert digest_of(result, workflow) == expected_digest(shared_workflows / file)


async def test_declared_memory_bounds_what_runs_in_processes(shared_workflows: Path) -> None:
    file, limit_bytes = "bwa-large.json", 16 * 2**30
    workflow = load_graph(shared_workflows / file)
    pipeline = Pipeline(workflow.name)
    for task in workflow.tasks:
        asks = ResourceRequirements(cpu="250m", memory=min(task.memory_bytes or 0, limit_bytes))
        used = hash_in_a_process.with_options(resources=asks)
        pipeline.add_step(used, name=task.id, params={"task_id": task.id}, inputs=task.parents)
    held, most = {}, 0
    async with (
        Runtime(max_cpus=5, max_memory=limit_bytes) as runtime,
        pipeline.start(runtime=runtime) as run,
    ):
        async for event in run.events(buffer=100_000):
            if isinstance(event, UnitStarted):
                held[event.node] = event.memory_bytes
                most = max(most, sum(held.values()))
            elif isinstance(event, UnitFinished):
                del held[event.node]
        result = await run.result()
    result.raise_for_failure()
    assert digest_of(result, workflow) == expected_digest(shared_workflows / file)
    assert limit_bytes // 2 < most <= limit_bytes


def test_every_recorded_workflow_is_replayed(shared_workflows: Path) -> None:
    digests = json.loads((shared_workflows / "digests.json").read_text(encoding="utf-8"))
    assert set(FILES) == set(digests)
