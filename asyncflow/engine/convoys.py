"""Convoys: tiny units that go to a worker process one behind the other, under one lease.

A unit that takes microseconds is not worth a round trip to the limiter and one to a worker. So
of the ready units of a run that are alike, a few *lead*: each asks for capacity and a worker as
usual. The others wait here. When a leader ends, what it held goes on to the one behind it, and
as long as they are tiny several are on their way to the worker at once; it makes one call at a
time, so no more than the one lease is ever used. Where anybody else waits for capacity or for a
worker, what a leader held is given back, and the next one asks for it again.

What is on its way behind a call that takes long is recalled by the lane, and so is what has not
begun when a worker dies; it stands among the ready units again then.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

import msgspec

from asyncflow.engine.attempt import Attempt, Phase
from asyncflow.engine.record import RunRecord
from asyncflow.graph.binding import FromContext
from asyncflow.states import RUNNING

if TYPE_CHECKING:
    from asyncflow.engine.scheduler import Scheduler

__all__ = ["Convoy", "Convoys"]

# Units for about this long are on their way to a worker, and so many at most.
_SECONDS_AHEAD = 0.01
_MOST_AHEAD = 32
_LONG_SECONDS = 0.002
# How much the last duration weighs against those before it.
_WEIGHT = 0.2


class Convoy(msgspec.Struct, eq=False):
    """The units of one run that are alike: their step, and how its arguments are bound.

    ``leader`` is on its way to capacity and a worker; ``seconds`` is how long calls took lately,
    None before the first.
    """

    waiting: deque[int] = msgspec.field(default_factory=deque)
    leader: Attempt | None = None
    seconds: float | None = None

    def learn(self, seconds: float) -> None:
        """A call took so long."""
        before = seconds if self.seconds is None else self.seconds
        self.seconds = before + _WEIGHT * (seconds - before)

    @property
    def ahead(self) -> int:
        """How many may be with a worker, the one that it is making included."""
        if self.seconds is None or self.seconds > _LONG_SECONDS:
            return 1
        return max(2, min(_MOST_AHEAD, int(_SECONDS_AHEAD / max(self.seconds, 1e-6))))


class Convoys:
    """The convoys of one scheduler's runs."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler

    def takes(self, run: RunRecord, unit: int) -> bool:
        """Have a ready unit lead or join a convoy, if it is one for that."""
        convoy = self._convoy_for(run, unit)
        if convoy is None:
            return False
        if convoy.leader is not None:
            convoy.waiting.append(unit)
        else:
            self._lead(run, convoy, unit)
        return True

    def _convoy_for(self, run: RunRecord, unit: int) -> Convoy | None:
        if (
            run.blemished
            or run.lane_of(unit) != "process"
            or not self._scheduler.lanes["process"].queues
        ):
            return None
        members = run.graph.units.members
        if members is not None and len(members[unit]) > 1:
            return None
        node = unit if members is None else members[unit][0]
        if unit in run.nested_demands or node in run.nested:
            return None
        key = id(run.graph.nodes[node].step), id(run.graph.templates[node])
        if key not in run.convoys:
            run.convoys[key] = Convoy() if self._is_for_convoys(run, node) else None
        return run.convoys[key]

    def _is_for_convoys(self, run: RunRecord, node: int) -> bool:
        step, template = run.graph.nodes[node].step, run.graph.templates[node]
        return (
            step.resources is None
            and step.timeout is None
            and step.condition is None
            and step.when == "success"
            and step.cache is False
            and not step.limits
            and node not in run.graph.maps
            and run.remaining is None
            and not run.one_at_a_time
            and not run.graph.cleanup
            and not any(isinstance(source, FromContext) for source in template.sources)
        )

    def _lead(self, run: RunRecord, convoy: Convoy, unit: int) -> None:
        attempt = self._scheduler.starting.first_attempt(run, unit)
        attempt.convoy = convoy
        convoy.leader = attempt
        self._scheduler.starting.advance(attempt)

    def led(self, attempt: Attempt) -> None:
        """A leader has begun, or will not: another one may lead."""
        convoy = attempt.convoy
        if convoy is None or convoy.leader is not attempt:
            return
        if attempt.begun and attempt.worker is not None:
            attempt.worker.has_slot = True
        convoy.leader = None
        self._see_to_leader(attempt.run, convoy)

    def _see_to_leader(self, run: RunRecord, convoy: Convoy) -> None:
        if convoy.waiting and convoy.leader is None and run.stopping is None:
            self._lead(run, convoy, convoy.waiting.popleft())

    # -- going on --------------------------------------------------------------------------

    def ended(self, attempt: Attempt) -> None:
        """A call of a convoy has ended: what it held goes on to the one behind it."""
        run, convoy, worker = attempt.run, attempt.convoy, attempt.worker
        assert convoy is not None
        if not attempt.begun:
            self._begin(attempt)  # its end was told together with that of the one before
        convoy.learn(attempt.finished - attempt.started)
        if worker is not None and attempt.lane.is_open(worker, attempt):
            behind = next(iter(worker.calls.values()), None)
            if behind is not None and attempt.slot and not behind.slot:
                self._pass_on(attempt, behind)
            if convoy.waiting and worker.has_slot and self._may_go_on(run):
                self._send_more(attempt, convoy, worker)
        if attempt.slot and worker is not None:
            worker.has_slot = False
        self._see_to_leader(run, convoy)

    def _may_go_on(self, run: RunRecord) -> bool:
        """Whether nobody else waits for what the run's convoys hold."""
        scheduler = self._scheduler
        if run.stopping is not None:
            return False
        waiting = scheduler.starting.waiting_for_worker.get("process")
        if waiting and any(other is not run for other in waiting):
            return False
        limiter = scheduler.limiter_so_far
        own = sum(c is not None and c.leader is not None for c in run.convoys.values())
        return limiter is None or limiter.waiting_count <= own

    def _send_more(self, attempt: Attempt, convoy: Convoy, worker: Any) -> None:
        room = convoy.ahead - len(worker.calls)
        room = min(room, self._scheduler.max_concurrency - self._scheduler.in_flight)
        while convoy.waiting and room > 0:
            room -= 1
            following = self._prepared(attempt.run, convoy, convoy.waiting.popleft(), worker)
            if attempt.slot and not worker.calls:
                self._pass_on(attempt, following)
            following.lane.start(following)

    def _prepared(self, run: RunRecord, convoy: Convoy, unit: int, worker: Any) -> Attempt:
        scheduler, graph = self._scheduler, run.graph
        attempt = scheduler.starting.first_attempt(run, unit)
        node = attempt.node
        template = graph.templates[node]
        if template.plain:
            attempt.args = [run.values[slot] for slot in graph.slots[node]]
        else:
            attempt.args, attempt.kwargs = template.bind(scheduler.starting.frame(attempt))
        attempt.convoy, attempt.worker, attempt.worker_lane = convoy, worker, "process"
        attempt.is_coroutine = graph.nodes[node].step.is_coroutine
        attempt.phase, attempt.lane = Phase.RUNNING, scheduler.lanes["process"]
        run.in_flight[unit] = attempt
        scheduler.in_flight += 1
        return attempt

    def _pass_on(self, attempt: Attempt, following: Attempt) -> None:
        """What one held is the other's, which begins now."""
        following.lease, attempt.lease = attempt.lease, None
        following.capped, attempt.capped = attempt.capped, False
        following.slot, attempt.slot = True, False
        if not following.begun:
            self._begin(following)

    def _begin(self, attempt: Attempt) -> None:
        attempt.begun = True
        attempt.run.states[attempt.node] = RUNNING
        self._scheduler.starting.announce(attempt, attempt.lane)

    def came_back(self, attempt: Attempt) -> None:
        """A call was not begun: its unit is ready again, unless its run is stopping."""
        run = attempt.run
        self._scheduler.in_flight -= 1
        del run.in_flight[attempt.unit]
        if run.stopping is None:
            run.frontier.ready.append(attempt.unit)
            self._scheduler.queue(run)
        else:
            self._scheduler.stopping.end_if_over(run)
        self._scheduler.wake()

    def recall(self, run: RunRecord) -> None:
        """A run starts nothing more: what is on its way shall not begin."""
        for attempt in list(run.in_flight.values()):
            if attempt.convoy is not None and not attempt.begun:
                attempt.lane.recall(attempt)
        for convoy in run.convoys.values():
            if convoy is not None:
                convoy.waiting.clear()
