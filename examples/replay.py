"""Replay a recorded workflow: its graph, its durations, its cores and memory.

    python -m examples.replay examples/workflow.json --max-cpus 32

Every task becomes a step that waits for the task's recorded duration times ``--time-scale``
and hashes its parents' values. The hash over all values shows that no task was lost, run with
wrong parents or run too early; the makespan is compared with the shortest that any schedule
could have.

``examples/workflow.json`` is a small one that shows the form: a name, and tasks with id, parents,
seconds, cores and bytes of memory (null if nobody knows). A ``digests.json`` beside a file may
hold the hash that is expected of it.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import hashlib
import json
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any, Literal

import msgspec

from asyncflow import Pipeline, PipelineResult, ResourceRequirements, Runtime, Step, step

__all__ = [
    "Task",
    "Workflow",
    "critical_path_seconds",
    "digest",
    "expected_digest",
    "load_graph",
    "lower_bound_seconds",
    "pipeline_of",
    "replay",
    "value_of",
]

Lane = Literal["inline", "thread"]


class Task(msgspec.Struct, frozen=True):
    """One recorded task; ``memory_bytes`` is None where the recording does not know it."""

    id: str
    parents: tuple[str, ...]
    runtime_s: float
    cores: float
    memory_bytes: int | None


class Workflow(msgspec.Struct, frozen=True):
    """A recorded graph; children may stand before their parents."""

    name: str
    tasks: tuple[Task, ...]


def load_graph(path: Path) -> Workflow:
    """Read a workflow from JSON, gzipped when the name ends in ``.gz``.

    Raises:
        msgspec.ValidationError: the file is JSON of another shape.
    """
    stored = path.read_bytes()
    return msgspec.json.decode(
        gzip.decompress(stored) if path.suffix == ".gz" else stored, type=Workflow
    )


# -- values and their digest -----------------------------------------------------------------


def value_of(task_id: str, parents: Sequence[bytes]) -> bytes:
    """The 16 bytes that a task produces from those of its parents, in the listed order."""
    hashed = hashlib.blake2b(task_id.encode(), digest_size=16)
    for value in parents:
        hashed.update(b"|" + value)
    return hashed.digest()


def digest(values: Mapping[str, bytes]) -> str:
    """One hash for all values by task, whatever the order they were computed in.

    Example:
        >>> digest({"b": b"2", "a": b"1"}) == digest({"a": b"1", "b": b"2"})
        True
    """
    lines = sorted(f"{task_id} {value.hex()}" for task_id, value in values.items())
    return hashlib.blake2b("\n".join(lines).encode(), digest_size=16).hexdigest()


def expected_digest(path: Path) -> str | None:
    """The digest that ``digests.json`` beside the workflow holds for it, if any."""
    known = path.parent / "digests.json"
    if not known.exists():
        return None
    digests: dict[str, str] = json.loads(known.read_text(encoding="utf-8"))
    return digests.get(path.name)


# -- the pipeline ----------------------------------------------------------------------------


@step(lane="inline")
async def wait_and_hash(*parents: bytes, task_id: str, seconds: float) -> bytes:
    """A recorded task as a coroutine."""
    if seconds:
        await asyncio.sleep(seconds)
    return value_of(task_id, parents)


@step(lane="thread")
def block_and_hash(*parents: bytes, task_id: str, seconds: float) -> bytes:
    """A recorded task as a blocking function."""
    if seconds:
        time.sleep(seconds)
    return value_of(task_id, parents)


def pipeline_of(
    workflow: Workflow, *, lane: Lane = "inline", time_scale: float = 0.0, resources: bool = True
) -> Pipeline:
    """A pipeline with one node for each task, under the task's id.

    Args:
        workflow: what was recorded.
        lane: where the tasks run.
        time_scale: seconds to wait for each recorded second; 0 does not wait at all.
        resources: whether tasks ask for the cores and memory they were recorded with.

    Example:
        >>> two = Workflow("two", (Task("b", ("a",), 1.0, 1, None), Task("a", (), 1.0, 1, None)))
        >>> result = pipeline_of(two).run_sync()
        >>> result["b"] == value_of("b", [value_of("a", [])])
        True
    """
    plain: Step[..., Any] = wait_and_hash if lane == "inline" else block_and_hash

    @cache  # few different requests are shared by many tasks
    def asking(cores: float, memory_bytes: int | None) -> Step[..., Any]:
        wanted = ResourceRequirements(cpu=cores, memory=memory_bytes)
        return plain.with_options(resources=wanted)

    pipeline = Pipeline(workflow.name)
    for task in workflow.tasks:
        pipeline.add_step(
            asking(task.cores, task.memory_bytes) if resources else plain,
            name=task.id,
            params={"task_id": task.id, "seconds": task.runtime_s * time_scale},
            inputs=task.parents,
        )
    return pipeline


# -- how short it could be -------------------------------------------------------------------


def critical_path_seconds(tasks: Iterable[Task]) -> float:
    """The longest chain of recorded durations: no schedule is shorter on any machine."""
    by_id = {task.id: task for task in tasks}
    order = TopologicalSorter({task.id: task.parents for task in by_id.values()}).static_order()
    ends: dict[str, float] = {}
    for task_id in order:
        task = by_id[task_id]
        ends[task_id] = task.runtime_s + max((ends[parent] for parent in task.parents), default=0.0)
    return max(ends.values(), default=0.0)


def lower_bound_seconds(workflow: Workflow, cpus: float | None) -> float:
    """What no schedule can beat: the critical path, or all work spread over ``cpus``.

    Args:
        workflow: what was recorded.
        cpus: how many there are to share; None where tasks ask for none.
    """
    longest = critical_path_seconds(workflow.tasks)
    if cpus is None:
        return longest
    # A task that asks for more than there is gets all there is.
    work = sum(task.runtime_s * min(task.cores, cpus) for task in workflow.tasks)
    return max(longest, work / cpus)


# -- the program -----------------------------------------------------------------------------


async def replay(
    pipeline: Pipeline, *, max_cpus: int, max_memory: str | None = None
) -> PipelineResult:
    """Run a replay's pipeline on so many declared CPUs, whatever this machine has.

    Args:
        pipeline: made by :func:`pipeline_of`.
        max_cpus: how many CPUs to declare; nothing but waiting happens on them.
        max_memory: memory to declare, such as ``"512Gi"``; None declares the machine's own.
    """
    pipeline.build()
    threads = max(40, max_cpus)
    async with Runtime(max_cpus=max_cpus, max_memory=max_memory, max_threads=threads) as runtime:
        return await pipeline.run(runtime=runtime)


def main(arguments: Sequence[str] | None = None) -> int:
    """Replay one file and print what came of it; 0 if every value is right."""
    options = _parser().parse_args(arguments)
    try:
        workflow = load_graph(options.file)
    except (OSError, msgspec.DecodeError) as error:
        print(f"replay: {options.file} holds no workflow: {error}", file=sys.stderr)
        return 2
    pipeline = pipeline_of(
        workflow, lane=options.lane, time_scale=options.time_scale, resources=options.resources
    )
    result = asyncio.run(replay(pipeline, max_cpus=options.max_cpus, max_memory=options.max_memory))
    if not result.success:
        print(result.summary(), file=sys.stderr)
        return 1
    edges = sum(len(task.parents) for task in workflow.tasks)
    print(f"{workflow.name}: {len(workflow.tasks):,} tasks, {edges:,} edges, {options.lane} lane")
    _print_times(workflow, result.duration_seconds, options)
    return _print_digest({task.id: result[task.id] for task in workflow.tasks}, options.file)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="replay", description="Replay a recorded workflow.")
    parser.add_argument("file", type=Path, help="a workflow as .json or .json.gz")
    parser.add_argument("--lane", choices=["inline", "thread"], default="inline")
    parser.add_argument(
        "--time-scale",
        type=_not_negative,
        default=0.001,
        metavar="X",
        help="seconds for each recorded second (default 0.001); 0 does not wait",
    )
    parser.add_argument("--max-cpus", type=_positive, default=32, metavar="N", help="default 32")
    parser.add_argument(
        "--max-memory", metavar="SIZE", help="such as 512Gi; default: this machine's"
    )
    parser.add_argument(
        "--no-resources", dest="resources", action="store_false", help="ask for no cores or memory"
    )
    return parser


def _not_negative(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a finite number of 0 or more")
    return value


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number of 1 or more")
    return value


def _print_times(workflow: Workflow, makespan: float, options: argparse.Namespace) -> None:
    scale = options.time_scale
    longest = critical_path_seconds(workflow.tasks) * scale
    bound = lower_bound_seconds(workflow, options.max_cpus if options.resources else None) * scale
    print(f"  makespan       {makespan:9.3f} s")
    print(f"  critical path  {longest:9.3f} s")
    if not bound:
        return
    why = f"work / {options.max_cpus} CPUs" if bound > longest else "the critical path"
    print(f"  lower bound    {bound:9.3f} s  ({why})")
    print(f"  ratio          {makespan / bound:9.3f}")


def _print_digest(values: Mapping[str, bytes], path: Path) -> int:
    found, expected = digest(values), expected_digest(path)
    if expected is None:
        print(f"  digest         {found} (there is none to compare it with)")
        return 0
    if found == expected:
        print(f"  digest         {found} as expected")
        return 0
    print(f"  digest         {found}, but {expected} is expected", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
