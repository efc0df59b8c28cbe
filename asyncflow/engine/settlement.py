"""What follows from an attempt that ended: its node's state, the next member, a retry."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from asyncflow import events
from asyncflow.engine.attempt import Attempt, Phase, Stop, hand_over
from asyncflow.engine.outcome import failure_of, let_go, store
from asyncflow.engine.record import RunRecord
from asyncflow.engine.reporting import finish_fields
from asyncflow.errors import ResourceLost, StepFailed, WorkerDied, text_of
from asyncflow.states import (
    CANCELLED,
    FAILED,
    RETRYING,
    RUNNING,
    SKIPPED,
    SUCCEEDED,
    RunState,
    check_move,
)

if TYPE_CHECKING:
    from asyncflow.engine.scheduler import Scheduler

__all__ = ["Settlement"]

# A step that kills its worker each time would in the end kill them all.
_MOST_DEATHS = 3


class Settlement:
    """Carries out the consequences of ended attempts for one scheduler."""

    def __init__(self, scheduler: Scheduler, random: Random) -> None:
        self._scheduler = scheduler
        self._random = random

    def settle(self, attempt: Attempt) -> None:
        """An attempt's function or condition ended, whichever way."""
        run = attempt.run
        stopping = self._scheduler.stopping
        if attempt.timer is not None:
            stopping.drop_timer(attempt)
        if attempt.waits or attempt.nest or attempt.nested_runs or attempt.retake:
            self._scheduler.nesting.forget(attempt)
        if attempt.abandoned:
            stopping.settle_abandoned(attempt)
            return
        if attempt.error is not None and attempt.keep_worker:
            self._scheduler.groups.look_at_worker(attempt)
        self._scheduler.in_flight -= 1
        del run.in_flight[attempt.unit]
        if attempt.convoy is not None:
            self._scheduler.convoys.ended(attempt)
        lease = attempt.lease
        if lease is not None and (lease.keys or lease.taken):
            if attempt.started:
                self._scheduler.limiter.started(lease, attempt.started)
            self._scheduler.limiter.release_keys(lease)
        if attempt.alone:
            attempt.unit_announced = True
        if attempt.phase is Phase.CONDITION:
            self._settle_condition(attempt)
            return
        if attempt.phase is Phase.LOOKUP:
            self._scheduler.caching.looked(attempt)
            return
        if attempt.phase is Phase.SAVING:
            self._scheduler.caching.saved(attempt)
        elif _is_good(attempt) and self._scheduler.caching.save(attempt):
            return
        if _is_good(attempt):
            self._succeed(attempt)
        else:
            self.fail(attempt)

    def succeed_alone(self, attempt: Attempt) -> bool:
        """What :meth:`settle` comes to for a node that holds nothing and succeeded.

        Returns:
            Whether this was the last, and made a single unit ready: see that it starts.
        """
        run, node, scheduler = attempt.run, attempt.node, self._scheduler
        scheduler.in_flight -= 1
        del run.in_flight[node]
        run.values[run.graph.outputs[node]] = attempt.value  # type: ignore[index]
        run.started[node] = attempt.started
        run.finished[node] = attempt.finished
        if run.recorder is not None:
            run.recorder.ended_alone(attempt)
            return False
        run.states[node] = SUCCEEDED
        left = run.left = run.left - 1
        is_next = False
        if run.stopping is None or run.graph.cleanup:
            frontier = run.frontier
            if frontier.finished(node):
                scheduler.releasing.append(run)
            if frontier.ready and not run.queued:
                is_next = len(frontier.ready) == 1 and not scheduler.completions
                if not is_next:
                    run.queued = True
                    scheduler.with_ready.append(run)
        bus = run.bus
        if bus.listening:
            bus.publish(events.NodeFinished, **finish_fields(run, node))
            bus.publish(events.UnitFinished, node=attempt.name)
        else:
            bus.sequence += 2
        if run.element_of:
            scheduler.maps.element_ended(run, node)
        if not left or run.stopping is not None:
            scheduler.stopping.end_if_over(run)
        return is_next

    def _succeed(self, attempt: Attempt) -> None:
        run, node = attempt.run, attempt.node
        attempt.error = store(run, node, attempt.value)
        if attempt.error is not None:
            self.fail(attempt)
            return
        run.started[node] = attempt.started
        run.finished[node] = attempt.finished
        if attempt.worker is not None and attempt.lane is not self._scheduler.inline:
            run.workers[node] = attempt.worker.name
        self.reach(run, node, SUCCEEDED)
        self.next_member(attempt)

    def reach(self, run: RunRecord, node: int, state: int) -> None:
        """A node reaches its final state, and those that waited for it wait for one less."""
        if state != SUCCEEDED or run.states[node] != RUNNING:
            check_move(run.graph.nodes[node].name, run.states[node], state)
            run.blemished = True
        if run.recorder is not None and node not in run.told:
            run.recorder.end(node, state)
        else:
            self.settle_node(run, node, state)

    def settle_node(self, run: RunRecord, node: int, state: int) -> None:
        """The end of a node counts: it is seen, and those that waited for it go on."""
        run.states[node] = state
        run.left -= 1
        if node in run.rerun:
            run.rerun.discard(node)  # to all others it had ended before
        else:
            if run.consumers is not None:
                self._let_go(run, node)
            if run.stopping is None or run.graph.cleanup:
                self.release(run, node)
                if run.graph.maps:
                    self._scheduler.maps.ended(run, node)
        if run.recorder is not None or node in run.told:
            pass  # the recorder has told it already
        elif run.bus.listening:
            run.bus.publish(events.NodeFinished, **finish_fields(run, node))
        else:
            run.bus.sequence += 1
        if run.element_of:
            self._scheduler.maps.element_ended(run, node)
        if run.nested:
            self._scheduler.nesting.ended(run, node)

    def _let_go(self, run: RunRecord, node: int) -> None:
        """Free what nobody needs any more; a group in a worker may need its inputs again."""
        unit = run.graph.units.of_node[node]
        if self._scheduler.groups.has(run, unit):
            run.unfreed.setdefault(unit, []).append(node)
        else:
            let_go(run, node)

    def release(self, run: RunRecord, node: int) -> None:
        """Those that waited for a node wait for one less."""
        if run.frontier.finished(node):
            self._scheduler.releasing.append(run)
        if not run.queued and run.frontier.ready:
            self._scheduler.queue(run)

    def conclude(self, attempt: Attempt, state: int) -> None:
        """End a node whose function does not run (again)."""
        run, node = attempt.run, attempt.node
        run.finished[node] = attempt.finished or self._scheduler.clock()
        self.reach(run, node, state)

    # -- units ---------------------------------------------------------------------------

    def next_member(self, attempt: Attempt) -> None:
        """Go on in the unit, or end it."""
        following = self.following(attempt)
        if following is not None:
            self._scheduler.starting.advance(following)

    def following(self, attempt: Attempt) -> Attempt | None:
        """The first try of the unit's next member; None, and the unit ends, if none is left."""
        run, unit = attempt.run, attempt.unit
        members = run.graph.units.members
        position = attempt.position + 1
        while members is not None and run.resumed and position < len(members[unit]):
            if not run.is_settled(members[unit][position]):
                break
            position += 1
        if members is None or position == len(members[unit]) or run.stopping is not None:
            self.end_unit(attempt)
            return None
        following: Attempt | None
        if run.rerun or run.postponed:
            following = self._scheduler.groups.next_attempt(attempt, position)
            if following is None:
                self.end_unit(attempt)
                return None
        else:
            following = self._scheduler.groups.first_attempt(attempt, position)
        hand_over(attempt, following)
        return following

    def end_unit(self, attempt: Attempt) -> None:
        """Give back what a unit holds."""
        run = attempt.run
        self.give_back(attempt)
        if attempt.convoy is not None:
            self._scheduler.convoys.led(attempt)
        if run.graph.units.members is not None and self._scheduler.groups.has(run, attempt.unit):
            self._scheduler.groups.end_unit(run, attempt.unit)
        if run.one_at_a_time:
            run.frontier.came_back(attempt.unit)
            self._scheduler.queue(run)
        if attempt.unit_announced:
            if run.bus.listening:
                run.bus.publish(events.UnitFinished, node=run.graph.unit_name(attempt.unit))
            else:
                run.bus.sequence += 1
        if not run.left or run.stopping is not None:
            self._scheduler.stopping.end_if_over(run)

    def give_back(self, attempt: Attempt) -> None:
        """Return the lease and the worker of an attempt's unit."""
        if attempt.lease is not None:
            self._scheduler.limiter.release(attempt.lease)
            attempt.lease = None
            self._scheduler.follow_limits()
        if attempt.worker is not None:
            if attempt.keep_worker:
                self._scheduler.lanes[attempt.worker_lane].release(attempt.worker)
            attempt.worker = None
        if attempt.capped:
            attempt.capped = False
            attempt.run.capped -= 1

    # -- conditions ----------------------------------------------------------------------

    def _settle_condition(self, attempt: Attempt) -> None:
        """The condition was evaluated: run, skip, or fail the node."""
        if attempt.stop is Stop.CANCEL or attempt.run.bars(attempt.node):
            self.end_unstarted(attempt)
            return
        wanted, error = False, attempt.error
        if error is None:
            try:
                wanted = bool(attempt.value)
            except Exception as ambiguous:  # noqa: BLE001
                # The truth value of an array, say: the condition's fault like any other.
                error = ambiguous
        if error is not None:
            self._fail_condition(attempt, error)
        elif not wanted:
            self.conclude(attempt, SKIPPED)
            self.next_member(attempt)
        else:
            attempt.gated = True
            if attempt.run.recorder is not None:
                attempt.run.recorder.gated(attempt.node)
            attempt.phase = Phase.READY
            attempt.started = attempt.finished = 0.0
            attempt.value = None
            self._scheduler.starting.advance(attempt)

    def end_unstarted(self, attempt: Attempt) -> None:
        """The run was stopped while it was found out whether a node has to run."""
        if attempt.node in attempt.run.nested:
            self.conclude(attempt, CANCELLED)  # the run may go on
        self.end_unit(attempt)

    def _fail_condition(self, attempt: Attempt, error: BaseException) -> None:
        failed = StepFailed(
            f"the condition of step {attempt.name!r} raised {text_of(error)}; a condition "
            "returns true or false",
            step=attempt.name,
        )
        failed.__cause__ = error
        self._end_failed(attempt, FAILED, failed)

    # -- failures ------------------------------------------------------------------------

    def fail(self, attempt: Attempt) -> None:
        """An attempt did not succeed: try again, or end its node."""
        run = attempt.run
        if run.ahead:
            self._scheduler.groups.drop_ahead(attempt)
        state, error = failure_of(attempt)
        if attempt.lease is not None and attempt.lease.gpu_ids:
            if self._scheduler.losses.examine(attempt, state):
                return
            error = self._scheduler.losses.blame(attempt, error)
        if isinstance(error, KeyboardInterrupt) and attempt.lane.name == "inline":
            # It may well be the user's: Ctrl-C while a step was on the main thread.
            self._scheduler.stopping.stop(run, RunState.CANCELLED, "interrupted")
            self._end_failed(attempt, state, error)
        elif _is_unwanted(attempt, state) or not self._retry(attempt, error):
            self._end_failed(attempt, state, error)

    def _end_failed(self, attempt: Attempt, state: int, error: BaseException) -> None:
        run, node = attempt.run, attempt.node
        run.errors[node] = error
        run.started[node] = attempt.started
        if attempt.worker is not None and attempt.lane is not self._scheduler.inline:
            run.workers[node] = attempt.worker.name
        self.conclude(attempt, state)
        if run.nested and node in run.nested:
            pass  # the step that called it decides what its failure means
        elif state != CANCELLED and run.fail_fast and run.stopping is None:
            self._scheduler.stopping.fail_run(run, attempt.name, error)
        if attempt.abandoned:
            # The lease stays booked, and the worker lost, until the function really ends.
            self._go_on_without(attempt)
        else:
            self.next_member(attempt)

    def _go_on_without(self, attempt: Attempt) -> None:
        """The rest of a unit whose member was abandoned starts over, with a new worker."""
        heir = self._scheduler.starting.new_attempt(attempt.run, attempt.unit, attempt.node)
        heir.position = attempt.position
        heir.unit_announced = attempt.unit_announced
        self.next_member(heir)

    def refuse(self, attempt: Attempt, state: int) -> None:
        """Fail an attempt that cannot even start; ``attempt.error`` says why."""
        assert attempt.error is not None
        self._end_failed(attempt, state, attempt.error)

    def quarantine(self, attempt: Attempt) -> None:
        """Fail a node under which host after host has died, instead of losing this one too."""
        deaths = attempt.run.quarantined[attempt.node]
        attempt.error = StepFailed(
            f"step {attempt.name!r} is not run again: the last {deaths} hosts of this run died "
            "while it ran, and nothing else ended meanwhile; look why, then resume the run, "
            "which tries it anew",
            step=attempt.name,
            attempt=attempt.number - 1,
        )
        self.refuse(attempt, FAILED)

    def _retry(self, attempt: Attempt, error: BaseException) -> bool:
        """Set up the next try, if the policy wants one."""
        run, node = attempt.run, attempt.node
        lost = isinstance(error, ResourceLost)
        # A device that was lost is no fault of the step: such a try does not count.
        number = attempt.number - run.forgiven.get(node, 0)
        if not self._wants_retry(attempt, error, number):
            return False
        if lost:
            delay = 0.0
            run.forgiven[node] = run.forgiven.get(node, 0) + 1
        else:
            policy = run.graph.nodes[node].step.retry
            delay = policy.delay_seconds(error, number, self._random)
        following = self._attempt_after(attempt, error)
        run.note_try(attempt, self._scheduler.clock())
        run.states[node] = RETRYING
        run.blemished = True
        if lost and not attempt.abandoned:
            if attempt.worker is not None:
                self._scheduler.lanes[attempt.worker_lane].spoil(attempt.worker)
            self.give_back(attempt)
        elif not attempt.abandoned:
            self._keep_for_retry(attempt, following)
        if run.bus.listening:
            run.bus.publish(
                events.NodeRetrying,
                node=attempt.name,
                attempt=attempt.number,
                delay_seconds=delay,
                error=text_of(error),
            )
        else:
            run.bus.sequence += 1
        self._scheduler.starting.park(following, Phase.BACKOFF)
        self._scheduler.stopping.set_timer(following, delay, self._resume)
        return True

    def _wants_retry(self, attempt: Attempt, error: BaseException, number: int) -> bool:
        """Whether there is to be a try after the one of this number, of those that count."""
        run, node = attempt.run, attempt.node
        if isinstance(error, WorkerDied) and self._is_to_blame(run, node):
            error.add_note(f"it has killed {_MOST_DEATHS} workers and is not tried again")
            return False
        if isinstance(error, ResourceLost):
            return self._scheduler.losses.refusal(attempt) is None
        try:
            return bool(run.graph.nodes[node].step.retry.wants(error, number))
        except BaseException as broken:  # noqa: BLE001 - the predicate is the user's
            error.add_note(f"the retry predicate of the step raised {text_of(broken)}")
            return False

    def _attempt_after(self, attempt: Attempt, error: BaseException) -> Attempt:
        following = self._scheduler.starting.new_attempt(attempt.run, attempt.unit, attempt.node)
        following.position, following.gated = attempt.position, True
        following.looked = attempt.looked
        following.number = attempt.number + 1
        following.unit_announced = attempt.unit_announced
        following.previous_error = error
        following.keys = attempt.keys
        return following

    def _is_to_blame(self, run: RunRecord, node: int) -> bool:
        """Whether a node has killed so many workers that it is not tried again."""
        run.deaths[node] = run.deaths.get(node, 0) + 1
        return run.deaths[node] >= _MOST_DEATHS

    def _keep_for_retry(self, attempt: Attempt, following: Attempt) -> None:
        """A node alone gives back everything while it waits; a group only its CPUs."""
        if len(attempt.run.graph.units.members_of(attempt.unit)) == 1:
            self.give_back(attempt)
            return
        hand_over(attempt, following)
        if following.lease is not None and following.lease.cpu_millis:
            self._scheduler.limiter.lend_cpus(following.lease)

    def _resume(self, attempt: Attempt) -> None:
        """The back-off is over."""
        self._scheduler.stopping.drop_timer(attempt)
        self._scheduler.resumed.append(attempt)
        self._scheduler.wake()


def _is_unwanted(attempt: Attempt, state: int) -> bool:
    """Whether nobody wants another try, also where one raised an error of its own when told
    to stop."""
    is_told = state == CANCELLED or attempt.stop is Stop.CANCEL
    return is_told or attempt.run.bars(attempt.node)


def _is_good(attempt: Attempt) -> bool:
    return attempt.error is None and attempt.stop is not Stop.TIMEOUT
