"""The record of a run that is about to begin, from what was asked for."""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from asyncflow.ambient import RUN
from asyncflow.engine.record import RunRecord
from asyncflow.request import RunRequest

if TYPE_CHECKING:
    from asyncflow.checkpoints import Checkpoint

__all__ = ["record_of"]


def record_of(
    request: RunRequest,
    run_id: str,
    outside: Mapping[str, Any],
    services: Mapping[str, Any],
    context: contextvars.Context,
    clock: Callable[[], float],
    checkpoint: Checkpoint | None,
) -> RunRecord:
    """Everything that is known of a run before it begins.

    Args:
        request: what to run.
        run_id: its id.
        outside: the values that parameters find by name.
        services: those of the runtime and of the run.
        context: the caller's context variables, a copy that is the run's own.
        clock: seconds on the loop's clock.
        checkpoint: where it is recorded, with what an earlier life of it left.
    """
    if checkpoint is None:
        policy = request.failure_policy
        record = RunRecord(request.graph, run_id, outside, context, policy, clock)
    else:
        record = checkpoint.record
        record.outside, record.context = outside, context
    record.services = frozenset(services.keys() - request.inputs.keys())
    record.max_workers, record.backend = request.max_workers, request.backend
    record.one_at_a_time = request.one_at_a_time
    for name, value in request.given.items():
        record.values[request.graph.assets[name]] = value
    context.run(RUN.set, record)
    return record
