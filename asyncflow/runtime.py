"""The runtime: the long-lived owner of capacity and lanes."""

from __future__ import annotations

import asyncio
import contextvars
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from random import Random
from typing import Any, Literal, Self

from asyncflow.engine.admission import Admission, Machine, admit
from asyncflow.engine.capacity import Capacity
from asyncflow.engine.limiter import Limiter
from asyncflow.engine.record import RunRecord
from asyncflow.engine.scheduler import Scheduler
from asyncflow.errors import CapacityError, GraphError
from asyncflow.graph.graph import Graph
from asyncflow.lanes.inline import InlineLane
from asyncflow.lanes.thread import ThreadLane
from asyncflow.quantities import at_least_one, parse_bytes, parse_cpu
from asyncflow.run import Run
from asyncflow.states import RunState

__all__ = ["FailurePolicy", "Runtime"]

DEFAULT_THREADS = 40

Oversized = Literal["clamp", "error"]
FailurePolicy = Literal["fail_fast", "collect_all"]


class Runtime:
    """The long-lived owner of capacity and lanes, shared by any number of runs.

    An async context manager, bound to the event loop in which it is entered. Leaving it
    cancels the runs that are left.

    Args:
        max_cpus: CPUs to share (``4``, ``0.5``, ``"500m"``); None takes what this process
            may use (affinity, cgroup).
        max_memory: bytes, or text such as ``"8Gi"``; None takes the machine's, or the cgroup's.
        max_gpus: how many devices to declare, or a list of their types; None declares none.
        max_threads: how many threads run sync steps at once.
        max_concurrency: how many units may be in flight at once.
        oversized: what becomes of a CPU or memory request above the machine: ``"clamp"``
            (it gets all there is, alone, with a warning) or ``"error"``. A GPU request
            above the machine is always refused.
        labels: labels of this machine, for ``NodeAffinity(required=…)``.
        taints: taints of this machine, which steps must tolerate.
        grace_seconds: how long a cancelled step may take to clean up before it is abandoned.
        max_abandoned: a run with more abandoned steps than this fails.

    Raises:
        ValueError, TypeError: a number makes no sense.

    Example:
        >>> import asyncio
        >>> from asyncflow import Pipeline, step
        >>> @step
        ... async def hello() -> str:
        ...     return "hello"
        >>> async def main() -> str:
        ...     async with Runtime(max_concurrency=100) as runtime:
        ...         return (await Pipeline("greet", steps=[hello]).run(runtime=runtime))["hello"]
        >>> asyncio.run(main())
        'hello'
    """

    def __init__(
        self,
        *,
        max_cpus: int | float | str | None = None,
        max_memory: int | str | None = None,
        max_gpus: int | Sequence[str] | None = None,
        max_threads: int | None = None,
        max_concurrency: int = 1000,
        oversized: Oversized = "clamp",
        labels: Mapping[str, str] | None = None,
        taints: Sequence[str] = (),
        grace_seconds: float = 2.0,
        max_abandoned: int = 32,
    ) -> None:
        if oversized not in ("clamp", "error"):
            raise ValueError(f"oversized is 'clamp' or 'error', not {oversized!r}")
        if isinstance(taints, str):
            raise TypeError(f"taints takes a list of names; write taints=[{taints!r}]")
        self.max_concurrency = at_least_one("max_concurrency", max_concurrency)
        self.max_threads = at_least_one(
            "max_threads", DEFAULT_THREADS if max_threads is None else max_threads
        )
        self._cpu_millis = None if max_cpus is None else parse_cpu(max_cpus)
        self._memory_bytes = None if max_memory is None else parse_bytes(max_memory)
        from asyncflow.engine.hardware import declared_devices

        self._devices = declared_devices(max_gpus)
        self._oversized = oversized
        self._labels = dict(labels or {})
        self._taints = tuple(taints)
        self._grace_seconds = _grace(grace_seconds)
        self._max_abandoned = at_least_one("max_abandoned", max_abandoned)
        self._scheduler: Scheduler | None = None
        self._limiter: Limiter | None = None
        self._closed = False

    # -- lifetime ------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        if self._scheduler is not None or self._closed:
            raise RuntimeError("a Runtime is entered once; make another one")
        loop = asyncio.get_running_loop()
        clock = clock_of(loop)
        self._scheduler = Scheduler(
            loop,
            clock,
            limiter=self._get_limiter,
            lanes={
                "inline": InlineLane(loop, clock),
                "thread": ThreadLane(loop, clock, max_threads=self.max_threads),
            },
            max_concurrency=self.max_concurrency,
            grace_seconds=self._grace_seconds,
            max_abandoned=self._max_abandoned,
            random=Random(),
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Cancel the runs that are left, wait for them, and end the threads."""
        scheduler = self._scheduler
        if scheduler is None or self._closed:
            return
        self._closed = True
        records = list(scheduler.runs.values())
        for record in records:
            scheduler.stopping.stop(record, RunState.CANCELLED, "the runtime was closed")
        cancelled: asyncio.CancelledError | None = None
        for record in records:
            try:
                await Run(scheduler, record).wait_shielded()
            except asyncio.CancelledError as error:
                cancelled = error
        for lane in scheduler.lanes.values():
            lane.close()
        if cancelled is not None:
            raise cancelled

    def _get_limiter(self) -> Limiter:
        if self._limiter is None:
            self._limiter = Limiter(self.capacity)
        return self._limiter

    @property
    def capacity(self) -> Capacity:
        """What there is to share: CPUs in thousandths, bytes of memory, devices."""
        cpus, memory = self._cpu_millis, self._memory_bytes
        if cpus is None or memory is None:
            from asyncflow.engine.hardware import probe

            machine = probe()
            cpus = machine.cpu_millis if cpus is None else cpus
            memory = machine.memory_bytes if memory is None else memory
        return Capacity(cpus, memory, self._devices)

    # -- runs ----------------------------------------------------------------------------

    def launch(
        self,
        graph: Graph,
        outside: Mapping[str, Any],
        *,
        run_id: str | None,
        failure_policy: FailurePolicy,
        timeout: float | None,
        max_workers: int | None,
    ) -> Run:
        """Admit a run and hand it to the scheduler; it begins in the loop's next turn.

        Raises:
            CapacityError: a step asks for what this runtime can never grant.
            GraphError: the run id is in use.
        """
        scheduler = self._entered()
        run_id = new_run_id() if run_id is None else run_id
        if run_id in scheduler.runs:
            raise GraphError(f"a run {run_id!r} is in progress in this runtime; choose another id")
        record = RunRecord(
            graph, run_id, outside, contextvars.copy_context(), failure_policy, scheduler.clock
        )
        record.max_workers = max_workers
        if graph.units.resources or self._taints:
            admission = self.check(graph)
            if admission.refusals:
                faults = [f"step {name!r}: {why}" for name, why in admission.refusals.items()]
                raise CapacityError(f"pipeline {graph.name!r} cannot run here: {' '.join(faults)}")
            record.demands = admission.demands
            record.warnings = [f"step {name!r}: {why}" for name, why in admission.clamped.items()]
        run = Run(scheduler, record)
        if timeout is not None:
            run.set_timeout(timeout)
        scheduler.add(record)
        return run

    def check(self, graph: Graph) -> Admission:
        """Which requests of a graph this runtime would clamp or refuse."""
        machine = Machine(
            self._get_limiter(), self._labels, self._taints, self._oversized == "error"
        )
        return admit(graph, machine)

    def _entered(self) -> Scheduler:
        if self._scheduler is None:
            raise RuntimeError(
                "this Runtime was not entered; write 'async with Runtime() as runtime'"
            )
        if self._closed:
            raise RuntimeError("this Runtime is closed; make another one")
        if self._scheduler.loop is not asyncio.get_running_loop():
            raise RuntimeError(
                "this Runtime belongs to another event loop; enter one in the loop that runs the "
                "pipeline"
            )
        return self._scheduler


def _grace(seconds: Any) -> float:
    number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    # Rules out infinity and NaN, and whole numbers too large for a float.
    if number and 0 <= seconds <= sys.float_info.max:
        return float(seconds)
    raise ValueError(f"grace_seconds takes finite seconds of 0 or more, got {seconds!r}")


def clock_of(loop: asyncio.AbstractEventLoop) -> Callable[[], float]:
    """Seconds on the loop's clock, by the shortest way.

    A virtual loop has a clock of its own; the usual one only wraps ``time.monotonic``.
    """
    usual = getattr(type(loop), "time", None) is asyncio.BaseEventLoop.time
    return time.monotonic if usual else loop.time


def new_run_id() -> str:
    """A run id nobody has: the UTC time and a random part."""
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{os.urandom(4).hex()}"
