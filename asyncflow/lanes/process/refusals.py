"""The errors of calls that got no worker."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from asyncflow.environment import Environment
from asyncflow.errors import StepFailed
from asyncflow.lanes.worker_kind import WorkerKind

if TYPE_CHECKING:
    from asyncflow.lanes.lane import Call
    from asyncflow.lanes.process.deaths import Death
    from asyncflow.lanes.process.worker_handle import WorkerHandle

__all__ = ["never_up", "no_worker", "unsendable_arguments"]


def no_worker(step: str, kind: WorkerKind, error: OSError) -> StepFailed:
    """The system started no process."""
    told = "" if kind.environment is None else f"; {_command_of(kind.environment)}"
    refused = StepFailed(f"step {step!r} got no worker process: {error}{told}", step=step)
    refused.__cause__ = error
    return refused


def never_up(step: str, worker: WorkerHandle, death: Death) -> StepFailed:
    """A worker ended in its environment before it could be used."""
    assert worker.kind.environment is not None
    if death.exit_code is not None:
        ended = f"exited with code {death.exit_code}"
    else:
        ended = f"was ended by signal {death.signal}"
    why = worker.refusal or f"it {ended} before the worker was up"
    said = "\n".join(worker.printed)
    return StepFailed(
        f"the worker of step {step!r} could not be started: {why}; "
        f"{_command_of(worker.kind.environment)}, and it printed"
        + (f":\n{said}" if said else " nothing"),
        step=step,
    )


def unsendable_arguments(call: Call, error: Exception) -> Exception:
    """Which argument cannot be sent, by the name of its parameter."""
    from asyncflow.pickling.sending import dumps
    from asyncflow.pickling.unsendable import unsendable
    from asyncflow.step import parameters_of

    names = [parameter.name for parameter in parameters_of(call.func)]
    given = {
        names[place] if place < len(names) else f"argument {place + 1}": value
        for place, value in enumerate(call.args)
    }
    where = unsendable({**given, **(call.kwargs or {})}, "", dumps, error)
    return TypeError(
        f"step {call.name!r} cannot be sent its arguments: {where}; pass what can be pickled, or "
        "use lane='thread'"
    )


def _command_of(environment: Environment) -> str:
    from asyncflow.lanes.process.behind import visible_command

    return f"this was run: {shlex.join(visible_command(environment))} …"
