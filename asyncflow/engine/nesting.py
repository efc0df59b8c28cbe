"""Work that a running step asks for and waits for: nested calls and nested runs.

While an attempt only waits for its nest its CPUs are in the common pool, and neither the
window nor the worker lanes count it; it takes the CPUs back before it goes on. So a nest
always finds what it needs, however deep it is and however little there is.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from asyncflow.engine.attempt import Attempt
from asyncflow.engine.capacity import Demand
from asyncflow.engine.limiter import Lease
from asyncflow.engine.record import RunRecord
from asyncflow.errors import GraphError, NestedDepthError, StepCancelled
from asyncflow.graph.binding import (
    CallTemplate,
    FromContext,
    FromOutside,
    FromValue,
    Source,
    make_template,
)
from asyncflow.graph.grouping import lane_of
from asyncflow.graph.growing import GrowingGraph
from asyncflow.graph.node import Node
from asyncflow.states import CANCELLED, FAILURES, SUCCEEDED, WAITING, NodeState
from asyncflow.step import Parameter, Step

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
    """

    def __init__(self, scheduler: Scheduler, *, max_depth: int) -> None:
        self._scheduler = scheduler
        # How many attempts only wait for their nests.
        self.waiting = 0
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
        if attempt.alone:
            attempt.alone, attempt.unit_announced = False, True
        self._scheduler.in_flight -= 1
        self.waiting += 1
        if attempt.worker is not None:
            attempt.lane.lend(attempt.worker)
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
            self.count_again(attempt)
            return
        ticket = Retake(attempt, self._scheduler.loop.create_future())
        self._scheduler.limiter.request_cpus(ticket, lease, owner=attempt.run)
        self._scheduler.asked = True
        self._scheduler.wake()
        try:
            await ticket.granted
        except asyncio.CancelledError:
            if self._scheduler.limiter.withdraw(ticket):
                self.count_again(attempt)
            raise

    def retaken(self, ticket: Retake) -> None:
        """The CPUs are there again: the attempt counts, and goes on."""
        self.count_again(ticket.attempt)
        if not ticket.granted.done():
            ticket.granted.set_result(None)

    def count_again(self, attempt: Attempt) -> None:
        self._scheduler.in_flight += 1
        self.waiting -= 1
        if attempt.worker is not None:
            attempt.lane.take_back(attempt.worker)

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
        if attempt.waits:
            attempt.waits = 0
            self.count_again(attempt)
        self.cancel_nest(attempt)

    def cancel_nest(self, attempt: Attempt) -> None:
        """Cancel what an attempt asked for and has not got."""
        for node in list(attempt.nest or ()):
            self._cancel(attempt.run, node)

    def _cancel(self, run: RunRecord, node: int) -> None:
        unit = run.graph.units.of_node[node]
        stopping = self._scheduler.stopping
        if unit in run.in_flight:
            stopping.cancel_attempt(run.in_flight[unit])
        elif unit in run.parked:
            stopping.drop_waiting(run.parked[unit])
        elif run.states[node] == WAITING:
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
        if step.resources is not None and step.resources.gpu is not None:
            await self._scheduler.supply.find_gpus()
        node = self._add(attempt, step, args, kwargs, key)
        run = attempt.run
        nested = run.nested[node]
        if attempt.nest is None:
            attempt.nest = {}
        attempt.nest[node] = None
        self.enter(attempt)
        try:
            await asyncio.shield(nested.ended)
        except asyncio.CancelledError:
            self._cancel(run, node)
            raise
        finally:
            attempt.nest.pop(node, None)
            await self.leave(attempt)
        return self._outcome(run, node)

    async def run(
        self, attempt: Attempt, name: str, key: Any, launch: Callable[[int], Awaitable[Any]]
    ) -> Any:
        """Wait for a nested run.

        Args:
            name: of the pipeline.
            launch: takes the depth, runs it and gives its result.
        """
        depth = self.depth_below(attempt)
        attempt.run.nested_names.add(self._name(attempt, name, key))
        self.enter(attempt)
        try:
            return await launch(depth)
        finally:
            await self.leave(attempt)

    def _name(self, attempt: Attempt, name: str, key: Any) -> str:
        run = attempt.run
        full = f"{attempt.name}/{name}" + ("" if key is None else f"[{key}]")
        # A new try of the caller makes the calls of the last one anew.
        if attempt.number > 1:
            full += f"#{attempt.number}"
        if full in run.graph.index or full in run.nested_names:
            raise GraphError(
                f"step {attempt.name!r} has called {full!r} already; give every call a key of its "
                "own: key=…"
            )
        return full

    def _outcome(self, run: RunRecord, node: int) -> Any:
        if run.states[node] == SUCCEEDED:
            return run.value_of(node)
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
        if step.is_generator or step.execution_group is not None or step.when != "success":
            raise GraphError(
                f"step {step.name!r} cannot be called by a step: it is a generator, or has an "
                "execution group or a when="
            )
        template = _template(name, step, args, kwargs, run.outside)
        demand = self._demand(attempt, step, name)
        node = graph.add_nested(Node(name, step), template, lane_of(step), step.resources)
        run.add_node(len(graph.outputs_of(node)))
        if demand is not None:
            run.nested_demands[graph.units.of_node[node]] = demand
        run.nested[node] = Nested(attempt, depth, self._scheduler.loop.create_future())
        run.frontier.add(len(graph.units.lanes) - 1)
        self._scheduler.queue(run)
        self._scheduler.wake()
        return node

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

    def _demand(self, attempt: Attempt, step: Step[..., Any], name: str) -> Demand | None:
        """What a nested step takes beyond what its parent holds for it."""
        if step.resources is None:
            return None
        demand = self._scheduler.supply.demand_of(step.resources, name)
        lease = self.lease_above(attempt)
        if lease is not None:
            gpu = demand.gpu
            if gpu is not None and gpu.devices <= len(lease.gpus):
                gpu = None
            demand = Demand(
                demand.cpu_millis, max(0, demand.memory_bytes - self._memory_above(attempt)), gpu
            )
        return demand

    def _memory_above(self, attempt: Attempt | None) -> int:
        """What an attempt and all those it is nested in hold together, in bytes."""
        total = 0
        while attempt is not None:
            if attempt.lease is not None:
                total += attempt.lease.memory_bytes
            nested = attempt.run.nested.get(attempt.node)
            attempt = attempt.run.parent if nested is None else nested.parent
        return total

    def lease_over(self, attempt: Attempt) -> Lease | None:
        """The lease under which an attempt asks for more: that of what it is nested in."""
        nested = attempt.run.nested.get(attempt.node)
        return self.lease_above(attempt.run.parent if nested is None else nested.parent)

    def lease_above(self, attempt: Attempt | None) -> Lease | None:
        """The lease of the nearest of an attempt and those it is nested in that has one."""
        while attempt is not None:
            if attempt.lease is not None:
                return attempt.lease
            nested = attempt.run.nested.get(attempt.node)
            attempt = attempt.run.parent if nested is None else nested.parent
        return None

    def ended(self, run: RunRecord, node: int) -> None:
        """A node reached its final state; who waits for it goes on."""
        nested = run.nested.get(node)
        if nested is None:
            return
        if run.states[node] in FAILURES:
            run.nested_failures += 1
        if not nested.ended.done():
            nested.ended.set_result(None)


def _template(
    name: str,
    step: Step[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    outside: Mapping[str, Any],
) -> CallTemplate:
    """How a nested step is called: with the arguments given, the rest by name."""
    named: dict[str, Source] = {}
    left = list(args)
    for parameter in step.parameters:
        if parameter.is_variadic:
            continue
        if parameter.name in kwargs:
            named[parameter.name] = FromValue(kwargs[parameter.name])
        else:
            named[parameter.name] = _source(name, step, parameter, left, outside)
    spare = {key: FromValue(value) for key, value in kwargs.items() if key not in named}
    kinds = {parameter.kind for parameter in step.parameters}
    if left and inspect.Parameter.VAR_POSITIONAL not in kinds:
        raise GraphError(
            f"nested step {name!r} was given {len(args)} arguments, {len(left)} more than its "
            "function takes"
        )
    if spare and inspect.Parameter.VAR_KEYWORD not in kinds:
        raise GraphError(f"nested step {name!r} has no parameter {next(iter(spare))!r}")
    return make_template(step.parameters, named, [FromValue(value) for value in left], spare)


def _source(
    name: str,
    step: Step[..., Any],
    parameter: Parameter,
    left: list[Any],
    outside: Mapping[str, Any],
) -> Source:
    if parameter.wants_context:
        return FromContext()
    if left and parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
        return FromValue(left.pop(0))
    if not parameter.has_default and parameter.name not in outside:
        raise GraphError(
            f"nested step {name!r} has no value for its parameter {parameter.name!r}; pass it to "
            "call()"
        )
    return FromOutside(parameter.name, parameter.default)
