"""From ready to running: verdict, condition, capacity, worker, and the call itself."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from asyncflow import events
from asyncflow.engine.attempt import Attempt, Phase, make_context, parent_of, worker_kind
from asyncflow.engine.capacity import Demand
from asyncflow.engine.limiter import Lease
from asyncflow.engine.record import RunRecord
from asyncflow.engine.reporting import make_failure, unit_fields
from asyncflow.graph.binding import Frame
from asyncflow.lanes.lane import Lane
from asyncflow.limits import Keys
from asyncflow.states import RUNNING, WAITING
from asyncflow.step import is_coroutine_function

if TYPE_CHECKING:
    from asyncflow.engine.scheduler import Scheduler

__all__ = ["Starting"]

_NOTHING = Demand()
_RUNNING = Phase.RUNNING
_NO_ARGS: list[object] = []


class Starting:
    """Takes attempts of one scheduler as far as they go now.

    Attributes:
        waiting_for_worker: by lane, the runs that have attempts waiting for a worker, in
            the order of their turns.
    """

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self.waiting_for_worker: dict[str, deque[RunRecord]] = {}
        self._parkings = 0

    def first_attempt(self, run: RunRecord, unit: int) -> Attempt:
        """The first try of a unit's first node; of one that goes on, the first that is left."""
        members = run.graph.units.members
        if members is None:
            return self.new_attempt(run, unit, unit)
        position = 0
        while run.resumed and run.is_settled(members[unit][position]):
            position += 1
        attempt = self.new_attempt(run, unit, members[unit][position])
        attempt.position = position
        return attempt

    def start_alone(self, run: RunRecord, unit: int, room: int = 1) -> int:
        """The shortest way from ready to running, for coroutines that ask for nothing.

        What :meth:`advance` does step by step and with all its questions takes four times
        as long, which is most of what a run of 100,000 small steps costs.

        Args:
            unit: the first to start; others that are ready and as simple follow.
            room: how many may start.

        Returns:
            How many did.
        """
        scheduler, graph, bus = self._scheduler, run.graph, run.bus
        inline, eager = scheduler.inline, scheduler.eager
        nodes, slots_of, values = graph.nodes, graph.slots, run.values
        states, in_flight, copy_context = run.states, run.in_flight, run.context.copy
        report, start, batch = scheduler.report, inline.start_coroutine, scheduler.batch
        started = 0
        while True:
            placed, slots = nodes[unit], slots_of[unit]
            if len(slots) > 1:  # on Python 3.11 a comprehension is a call of its own
                args = [values[slot] for slot in slots]
            else:
                args = [values[slots[0]]] if slots else []
            attempt = Attempt(
                placed.step.func,
                args,
                None,
                copy_context(),
                placed.name,
                report,
                True,
                run=run,
                unit=unit,
                node=unit,
                phase=_RUNNING,
                lane=inline,
                alone=True,
            )
            states[unit] = RUNNING
            in_flight[unit] = attempt
            scheduler.in_flight += 1
            if bus.listening:
                self.announce(attempt, inline)
            else:
                bus.sequence += 2
            if not eager:
                batch.append(attempt)
            start(attempt)
            started += 1
            if started == room:
                return started
            ready = run.frontier.ready
            if ready.__class__ is not deque or not ready or not graph.alone[ready[0]]:
                return started
            unit = ready.popleft()

    def new_attempt(self, run: RunRecord, unit: int, node: int) -> Attempt:
        """The first try of a node."""
        placed = run.graph.nodes[node]
        return Attempt(
            placed.step.func,
            _NO_ARGS,
            None,
            run.context,
            placed.name,
            self._scheduler.complete,
            run=run,
            unit=unit,
            node=node,
            number=1 + run.earlier.get(node, 0),
            gated=node in run.gated,
        )

    def advance(self, attempt: Attempt) -> None:
        """Take an attempt as far as it goes: verdict, condition, capacity, worker."""
        run = attempt.run
        fresh = attempt.previous_error is None or attempt.postponed
        if (run.blemished or run.graph.cleanup) and fresh:
            runnable = self._first_runnable(attempt)
            if runnable is None:
                return
            attempt = runnable
        groups = self._scheduler.groups
        if run.graph.units.members is not None and groups.has(run, attempt.unit):
            attempt = attempt if attempt.over else groups.revived(attempt)
        if run.quarantined and attempt.node in run.quarantined:
            self._scheduler.settlement.quarantine(attempt)
        elif attempt.node in run.graph.maps:
            self._scheduler.maps.begin(run, attempt.node)
        elif run.graph.conditions and not attempt.gated and attempt.node in run.graph.conditions:
            self._launch_condition(attempt)
        elif self._scheduler.caching.wants(attempt):
            self._scheduler.caching.look_up(attempt)
        elif attempt.lease is not None and attempt.lease.lent:
            self._seek_capacity(attempt)
        else:
            self._seek_worker(attempt)

    def _first_runnable(self, attempt: Attempt) -> Attempt | None:
        """Pass over members of a unit that a skip or a failure above them rules out."""
        run = attempt.run
        following: Attempt | None = attempt
        while following is not None:
            verdict = run.graph.verdict(following.node, run.states_ahead(), run.values)
            if verdict == WAITING:
                return following
            self._scheduler.settlement.conclude(following, verdict)
            following = self._scheduler.settlement.following(following)
        return None

    def _launch_condition(self, attempt: Attempt) -> None:
        run, node = attempt.run, attempt.node
        step = run.graph.nodes[node].step
        assert step.condition is not None
        args, kwargs = run.graph.conditions[node].bind(self.frame(attempt))
        attempt.func, attempt.args, attempt.kwargs = step.condition, args, kwargs
        attempt.is_coroutine = is_coroutine_function(step.condition)
        attempt.phase = Phase.CONDITION
        self.start_in(attempt, self._scheduler.inline)

    def park(self, attempt: Attempt, phase: Phase) -> None:
        """An attempt waits for what ``phase`` says."""
        attempt.phase = phase
        self._parkings += 1
        attempt.parking = self._parkings
        attempt.run.parked[attempt.unit] = attempt

    def unpark(self, attempt: Attempt) -> None:
        """An attempt waits no longer."""
        attempt.phase = Phase.READY
        attempt.run.parked.pop(attempt.unit, None)

    def _lane_of(self, attempt: Attempt) -> Lane:
        """Coroutine members of a thread group still run on the caller's loop."""
        run = attempt.run
        name = run.lane_of(attempt.unit)
        is_coroutine = run.graph.nodes[attempt.node].step.is_coroutine
        if name == "inline" or (is_coroutine and name != "process"):
            return self._scheduler.inline
        return self._scheduler.lanes[name]

    # -- capacity and workers ------------------------------------------------------------
    #
    # Who waits for a worker holds no capacity: a group that waits for its next try keeps its
    # worker and wants its CPUs back, and the two would wait for each other.

    def _seek_worker(self, attempt: Attempt) -> None:
        lane = self._worker_lane(attempt)
        if lane is None or attempt.worker is not None or self._may_take(lane, attempt):
            self._seek_capacity(attempt)
        else:
            self._wait_for_worker(attempt, lane)

    def _seek_capacity(self, attempt: Attempt) -> None:
        keys: Keys = ()
        if attempt.run.graph.nodes[attempt.node].step.limits is not None:
            found = self._scheduler.limited.keys_of(attempt)
            if found is None:
                return
            keys = found
        lease = attempt.lease
        if lease is None:
            demand = self.demand_of(attempt)
            if keys:
                demand = (demand or _NOTHING)._replace(keys=keys)
            if demand is not None and demand != _NOTHING:
                self._request(attempt, demand)
                return
        elif keys or lease.lent:
            self._request_under(attempt, lease, keys)
            return
        self._go(attempt)

    def _request(self, attempt: Attempt, demand: Demand) -> None:
        why = self._scheduler.losses.refusal(attempt)
        if why is not None:
            self._scheduler.losses.give_up(attempt, why)
            return
        self._scheduler.follow_limits()
        self._scheduler.asked = True
        limiter = self._scheduler.limiter
        limiter.request(
            attempt,
            limiter.clamped(demand),
            owner=attempt.run,
            under=self._scheduler.nesting.lease_over(attempt),
            rank=attempt.run.rank(attempt.unit),
        )
        self.park(attempt, Phase.CAPACITY)

    def _request_under(self, attempt: Attempt, lease: Lease, keys: Keys) -> None:
        """A group goes on: it wants its CPUs back, and the keys that its next attempt takes.

        While it waits for keys, its CPUs are free for others.
        """
        limiter = self._scheduler.limiter
        if lease.cpu_millis and not lease.lent:
            limiter.lend_cpus(lease)
        self._scheduler.asked = True
        limiter.request_cpus(attempt, lease, owner=attempt.run, keys=keys)
        self.park(attempt, Phase.CAPACITY)

    def demand_of(self, attempt: Attempt) -> Demand | None:
        """What an attempt's unit takes from the account; None if it asks for nothing."""
        return attempt.run.demand_of(attempt.unit)

    def _go(self, attempt: Attempt) -> None:
        """Start an attempt that has its capacity, if a worker is still free."""
        lane = self._worker_lane(attempt)
        if lane is None or attempt.worker is not None:
            self._launch(attempt)
        elif self._is_free(lane, attempt):
            self._claim(attempt, lane)
            self._launch(attempt)
        else:
            if attempt.lease is not None:
                self._scheduler.limiter.release(attempt.lease, unused=True)
                attempt.lease = None
            self._wait_for_worker(attempt, lane)

    def _worker_lane(self, attempt: Attempt) -> Lane | None:
        """The lane in which an attempt's unit has a worker; None if it needs none."""
        units = attempt.run.graph.units
        name = attempt.run.lane_of(attempt.unit)
        if name == "inline":
            return None
        if name != "process" and len(units.members_of(attempt.unit)) == 1:
            step = attempt.run.graph.nodes[attempt.node].step
            if step.is_coroutine:
                return None
        return self._scheduler.lanes[name]

    def _is_free(self, lane: Lane, attempt: Attempt) -> bool:
        return self._has_room(lane, attempt) and not self._is_capped(attempt.run, attempt)

    def _has_room(self, lane: Lane, attempt: Attempt) -> bool:
        """Whether a worker is free for it, see :attr:`Lane.most_replaced`."""
        if not lane.has_room():
            return False
        lent = self._scheduler.nesting.lent_workers.get(lane.name, 0)
        return lent < lane.most_replaced or parent_of(attempt) is not None

    def _may_take(self, lane: Lane, attempt: Attempt) -> bool:
        """Whether a worker is free, and nobody else's: what is nested goes before the others."""
        others = attempt.run.backlog.get(lane.name)
        return self._is_free(lane, attempt) and not (others and parent_of(attempt) is None)

    def _claim(self, attempt: Attempt, lane: Lane) -> None:
        """Give a unit its worker; members of a group share it until the group ends."""
        run = attempt.run
        attempt.worker_lane = lane.name
        if lane.name == "process":
            attempt.worker_kind = worker_kind(attempt)
        if len(run.graph.units.members_of(attempt.unit)) > 1:
            attempt.worker = lane.reserve(attempt.worker_kind)
            attempt.keep_worker = True
        attempt.capped = run.graph.nodes[attempt.node].step.lane is None
        run.capped += attempt.capped

    def _wait_for_worker(self, attempt: Attempt, lane: Lane) -> None:
        run = attempt.run
        run.backlog_of(lane.name).append(attempt)
        waiting = self.waiting_for_worker.setdefault(lane.name, deque())
        if run not in waiting:
            if run.parent is None:
                waiting.append(run)
            else:
                waiting.appendleft(run)
        self.park(attempt, Phase.LANE)

    def _is_capped(self, run: RunRecord, attempt: Attempt) -> bool:
        """Whether the run has all the workers its executor allows for steps without a lane."""
        if run.max_workers is None or run.capped < run.max_workers:
            return False
        return run.graph.nodes[attempt.node].step.lane is None

    def frame(
        self,
        attempt: Attempt,
        values: Sequence[Any] | None = None,
        holder: Attempt | None = None,
    ) -> Frame:
        """What the arguments of an attempt are drawn from, see :func:`make_context`."""
        run, node = attempt.run, attempt.node
        return Frame(
            run.values if values is None else values,
            run.graph.slots[node],
            run.graph.nodes[node].params or {},
            run.outside,
            partial(make_context, attempt, holder),
            partial(make_failure, run),
        )

    def _launch(self, attempt: Attempt) -> None:
        """Start the step's function itself."""
        run, node = attempt.run, attempt.node
        is_lost = bool(self._scheduler.losses.held_by(attempt.lease))
        if is_lost and not attempt.sent:
            # Lost since it was granted, as to a group of which another member is next: what the
            # members before it have left in the worker is gone with that.
            self._scheduler.settlement.give_back(attempt)
            self.advance(attempt)
            return
        step = run.graph.nodes[node].step
        if not attempt.sent:
            self._bind(attempt)
            attempt.func = step.func
            attempt.is_coroutine = step.is_coroutine
        attempt.phase = Phase.RUNNING
        run.states[node] = RUNNING
        if attempt.number > 1:
            run.attempts[node] = attempt.number
        lane = self._lane_of(attempt)
        if step.timeout is not None and not lane.tells_begin:
            self._scheduler.stopping.set_timeout(attempt, step.timeout)
        if attempt.convoy is None:
            self.start_in(attempt, lane)
            if lane.queues and attempt.keep_worker and not attempt.sent and not attempt.finished:
                self._scheduler.groups.send_ahead(attempt)
        else:
            attempt.begun = attempt.slot = True
            self.start_in(attempt, lane)
            self._scheduler.convoys.led(attempt)
        if is_lost and not attempt.finished:
            self._scheduler.stopping.stop_for_loss(attempt)

    def _bind(self, attempt: Attempt) -> None:
        """Give an attempt the arguments of its function."""
        run, node = attempt.run, attempt.node
        graph = run.graph
        template = graph.templates[node]
        values: Sequence[Any] = run.values
        if attempt.keep_worker and attempt.worker_lane == "process":
            self._scheduler.groups.plan(attempt)
            values = self._scheduler.groups.values_for(attempt)
        if template.plain and node not in graph.conditions:
            attempt.args = [values[slot] for slot in graph.slots[node]]
        else:
            attempt.args, attempt.kwargs = template.bind(self.frame(attempt, values))

    def start_in(self, attempt: Attempt, lane: Lane) -> None:
        """Have a lane make the call that an attempt is now."""
        run = attempt.run
        attempt.lane = lane
        attempt.context = run.context.copy()
        run.in_flight[attempt.unit] = attempt
        self._scheduler.in_flight += 1
        if attempt.phase is Phase.RUNNING:
            self.announce(attempt, lane)
        if lane is self._scheduler.inline and not self._scheduler.eager:
            self._scheduler.batch.append(attempt)
        lane.start(attempt)
        if attempt.lease is not None and attempt.lease.taken:
            self._scheduler.limited.note_start(attempt)

    def announce(self, attempt: Attempt, lane: Lane) -> None:
        """Tell that an attempt starts, and first its unit."""
        run = attempt.run
        if run.recorder is not None:
            run.recorder.began(attempt, lane)
            return
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

    def take_lease(self, attempt: Attempt, lease: Lease) -> None:
        """The limiter granted what an attempt waited for."""
        if attempt.run.bars(attempt.node):
            # It is about to be dropped, as its run was stopped.
            if lease is attempt.lease:
                self._scheduler.limiter.release_keys(lease)
            else:
                self._scheduler.limiter.release(lease, unused=True)
            return
        attempt.lease = lease
        self.unpark(attempt)
        self._go(attempt)

    def start_waiting_for_worker(self) -> bool:
        """Start one attempt that waited for a worker, if one is free."""
        lanes = self._scheduler.lanes
        return any(self._start_in_lane(lanes[name]) for name in self.waiting_for_worker)

    def _start_in_lane(self, lane: Lane) -> bool:
        """Give a free worker to the next run in turn that waits for one."""
        runs = self.waiting_for_worker[lane.name]
        for _ in range(len(runs)):
            if not lane.has_room():
                return False
            run = runs.popleft()
            backlog = run.backlog[lane.name]
            if backlog and self._is_free(lane, backlog[0]):
                attempt = backlog.popleft()
                if backlog:
                    runs.append(run)
                self.unpark(attempt)
                self._seek_capacity(attempt)
                return True
            if backlog:
                runs.append(run)
        return False
