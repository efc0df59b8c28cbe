"""One try of one node, from the moment its unit is ready."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from enum import IntEnum
from typing import TYPE_CHECKING, Any

from asyncflow.context import GrantedLease, StepContext
from asyncflow.lanes.lane import Call
from asyncflow.step import Step

if TYPE_CHECKING:
    from asyncflow.engine.limiter import Lease
    from asyncflow.engine.record import RunRecord

__all__ = ["Attempt", "Phase", "Stop", "make_context"]

_LOGGER = logging.getLogger("asyncflow.step")


class Phase(IntEnum):
    """What an attempt is doing or waiting for."""

    READY = 0
    CONDITION = 1  # its condition is being evaluated
    CAPACITY = 2  # it waits for the limiter
    LANE = 3  # it waits for a free worker of its lane
    BACKOFF = 4  # it waits to be tried again
    RUNNING = 5
    EXAMINED = 6  # it failed, and its devices are being looked at


class Stop(IntEnum):
    """Why an attempt was told to stop."""

    NONE = 0
    TIMEOUT = 1
    CANCEL = 2
    LOST = 3  # a device that it holds was lost


class Attempt(Call, eq=False):
    """A call together with what the engine knows of it.

    ``position`` is the node's place among the members of its unit. ``lease``, ``worker``
    and ``capped`` (it counts against the run's ``max_workers``) belong to the unit and go
    on to the attempt that follows. ``gated``: its condition was found true.
    ``waits``: for how many pieces of its nest it is waiting; ``nest``: the nested nodes it
    asked for that have not ended. ``alone``: started by the shortest way, see :attr:`Graph.alone`.
    ``examined``: its devices were looked at after it failed.
    """

    run: RunRecord = None  # type: ignore[assignment]
    unit: int = 0
    node: int = 0
    position: int = 0
    number: int = 1
    phase: Phase = Phase.READY
    gated: bool = False
    alone: bool = False
    lane: Any = None
    lease: Lease | None = None
    timer: asyncio.TimerHandle | None = None
    stop: Stop = Stop.NONE
    abandoned: bool = False
    examined: bool = False
    unit_announced: bool = False
    worker_lane: str = ""
    capped: bool = False
    previous_error: BaseException | None = None
    waits: int = 0
    nest: dict[int, None] | None = None
    progress: tuple[float, float | None, str | None] | None = None

    async def call_nested(
        self, step: Step[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], key: Any
    ) -> Any:
        """Run a step as a nested node of this attempt's."""
        assert self.run.nesting is not None
        return await self.run.nesting.call(self, step, args, kwargs, key)

    async def run_nested(self, pipeline: Any, inputs: Mapping[str, Any] | None, key: Any) -> Any:
        """Run a pipeline nested in this attempt."""
        assert self.run.nesting is not None

        async def launch(depth: int) -> Any:
            return await self.run.launch_nested(pipeline, inputs, self, depth)

        return await self.run.nesting.run(self, pipeline.name, key, launch)

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop that this attempt's run belongs to."""
        assert self.run.nesting is not None
        return self.run.nesting.loop

    def report(self, done: float, total: float | None, message: str | None) -> None:
        """Keep the latest progress and see that it is published; from any thread."""
        already_waiting = self.progress is not None
        self.progress = (done, total, message)
        if not already_waiting:
            self.run.report_soon(self)


def make_context(attempt: Attempt) -> StepContext:
    """The :class:`StepContext` of an attempt."""
    run, lease = attempt.run, attempt.lease
    granted = GrantedLease()
    if lease is not None:
        granted = GrantedLease(lease.cpu_millis / 1000, lease.memory_bytes, lease.gpu_ids)
    elif run.nested and attempt.node in run.nested:
        # What its parent holds is there for its nest.
        granted = make_context(run.nested[attempt.node].parent).lease
    return StepContext(
        run_id=run.run_id,
        node=attempt.name,
        attempt=attempt.number,
        lease=granted,
        logger=_LOGGER.getChild(f"{run.graph.name}.{attempt.name}"),
        control=attempt,
    )
