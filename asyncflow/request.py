"""What a runtime is asked to run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Literal, Protocol

import msgspec

from asyncflow.engine.record import RunRecord
from asyncflow.errors import GraphError
from asyncflow.graph.graph import Graph

__all__ = [
    "FailurePolicy",
    "OnChange",
    "OnExisting",
    "RunRequest",
    "Startable",
    "nested_request",
    "recording_options",
]

FailurePolicy = Literal["fail_fast", "collect_all"]
OnExisting = Literal["resume", "restart", "fail"]
OnChange = Literal["rerun", "refuse"]


class RunRequest(msgspec.Struct, frozen=True):
    """A built graph with values for one run.

    Args:
        graph: what to run.
        inputs, services: values that parameters find by name.
        given: values that stand in for assets of the graph that nothing produces.
        run_id: None for one that nobody has.
        failure_policy: ``"fail_fast"`` or ``"collect_all"``.
        timeout_seconds: for the whole run.
        checkpoint: where to record the run: a directory, True for the usual one, False for
            nowhere; None leaves it to the runtime.
        on_existing: what becomes of a recorded run of that id: ``"resume"``, ``"restart"`` or
            ``"fail"``.
        on_change: what becomes of a run whose steps have changed: ``"rerun"`` runs them again
            with everything below them, ``"refuse"`` raises RunConflict.
        on_conflict: what becomes of a recorded run with other inputs.
        parent: the recorded run that this one is nested in.
        max_workers: how many steps that name no lane may be in worker lanes at once.
        one_at_a_time: whether a unit begins only when the one before has ended, whatever there is
            room for; what a unit asks for while it runs does not wait.
        backend: the lane of sync steps that name none.
    """

    graph: Graph
    inputs: Mapping[str, Any] = {}
    services: Mapping[str, Any] = {}
    given: Mapping[str, Any] = {}
    run_id: str | None = None
    failure_policy: FailurePolicy = "fail_fast"
    timeout_seconds: float | None = None
    max_workers: int | None = None
    one_at_a_time: bool = False
    backend: str = "thread"
    checkpoint: bool | str | None = None
    on_existing: OnExisting = "resume"
    on_change: OnChange = "rerun"
    on_conflict: Literal["refuse", "restart"] = "refuse"
    parent: str = ""


def nested_request(request: RunRequest, run: RunRecord, name: str) -> RunRequest:
    """A run that a step asks for, recorded where its own run is, under a name of its own.

    What it was given is made anew by the step, so a recorded run with other inputs makes way.
    """
    if run.kept_in is None:
        return request
    return msgspec.structs.replace(
        request,
        run_id=f"{run.run_id}/{name}",
        checkpoint=run.kept_in,
        parent=run.run_id,
        on_conflict="restart",
    )


def recording_options(checkpoint: Any, on_existing: Any, on_change: Any) -> dict[str, Any]:
    """The fields of a :class:`RunRequest` that say whether and where a run is recorded.

    Raises:
        GraphError: one of them makes no sense.
    """
    if checkpoint is not None and not isinstance(checkpoint, bool):
        if not isinstance(checkpoint, str | os.PathLike) or not os.fspath(checkpoint):
            raise GraphError(f"checkpoint is True, False or a directory, not {checkpoint!r}")
        checkpoint = os.fspath(checkpoint)
    if on_existing not in ("resume", "restart", "fail"):
        raise GraphError(f"on_existing is 'resume', 'restart' or 'fail', not {on_existing!r}")
    if on_change not in ("rerun", "refuse"):
        raise GraphError(f"on_change is 'rerun' or 'refuse', not {on_change!r}")
    return {"checkpoint": checkpoint, "on_existing": on_existing, "on_change": on_change}


class Startable(Protocol):
    """What :meth:`Runtime.start` takes: a pipeline of any dialect."""

    async def request(self, *args: Any, **options: Any) -> RunRequest: ...
