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
from collections.abc import Callable, Coroutine, Hashable, Iterator
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Any

from asyncflow import events
from asyncflow.engine.attempt import Attempt, Phase
from asyncflow.engine.caching import Caching, OpenCache
from asyncflow.engine.convoys import Convoys
from asyncflow.engine.item_limits import ItemRequest
from asyncflow.engine.limited import Limited
from asyncflow.engine.limiter import Lease, Limiter
from asyncflow.engine.losses import Losses
from asyncflow.engine.maps import Maps
from asyncflow.engine.nesting import Nesting, Retake
from asyncflow.engine.record import RunRecord
from asyncflow.engine.reporting import publish_progress, report_soon
from asyncflow.engine.settlement import Settlement
from asyncflow.engine.starting import Starting
from asyncflow.engine.stopping import Closing, Stopping
from asyncflow.engine.supply import Supply
from asyncflow.engine.worker_groups import WorkerGroups
from asyncflow.lanes.inline import InlineLane
from asyncflow.lanes.lane import Lane

if TYPE_CHECKING:
    from asyncflow.engine.recording import Recorder
    from asyncflow.storage.records import Record

__all__ = ["Scheduler"]

TURN_SECONDS = 0.002
# Completions and starts are handled this many at a time between two looks at the clock.
_CHUNK = 16
# A run that has so many ended nodes that are not recorded yet starts no more.
_MOST_UNRECORDED = 8192
_SMALLEST_BATCH, _LARGEST_BATCH = 8, 2048
# A single task that somebody cancelled before its first step is noticed this much later.
_LOOK_SECONDS = 0.1
_RUNNING = Phase.RUNNING


class Scheduler:
    """Runs any number of graphs on one loop, one limiter and one set of lanes.

    Args:
        loop, clock: the running event loop and seconds on its clock.
        supply: what there is to share; its limiter is made when first a unit asks for any.
        lanes: by name; ``inline`` must be there.
        max_concurrency: how many units may be in flight at once.
        grace_seconds: how long a cancelled attempt may take to end.
        max_abandoned: how many abandoned attempts are borne.
        max_nested_depth: how deep steps may nest.
        open_cache: opens the cache when first a step asks for it; None for none.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        clock: Callable[[], float],
        *,
        supply: Supply,
        lanes: dict[str, Lane],
        max_concurrency: int,
        grace_seconds: float,
        max_abandoned: int,
        max_nested_depth: int,
        random: Random,
        open_cache: Callable[[], OpenCache] | None = None,
    ) -> None:
        self.loop = loop
        self.clock = clock
        self.lanes = lanes
        self.runs: dict[str, RunRecord] = {}
        self.max_concurrency = max_concurrency
        self.in_flight = 0
        self.supply = supply
        self._limiter: Limiter | None = None
        inline = lanes["inline"]
        assert isinstance(inline, InlineLane)
        self.inline = inline
        self.eager = inline.starts_eagerly
        self.starting = Starting(self)
        self.settlement = Settlement(self, random)
        self.groups = WorkerGroups(self)
        self.convoys = Convoys(self)
        self.maps = Maps(self)
        self.losses = Losses(self)
        self.caching = Caching(self, open_cache)
        self.limited = Limited(self)
        self.nesting = Nesting(self, max_depth=max_nested_depth)
        self.stopping = Stopping(self, grace_seconds=grace_seconds, max_abandoned=max_abandoned)
        # How many timers may still lead to something: while one is set, nothing is stuck.
        self.timers = 0
        self.turns = 0
        self.releasing: deque[RunRecord] = deque()
        self.resumed: deque[Attempt] = deque()
        self.closing: deque[Closing] = deque()
        self.growing: deque[Iterator[None]] = deque()
        # Records that are safe, and whose consequences are still to be drawn.
        self.acknowledged: deque[tuple[Recorder, Record]] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self.completions: deque[Attempt] = deque()
        self._new_runs: deque[RunRecord] = deque()
        self.with_ready: deque[RunRecord] = deque()
        self.asked = False  # the limiter, since it last had nothing to grant
        self.report = self.complete  # bound once: every call takes it along
        self.batch: list[Attempt] = []
        self._look_later = False
        self._batch_limit = _SMALLEST_BATCH * 4
        self._scheduled = False
        # Without one of its own a callback would keep the first caller's context alive.
        self.context = contextvars.Context()

    # -- turns ---------------------------------------------------------------------------

    def ask_again(self) -> None:
        """See that the limiter is asked again in a coming turn."""
        self.asked = True
        self.wake()

    def wake(self) -> None:
        """See that a turn comes."""
        if not self._scheduled:
            self._scheduled = True
            self.loop.call_soon(self._turn, context=self.context)

    def turn_now(self) -> None:
        """Make a turn at once, unless one comes anyway: a turn of the loop less to wait.

        Not with eager tasks: the first steps of what starts would run inside the caller.
        """
        if not self._scheduled and not self.batch and not self.eager:
            self._scheduled = True
            self._turn()
        else:
            self.wake()

    def complete(self, attempt: Attempt) -> None:
        """A lane's report that a call ended."""
        if self._scheduled:
            self.completions.append(attempt)
        elif self.in_flight == 1 and not self.eager:
            # The only one: its own task makes the turn, and a chain of steps takes one turn
            # of the loop for each instead of two.
            self._scheduled = True
            self.batch.clear()
            self._turn(attempt)
        else:
            self.completions.append(attempt)
            self.wake()

    def _turn(self, only: Attempt | None = None) -> None:
        """A turn; of the ``only`` attempt in flight, if it has just ended."""
        try:
            if only is None or not self._go_on(only):
                self._work()
        except BaseException as fault:
            # A fault of the engine, or Ctrl-C in its midst: whoever awaits a run is told,
            # instead of waiting for turns that would never come again.
            self._scheduled = False
            self.stopping.fail_all(fault)
            if not isinstance(fault, Exception):
                raise

    def _go_on(self, attempt: Attempt) -> bool:
        """What a turn comes to where a step of a chain ends, the next starts, and that is all.

        Returns:
            Whether it was all; else the turn goes on from here.
        """
        if not attempt.alone or attempt.error is not None or self._limiter is not None:
            self.completions.append(attempt)
            return False
        if not self.settlement.succeed_alone(attempt):
            return False
        run = attempt.run
        more = self._new_runs or self.growing or self.closing or self.releasing or self.acknowledged
        if more or not self._look_later or not self._is_next(run):
            self.queue(run)
            return False
        self.turns += 1
        self._scheduled = False
        self.starting.start_alone(run, run.frontier.ready.popleft())
        return True

    def _follow(self, run: RunRecord) -> None:
        """Start the only unit that is ready in a run, or let it take its turn."""
        if self.eager and self.in_flight < self.max_concurrency and self._is_next(run):
            self.starting.start_alone(run, run.frontier.ready.popleft())
        else:
            self.queue(run)

    def _is_next(self, run: RunRecord) -> bool:
        """Whether the only unit that is ready in a run would be the next to start in any case."""
        ready = run.frontier.ready
        return not (
            self.with_ready
            or self.resumed
            or self._limiter is not None
            or self.starting.waiting_for_worker
            or run.blemished
            or ready.__class__ is not deque
            or not run.graph.alone[ready[0]]
        )

    def _work(self) -> None:
        """One turn: settle what has ended and start what may start, for about 2 ms."""
        self.turns += 1
        began = self.clock()
        until = began + TURN_SECONDS
        if self.batch:
            self._look_at_batch(began)
        if self._limiter is not None:
            self.limited.look()
        while True:
            if self.completions or self.releasing or self.acknowledged:
                self._settle_some()
            more: object = (
                self._start_some() or self.completions or self.releasing or self.acknowledged
            )
            if self.growing:
                self.maps.grow_some()
                more = True
            if self.closing:
                more = self.stopping.close_some() or more
            if not more or self.clock() >= until:
                break
        if more or len(self.batch) > 1:
            self.loop.call_soon(self._turn, context=self.context)
            return
        if self.batch and not self._look_later:
            self._look_later = True
            self.loop.call_later(_LOOK_SECONDS, self._look_again, context=self.context)
        self._scheduled = False
        if self._limiter is not None:
            self.limited.set_timer()
        if not self.in_flight and not self.timers and self.runs:
            self.stopping.look_at_stall()

    def _look_at_batch(self, now: float) -> None:
        """Learn how long the first steps of the last batch took, and that all were taken.

        Only without eager tasks: there the first steps run between two turns, and a task
        that somebody cancels before its first step would never report.
        """
        batch, self.batch = self.batch, []
        for attempt in batch:
            if not attempt.started:
                self.inline.report_unstarted(attempt)
        if len(batch) >= _SMALLEST_BATCH:
            each = max(now - batch[0].started, 1e-6) / len(batch)
            limit = min(int(TURN_SECONDS / 2 / each), 2 * self._batch_limit, _LARGEST_BATCH)
            self._batch_limit = max(_SMALLEST_BATCH, limit)

    def _look_again(self) -> None:
        self._look_later = False
        self.wake()

    # -- starting ------------------------------------------------------------------------

    def add(self, run: RunRecord) -> None:
        """Take a run on; its first units start in a coming turn.

        One that records begins once it is recorded that it does, see :meth:`let_begin`.
        """
        self.runs[run.run_id] = run
        run.report_soon = partial(report_soon, self.loop)
        run.set_timeout = self.stopping.set_timeout
        run.take_parts = self.groups.took_parts
        run.dropped = self.groups.dropped
        run.came_back = self.convoys.came_back
        run.tell_report = publish_progress
        run.nesting = self.nesting
        if run.recorder is None:
            self.let_begin(run)

    def let_begin(self, run: RunRecord) -> None:
        """Nothing stands in the way of a run that was taken on."""
        self._new_runs.append(run)
        self.wake()

    def _start_some(self) -> bool:
        """Start up to a chunk of attempts, first those that were ready before.

        Returns:
            Whether more may be started in this turn.
        """
        while self._new_runs:
            if not self._is_in_order(self._new_runs[0]):
                break
            self._begin(self._new_runs.popleft())
        left = self.max_concurrency - self.in_flight
        if not self.eager:
            rest = self._batch_limit - len(self.batch)
            if rest < left:
                left = rest
        if left <= 0:
            return self.limited.items_waiting > 0 and self.limited.grant_to_streams(_CHUNK)
        if left > _CHUNK:
            left = _CHUNK
        if self.with_ready and self.with_ready[0].remaining is not None:
            # They may rank before those that wait for capacity already.
            left -= self._start_share(self.with_ready[0], max(1, left // 2))
        if self.resumed or self._limiter is not None or self.starting.waiting_for_worker:
            while left > 0 and self._start_parked():
                left -= 1
        while left > 0 and self.with_ready:
            left -= self._start_share(self.with_ready[0], left)
        return left <= 0 or self.asked or bool(self._new_runs)

    def _is_in_order(self, run: RunRecord) -> bool:
        """Go a step on in working out who starts first, if anything about that is known."""
        if run.ordering is not None and next(run.ordering, run) is run:
            run.ordering = None
        return run.ordering is None

    def _begin(self, run: RunRecord) -> None:
        run.begun = True
        if run.one_at_a_time:
            run.frontier.let_one_through()
            run.blemished = True  # no unit takes the shortest way, which tells nobody of its end
        run.began_at = self.clock()
        graph = run.graph
        run.bus.publish(
            events.RunStarted,
            pipeline=graph.name,
            nodes=len(graph),
            units=len(graph.units),
            resumed=len(run.resumed),
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

    def _is_over(self, run: RunRecord, unit: int) -> bool:
        """Whether a nested node was cancelled before its turn came.

        The first member of a group may well have ended: in an earlier life of the run.
        """
        if not run.has_nested or len(members := run.graph.units.members_of(unit)) > 1:
            return False
        return run.is_final(members[0]) or run.is_ending(members[0])

    def _start_parked(self) -> bool:
        """Take on one attempt whose back-off is over, whose capacity or worker is there."""
        if self.resumed:
            attempt = self.resumed.popleft()
            # One that is parked no longer was dropped when its run was stopped.
            if attempt.phase is Phase.BACKOFF:
                self.starting.unpark(attempt)
                self.starting.advance(attempt)
            return True
        if self._limiter is not None:
            granted = self._limiter.grant(self.clock())
            if granted is not None:
                self.take(*granted)
                return True
            self.asked = self._limiter.has_more
        return self.starting.start_waiting_for_worker()

    def take(self, ticket: Hashable, lease: Lease) -> None:
        """The limiter granted what somebody waited for."""
        if isinstance(ticket, Attempt):
            self.starting.take_lease(ticket, lease)
        elif isinstance(ticket, Retake):
            self.nesting.retaken(ticket)
        else:
            assert isinstance(ticket, ItemRequest)
            ticket.granted(lease)

    def _start_share(self, run: RunRecord, room: int) -> int:
        """Take on ready units of the run whose turn it is: one, or all if it is alone."""
        with_ready = self.with_ready
        ready = run.frontier.ready
        if run.recorder is not None and run.recorder.ending >= _MOST_UNRECORDED:
            # The disk is slower than the steps. Each acknowledged end takes the run up again.
            with_ready.remove(run)
            run.queued = False
            return 0
        if len(with_ready) > 1:
            with_ready.rotate(-1)
            room = 1
        share = 0
        while share < room and ready:
            unit = ready.popleft()
            # Read anew each time: what starts here may grow the run's graph.
            if run.graph.alone[unit] and not run.blemished:
                share += self.starting.start_alone(run, unit, room - share)
                continue
            share += 1
            if run.bars(run.graph.units.members_of(unit)[0]) or self._is_over(run, unit):
                continue
            if not run.in_processes or not self.convoys.takes(run, unit):
                self.starting.advance(self.starting.first_attempt(run, unit))
        # What started may have called for more, and that may wait in another queue than before.
        if not run.frontier.ready and run.queued:
            with_ready.remove(run)
            run.queued = False
        return share

    @property
    def limiter_so_far(self) -> Limiter | None:
        """The account, if anything has needed it."""
        return self._limiter

    @property
    def limiter(self) -> Limiter:
        """The account of all capacity; made when first needed."""
        if self._limiter is None:
            self._limiter = self.supply.limiter
        return self._limiter

    def worker_pids(self) -> list[int]:
        """The processes whose memory is ours too."""
        return [pid for lane in self.lanes.values() for pid in lane.pids()]

    def follow_limits(self) -> None:
        """Have the account follow what this process may use now; what runs goes on."""
        for sentence in self.supply.follow(self.clock()):
            for run in self.runs.values():
                run.bus.publish(events.Warned, message=sentence)

    # -- settling ------------------------------------------------------------------------

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run something beside the turns."""
        task = self.loop.create_task(work, context=self.context)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _settle_some(self) -> None:
        """Settle up to a chunk of what has ended."""
        if self.acknowledged:
            recorder, record = self.acknowledged.popleft()
            recorder.apply(record)
        if self.releasing:
            run = self.releasing[0]
            if not run.frontier.work_off():
                self.releasing.popleft()
            self.queue(run)
        completions = self.completions
        settlement = self.settlement
        left = _CHUNK
        # What starts eagerly may have ended already: a chain goes on in here.
        while left and completions:
            left -= 1
            attempt = completions.popleft()
            if attempt.alone and attempt.error is None:
                if settlement.succeed_alone(attempt):
                    self._follow(attempt.run)
            else:
                settlement.settle(attempt)
