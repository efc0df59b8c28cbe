"""Recorded workflows whose tasks tell what they hold while they run."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from asyncflow import Pipeline, ResourceRequirements, Step, step
from examples.replay import Workflow, value_of

__all__ = ["Meter", "metered_pipeline"]


class Meter:
    """What the tasks that are running hold, and the most that it ever was.

    ``tasks`` counts them, ``cpu_millis`` is in thousandths of a CPU, ``memory_bytes`` in bytes.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.tasks = self.cpu_millis = self.memory_bytes = 0
        self.most_tasks = self.most_cpu_millis = self.most_memory_bytes = 0

    @contextmanager
    def holding(self, cpu_millis: int, memory_bytes: int) -> Iterator[None]:
        """Count one task for as long as it is in the block."""
        self._add(1, cpu_millis, memory_bytes)
        try:
            yield
        finally:
            self._add(-1, -cpu_millis, -memory_bytes)

    def _add(self, tasks: int, cpu_millis: int, memory_bytes: int) -> None:
        with self._lock:
            self.tasks += tasks
            self.cpu_millis += cpu_millis
            self.memory_bytes += memory_bytes
            self.most_tasks = max(self.most_tasks, self.tasks)
            self.most_cpu_millis = max(self.most_cpu_millis, self.cpu_millis)
            self.most_memory_bytes = max(self.most_memory_bytes, self.memory_bytes)


def metered_pipeline(workflow: Workflow, meter: Meter, *, lane: str, resources: bool) -> Pipeline:
    """A step for each task, under the task's id, in the order of the file.

    Args:
        workflow: what was recorded.
        meter: told what each task holds while it runs.
        lane: ``"inline"`` (coroutines that let others in once) or ``"thread"``.
        resources: whether tasks ask for the cores and memory they were recorded with.
    """

    @cache  # few different requests are shared by many tasks
    def asking(cores: float, memory_bytes: int | None) -> Step[..., Any]:
        return _metered_step(cores, memory_bytes or 0, lane, meter)

    pipeline = Pipeline(workflow.name)
    for task in workflow.tasks:
        used = asking(task.cores, task.memory_bytes) if resources else asking(0, 0)
        pipeline.add_step(used, name=task.id, params={"task_id": task.id}, inputs=task.parents)
    return pipeline


def _metered_step(cores: float, memory_bytes: int, lane: str, meter: Meter) -> Step[..., Any]:
    held = round(1000 * cores), memory_bytes

    async def inline(task_id: str, *parents: bytes) -> bytes:
        with meter.holding(*held):
            await asyncio.sleep(0)
            return value_of(task_id, parents)

    def thread(task_id: str, *parents: bytes) -> bytes:
        with meter.holding(*held):
            return value_of(task_id, parents)

    plain: Step[..., Any] = step(inline) if lane == "inline" else step(thread)
    wanted = ResourceRequirements(cpu=cores or None, memory=memory_bytes or None)
    return plain.with_options(resources=wanted) if any(held) else plain
