"""A run in progress: watch it, ask it, cancel it, await it."""

from __future__ import annotations

import asyncio
import heapq
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

import msgspec

from asyncflow.engine.attempt import Attempt
from asyncflow.engine.bus import Overflow, Subscription
from asyncflow.engine.explain import explain
from asyncflow.engine.record import FREED, STAYED, RunRecord
from asyncflow.engine.scheduler import Scheduler
from asyncflow.errors import (
    DependencyError,
    RunTimeout,
    StepCancelled,
    StorageError,
    text_of,
)
from asyncflow.events import Event
from asyncflow.graph.names import nearest
from asyncflow.graph.node import MISSING
from asyncflow.result import PipelineResult, ResultSource, StepResult
from asyncflow.states import ABANDONED, FAILED, NODE_STATES, TIMED_OUT, NodeState, RunState

if TYPE_CHECKING:
    from asyncflow.timeline import Bar

__all__ = ["Run", "RunSnapshot", "RunningNode"]

_LOGGER = logging.getLogger("asyncflow")
# So many recorded events are read in one go beside the loop.
_PIECE = 256
_BROKEN = frozenset({FAILED, TIMED_OUT, ABANDONED})


class RunningNode(msgspec.Struct, frozen=True):
    """A node that is running at the moment of a snapshot.

    ``progress`` is its latest ``StepContext.report``: done, total and message.
    """

    name: str
    unit: str
    lane: str
    attempt: int
    elapsed_seconds: float
    progress: tuple[float, float | None, str | None] | None = None


class RunSnapshot(msgspec.Struct, frozen=True):
    """A run at one moment.

    ``counts`` says how many nodes are in each state, ``done`` how many are in a final
    one; ``running`` lists at most ``limit`` nodes, the longest first.
    """

    run_id: str
    pipeline_name: str
    state: RunState
    counts: dict[NodeState, int]
    done: int
    total: int
    elapsed_seconds: float
    running: tuple[RunningNode, ...]
    stopping: str | None = None


class Run:
    """One execution of a graph; made by ``pipeline.start()``."""

    def __init__(self, scheduler: Scheduler, record: RunRecord) -> None:
        self._scheduler = scheduler
        self._record = record
        self._over = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._timeout_seconds: float | None = None
        self._result: PipelineResult | None = None
        record.on_end.append(self._ended)
        if record.is_over:
            self._over.set()

    def __repr__(self) -> str:
        return f"<Run {self.id!r} of {self._record.graph.name!r}: {self.state}>"

    @property
    def id(self) -> str:
        """The run id."""
        return self._record.run_id

    @property
    def state(self) -> RunState:
        """``running``, ``succeeded``, ``failed`` or ``cancelled``."""
        return self._record.state

    @property
    def abandoned(self) -> tuple[str, ...]:
        """Nodes that ignored their cancel and are still running."""
        return tuple(attempt.name for attempt in self._record.abandoned)

    @property
    def earlier_sequence(self) -> int:
        """The number of the last event of earlier lives of a recorded run; 0 in its first.

        Example::

            async for event in run.events(since=run.earlier_sequence):  # only this life's
                ...
        """
        return self._record.bus.earlier

    # -- watching ------------------------------------------------------------------------

    def events(
        self, since: int = 0, *, buffer: int = 1024, overflow: Overflow = "drop_oldest"
    ) -> Subscription:
        """What happens from now on, as an asynchronous iterator with a cursor of its own.

        Args:
            since: leave out events up to this sequence number. Events that were not built
                because nobody listened come as one :class:`Gap`.
            buffer: how many events are kept for a reader that is slower than the run.
            overflow: what happens beyond: ``"drop_oldest"`` loses the oldest, and a Gap
                counts them; ``"close"`` ends the stream after a Gap.

        Raises:
            ValueError: ``buffer`` or ``overflow`` makes no sense.
        """
        return self._record.bus.subscribe(since, buffer, overflow)

    async def replay_events(self, from_sequence: int = 1) -> AsyncIterator[Event]:
        """What was recorded of the run so far, from its journal.

        Args:
            from_sequence: the first event to give.

        Raises:
            StorageError: the run is not recorded.
            JournalDamaged: its journal is damaged; the events before that were given.
        """
        bus = self._record.bus
        if self._record.kept_in is None:
            raise StorageError(
                f"run {self.id!r} is not recorded; pass checkpoint= or Runtime(directory=…)"
            )
        pieces = bus.read(max(0, from_sequence - 1))  # type: ignore[attr-defined]
        until = bus.sequence
        while found := await asyncio.to_thread(lambda: list(islice(pieces, _PIECE))):
            for event in found:
                if event.sequence > until:
                    return
                yield event

    def snapshot(self, limit: int = 100) -> RunSnapshot:
        """The run at this moment."""
        record = self._record
        counts = state_counts(record)
        active = sum(
            counts.get(state, 0)
            for state in (NodeState.WAITING, NodeState.RUNNING, NodeState.RETRYING)
        )
        now = record.ended_at or self._scheduler.clock()
        oldest = heapq.nsmallest(limit, record.in_flight.values(), lambda a: a.started or now)
        return RunSnapshot(
            run_id=record.run_id,
            pipeline_name=record.graph.name,
            state=record.state,
            counts=counts,
            done=len(record.graph) - active,
            total=len(record.graph),
            elapsed_seconds=max(0.0, now - record.began_at) if record.begun else 0.0,
            running=tuple(self._running(attempt, now) for attempt in oldest),
            stopping=record.stopping,
        )

    def _running(self, attempt: Attempt, now: float) -> RunningNode:
        graph = self._record.graph
        return RunningNode(
            name=attempt.name,
            unit=graph.unit_name(attempt.unit),
            lane=attempt.lane.name,
            attempt=attempt.number,
            elapsed_seconds=max(0.0, now - (attempt.started or now)),
            progress=self._record.progress.get(attempt.node),
        )

    def states(self) -> dict[str, NodeState]:
        """The state of each node at this moment, by name; elements of mapped nodes too."""
        return node_states(self._record)

    def explain(self, node: str) -> str:
        """What a node does or waits for: which parent, which resource and who holds it, the
        window, a worker, a retry's delay.

        Raises:
            KeyError: the pipeline has no node of that name.
        """
        index = self._record.graph.index.get(node)
        if index is None:
            raise KeyError(
                f"pipeline {self._record.graph.name!r} has no step {node!r}"
                + nearest(node, self._record.graph.index)
            )
        return explain(self._scheduler, self._record, index)

    # -- ending --------------------------------------------------------------------------

    async def result(self) -> PipelineResult:
        """Wait for the end and give the result; a failure of a step does not raise.

        Being cancelled while waiting does not cancel the run.

        Raises:
            RunTimeout: the run took longer than its ``timeout``; the result that there is
                is its attribute ``result``.
        """
        await self._over.wait()
        result = self.result_now()
        if self._timeout_seconds is not None and self._record.stopping == self._timeout_reason:
            error = RunTimeout(
                f"run {self.id!r} of pipeline {self._record.graph.name!r} took longer than "
                f"{self._timeout_seconds:g} s and was cancelled; error.result has what was done",
                run_id=self.id,
                timeout_seconds=self._timeout_seconds,
            )
            error.result = result
            raise error
        return result

    def result_now(self) -> PipelineResult:
        """The result of a run that is over."""
        if self._result is None:
            self._result = make_result(self._record)
        return self._result

    async def cancel(self, reason: str = "cancelled") -> None:
        """Start nothing more, cancel what runs, and wait until nothing runs any more.

        Steps have the runtime's grace period to clean up; those that take longer are
        abandoned and listed in :attr:`abandoned`. A run that is over stays as it is.
        """
        self._scheduler.stopping.stop(self._record, RunState.CANCELLED, reason)
        await self._over.wait()

    def cancel_nowait(self, reason: str = "cancelled") -> None:
        """Like :meth:`cancel`, without waiting."""
        self._scheduler.stopping.stop(self._record, RunState.CANCELLED, reason)

    def drain_nowait(self, reason: str = "drained") -> None:
        """Start nothing more, and let what runs end; the run ends as cancelled then."""
        self._scheduler.stopping.drain(self._record, RunState.CANCELLED, reason)

    async def wait(self) -> None:
        """Wait until the run is over, whatever its outcome."""
        await self._over.wait()

    async def wait_shielded(self) -> None:
        """Wait for the end, however often this task is cancelled meanwhile.

        An anyio scope would deliver its cancel again in every turn of the loop, and burn a
        core until the run is over; its shield holds that off.

        Raises:
            CancelledError: this task was cancelled meanwhile; the run is over all the same.
        """
        from anyio import CancelScope

        cancelled: asyncio.CancelledError | None = None
        with CancelScope(shield=True):
            while not self._over.is_set():
                try:
                    await self._over.wait()
                except asyncio.CancelledError as error:
                    cancelled = error
        if cancelled is not None:
            raise cancelled

    def set_timeout(self, seconds: float) -> None:
        """Cancel the run when it takes longer."""
        self._timeout_seconds = seconds
        self._timer = self._scheduler.loop.call_later(seconds, self._time_out)

    @property
    def _timeout_reason(self) -> str:
        return f"the run took longer than its timeout of {self._timeout_seconds:g} s"

    def _time_out(self) -> None:
        self._scheduler.stopping.stop(self._record, RunState.CANCELLED, self._timeout_reason)

    def log_failure_at_end(self) -> None:
        """Log a failure though nobody may wait for the run."""
        self._record.on_end.append(self._log_failure_soon)

    def _log_failure_soon(self, record: RunRecord) -> None:
        # In a turn of its own: what a log handler raises is no fault of the engine.
        self._scheduler.loop.call_soon(log_failure, self.result_now())

    def call_at_end(self, call: Callable[[str], None]) -> None:
        """Have something called with the run id when the run ends."""
        self._record.on_end.append(lambda record: call(record.run_id))

    def _ended(self, record: RunRecord) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._over.set()


def state_counts(record: RunRecord) -> dict[NodeState, int]:
    """How many nodes are in each state, where that is any."""
    counts = ((state, record.states.count(code)) for code, state in enumerate(NODE_STATES))
    return {state: count for state, count in counts if count}


def _durations(record: RunRecord) -> Iterator[tuple[float, int]]:
    for index, (began, ended) in enumerate(zip(record.started, record.finished, strict=True)):
        if began:
            yield max(0.0, ended - began), index


def node_states(record: RunRecord) -> dict[str, NodeState]:
    """The state of each node by name."""
    states = map(NODE_STATES.__getitem__, record.states)
    return {node.name: state for node, state in zip(record.graph.nodes, states, strict=True)}


def _bars(record: RunRecord) -> Iterator[Bar]:
    """The nodes that ran, for a chart of the run."""
    from asyncflow.timeline import Bar

    graph = record.graph
    units, origin = graph.units, record.began_at
    for index, node in enumerate(graph.nodes):
        tries = record.tries_of(index)
        if not tries or index in record.resumed:
            continue
        unit = units.of_node[index]
        *earlier, (began, ended) = (
            (begin - origin, max(begin, end) - origin) for begin, end in tries
        )
        yield Bar(
            name=node.name,
            step=node.step.name,
            state=record.state_of(index),
            start_seconds=began,
            end_seconds=ended,
            lane=_lane_of(record, index),
            worker=record.workers.get(index, ""),
            group=units.groups[unit].group_name if unit in units.groups else "",
            attempts=record.attempts_of(index),
            queued_seconds=max(0.0, began + origin - record.ready_at(index)),
            earlier=tuple(earlier),
        )


def log_failure(result: PipelineResult) -> None:
    """One log record for a run that failed."""
    if result.state is RunState.FAILED:
        _LOGGER.error("%s", result.failures())


def make_result(record: RunRecord) -> PipelineResult:
    """The outcome of a run that is over."""
    graph = record.graph

    def step_result(index: int) -> StepResult:
        return _step_result(record, index)

    return PipelineResult(
        run_id=record.run_id,
        pipeline_name=graph.name,
        state=record.state,
        duration_seconds=record.ended_at - record.began_at,
        reason=record.stopping or "",
        resumed=record.is_resumed,
        recording_error=None if record.recorder is None else record.recorder.error,
        source=ResultSource(
            names=graph.index,
            assets=graph.assets,
            step_of=lambda index: graph.nodes[index].step,
            make=step_result,
            value_of_node=record.value_of,
            value_of_asset=lambda asset: record.values[asset],
            producers_of=graph.producers_of,
            kept=lambda value: not _is_absent(value),
            stayed=lambda value: value is STAYED,
            counts=lambda: state_counts(record),
            failed=lambda: sorted(i for i in record.errors if record.states[i] in _BROKEN),
            durations=lambda: _durations(record),
            is_part=bool(graph.absent),
            states=lambda: node_states(record),
            size=record.size,
            bars=lambda: _bars(record),
        ),
    )


def _step_result(record: RunRecord, index: int) -> StepResult:
    graph = record.graph
    state = record.state_of(index)
    value = record.value_of(index)
    began = record.started[index]
    return StepResult(
        step_name=graph.nodes[index].name,
        status=state,
        output=None if _is_absent(value) else value,
        error=_error_of(record, index, state),
        attempts=record.attempts_of(index),
        duration_seconds=max(0.0, record.finished[index] - began) if began else 0.0,
        queued_seconds=max(0.0, began - record.ready_at(index)) if began else 0.0,
        lane=_lane_of(record, index),
        worker=record.workers.get(index, ""),
        stdout=record.stdout.get(index, ""),
        peak_memory_bytes=record.peaks.get(index, 0),
        cached=index in record.cached,
        resumed=index in record.resumed,
    )


def _is_absent(value: Any) -> bool:
    """Whether it only says why there is no value."""
    return value is MISSING or value is FREED or value is STAYED


def _lane_of(record: RunRecord, index: int) -> str:
    """Where a node runs: coroutines in a thread's unit still run on the event loop."""
    lane = record.lane_of(record.graph.units.of_node[index])
    is_coroutine = record.graph.nodes[index].step.is_coroutine
    return "inline" if is_coroutine and lane != "process" else lane


def _error_of(record: RunRecord, index: int, state: NodeState) -> BaseException | None:
    """The error of a node; those of nodes that never ran are made when asked for."""
    if index in record.errors:
        return record.errors[index]
    name = record.graph.nodes[index].name
    if state is NodeState.UPSTREAM_FAILED:
        above = record.graph.failed_above(index, record.states)
        if above is None:
            return DependencyError(f"step {name!r} did not run: a step above it failed", step=name)
        ancestor = record.graph.nodes[above].name
        cause = record.errors.get(above)
        error = DependencyError(
            f"step {name!r} did not run because {ancestor!r} above it failed: {text_of(cause)}",
            step=name,
            ancestor=ancestor,
        )
        error.__cause__ = cause
        return error
    if state is NodeState.CANCELLED:
        why = f": {record.stopping}" if record.stopping else ""
        return StepCancelled(f"step {name!r} was cancelled{why}", step=name)
    return None


def reason_of(error: BaseException) -> str:
    """Why a run is cancelled whose block was left by an exception."""
    if isinstance(error, asyncio.CancelledError):
        return "the task that awaits the run was cancelled"
    return f"the block that started the run raised {type(error).__name__}"
