"""Why a node is where it is: what it waits for, and for whom."""

from __future__ import annotations

from typing import TYPE_CHECKING

from asyncflow.engine.attempt import Attempt, Phase
from asyncflow.engine.record import RunRecord
from asyncflow.errors import text_of
from asyncflow.quantities import format_seconds
from asyncflow.states import RETRYING, RUNNING, WAITING, NodeState

if TYPE_CHECKING:
    from asyncflow.engine.scheduler import Scheduler

__all__ = ["explain"]


def explain(scheduler: Scheduler, run: RunRecord, node: int) -> str:
    """A sentence or two on what a node does or waits for."""
    name = run.graph.nodes[node].name
    if run.states[node] not in (WAITING, RUNNING, RETRYING):
        return f"{name!r} {_ended(run, node)}"
    unit = run.graph.units.of_node[node]
    attempt = run.in_flight.get(unit) or run.parked.get(unit)
    if attempt is None:
        return f"{name!r} {_not_begun(scheduler, run, node, unit)}"
    if attempt.node != node:
        before = f"{attempt.name!r}, which {_at_work(scheduler, attempt)}"
        return f"{name!r} waits in its group for {before}"
    return f"{name!r} {_at_work(scheduler, attempt)}"


def _ended(run: RunRecord, node: int) -> str:
    state = run.state_of(node)
    if state is NodeState.UPSTREAM_FAILED:
        above = run.graph.failed_above(node, run.states)
        culprit = "a step above it" if above is None else repr(run.graph.nodes[above].name)
        return f"did not run because {culprit} failed"
    if state is NodeState.SKIPPED:
        return "was skipped: its condition, or that of a step whose value it needs, was false"
    error = text_of(run.errors.get(node))
    took = max(0.0, run.finished[node] - run.started[node]) if run.started[node] else 0.0
    ended = f"{str(state).replace('_', ' ')} after {format_seconds(took)}"
    words = f"{ended}, attempt {run.attempts_of(node)}"
    return f"{words}: {error}" if error else words


def _not_begun(scheduler: Scheduler, run: RunRecord, node: int, unit: int) -> str:
    if run.bars(node):
        return f"will not start: the run is stopping ({run.stopping})"
    outside = {
        parent
        for member in run.graph.units.members_of(unit)
        for parent in run.graph.parents[member]
        if run.graph.units.of_node[parent] != unit and not run.is_final(parent)
    }
    if outside:
        names = [f"{run.graph.nodes[i].name!r} ({run.state_of(i)})" for i in sorted(outside)]
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        return f"waits for {', '.join(names[:5])}{more}"
    ahead = len(run.frontier.ready)
    return (
        f"is ready and waits for its turn: {scheduler.in_flight} units are in flight, "
        f"max_concurrency is {scheduler.max_concurrency}, and {ahead} units of this run are ready"
    )


def _at_work(scheduler: Scheduler, attempt: Attempt) -> str:
    now = scheduler.clock()
    match attempt.phase:
        case Phase.RUNNING:
            told = ", and was told to stop" if attempt.cancel_requested else ""
            since = max(0.0, now - attempt.started) if attempt.started else 0.0
            return (
                f"runs in the {attempt.lane.name} lane for {format_seconds(since)}, attempt "
                f"{attempt.number}{told}"
            )
        case Phase.CONDITION:
            return "has its condition evaluated"
        case Phase.LOOKUP:
            return "is being looked up in the cache"
        case Phase.SAVING:
            return "has succeeded, and its result is being saved in the cache"
        case Phase.CAPACITY:
            return scheduler.limiter.explain(attempt, now).removeprefix(f"{attempt!r} ")
        case Phase.EXAMINED:
            return "failed, and the GPUs it held are being looked at"
        case Phase.LANE:
            return f"waits for a worker: {_lane_story(scheduler, attempt)}"
        case Phase.BACKOFF:
            left = attempt.timer.when() - scheduler.loop.time() if attempt.timer else 0.0
            return (
                f"failed at attempt {attempt.number - 1} ({text_of(attempt.previous_error)}) and "
                f"is tried again in {format_seconds(max(0.0, left))}"
            )
        case _:
            return "is about to start"


def _lane_story(scheduler: Scheduler, attempt: Attempt) -> str:
    run = attempt.run
    name = run.lane_of(attempt.unit)
    if run.max_workers is not None and run.capped >= run.max_workers:
        return f"its executor allows {run.max_workers} at once"
    statistics = scheduler.lanes[name].statistics()
    return f"all {statistics.workers} workers of the {name} lane are busy"
