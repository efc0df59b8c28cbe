"""Recorded workflows as YAML pipelines: the right digest, in threads and in processes."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from asyncflow.orchestrator import PipelineOrchestrator
from examples.replay import Task, Workflow, digest, expected_digest, load_graph, value_of
from examples.workflow_to_yaml import (
    WorkerType,
    digest_of_results,
    execute,
    module_name,
    write_pipeline,
)

DIAMOND = Workflow(
    "a diamond",
    (
        Task("last: 'quoted' \"twice\"", ("left/1", "right[2]"), 0.0, 1, None),
        Task("left/1", ("first",), 0.0, 1, None),
        Task("right[2]", ("first",), 0.0, 1, None),
        Task("first", (), 0.0, 1, None),
    ),
)


@pytest.mark.parametrize("name", ["montage-2mass-005d.json", "airrflow-nextflow.json"])
@pytest.mark.parametrize("worker_type", ["thread", "process"])
async def test_a_workflow_has_the_right_digest(
    name: str, worker_type: WorkerType, shared_workflows: Path, tmp_path: Path
) -> None:
    workflow = load_graph(shared_workflows / name)
    results = await execute(write_pipeline(workflow, tmp_path), worker_type)
    assert digest_of_results(workflow, results) == expected_digest(shared_workflows / name)


def test_children_before_parents_and_ids_that_are_no_names(tmp_path: Path) -> None:
    path = write_pipeline(DIAMOND, tmp_path / "new" / "folder")
    first = value_of("first", [])
    left, right = value_of("left/1", [first]), value_of("right[2]", [first])
    last = DIAMOND.tasks[0].id
    expected = {"first": first, "left/1": left, "right[2]": right}
    expected[last] = value_of(last, [left, right])
    results = asyncio.run(execute(path, "thread"))
    assert digest_of_results(DIAMOND, results) == digest(expected)
    assert module_name("left/1") in PipelineOrchestrator(path).visualize()


def test_what_a_module_raised_is_raised() -> None:
    with pytest.raises(OSError, match="disk"):
        digest_of_results(DIAMOND, {"first": OSError("disk")})
