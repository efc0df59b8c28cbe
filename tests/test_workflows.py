"""Real workflow graphs end in the right digest, in any lane and however narrow the machine."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from asyncflow import PipelineResult, Runtime
from examples.replay import Task, Workflow, digest, expected_digest, load_graph
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


def test_every_recorded_workflow_is_replayed(shared_workflows: Path) -> None:
    digests = json.loads((shared_workflows / "digests.json").read_text(encoding="utf-8"))
    assert set(FILES) == set(digests)
