"""Which runtime, run and step the caller is part of."""

from __future__ import annotations

import contextvars
from typing import TYPE_CHECKING

from asyncflow.engine.attempt import Attempt
from asyncflow.engine.record import RunRecord
from asyncflow.engine.scheduler import Scheduler
from asyncflow.lanes.lane import CURRENT

if TYPE_CHECKING:
    from asyncflow.runtime import Runtime

__all__ = ["AMBIENT", "RUN", "ambient_runtime", "calling_attempt", "calling_run"]

AMBIENT: contextvars.ContextVar[Runtime | None] = contextvars.ContextVar(
    "asyncflow_runtime", default=None
)
RUN: contextvars.ContextVar[RunRecord | None] = contextvars.ContextVar(
    "asyncflow_run", default=None
)


def ambient_runtime() -> Runtime | None:
    """The innermost runtime entered around the caller, or that of the run it is part of.

    None where there is none, or it belongs to another event loop.
    """
    runtime = AMBIENT.get()
    return runtime if runtime is not None and runtime.is_usable_here() else None


def calling_run(scheduler: Scheduler) -> RunRecord | None:
    """The run, of this scheduler, of whose step the caller is a part."""
    record = RUN.get()
    return record if record is not None and scheduler.runs.get(record.run_id) is record else None


def calling_attempt(scheduler: Scheduler) -> Attempt | None:
    """The attempt of one of this scheduler's steps that asks for something, if one does."""
    call = CURRENT.get()
    if not isinstance(call, Attempt) or call.finished:
        return None
    return call if scheduler.runs.get(call.run.run_id) is call.run else None
