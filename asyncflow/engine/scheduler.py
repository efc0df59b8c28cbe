"""The pump: starts what is ready, settles what has ended, one short turn after the other.

Everything here runs on the event loop's thread and never awaits. A turn settles
completions, asks the frontier and the limiter what may start, and starts it; it stops
after about two milliseconds, *including the first steps of what it started*, so that the
host's event loop stays free however many units are ready.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from collections.abc import Callable
from functools import partial
from random import Random

from asyncflow import events
from asyncflow.engine.attempt import Attempt, Phase, make_context
from asyncflow.engine.capacity import Demand
from asyncflow.engine.limiter import Lease, Limiter
from asyncflow.engine.record import RunRecord
from asyncflow.engine.reporting import report_soon, unit_fields
from asyncflow.engine.settlement import Settlement
from asyncflow.engine.stopping import Closing, Stopping
from asyncflow.graph.binding import Frame
from asyncflow.lanes.inline import InlineLane
from asyncflow.lanes.lane import Lane
from asyncflow.states import RUNNING, WAITING
from asyncflow.step import is_coroutine_function

__all__ = ["Scheduler"]

TURN_SECONDS = 0.002
# Completions and starts are handled this many at a time between two looks at the clock.
_CHUNK = 16
_SMALLEST_BATCH, _LARGEST_BATCH = 8, 2048
# A single task that somebody cancelled before its first step is noticed this much later.
_LOOK_SECONDS = 0.1
_NOTHING = Demand()
_NO_ARGS: list[object] = []
_RUNNING = Phase.RUNNING


class Scheduler:
    """Runs any number of graphs on one loop, one limiter and one set of lanes.

    Args:
        loop, clock: the running event loop and seconds on its clock.
        limiter: called once, when first a unit asks for capacity.
        lanes: by name; ``inline`` must be there.
        max_concurrency: how many units may be in flight at once.
        grace_seconds: how long a cancelled attempt may take to end.
        max_abandoned: how many abandoned attempts are borne.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        clock: Callable[[], float],
        *,
        limiter: Callable[[], Limiter],
        lanes: dict[str, Lane],
        max_concurrency: int,
        grace_seconds: float,
        max_abandoned: int,
        random: Random,
    ) -> None:
        self.loop = loop
        self.clock = clock
        self.lanes = lanes
        self.runs: dict[str, RunRecord] = {}
        self.max_concurrency = max_concurrency
        self.in_flight = 0
        self._make_limiter = limiter
        self._limiter: Limiter | None = None
        inline = lanes["inline"]
        assert isinstance(inline, InlineLane)
        self._inline = inline
        self._eager = inline.starts_eagerly
        self.settlement = Settlement(self, random)
        self.stopping = Stopping(self, grace_seconds=grace_seconds, max_abandoned=max_abandoned)
        # How many timers may still lead to something: while one is set, nothing is stuck.
        self.timers = 0
        self.releasing: deque[RunRecord] = deque()
        self.resumed: deque[Attempt] = deque()
        self.closing: deque[Closing] = deque()
        self._completions: deque[Attempt] = deque()
        self._starting: deque[RunRecord] = deque()
        self.with_ready: deque[RunRecord] = deque()
        self._waiting_for_lane: dict[str, deque[RunRecord]] = {}
        self._asked = False  # the limiter, since it last had nothing to grant
        self._complete = self.complete
        self._batch: list[Attempt] = []
        self._look_later = False
        self._batch_limit = _SMALLEST_BATCH * 4
        self._scheduled = False
        # Without one of its own a callback would keep the first caller's context alive.
        self._context = contextvars.Context()

    # -- turns ---------------------------------------------------------------------------

    def wake(self) -> None:
        """See that a turn comes."""
        if not self._scheduled:
            self._scheduled = True
            self.loop.call_soon(self._turn, context=self._context)

    def complete(self, attempt: Attempt) -> None:
        """A lane's report that a call ended."""
        self._completions.append(attempt)
        if self._scheduled:
            return
        if self.in_flight == 1 and not self._eager:
            # The only one: its own task makes the turn, and a chain of steps takes one turn
            # of the loop for each instead of two.
            self._scheduled = True
            self._batch.clear()
            self._turn()
        else:
            self.wake()

    def _turn(self) -> None:
        began = self.clock()
        until = began + TURN_SECONDS
        if self._batch:
            self._look_at_batch(began)
        while True:
            if self._completions or self.releasing:
                self._settle_some()
            more = self._start_some() or self._completions or self.releasing
            if self.closing:
                more = self.stopping.close_some()
            if not more or self.clock() >= until:
                break
        if more or len(self._batch) > 1:
            self.loop.call_soon(self._turn, context=self._context)
            return
        if self._batch and not self._look_later:
            self._look_later = True
            self.loop.call_later(_LOOK_SECONDS, self._look_again, context=self._context)
        self._scheduled = False
        if not self.in_flight and not self.timers and self.runs:
            self.stopping.break_stall()

    def _look_at_batch(self, now: float) -> None:
        """Learn how long the first steps of the last batch took, and that all were taken.

        Only without eager tasks: there the first steps run between two turns, and a task
        that somebody cancels before its first step would never report.
        """
        batch, self._batch = self._batch, []
        for attempt in batch:
            if not attempt.started:
                self._inline.report_unstarted(attempt)
        if len(batch) >= _SMALLEST_BATCH:
            each = max(now - batch[0].started, 1e-6) / len(batch)
            limit = min(int(TURN_SECONDS / 2 / each), 2 * self._batch_limit, _LARGEST_BATCH)
            self._batch_limit = max(_SMALLEST_BATCH, limit)

    def _look_again(self) -> None:
        self._look_later = False
        self.wake()

    # -- starting ------------------------------------------------------------------------

    def add(self, run: RunRecord) -> None:
        """Take a run on; its first units start in a coming turn."""
        self.runs[run.run_id] = run
        run.report_soon = partial(report_soon, self.loop)
        self._starting.append(run)
        self.wake()

    def _start_some(self) -> bool:
        """Start up to a chunk of attempts, first those that were ready before.

        Returns:
            Whether more may be started in this turn.
        """
        while self._starting:
            self._begin(self._starting.popleft())
        left = self.max_concurrency - self.in_flight
        if not self._eager:
            rest = self._batch_limit - len(self._batch)
            if rest < left:
                left = rest
        if left <= 0:
            return False
        if left > _CHUNK:
            left = _CHUNK
        if self.resumed or self._limiter is not None or self._waiting_for_lane:
            while left > 0 and self._start_parked():
                left -= 1
        while left > 0 and self.with_ready:
            left -= self._start_share(self.with_ready[0], left)
        return left <= 0 or self._asked

    def _begin(self, run: RunRecord) -> None:
        run.begun = True
        run.began_at = self.clock()
        graph = run.graph
        run.bus.publish(
            events.RunStarted, pipeline=graph.name, nodes=len(graph), units=len(graph.units)
        )
        for message in (*graph.warnings, *run.warnings):
            run.bus.publish(events.Warned, message=message)
        if run.stopping is None and run.left:
            self.queue(run)
        else:
            self.stopping.end_if_over(run)

    def queue(self, run: RunRecord) -> None:
        """Let a run take its turn among those that have ready units."""
        if not run.queued and run.frontier.ready:
            run.queued = True
            self.with_ready.append(run)

    def _start_parked(self) -> bool:
        """Take on one attempt whose back-off is over, whose capacity or worker is there."""
        if self.resumed:
            attempt = self.resumed.popleft()
            # One that is parked no longer was dropped when its run was stopped.
            if attempt.phase is Phase.BACKOFF:
                self.unpark(attempt)
                self.advance(attempt)
            return True
        if self._limiter is not None:
            granted = self._limiter.grant()
            if granted is not None:
                self._take_lease(*granted)
                return True
            self._asked = False
        return any(self._start_in_lane(self.lanes[name]) for name in self._waiting_for_lane)

    def _take_lease(self, attempt: Attempt, lease: Lease) -> None:
        attempt.lease = lease
        self.unpark(attempt)
        self._to_lane(attempt)

    def _start_in_lane(self, lane: Lane) -> bool:
        """Give a free worker to the next run in turn that waits for one."""
        runs = self._waiting_for_lane[lane.name]
        for _ in range(len(runs)):
            if not lane.has_room():
                return False
            run = runs.popleft()
            backlog = run.backlog[lane.name]
            if backlog and not self._is_capped(run, backlog[0]):
                attempt = backlog.popleft()
                if backlog:
                    runs.append(run)
                self.unpark(attempt)
                self._launch(attempt)
                return True
            if backlog:
                runs.append(run)
        return False

    def _start_share(self, run: RunRecord, room: int) -> int:
        """Take on ready units of the run whose turn it is: one, or all if it is alone."""
        with_ready = self.with_ready
        ready = run.frontier.ready
        if len(with_ready) > 1:
            with_ready.rotate(-1)
            room = 1
        alone = run.graph.alone
        share = 0
        while share < room and ready:
            share += 1
            unit = ready.popleft()
            if alone[unit] and not run.blemished:
                self._start_alone(run, unit)
            else:
                self.advance(self._first_attempt(run, unit))
        if not ready and run.queued:
            with_ready.remove(run)
            run.queued = False
        return share

    def _start_alone(self, run: RunRecord, node: int) -> None:
        """The shortest way from ready to running, for a coroutine that asks for nothing.

        What :meth:`advance` does step by step and with all its questions takes four times
        as long, which is most of what a run of 100,000 small steps costs.
        """
        graph, inline = run.graph, self._inline
        placed = graph.nodes[node]
        slots = graph.slots[node]
        if slots:
            values = run.values
            args = [values[slot] for slot in slots]
        else:
            args = []
        attempt = Attempt(
            placed.step.func,
            args,
            None,
            run.context.copy(),
            placed.name,
            self._complete,
            True,
            run=run,
            unit=node,
            node=node,
            phase=_RUNNING,
            lane=inline,
            alone=True,
        )
        run.states[node] = RUNNING
        run.in_flight[node] = attempt
        self.in_flight += 1
        if run.bus.listening:
            self._announce_start(attempt, inline)
        if not self._eager:
            self._batch.append(attempt)
        inline.start_coroutine(attempt)

    def _first_attempt(self, run: RunRecord, unit: int) -> Attempt:
        members = run.graph.units.members
        return self.new_attempt(run, unit, unit if members is None else members[unit][0])

    def new_attempt(self, run: RunRecord, unit: int, node: int) -> Attempt:
        """The first try of a node."""
        placed = run.graph.nodes[node]
        return Attempt(
            placed.step.func,
            _NO_ARGS,
            None,
            run.context,
            placed.name,
            self.complete,
            run=run,
            unit=unit,
            node=node,
        )

    # -- from ready to running -----------------------------------------------------------

    def advance(self, attempt: Attempt) -> None:
        """Take an attempt as far as it goes: verdict, condition, capacity, worker."""
        run = attempt.run
        if run.blemished and attempt.number == 1:
            runnable = self._first_runnable(attempt)
            if runnable is None:
                return
            attempt = runnable
        if run.graph.conditions and not attempt.gated and attempt.node in run.graph.conditions:
            self._launch_condition(attempt)
        elif attempt.lease is None and attempt.unit in run.graph.units.resources:
            self._request(attempt)
        elif attempt.lease is not None and attempt.lease.lent:
            self._asked = True
            self.limiter.request_cpus(attempt, attempt.lease, owner=run)
            self.park(attempt, Phase.CAPACITY)
        else:
            self._to_lane(attempt)

    def _first_runnable(self, attempt: Attempt) -> Attempt | None:
        """Pass over members of a unit that a skip or a failure above them rules out."""
        run = attempt.run
        following: Attempt | None = attempt
        while following is not None:
            verdict = run.graph.verdict(following.node, run.states, run.values)
            if verdict == WAITING:
                return following
            self.settlement.conclude(following, verdict)
            following = self.settlement.following(following)
        return None

    def _launch_condition(self, attempt: Attempt) -> None:
        run, node = attempt.run, attempt.node
        step = run.graph.nodes[node].step
        assert step.condition is not None
        args, kwargs = run.graph.conditions[node].bind(self._frame(attempt))
        attempt.func, attempt.args, attempt.kwargs = step.condition, args, kwargs
        attempt.is_coroutine = is_coroutine_function(step.condition)
        attempt.phase = Phase.CONDITION
        self._start(attempt, self._inline)

    def _request(self, attempt: Attempt) -> None:
        run = attempt.run
        requirements = run.graph.units.resources[attempt.unit]
        demand = run.demands[id(requirements)]
        if demand == _NOTHING:
            self._to_lane(attempt)
            return
        self._asked = True
        self.limiter.request(attempt, demand, owner=run)
        self.park(attempt, Phase.CAPACITY)

    @property
    def limiter(self) -> Limiter:
        """The account of all capacity; made when first needed."""
        if self._limiter is None:
            self._limiter = self._make_limiter()
        return self._limiter

    def park(self, attempt: Attempt, phase: Phase) -> None:
        """An attempt waits for what ``phase`` says."""
        attempt.phase = phase
        attempt.run.parked[attempt.unit] = attempt

    def unpark(self, attempt: Attempt) -> None:
        """An attempt waits no longer."""
        attempt.phase = Phase.READY
        attempt.run.parked.pop(attempt.unit, None)

    def _lane_of(self, attempt: Attempt) -> Lane:
        """Coroutine members of a thread group still run on the caller's loop."""
        name = attempt.run.graph.units.lanes[attempt.unit]
        if name == "inline" or attempt.run.graph.nodes[attempt.node].step.is_coroutine:
            return self._inline
        return self.lanes[name]

    def _to_lane(self, attempt: Attempt) -> None:
        lane = self._lane_of(attempt)
        if lane is self._inline or attempt.worker is not None:
            self._launch(attempt)
            return
        run = attempt.run
        backlog = run.backlog.get(lane.name)
        if not backlog and lane.has_room() and not self._is_capped(run, attempt):
            self._launch(attempt)
            return
        if backlog is None:
            backlog = run.backlog[lane.name] = deque()
        waiting = self._waiting_for_lane.setdefault(lane.name, deque())
        if run not in waiting:
            waiting.append(run)
        backlog.append(attempt)
        self.park(attempt, Phase.LANE)

    def _is_capped(self, run: RunRecord, attempt: Attempt) -> bool:
        """Whether the run has all the workers its executor allows for steps without a lane."""
        if run.max_workers is None or run.capped < run.max_workers:
            return False
        return run.graph.nodes[attempt.node].step.lane is None

    def _frame(self, attempt: Attempt) -> Frame:
        run, node = attempt.run, attempt.node
        return Frame(
            run.values,
            run.graph.slots[node],
            run.graph.nodes[node].params or {},
            run.outside,
            partial(make_context, attempt),
        )

    def _launch(self, attempt: Attempt) -> None:
        """Start the step's function itself."""
        run, node = attempt.run, attempt.node
        graph = run.graph
        step = graph.nodes[node].step
        template = graph.templates[node]
        if template.plain and node not in graph.conditions:
            values = run.values
            attempt.args = [values[slot] for slot in graph.slots[node]]
        else:
            attempt.args, attempt.kwargs = template.bind(self._frame(attempt))
        attempt.func = step.func
        attempt.is_coroutine = step.is_coroutine
        attempt.phase = Phase.RUNNING
        run.states[node] = RUNNING
        if attempt.number > 1:
            run.attempts[node] = attempt.number
        if step.timeout is not None:
            self.stopping.set_timeout(attempt, step.timeout)
        self._start(attempt, self._lane_of(attempt))

    def _start(self, attempt: Attempt, lane: Lane) -> None:
        run = attempt.run
        attempt.lane = lane
        attempt.context = run.context.copy()
        run.in_flight[attempt.unit] = attempt
        self.in_flight += 1
        if attempt.phase is Phase.RUNNING:
            self._announce_start(attempt, lane)
        if lane is self._inline:
            if not self._eager:
                self._batch.append(attempt)
        elif attempt.worker is None:
            attempt.keep_worker = len(run.graph.units.members_of(attempt.unit)) > 1
            attempt.worker_lane = lane.name
            attempt.capped = run.graph.nodes[attempt.node].step.lane is None
            run.capped += attempt.capped
        lane.start(attempt)

    def _announce_start(self, attempt: Attempt, lane: Lane) -> None:
        run = attempt.run
        if not run.bus.listening:
            run.bus.sequence += 1 if attempt.unit_announced else 2
            attempt.unit_announced = True
            return
        if not attempt.unit_announced:
            attempt.unit_announced = True
            run.bus.publish(events.UnitStarted, **unit_fields(attempt))
        run.bus.publish(
            events.NodeStarted, node=attempt.name, attempt=attempt.number, lane=lane.name
        )

    # -- settling ------------------------------------------------------------------------

    def _settle_some(self) -> None:
        """Settle up to a chunk of what has ended."""
        if self.releasing:
            run = self.releasing[0]
            if not run.frontier.work_off():
                self.releasing.popleft()
            self.queue(run)
        completions = self._completions
        settlement = self.settlement
        left = min(_CHUNK, len(completions))
        while left:
            left -= 1
            attempt = completions.popleft()
            if attempt.alone and attempt.error is None:
                settlement.succeed_alone(attempt)
            else:
                settlement.settle(attempt)
