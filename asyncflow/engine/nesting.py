"""Work that a running step asks for and waits for: nested calls and nested runs.

While an attempt only waits for its nest its CPUs are in the common pool, and neither the
window nor the worker lanes count it; it takes the CPUs back before it goes on. So a nest
always finds what it needs, however deep it is and however little there is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from asyncflow import events
from asyncflow.engine.attempt import Attempt, parent_of
from asyncflow.engine.capacity import Demand
from asyncflow.engine.limiter import Lease
from asyncflow.engine.nested_binding import bind_nested, check_callable
from asyncflow.engine.outcome import let_go_of_value
from asyncflow.engine.record import RunRecord
from asyncflow.errors import GraphError, NestedDepthError, StepCancelled
from asyncflow.graph.grouping import lane_of
from asyncflow.graph.growing import GrowingGraph
from asyncflow.graph.node import Node
from asyncflow.states import CANCELLED, FAILURES, SUCCEEDED, WAITING, NodeState
from asyncflow.step import Step
from asyncflow.storage.records import Added

if TYPE_CHECKING:
    from asyncflow.engine.scheduler import Scheduler

__all__ = ["Nested", "Nesting", "Retake"]


class Nested(msgspec.Struct, eq=False):
    """A nested node: who asked for it and is told of its end."""

    parent: Attempt
    depth: int
    ended: asyncio.Future[None]


class Retake(msgspec.Struct, eq=False):
    """An attempt that wants its CPUs back; a ticket of the limiter."""

    attempt: Attempt
    granted: asyncio.Future[None]

    def __repr__(self) -> str:
        return repr(self.attempt.name)


class Nesting:
    """The nests of one scheduler's runs.

    Args:
        max_depth: how deep nests may be.

    Attributes:
        waiting: how many attempts only wait for their nests.
        lent_workers: by lane, how many of them have a worker there.
    """

    def __init__(self, scheduler: Scheduler, *, max_depth: int) -> None:
        self._scheduler = scheduler
        self.waiting = 0
        self.lent_workers: dict[str, int] = {}
        self._max_depth = max_depth

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop of the scheduler."""
        return self._scheduler.loop

    # -- waiting -------------------------------------------------------------------------

    def enter(self, attempt: Attempt) -> None:
        """An attempt begins to wait for one more piece of its nest."""
        attempt.waits += 1
        if attempt.waits > 1:
            return
        if attempt.retake is not None:
            # It was about to go on with another piece; that goes on without the CPUs then.
            self._give_up_retake(attempt)
            return
        if attempt.alone:
            attempt.alone, attempt.unit_announced = False, True
        self._discount(attempt)
        lease = attempt.lease
        if lease is not None and lease.cpu_millis and not lease.lent:
            self._scheduler.limiter.lend_cpus(lease)
        self._scheduler.wake()

    async def leave(self, attempt: Attempt) -> None:
        """That piece has ended; returns once the attempt may go on."""
        if not attempt.waits:
            return  # the attempt itself has ended meanwhile
        attempt.waits -= 1
        if attempt.waits:
            return
        lease = attempt.lease
        if lease is None or not lease.lent or attempt.cancel_requested:
            self._count_again(attempt)
            return
        ticket = attempt.retake = Retake(attempt, self._scheduler.loop.create_future())
        self._scheduler.limiter.request_cpus(ticket, lease, owner=attempt.run)
        self._scheduler.asked = True
        self._scheduler.wake()
        try:
            await ticket.granted
        except asyncio.CancelledError:
            if attempt.retake is ticket:
                self._give_up_retake(attempt)
                self._count_again(attempt)
            raise

    def retaken(self, ticket: Retake) -> None:
        """The CPUs are there again: the attempt counts, and goes on."""
        ticket.attempt.retake = None
        self._count_again(ticket.attempt)
        if not ticket.granted.done():
            ticket.granted.set_result(None)

    def _give_up_retake(self, attempt: Attempt) -> None:
        """Let what waits for an attempt's CPUs go on without them."""
        ticket, attempt.retake = attempt.retake, None
        assert ticket is not None
        self._scheduler.limiter.withdraw(ticket)
        if not ticket.granted.done():
            ticket.granted.set_result(None)

    def _discount(self, attempt: Attempt) -> None:
        """While an attempt waits, neither the window nor its lane nor its run counts it."""
        self._scheduler.in_flight -= 1
        self.waiting += 1
        if attempt.worker is not None:
            lane = attempt.worker_lane
            self.lent_workers[lane] = self.lent_workers.get(lane, 0) + 1
            self._scheduler.lanes[lane].lend(attempt.worker)
        attempt.run.capped -= attempt.capped

    def _count_again(self, attempt: Attempt) -> None:
        self._scheduler.in_flight += 1
        self.waiting -= 1
        if attempt.worker is not None:
            lane = attempt.worker_lane
            self.lent_workers[lane] -= 1
            self._scheduler.lanes[lane].take_back(attempt.worker)
        attempt.run.capped += attempt.capped

    def enter_unknown(self) -> None:
        """A step that is not known begins to wait: one that the scheduler started by the
        shortest way, and that holds nothing but its place in the window."""
        self._scheduler.in_flight -= 1
        self.waiting += 1
        self._scheduler.wake()

    def leave_unknown(self) -> None:
        """That step goes on."""
        self._scheduler.in_flight += 1
        self.waiting -= 1

    def forget(self, attempt: Attempt) -> None:
        """An attempt has ended: it waits for nothing any more, and its nest is cancelled."""
        if attempt.retake is not None:
            self._give_up_retake(attempt)
            self._count_again(attempt)
        elif attempt.waits:
            attempt.waits = 0
            self._count_again(attempt)
        self.cancel_nest(attempt)

    def cancel_nest(self, attempt: Attempt) -> None:
        """Cancel what an attempt asked for and has not got."""
        for node in list(attempt.nest or ()):
            self._cancel(attempt.run, node)
        for run in list(attempt.nested_runs or ()):
            run.cancel()

    def _cancel(self, run: RunRecord, node: int) -> None:
        unit = run.graph.units.of_node[node]
        stopping = self._scheduler.stopping
        if unit in run.in_flight:
            stopping.cancel_attempt(run.in_flight[unit])
        elif unit in run.parked:
            stopping.drop_waiting(run.parked[unit])
        elif run.states[node] == WAITING and not run.is_ending(node):
            run.finished[node] = self._scheduler.clock()
            self._scheduler.settlement.reach(run, node, CANCELLED)

    # -- nested calls --------------------------------------------------------------------

    async def call(
        self,
        attempt: Attempt,
        step: Step[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        key: Any,
    ) -> Any:
        """Run a step as a node of its own, and give its value or raise its error."""
        check_callable(step)
        if step.resources is not None and step.resources.gpu is not None:
            await self._scheduler.supply.find_gpus()
        self._refuse_late(attempt, step.name)
        node = self._add(attempt, step, args, kwargs, key)
        run = attempt.run
        nested = run.nested[node]
        if attempt.nest is None:
            attempt.nest = {}
        attempt.nest[node] = None
        self.enter(attempt)
        try:
            await nested.ended  # nobody else does, so a cancel may end it as well
        except asyncio.CancelledError:
            self._cancel(run, node)
            raise
        finally:
            attempt.nest.pop(node, None)
            await self.leave(attempt)
        try:
            return self._outcome(run, node)
        finally:
            # Of very many calls only what their results need is kept.
            run.nested_demands.pop(run.graph.units.of_node[node], None)
            del run.nested[node]
            run.graph.forget_nested(node)  # type: ignore[attr-defined]

    async def run(
        self, attempt: Attempt, name: str, key: Any, launch: Callable[[int, str], Awaitable[Any]]
    ) -> Any:
        """Wait for a nested run.

        Args:
            name: of the pipeline.
            launch: takes the depth and the name in full, runs it and gives its result.

        Raises:
            StepCancelled: the attempt was told to stop, or has ended.
        """
        self._refuse_late(attempt, name)
        depth = self.depth_below(attempt)
        full = self._name(attempt, name, key)
        attempt.run.nested_names.add(full)
        if attempt.nested_runs is None:
            attempt.nested_runs = {}
        self.enter(attempt)
        # A task of its own: a thread that waits for it is not there to be cancelled.
        running = asyncio.ensure_future(launch(depth, full))
        attempt.nested_runs[running] = None
        try:
            return await running
        except asyncio.CancelledError:
            if not running.done():
                await _end(running)
            if _is_cancelled_itself():
                raise
            raise _stopped(attempt, name) from None
        finally:
            attempt.nested_runs.pop(running, None)
            await self.leave(attempt)

    def _refuse_late(self, attempt: Attempt, name: str) -> None:
        """Refuse work that nobody would wait for: no step code starts after a cancel.

        Raises:
            StepCancelled: the attempt was told to stop, or has ended.
        """
        if attempt.cancel_requested or attempt.run.is_over:
            raise _stopped(attempt, name)
        if attempt.finished or attempt.run.in_flight.get(attempt.unit) is not attempt:
            raise StepCancelled(
                f"step {attempt.name!r} asks for {name!r} after it has ended; await what it "
                "starts before it returns",
                step=attempt.name,
                attempt=attempt.number,
            )

    def _name(self, attempt: Attempt, name: str, key: Any) -> str:
        run = attempt.run
        full = f"{attempt.name}/{name}" + ("" if key is None else f"[{key}]")
        # A new try of the caller makes the calls of the last one anew; one that goes on where a
        # host died finds those that were made.
        number = run.number_of(attempt)
        if number > 1:
            full += f"#{number}"
        if full in run.graph.index or full in run.nested_names:
            raise GraphError(
                f"step {attempt.name!r} has called {full!r} already; give every call a key of its "
                "own: key=…"
            )
        return full

    def _outcome(self, run: RunRecord, node: int) -> Any:
        if run.states[node] == SUCCEEDED:
            value = run.value_of(node)
            let_go_of_value(run, node)
            return value
        error = run.errors.get(node)
        if error is not None:
            raise error
        name = run.graph.nodes[node].name
        state = run.state_of(node)
        if state is NodeState.SKIPPED:
            return None
        raise StepCancelled(f"nested step {name!r} was {state}", step=name)

    def _add(
        self,
        attempt: Attempt,
        step: Step[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        key: Any,
    ) -> int:
        run = attempt.run
        depth = self.depth_below(attempt)
        run.grow()
        graph = run.graph
        assert isinstance(graph, GrowingGraph)
        name = self._name(attempt, step.name, key)
        templates = bind_nested(name, step, args, kwargs, run.outside)
        demand = self._demand(run, step, name)
        node = graph.add_nested(Node(name, step), *templates, lane_of(step))
        unit = graph.units.of_node[node]
        run.add_node(len(graph.outputs_of(node)), self._scheduler.clock())
        if demand is not None:
            graph.units.resources[unit] = step.resources
            run.nested_demands[unit] = demand
        run.put_nested_first()
        run.nested[node] = Nested(attempt, depth, self._scheduler.loop.create_future())
        if self._remembered(run, node, attempt):
            return node
        run.frontier.add(unit)
        self._scheduler.queue(run)
        self._scheduler.wake()
        return node

    def _remembered(self, run: RunRecord, node: int, attempt: Attempt) -> bool:
        """Whether an earlier life of the run knows what came of a call; else note it."""
        if run.recorder is None:
            return False
        name = run.graph.nodes[node].name
        code = run.recorder.code_of(node)
        if run.memory is not None and run.memory.restore(run, node, code=code):
            run.frontier.add_retired(len(run.graph.units.lanes) - 1)
            run.nested[node].ended.set_result(None)
            return True
        run.recorder.put(Added(node, name, attempt.node, nested=True, code=code))
        return False

    def depth_below(self, attempt: Attempt) -> int:
        """How deep a nest of this attempt would be.

        Raises:
            NestedDepthError: deeper than allowed.
        """
        nested = attempt.run.nested.get(attempt.node)
        depth = attempt.run.depth if nested is None else nested.depth
        return self.check_depth(depth + 1, f"step {attempt.name!r}")

    def check_depth(self, depth: int, who: str) -> int:
        """The depth itself.

        Raises:
            NestedDepthError: deeper than allowed.
        """
        if depth > self._max_depth:
            raise NestedDepthError(
                f"{who} nests {depth} levels deep; max_nested_depth is {self._max_depth}: is the "
                "recursion without end?"
            )
        return depth

    def _demand(self, run: RunRecord, step: Step[..., Any], name: str) -> Demand | None:
        """What a nested step takes; its memory and devices first from what its parents hold."""
        default = run.process_cpu_millis if lane_of(step) == "process" else 0
        demand, warning = self._scheduler.supply.demand_of(step.resources, name, default)
        if warning is not None:
            run.bus.publish(events.Warned, node=name, message=warning)
        return None if step.resources is None and not default else demand

    def lease_over(self, attempt: Attempt) -> Lease | None:
        """The lease under which an attempt asks for more: that of what it is nested in."""
        above = parent_of(attempt)
        while above is not None and above.lease is None:
            above = parent_of(above)
        return None if above is None else above.lease

    def ended(self, run: RunRecord, node: int) -> None:
        """A node reached its final state; who waits for it goes on."""
        nested = run.nested.get(node)
        if nested is None:
            return
        if run.states[node] in FAILURES:
            run.nested_failures += 1
        if not nested.ended.done():
            nested.ended.set_result(None)


def _stopped(attempt: Attempt, name: str) -> StepCancelled:
    return StepCancelled(
        f"step {attempt.name!r} was told to stop, so {name!r} does not run",
        step=attempt.name,
        attempt=attempt.number,
    )


def _is_cancelled_itself() -> bool:
    """Whether the current task is, and not just what it waits for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def _end(task: asyncio.Future[Any]) -> None:
    """Cancel a task and wait for its end, whatever that is."""
    task.cancel()
    await asyncio.wait([task])
