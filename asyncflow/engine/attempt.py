"""One try of one node, from the moment its unit is ready."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Mapping
from enum import IntEnum
from typing import TYPE_CHECKING, Any

from asyncflow.context import GrantedLease, StepContext
from asyncflow.errors import GraphError
from asyncflow.lanes.lane import Call
from asyncflow.lanes.worker_kind import WorkerKind
from asyncflow.limits import Keys
from asyncflow.step import Step

if TYPE_CHECKING:
    from asyncflow.engine.caching import Looked
    from asyncflow.engine.convoys import Convoy
    from asyncflow.engine.limiter import Lease
    from asyncflow.engine.nesting import Retake
    from asyncflow.engine.record import RunRecord

__all__ = [
    "Attempt",
    "Phase",
    "Stop",
    "granted_lease",
    "hand_over",
    "make_context",
    "parent_of",
    "worker_kind",
]

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
    LOOKUP = 7  # it is being looked up in the cache
    SAVING = 8  # it succeeded, and its result is being saved in the cache


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
    ``convoy``: the tiny units it goes with, see :mod:`asyncflow.engine.convoys`; ``begun``: as
    far as the engine knows; ``slot``: it holds what they share. ``postponed``: it waited until
    earlier members of its group had run again; ``sent``: it was sent ahead of its turn.
    ``waits``: for how many pieces of its nest it is waiting; ``nest``: the nested nodes it
    asked for that have not ended, ``nested_runs`` the runs; ``retake``: it waits for its CPUs to go
    on; ``parking``: numbers those that began to wait, the youngest last.
    ``alone``: started by the shortest way, see :attr:`Graph.alone`.
    ``examined``: its devices were looked at after it failed. ``looked``: it was looked up in the
    cache. ``keys``: the named keys it takes, once they are worked out.
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
    looked: Looked | None = None
    unit_announced: bool = False
    worker_lane: str = ""
    capped: bool = False
    previous_error: BaseException | None = None
    postponed: bool = False
    sent: bool = False
    convoy: Convoy | None = None
    begun: bool = False
    slot: bool = False
    keys: Keys | None = None
    waits: int = 0
    nest: dict[int, None] | None = None
    nested_runs: dict[asyncio.Future[Any], None] | None = None
    retake: Retake | None = None
    parking: int = 0
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
        if not hasattr(pipeline, "request"):
            raise GraphError(
                f"step {self.name!r} runs {pipeline!r}, which is no pipeline; call() is for steps"
            )

        async def launch(depth: int, name: str) -> Any:
            return await self.run.launch_nested(pipeline, inputs, self, depth, name)

        return await self.run.nesting.run(self, pipeline.name, key, launch)

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop that this attempt's run belongs to."""
        assert self.run.nesting is not None
        return self.run.nesting.loop

    def take_parts(self, parts: list[Any], worker: Any) -> Any:
        """The value of a member of a group, with stand-ins for what stayed in the worker."""
        return self.run.take_parts(self, parts, worker)

    def dropped(self, worker: Any) -> None:
        """The worker of a group keeps no longer what this member was the last to need."""
        self.run.dropped(self, worker)

    def unbegun(self) -> bool:
        """Take back a call that a lane was given and has not begun; false if it is to be made."""
        if self.convoy is None or self.begun or self.cancel_requested:
            return False
        self.run.came_back(self)
        return True

    def began(self) -> None:
        """Its timeout counts from now on."""
        seconds = self.run.graph.nodes[self.node].step.timeout
        if seconds is None or self.timer is not None or self.stop is not Stop.NONE:
            return
        if self.phase is Phase.RUNNING:
            self.run.set_timeout(self, seconds)

    def ends(self) -> None:
        """Its last report would come too late."""
        if self.progress is not None:
            self.run.tell_report(self)

    def take_output(self, stream: str, lines: tuple[str, ...]) -> None:
        """What a worker process has printed meanwhile."""
        self.run.take_output(self, stream, lines)

    def take_peak(self, memory_bytes: int) -> None:
        """The most memory that a worker process held meanwhile; 0 if that is not known."""
        if memory_bytes:
            self.run.peaks[self.node] = memory_bytes

    def report(self, done: float, total: float | None, message: str | None) -> None:
        """Keep the latest progress and see that it is published; from any thread."""
        already_waiting = self.progress is not None
        self.progress = (done, total, message)
        if not already_waiting:
            self.run.report_soon(self)


def worker_kind(attempt: Attempt) -> WorkerKind:
    """What the worker process of an attempt has to be started with."""
    granted = granted_lease(attempt)
    environment = attempt.run.graph.units.environments.get(attempt.unit)
    return WorkerKind(granted.gpu_ids, math.ceil(granted.cpus), environment)


def make_context(attempt: Attempt, holder: Attempt | None = None) -> StepContext:
    """The :class:`StepContext` of an attempt.

    Args:
        holder: the attempt that holds what this one will, where its turn has not come.
    """
    run = attempt.run
    return StepContext(
        run_id=run.run_id,
        node=attempt.name,
        attempt=attempt.number,
        lease=granted_lease(holder or attempt),
        logger=_LOGGER.getChild(f"{run.graph.name}.{attempt.name}"),
        control=attempt,
    )


def parent_of(attempt: Attempt) -> Attempt | None:
    """The attempt that an attempt is nested in, if any."""
    nested = attempt.run.nested.get(attempt.node)
    return attempt.run.parent if nested is None else nested.parent


def granted_lease(attempt: Attempt) -> GrantedLease:
    """What an attempt holds; of memory and devices that it did not ask for, what its parents do."""
    cpu_millis = 0 if attempt.lease is None else attempt.lease.cpu_millis
    memory_bytes = 0
    gpu_ids: tuple[str, ...] = ()
    holder: Attempt | None = attempt
    while holder is not None:
        lease = holder.lease
        if lease is not None:
            memory_bytes = memory_bytes or lease.memory_bytes
            gpu_ids = gpu_ids or lease.gpu_ids
        holder = parent_of(holder)
    return GrantedLease(cpu_millis / 1000, memory_bytes, gpu_ids)


def hand_over(attempt: Attempt, following: Attempt) -> None:
    """What a unit holds goes on to its next attempt."""
    following.lease, attempt.lease = attempt.lease, None
    following.worker, attempt.worker = attempt.worker, None
    following.worker_lane = attempt.worker_lane
    following.capped, attempt.capped = attempt.capped, False
    following.keep_worker = attempt.keep_worker
    following.unit_announced = attempt.unit_announced
