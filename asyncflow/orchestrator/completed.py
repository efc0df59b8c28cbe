"""The results a run has until now, for modules that ask for them while it goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from asyncflow.context import StepContext
from asyncflow.step import Step
from asyncflow.storage.unrecorded import unrecorded

if TYPE_CHECKING:
    from asyncflow.engine.record import RunRecord

__all__ = ["COMPLETED_STEP", "completed_here"]


def completed_here(step: StepContext) -> dict[str, Any] | None:
    """The values of the modules that have succeeded; None in a worker, whose host knows them."""
    run = getattr(step._control, "run", None)
    return None if run is None else _values(run)


def _values(run: RunRecord) -> dict[str, Any]:
    # Here, because a worker has no use for the engine.
    from asyncflow.engine.record import FREED
    from asyncflow.graph.node import MISSING
    from asyncflow.states import SUCCEEDED

    found = {}
    # A copy: the run goes on while a thread looks at it.
    for index, state in enumerate(bytes(run.states)):
        name = run.graph.nodes[index].name
        if state == SUCCEEDED and "/" not in name:  # no nested task
            value = run.value_of(index)
            if value is not MISSING and value is not FREED:
                found[name] = value
    return found


@unrecorded
async def _completed(step: StepContext) -> dict[str, Any]:
    """Run nested, on the event loop of the host, for a module in a worker process."""
    return completed_here(step) or {}


COMPLETED_STEP = Step(_completed, name="results")
