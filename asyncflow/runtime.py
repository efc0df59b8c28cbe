"""The runtime: the long-lived owner of capacity and lanes."""

from __future__ import annotations

import asyncio
import contextvars
import math
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Literal, Self

from asyncflow.ambient import AMBIENT, ambient_runtime, calling_attempt, calling_run
from asyncflow.closing import end_all
from asyncflow.engine.admission import Admission
from asyncflow.engine.admitting import admit_run
from asyncflow.engine.attempt import Attempt
from asyncflow.engine.bus import Overflow, RuntimeBus, Subscription
from asyncflow.engine.capacity import Capacity
from asyncflow.engine.gpus import GpuProbe
from asyncflow.engine.limiter import Limiter
from asyncflow.engine.remaining import ordering
from asyncflow.engine.scheduler import Scheduler
from asyncflow.engine.settings import (
    expected_seconds_of,
    grace_seconds_of,
    services_of,
    supply_of,
)
from asyncflow.engine.stored import StorageSettings
from asyncflow.engine.surroundings import clock_of, new_run_id, surroundings_of
from asyncflow.errors import GraphError
from asyncflow.graph.graph import Graph
from asyncflow.graph.outside import outside_values
from asyncflow.kept_runs import KeptRuns
from asyncflow.lanes.lane import CURRENT
from asyncflow.lanes.worker_kind import WorkerKind
from asyncflow.launching import record_of
from asyncflow.limits import Definitions, Limit
from asyncflow.owned_runs import OwnedRuns
from asyncflow.quantities import at_least_one
from asyncflow.request import FailurePolicy, RunRequest, Startable, nested_request
from asyncflow.result import PipelineResult
from asyncflow.run import Run, log_failure, reason_of
from asyncflow.states import RunState
from asyncflow.storage.codec import Codec

if TYPE_CHECKING:
    from asyncflow.checkpoints import Checkpoint
    from asyncflow.storage.codec import Codec
    from asyncflow.storage.listing import UnfinishedRun
    from asyncflow.storage.writer import Durability

__all__ = [
    "FailurePolicy",
    "RunRequest",
    "Runtime",
    "Startable",
    "ambient_runtime",
    "new_run_id",
]

DEFAULT_THREADS = 40
# CPUs bound the workers that compute; this bounds those that ask for none.
DEFAULT_PROCESSES = 32

Oversized = Literal["clamp", "error"]


class Runtime:
    """The long-lived owner of capacity and lanes, shared by any number of runs.

    An async context manager, bound to the event loop in which it is entered. Leaving it
    cancels the runs that are left.

    Args:
        max_cpus: CPUs to share (``4``, ``0.5``, ``"500m"``); None takes what this process
            may use (affinity, cgroup).
        max_memory: bytes, or text such as ``"8Gi"``; None takes the smaller of what the machine
            has available and what the cgroup leaves.
        max_gpus: how many devices to declare, or a list of their types; 0 for none. None finds
            the machine's own when first a step asks for one.
        max_threads: how many threads run sync steps at once.
        max_concurrency: how many units may be in flight at once.
        oversized: what becomes of a CPU or memory request above the machine: ``"clamp"``
            (it gets all there is, alone, with a warning) or ``"error"``. A GPU request
            above the machine is always refused.
        labels: labels of this machine, for ``NodeAffinity(required=…)``.
        taints: taints of this machine, which steps must tolerate.
        limits: the keys that ``@step(limits=…)`` may name: how many attempts hold one at once, or
            a :class:`Rate`. A ``*`` stands for any text, and each text has its own.
        directory: where runs are recorded, so that they can be resumed, and results cached.
            None records only runs that ask for it, and caches in ``.asyncflow`` in the working
            directory.
        codecs: turn values of your own kinds into builtin values and back, see :class:`Codec`.
        pickle_key: opts in to pickling what no codec takes: at least 16 random bytes, or the path
            of a private file outside of ``directory`` that holds them.
        services: live objects (clients, pools) that parameters of any run find by name.
        expected_seconds: how long steps take, by the name of a node or of its step, as an
            earlier result may have told. Ready units with the longest path still to go start
            first then; without it they start in the order in which they became ready.
        grace_seconds: how long a cancelled step may take to clean up before it is abandoned.
        max_abandoned: a run with more abandoned steps than this fails.
        max_finished_runs: how many runs that have ended :meth:`get` still finds.
        max_nested_depth: how deep steps may nest calls and runs.
        durability: what a result survives once it counts: ``"process"`` (the death of any
            process) or ``"power"`` (the loss of power too; every step waits for the disk).

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
        max_gpus: int | Sequence[str] | GpuProbe | None = None,
        max_threads: int | None = None,
        max_concurrency: int = 1000,
        oversized: Oversized = "clamp",
        labels: Mapping[str, str] | None = None,
        taints: Sequence[str] = (),
        limits: Mapping[str, Limit] | None = None,
        directory: str | os.PathLike[str] | None = None,
        codecs: Sequence[Codec] = (),
        pickle_key: bytes | str | os.PathLike[str] | None = None,
        services: Mapping[str, Any] | None = None,
        expected_seconds: Mapping[str, float] | None = None,
        grace_seconds: float = 2.0,
        max_abandoned: int = 32,
        max_finished_runs: int = 100,
        max_nested_depth: int = 32,
        durability: Durability = "process",
    ) -> None:
        self.max_concurrency = at_least_one("max_concurrency", max_concurrency)
        self.max_threads = at_least_one(
            "max_threads", DEFAULT_THREADS if max_threads is None else max_threads
        )
        self._supply = supply_of(
            max_cpus, max_memory, max_gpus, labels, taints, oversized, Definitions(limits)
        )
        self.max_processes = DEFAULT_PROCESSES
        self._grace_seconds = grace_seconds_of(grace_seconds)
        self._max_abandoned = at_least_one("max_abandoned", max_abandoned)
        self._max_nested_depth = at_least_one("max_nested_depth", max_nested_depth)
        self._services = services_of(services)
        self._storage = StorageSettings(directory, codecs, pickle_key)
        self._expected_seconds = expected_seconds_of(expected_seconds)
        self._kept = KeptRuns(self._storage, durability)
        self._runs = OwnedRuns(at_least_one("max_finished_runs", max_finished_runs))
        self._bus: RuntimeBus | None = None
        self._ambient: contextvars.Token[Runtime | None] | None = None
        self._scheduler: Scheduler | None = None
        self._closed = False

    # -- lifetime ------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        self.open()
        self._ambient = AMBIENT.set(self)
        return self

    def open(self) -> None:
        """Enter without becoming the ambient runtime, as the private one of a single run."""
        if self._scheduler is not None or self._closed:
            raise RuntimeError("a Runtime is entered once; make another one")
        loop = asyncio.get_running_loop()
        clock = clock_of(loop)
        surroundings = surroundings_of(loop)
        self._scheduler = Scheduler(
            loop,
            clock,
            supply=self._supply,
            lanes=surroundings.lanes(
                loop, clock, max_threads=self.max_threads, max_processes=self.max_processes
            ),
            max_concurrency=self.max_concurrency,
            grace_seconds=self._grace_seconds,
            max_abandoned=self._max_abandoned,
            max_nested_depth=self._max_nested_depth,
            random=surroundings.random(),
            open_cache=self._storage.open_cache if surroundings.has_cache else None,
        )
        scheduler = self._scheduler
        self._supply.on_found = scheduler.losses.watch
        self._supply.worker_pids = scheduler.worker_pids
        self._bus = RuntimeBus(clock, lambda: (run.bus for run in scheduler.runs.values()))

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._ambient is not None and AMBIENT.get() is self:
            # Not reset(token): a fixture may leave in another context than it entered.
            before = self._ambient.old_value
            AMBIENT.set(before if isinstance(before, Runtime) else None)
        await self.aclose(drain_seconds=30 if kind is None else 0)

    async def aclose(self, drain_seconds: float = 30) -> None:
        """Take no more runs, give those in progress time to end, then cancel them.

        Being cancelled meanwhile cuts that time short; the runs are cancelled and waited for
        all the same.

        Args:
            drain_seconds: how long runs in progress may go on.
        """
        scheduler = self._scheduler
        if scheduler is None or self._closed:
            return
        self._closed = True
        try:
            await end_all(scheduler, drain_seconds)
        finally:
            if self._bus is not None:
                self._bus.close()

    def _get_limiter(self) -> Limiter:
        return self._supply.limiter

    @property
    def _limiter(self) -> Limiter | None:
        return self._supply.limiter_so_far

    @property
    def capacity(self) -> Capacity:
        """What there is to share: CPUs in thousandths, bytes of memory, devices.

        GPUs of the machine are among them once a graph has asked for one.
        """
        return self._supply.capacity

    # -- runs ----------------------------------------------------------------------------

    async def start(self, pipeline: Startable, *args: Any, **options: Any) -> Run:
        """Start a run that this runtime owns: it goes on when the caller goes away.

        Args:
            pipeline: what to run.
            args, options: those of ``pipeline.run``, without ``runtime`` and ``progress``.

        Raises:
            GraphError, CapacityError: as ``pipeline.run``.

        Example::

            run = await runtime.start(pipeline, {"url": url})
            ...
            result = await runtime.get(run.id).result()
        """
        run = await self._launch(await pipeline.request(*args, **options))
        run.log_failure_at_end()
        self._runs.own(run)
        return run

    def start_workers(self, count: int = 1, *, cpus: float = 1) -> None:
        """Start worker processes now, so that the first steps in them find them there.

        Returns at once. Steps start the workers that are missing by themselves; one takes a
        tenth of a second or more to be up.

        Args:
            count: how many shall be idle; no more are started than the runtime may have.
            cpus: what the steps will ask for, as that is how many threads their libraries get.

        Raises:
            ValueError: ``count`` is below 1, or ``cpus`` below 0.
            RuntimeError: the runtime has not been entered, or is closed.

        Example::

            async with Runtime() as runtime:
                runtime.start_workers(2)
        """
        if cpus < 0:
            raise ValueError(f"cpus takes 0 or more, got {cpus!r}")
        lane = self._entered().lanes["process"]
        lane.prepare(at_least_one("count", count), WorkerKind(threads=math.ceil(cpus)))

    def get(self, run_id: str) -> Run:
        """The run of that id: one that is in progress, or one of the last that ended.

        Raises:
            KeyError: there is none.
        """
        return self._runs[run_id]

    def runs(self, state: RunState | str | None = None) -> list[Run]:
        """The runs in progress, and the last ``max_finished_runs`` of its own that ended.

        Args:
            state: only those in this state.

        Raises:
            ValueError: there is no such state.
        """
        if state is not None and state not in list(RunState):
            states = ", ".join(repr(str(known)) for known in RunState)
            raise ValueError(f"runs(state=…) takes one of {states}, got {state!r}")
        return [run for run in self._runs if state is None or run.state == state]

    def unfinished(self) -> list[UnfinishedRun]:
        """The recorded runs that were interrupted, oldest first: what to resume at start-up."""
        return self._kept.unfinished()

    def events(self, *, buffer: int = 1024, overflow: Overflow = "drop_oldest") -> Subscription:
        """The events of all runs from now on, as :meth:`Run.events` gives those of one.

        ``sequence`` counts the events of a run, so look at ``run_id`` too.
        """
        self._entered()
        assert self._bus is not None
        return self._bus.subscribe(0, buffer, overflow)

    @asynccontextmanager
    async def running(
        self, request: RunRequest, *, within: tuple[Attempt | None, int] | None = None
    ) -> AsyncIterator[Run]:
        """A run for the length of a block: left normally it is waited for, else cancelled.

        Asked for by a step, it is part of that step's nest.
        """
        if within is not None:
            async with self._running(request, within) as run:
                yield run
            return
        scheduler = self._entered()
        nesting = scheduler.nesting
        caller, record = calling_attempt(scheduler), calling_run(scheduler)
        if caller is not None:
            depth = nesting.depth_below(caller)
            nesting.enter(caller)
        elif record is not None:
            depth = nesting.check_depth(record.depth + 1, f"a step of run {record.run_id!r}")
            nesting.enter_unknown()
        else:
            depth = 0
        try:
            async with self._running(request, (caller, depth)) as run:
                yield run
        finally:
            if caller is not None:
                await nesting.leave(caller)
            elif record is not None:
                nesting.leave_unknown()

    @asynccontextmanager
    async def _running(
        self, request: RunRequest, within: tuple[Attempt | None, int]
    ) -> AsyncIterator[Run]:
        run = await self._launch(request, within)
        try:
            yield run
            await run.wait()
        except BaseException as error:
            run.cancel_nowait(reason_of(error))
            await run.wait_shielded()
            raise
        finally:
            log_failure(run.result_now())

    async def find_gpus_for(self, graph: Graph) -> None:
        """Look for GPUs if a graph is the first to ask for one."""
        if self._supply.lacks_gpus_of(graph):
            await self._supply.find_gpus()

    async def _run_nested(
        self, pipeline: Startable, inputs: Any, attempt: Attempt, depth: int, name: str
    ) -> PipelineResult:
        request = nested_request(await pipeline.request(inputs), attempt.run, name)
        async with self.running(request, within=(attempt, depth)) as run:
            return await run.result()

    async def _launch(
        self, request: RunRequest, within: tuple[Attempt | None, int] | None = None
    ) -> Run:
        """:meth:`launch` with all that takes a while before it."""
        await self.find_gpus_for(request.graph)
        checkpoint = await self._kept.open(request)
        if checkpoint is None:
            return self.launch(request, within=within)
        try:
            return self.launch(checkpoint.request, within=within, checkpoint=checkpoint)
        except BaseException:
            checkpoint.journal.close()
            raise

    def launch(
        self,
        request: RunRequest,
        *,
        within: tuple[Attempt | None, int] | None = None,
        checkpoint: Checkpoint | None = None,
    ) -> Run:
        """Admit a run and hand it to the scheduler; it begins in the loop's next turn.

        Args:
            request: what to run.
            within: the attempt whose nest it is part of, and how deep.
            checkpoint: where it is recorded.

        Raises:
            CapacityError: a step asks for what this runtime can never grant.
            GraphError: an input or a service is wrong, or the run id is in use.
        """
        # What is nested in a run belongs to it, and a run in progress may end before the close.
        nested = within is not None and within[0] is not None
        scheduler = self._scheduler if nested else self._entered()
        assert scheduler is not None
        graph = request.graph
        surroundings = surroundings_of(scheduler.loop)
        run_id = request.run_id or surroundings.new_run_id()
        if checkpoint is not None:
            run_id = checkpoint.run_id
        if run_id in scheduler.runs:
            raise GraphError(f"a run {run_id!r} is in progress in this runtime; choose another id")
        outside = outside_values(graph, request.inputs, request.services, self._services)
        context = contextvars.copy_context()
        context.run(AMBIENT.set, self)
        context.run(CURRENT.set, None)
        live = {**self._services, **request.services}
        record = record_of(request, run_id, outside, live, context, scheduler.clock, checkpoint)
        record.launch_nested = self._run_nested
        if within is not None:
            record.parent, record.depth = within
        record.bus.wall_clock = surroundings.wall_clock
        if self._expected_seconds or surroundings.tie is not None:
            record.ordering = ordering(record, self._expected_seconds, surroundings.tie)
        admit_run(record, self._supply)
        run = Run(scheduler, record)
        if request.timeout_seconds is not None:
            run.set_timeout(request.timeout_seconds)
        self._runs.add(run)
        assert self._bus is not None
        self._bus.welcome(record.bus)
        if checkpoint is not None:
            checkpoint.attach(scheduler)
        scheduler.add(record)
        surroundings.launched(record)
        return run

    def set_limit(self, name: str, limit: Limit) -> None:
        """Give a key of ``limits`` another limit of its kind, from now on.

        What is held stays held. With 0 nothing starts that needs it, until the next change.

        Args:
            name: as it was defined, a pattern included.
            limit: a number, or a :class:`Rate` where it was one.

        Raises:
            KeyError: no such key is defined.
            TypeError, ValueError: the limit makes no sense, or is of the other kind.
        """
        scheduler = self._scheduler
        self._supply.set_limit(name, limit, None if scheduler is None else scheduler.clock())
        if scheduler is not None:
            scheduler.ask_again()

    def check(self, graph: Graph) -> Admission:
        """Which requests of a graph this runtime would clamp or refuse.

        Where GPUs are asked for and were not looked for before, that is done now, blocking.
        """
        return self._supply.check(graph)

    def is_usable_here(self) -> bool:
        """Whether it is entered, open, and of the running event loop."""
        scheduler = self._scheduler
        if scheduler is None or self._closed:
            return False
        try:
            return scheduler.loop is asyncio.get_running_loop()
        except RuntimeError:  # no loop runs in this thread
            return False

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
