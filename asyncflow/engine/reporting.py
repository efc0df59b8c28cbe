"""The words for what happened: the fields of events."""

from __future__ import annotations

import asyncio
from typing import Any

from asyncflow import events
from asyncflow.engine.attempt import Attempt
from asyncflow.engine.record import RunRecord
from asyncflow.errors import text_of
from asyncflow.failure import RunFailure
from asyncflow.states import CANCELLED, NODE_STATES, RunState

__all__ = ["finish_fields", "make_failure", "publish_progress", "report_soon", "unit_fields"]


def unit_fields(attempt: Attempt) -> dict[str, Any]:
    """What a :class:`UnitStarted` says of the unit of an attempt."""
    run, unit, lease = attempt.run, attempt.unit, attempt.lease
    graph = run.graph
    return {
        "node": graph.unit_name(unit),
        "members": tuple(graph.nodes[member].name for member in graph.units.members_of(unit)),
        "lane": run.lane_of(unit),
        "cpus": 0.0 if lease is None else lease.cpu_millis / 1000,
        "memory_bytes": 0 if lease is None else lease.memory_bytes,
        "gpu_ids": () if lease is None else lease.gpu_ids,
    }


def make_failure(run: RunRecord) -> RunFailure | None:
    """What a clean-up step is told; None where nothing has gone wrong."""
    errors = {
        run.graph.nodes[node].name: error
        for node, error in run.errors.items()
        if run.states[node] != CANCELLED
    }
    if run.stopping is None and not errors:
        return None
    cancelled = run.stopping is not None and run.stop_state is RunState.CANCELLED
    return RunFailure(
        run_id=run.run_id,
        pipeline_name=run.graph.name,
        state="cancelled" if cancelled else "failed",
        reason=run.stopping or "",
        errors=errors,
    )


def finish_fields(run: RunRecord, node: int) -> dict[str, Any]:
    """What a :class:`NodeFinished` says of a node."""
    error = run.errors.get(node)
    began = run.started[node]
    return {
        "node": run.graph.nodes[node].name,
        "attempt": run.attempts_of(node),
        "state": NODE_STATES[run.states[node]],
        "duration_seconds": max(0.0, run.finished[node] - began) if began else 0.0,
        "error": text_of(error),
        "cached": node in run.cached,
    }


def report_soon(loop: asyncio.AbstractEventLoop, attempt: Attempt) -> None:
    """Have an attempt's latest progress published; called from any thread."""
    try:
        loop.call_soon_threadsafe(publish_progress, attempt)
    except RuntimeError:
        # An abandoned thread may report after its loop was closed; nobody is left to tell.
        if not loop.is_closed():
            raise


def publish_progress(attempt: Attempt) -> None:
    """Publish what an attempt reported last, if that was not done yet."""
    run, latest = attempt.run, attempt.progress
    attempt.progress = None
    if latest is None or run.is_over or attempt.finished:
        return
    done, total, message = latest
    run.progress[attempt.node] = latest
    run.bus.publish(
        events.NodeProgress,
        node=attempt.name,
        attempt=attempt.number,
        done=done,
        total=total,
        message=message,
    )
