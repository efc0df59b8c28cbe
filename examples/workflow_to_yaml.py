"""Write a recorded workflow as a pipeline of modules in a YAML file, and run it.

    python -m examples.workflow_to_yaml examples/workflow.json sky
    asyncflow run sky/pipeline.yaml

Every task becomes a module that depends on the modules of its parents and hashes their values.
Run by this program, the file is executed in threads and in processes, and the hash over all
values shows that no module was lost, run with wrong values or run too early.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any, Literal

from asyncflow.orchestrator import PipelineOrchestrator
from examples.replay import Workflow, digest, expected_digest, load_graph

__all__ = ["digest_of_results", "execute", "write_pipeline"]

WorkerType = Literal["thread", "process"]

_MODULES = '''\
"""The modules of a recorded workflow: each hashes the values of those it depends on."""

from __future__ import annotations

import hashlib
import time

from asyncflow.orchestrator import BaseModule, ModuleContext


class Task(BaseModule):
    def run(self, context: ModuleContext) -> bytes:
        time.sleep(context.params["seconds"])
        hashed = hashlib.blake2b(context.params["task"].encode(), digest_size=16)
        for value in context.dependency_results.values():
            hashed.update(b"|" + value)
        return hashed.digest()
'''


def write_pipeline(workflow: Workflow, folder: Path, *, time_scale: float = 0.0) -> Path:
    """Write a pipeline and its modules; gives the path of the pipeline.

    Args:
        folder: where; made if it is not there.
        time_scale: seconds that a module takes for each second of the recording.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tasks.py").write_text(_MODULES, encoding="utf-8")
    path = folder / "pipeline.yaml"
    path.write_text(_pipeline_text(workflow, time_scale), encoding="utf-8")
    return path


def _pipeline_text(workflow: Workflow, time_scale: float) -> str:
    """The file, with strings in quotes as JSON has them, which YAML reads alike."""
    names = {task.id: module_name(task.id) for task in workflow.tasks}
    lines = [
        "pipeline:",
        f"  name: {json.dumps(module_name(workflow.name))}",
        "  modules:",
    ]
    for task in workflow.tasks:
        params = {"task": task.id, "seconds": task.runtime_s * time_scale}
        parents = [names[parent] for parent in task.parents]
        lines += [
            f"    - name: {json.dumps(names[task.id])}",
            '      path: "tasks:Task"',
            f"      depends_on: {json.dumps(parents)}",
            f"      params: {json.dumps(params)}",
        ]
    return "\n".join([*lines, ""])


def module_name(task_id: str) -> str:
    """A task's id without what names of modules may not hold."""
    return "".join("_" if char in "/[]" or not char.isprintable() else char for char in task_id)


def digest_of_results(workflow: Workflow, results: dict[str, Any]) -> str:
    """One hash for the values of all modules; raises what a module raised."""
    for result in results.values():
        if isinstance(result, Exception):
            raise result
    return digest({task.id: results[module_name(task.id)] for task in workflow.tasks})


async def execute(path: Path, worker_type: WorkerType, *, checkpoints: bool = False) -> Any:
    """The results of a pipeline in one kind of workers."""
    orchestrator = PipelineOrchestrator(
        path,
        overrides={
            "execution.worker_type": worker_type,
            "checkpoint.enabled": checkpoints,
        },
    )
    return await orchestrator.execute()


def main() -> int:
    """Convert, run in threads and in processes, and compare."""
    parser = argparse.ArgumentParser(description="Write a recorded workflow as a YAML pipeline.")
    parser.add_argument("workflow", type=Path, help="a workflow in JSON, may be gzipped")
    parser.add_argument("folder", type=Path, help="where to write the pipeline")
    parser.add_argument("--time-scale", type=float, default=0.0)
    arguments = parser.parse_args()
    workflow = load_graph(arguments.workflow)
    path = write_pipeline(workflow, arguments.folder, time_scale=arguments.time_scale)
    expected = expected_digest(arguments.workflow)
    failed = False
    for worker_type in ("thread", "process"):
        began = time.perf_counter()
        results = asyncio.run(execute(path, worker_type))
        took = time.perf_counter() - began
        found = digest_of_results(workflow, results)
        verdict = "no digest to compare with" if expected is None else str(found == expected)
        failed = failed or (expected is not None and found != expected)
        print(f"{worker_type}: {len(results)} modules in {took:.2f} s, digest {found}: {verdict}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
