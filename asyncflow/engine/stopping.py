"""Ending things: timeouts, cancels, abandoned attempts, the end of a run, and stalls."""

from __future__ import annotations

from collections.abc import Callable, Generator
from itertools import chain
from typing import TYPE_CHECKING

from asyncflow import events
from asyncflow.engine.attempt import Attempt, Phase, Stop, parent_of
from asyncflow.engine.outcome import closing_states
from asyncflow.engine.record import RunRecord
from asyncflow.engine.reporting import finish_fields
from asyncflow.errors import CapacityError, text_of
from asyncflow.states import ABANDONED, CANCELLED, FAILED, FAILURES, RunState

if TYPE_CHECKING:
    from asyncflow.engine.scheduler import Scheduler

__all__ = ["Closing", "Stopping"]

# A stopped run and what becomes of the nodes that it did not come to.
Closing = tuple[RunRecord, Generator[list[tuple[int, int]]]]


_STALL_SECONDS = 1.0
_DROPS = 32
# What is found out before a node may start.
_UNSTARTED = (Phase.CONDITION, Phase.LOOKUP)


class Stopping:
    """Stops attempts and runs of one scheduler.

    Args:
        grace_seconds: how long a cancelled attempt may take to end before it is abandoned.
        max_abandoned: a run with more abandoned attempts than this fails.
    """

    def __init__(self, scheduler: Scheduler, *, grace_seconds: float, max_abandoned: int) -> None:
        self._scheduler = scheduler
        self._grace_seconds = grace_seconds
        self._max_abandoned = max_abandoned
        self._suspected_turn = -1

    # -- timers --------------------------------------------------------------------------

    def set_timer(self, attempt: Attempt, seconds: float, then: Callable[[Attempt], None]) -> None:
        """One timer for each attempt: its timeout, its grace or its back-off."""
        self._scheduler.timers += 1
        attempt.timer = self._scheduler.loop.call_later(seconds, then, attempt)

    def drop_timer(self, attempt: Attempt) -> None:
        """Forget an attempt's timer, whether it has gone off or not."""
        if attempt.timer is not None:
            attempt.timer.cancel()
            attempt.timer = None
            self._scheduler.timers -= 1

    def set_timeout(self, attempt: Attempt, seconds: float) -> None:
        """End an attempt that takes longer."""
        self.set_timer(attempt, seconds, self._time_out)

    def _time_out(self, attempt: Attempt) -> None:
        self._tell_to_stop(attempt, Stop.TIMEOUT)

    # -- attempts ------------------------------------------------------------------------

    def _tell_to_stop(self, attempt: Attempt, why: Stop) -> None:
        """Cancel, and abandon what has not ended after the grace period."""
        if attempt.stop is not Stop.NONE:
            return
        attempt.stop = why
        if attempt.alone:
            attempt.alone, attempt.unit_announced = False, True
        attempt.cancel_requested = True
        self.drop_timer(attempt)
        self.set_timer(attempt, self._grace_seconds, self._abandon)
        if attempt.nest or attempt.nested_runs:
            self._scheduler.nesting.cancel_nest(attempt)
        attempt.lane.cancel(attempt)

    def cancel_attempt(self, attempt: Attempt) -> None:
        """Cancel one attempt of a run that goes on."""
        self._tell_to_stop(attempt, Stop.CANCEL)

    def stop_for_loss(self, attempt: Attempt) -> None:
        """Have an attempt ended that holds a lost device."""
        self._tell_to_stop(attempt, Stop.LOST)

    def drop_waiting(self, attempt: Attempt) -> None:
        """Cancel one attempt that waits for capacity, a worker or its back-off."""
        run = attempt.run
        for backlog in run.backlog.values():
            if attempt in backlog:
                backlog.remove(attempt)
        self._drop_parked(attempt)
        if not run.is_final(attempt.node) and not run.is_ending(attempt.node):
            self._scheduler.settlement.conclude(attempt, CANCELLED)

    def _abandon(self, attempt: Attempt) -> None:
        """An attempt ignored its cancel: end it by force, or go on without it.

        The capacity of one that goes on stays booked.
        """
        self.drop_timer(attempt)
        if attempt.lane.kill(attempt):
            self.set_timer(attempt, self._grace_seconds, self._abandon)
            return
        run = attempt.run
        attempt.abandoned = True
        attempt.lane.abandon(attempt)
        if attempt.worker is not None and attempt.worker_lane != attempt.lane.name:
            # A coroutine, or a condition, in a thread group: its thread is free.
            self._scheduler.lanes[attempt.worker_lane].release(attempt.worker)
            attempt.worker = None
        if attempt.waits or attempt.nest or attempt.nested_runs or attempt.retake:
            self._scheduler.nesting.forget(attempt)
        del run.in_flight[attempt.unit]
        self._scheduler.in_flight -= 1
        run.abandoned[attempt] = None
        if attempt.capped:
            # Or nothing of the run could start while the lost thread hangs.
            attempt.capped = False
            run.capped -= 1
        if attempt.phase in _UNSTARTED and attempt.node not in run.nested:
            self._scheduler.settlement.end_unit(attempt)
        else:
            self._scheduler.settlement.fail(attempt)
        if len(run.abandoned) > self._max_abandoned:
            names = ", ".join(sorted(repr(other.name) for other in run.abandoned))
            self.stop(run, RunState.FAILED, f"too many steps ignored their cancel: {names}")
        self._scheduler.wake()

    def settle_abandoned(self, attempt: Attempt) -> None:
        """An abandoned attempt ended after all: its capacity is free again."""
        attempt.run.abandoned.pop(attempt, None)
        self._scheduler.settlement.give_back(attempt)

    # -- runs ----------------------------------------------------------------------------

    def drain(self, run: RunRecord, state: RunState, reason: str) -> None:
        """Start nothing more of a run; what runs may end, then the run ends in ``state``."""
        if run.stopping is not None or run.is_over:
            return
        run.stopping = reason
        run.stop_state = state
        run.draining = True
        kept = self._startable_units(run)
        if kept:
            run.frontier.keep_only(kept)
        else:
            run.frontier.clear()
        self._drop_all_parked(run)
        if run.convoys:
            self._scheduler.convoys.recall(run)
        if run.ahead:
            self._scheduler.groups.drop_all_ahead(run)
        self.end_if_over(run)

    def _startable_units(self, run: RunRecord) -> set[int]:
        """The units of a stopping run that may start all the same."""
        units = run.graph.units
        kept = {units.of_node[node] for node in run.graph.cleanup}
        if run.nested:
            ready = run.frontier.ready
            kept.update(unit for unit in ready if units.members_of(unit)[0] in run.nested)
        return kept

    def fail_run(self, run: RunRecord, node: str, error: BaseException) -> None:
        """The first failure of a run that stops at it."""
        self.stop(run, RunState.FAILED, f"step {node!r} failed: {text_of(error)}")

    def stop(self, run: RunRecord, state: RunState, reason: str) -> None:
        """Start nothing more of a run and cancel what runs; it ends in ``state``.

        A run that drains keeps the state and the reason of that.
        """
        self.drain(run, state, reason)
        run.draining = False
        if run.nested:
            # What steps had asked for might have run while the run drained; not so any more.
            self._drop_all_parked(run)
        self._stop_in_flight(run)

    def _stop_in_flight(self, run: RunRecord) -> None:
        for attempt in list(run.in_flight.values()):
            if run.bars(attempt.node):
                self._tell_to_stop(attempt, Stop.CANCEL)

    def _drop_all_parked(self, run: RunRecord) -> None:
        for backlog in run.backlog.values():
            kept = [attempt for attempt in backlog if not run.bars(attempt.node)]
            backlog.clear()
            backlog.extend(kept)
        requests: list[Attempt] = []
        others: list[Attempt] = []
        for attempt in run.parked.values():
            (requests if attempt.phase is Phase.CAPACITY else others).append(attempt)
        for attempt in others:
            if run.bars(attempt.node):
                self._drop_parked(attempt)
        if len(requests) <= _DROPS:
            for _ in self._drop_requests(run, requests):
                continue
        else:
            # 100,000 may wait for a rate.
            self._scheduler.growing.append(self._drop_requests(run, requests))
            self._scheduler.wake()

    def _drop_requests(self, run: RunRecord, requests: list[Attempt]) -> Generator[None]:
        """Drop what waits for capacity, so many in each turn; none of it starts meanwhile."""
        while requests and not run.is_over:
            # The last ones first, which do not head their queues, and let go of one by one.
            attempt = requests.pop()
            if run.parked.get(attempt.unit) is attempt and run.bars(attempt.node):
                self._drop_parked(attempt)
            if not len(requests) % _DROPS:
                yield
        self.end_if_over(run)

    def _drop_parked(self, attempt: Attempt) -> None:
        if attempt.phase is Phase.EXAMINED:
            self._scheduler.losses.clear(attempt)
            self._scheduler.settlement.fail(attempt)
            return
        if attempt.phase is Phase.CAPACITY:
            self._scheduler.limiter.withdraw(attempt)
        self.drop_timer(attempt)
        self._scheduler.starting.unpark(attempt)
        self.cancel_waiting(attempt)

    def cancel_waiting(self, attempt: Attempt) -> None:
        """End an attempt that was not running when its run was stopped."""
        self.give_up_retry(attempt)
        self._scheduler.settlement.end_unit(attempt)

    def give_up_retry(self, attempt: Attempt) -> None:
        """End a node as cancelled that was to be tried again."""
        run, node = attempt.run, attempt.node
        if attempt.previous_error is not None:
            run.errors[node] = attempt.previous_error
            run.attempts[node] = attempt.number - 1
            self._scheduler.settlement.conclude(attempt, CANCELLED)

    def end_if_over(self, run: RunRecord) -> None:
        """Have a run ended of which nothing is left, or nothing will run any more.

        That happens in a turn, when the consequences of what has just ended are all drawn.
        """
        if run.closing or not run.begun:
            return
        if run.recorder is not None and run.recorder.ending:
            return  # those that have ended are acknowledged first
        if not run.left or (run.stopping is not None and self._is_idle(run)):
            run.closing = True
            self._scheduler.closing.append((run, closing_states(run)))
            self._scheduler.wake()

    def _is_idle(self, run: RunRecord) -> bool:
        """Whether a stopping run waits for nothing: first of its steps, then of its clean-up.

        Clean-up steps that run before the others have ended are no reason to wait with the rest:
        only then is their time limited.
        """
        if run.cleaning or run.cleanup_over:
            return not run.in_flight and not run.parked and not run.has_cleanup_ready()
        at_work = chain(run.in_flight.values(), run.parked.values())
        return all(run.belongs_to_cleanup(attempt.node) for attempt in at_work)

    def close_some(self) -> bool:
        """Settle a chunk of the nodes that a run did not come to; then end it.

        Returns:
            Whether there is more of this to do.
        """
        run, states = self._scheduler.closing[0]
        chunk = next(states, None)
        if chunk is None:
            self._scheduler.closing.popleft()
            self._end_or_clean_up(run)
        else:
            self._close(run, [node for node, _ in chunk])
        return bool(self._scheduler.closing)

    def _close(self, run: RunRecord, nodes: list[int]) -> None:
        run.left -= len(nodes)
        if run.graph.cleanup:
            for node in nodes:
                self._scheduler.settlement.release(run, node)
        if run.bus.listening:
            for node in nodes:
                run.bus.publish(events.NodeFinished, **finish_fields(run, node))
        else:
            run.bus.count(len(nodes))

    # -- clean-up ------------------------------------------------------------------------

    def _end_or_clean_up(self, run: RunRecord) -> None:
        """All that a stopped run did not come to is settled: now its clean-up steps run."""
        if not run.left or run.cleanup_over:
            self._end(run)
            return
        run.closing = False
        if not run.cleaning:
            run.cleaning = True
            self._scheduler.timers += 1
            run.cleanup_timer = self._scheduler.loop.call_later(
                self._grace_seconds, self._end_cleanup, run
            )
        while run.frontier.work_off():
            continue
        self._scheduler.queue(run)
        if self._is_idle(run):
            # What is left waits for something that will not come.
            run.cleanup_over = True
        self.end_if_over(run)

    def _end_cleanup(self, run: RunRecord) -> None:
        """The grace period is over for clean-up steps as well."""
        if run.is_over:
            return
        run.cleanup_over = True
        self._drop_all_parked(run)
        self._stop_in_flight(run)
        self.end_if_over(run)

    def _end(self, run: RunRecord) -> None:
        if run.cleanup_timer is not None:
            run.cleanup_timer.cancel()
            self._scheduler.timers -= 1
        run.ended_at = self._scheduler.clock()
        if run.lasted is not None:
            run.ended_at = run.began_at + run.lasted
        run.left = 0
        state = self._final_state(run)
        fields = {
            "state": state,
            "duration_seconds": run.ended_at - run.began_at,
            "reason": run.stopping or "",
            "abandoned": tuple(attempt.name for attempt in run.abandoned),
        }
        if run.recorder is not None:
            run.recorder.finish(state, fields)
        else:
            run.bus.publish(events.RunFinished, **fields)
            self.conclude(run, state)

    def conclude(self, run: RunRecord, state: RunState) -> None:
        """All that a run had to say is said: it is over."""
        run.state = state
        self._scheduler.runs.pop(run.run_id, None)
        run.bus.close()
        run.let_go()
        for callback in run.on_end:
            callback(run)

    def _final_state(self, run: RunRecord) -> RunState:
        # bytes.translate deletes in C: 100,000 states take microseconds.
        failed = len(run.states) - len(run.states.translate(None, bytes(FAILURES)))
        failed -= run.nested_failures
        if run.draining and not failed:
            return RunState.SUCCEEDED  # there was nothing left to leave out
        if run.stopping is not None:
            return run.stop_state
        return RunState.FAILED if failed else RunState.SUCCEEDED

    # -- the backstop --------------------------------------------------------------------

    def look_at_stall(self) -> None:
        """Nothing runs and no timer is set.

        Attempts that wait for their nests may be about to go on: the loop has still to wake
        them. Only if nothing at all happens for a while does that count as a stall.
        """
        scheduler = self._scheduler
        if not scheduler.nesting.waiting:
            self.break_stall()
        elif self._suspected_turn != scheduler.turns:
            self._suspected_turn = scheduler.turns
            scheduler.loop.call_later(_STALL_SECONDS, self._confirm_stall, scheduler.turns)

    def _confirm_stall(self, turn: int) -> None:
        scheduler = self._scheduler
        if scheduler.turns == turn and not scheduler.in_flight and not scheduler.timers:
            self.break_stall()

    def break_stall(self) -> None:
        """Nothing runs and no timer is set, yet something waits: fail it rather than hang.

        The youngest request for capacity fails and names who holds what it wants: a nested one
        if there is any, for only what waits for its nest holds anything now. A run that waits
        for nothing at all is a fault of the engine, and ends saying so.
        """
        if self._scheduler.limited.is_paused():
            return
        runs = list(self._scheduler.runs.values())
        parked = chain.from_iterable(run.parked.values() for run in runs)
        waiting = [attempt for attempt in parked if attempt.phase is Phase.CAPACITY]
        if waiting:
            nested = [attempt for attempt in waiting if parent_of(attempt) is not None]
            self._fail_request(max(nested or waiting, key=lambda attempt: attempt.parking))
            return
        for run in runs:
            if self._scheduler.nesting.waiting:
                continue  # a step that waits for something of its own
            if run.recorder is not None and run.recorder.is_busy:
                continue  # the disk is at work
            if run.begun and not run.is_over and not run.closing:
                names = [
                    run.graph.nodes[i].name for i in range(len(run.graph)) if not run.is_final(i)
                ]
                self.stop(
                    run,
                    RunState.FAILED,
                    f"asyncflow lost track of {', '.join(map(repr, names[:5]))} of {len(names)} "
                    "steps that neither run nor can start; please report this fault",
                )

    def fail_all(self, fault: BaseException) -> None:
        """End all runs at once because the engine itself failed."""
        loop = self._scheduler.loop
        for run in list(self._scheduler.runs.values()):
            run.stopping = f"asyncflow itself failed, please report this: {text_of(fault)}"
            run.stop_state = RunState.FAILED
            run.closing = run.cleanup_over = True
            if run.recorder is not None:
                run.recorder.give_up(fault)
            for attempt in run.in_flight.values():
                loop.call_soon(attempt.lane.cancel, attempt)
                run.abandoned[attempt] = None
                run.states[attempt.node] = ABANDONED
            for attempt in run.parked.values():
                run.states[attempt.node] = CANCELLED
            for _ in closing_states(run):
                pass
            self._end(run)
        loop.call_exception_handler(
            {"message": "the scheduler of asyncflow failed", "exception": fault}
        )

    def _fail_request(self, attempt: Attempt) -> None:
        story = self._scheduler.limiter.explain(attempt)
        self._scheduler.limiter.withdraw(attempt)
        self._scheduler.starting.unpark(attempt)
        attempt.error = CapacityError(
            f"step {attempt.name!r} can never start: nothing else runs, and {story}"
        )
        self._scheduler.settlement.refuse(attempt, FAILED)
        self._scheduler.wake()
