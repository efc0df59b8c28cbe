"""What follows when a GPU is lost while things run.

A loss comes to light in two ways: the probe says so by itself, or a step that holds devices of
the machine fails and a new look does not find one of them any more. The device is handed out no
more, the steps that hold it fail as ResourceLost and are tried again elsewhere, and what asks for
more than is left fails at once instead of waiting for ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING

from asyncflow import events
from asyncflow.engine.attempt import Attempt, Phase, Stop
from asyncflow.engine.gpus import GpuProbe, GpuReport, devices_of, find_gpus
from asyncflow.engine.limiter import Lease
from asyncflow.errors import CapacityError, ResourceLost
from asyncflow.states import FAILED, TIMED_OUT

if TYPE_CHECKING:
    from asyncflow.engine.scheduler import Scheduler

__all__ = ["Losses"]

_SUSPECT = frozenset({FAILED, TIMED_OUT})


class Losses:
    """The devices that one scheduler has lost.

    Attributes:
        reasons: why each lost device is lost, by its id.
    """

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._probe: GpuProbe | None = None
        self._end_watch: Callable[[], None] | None = None
        self._look: asyncio.Task[None] | None = None
        self._suspects: dict[Attempt, None] = {}
        self.reasons: dict[str, str] = {}

    def watch(self, probe: GpuProbe) -> None:
        """The devices are those of this probe: they can be lost."""
        loop = self._scheduler.loop
        self._probe = probe

        def lost(uuid: str, why: str) -> None:
            loop.call_soon_threadsafe(self.lose, {uuid: why})

        self._end_watch = probe.watch(lost)

    async def aclose(self) -> None:
        """Watch no longer."""
        if self._end_watch is not None:
            self._end_watch()
        if self._look is not None:
            self._look.cancel()
            await asyncio.wait([self._look])

    # -- looking after a failure ---------------------------------------------------------

    def examine(self, attempt: Attempt, state: int) -> bool:
        """Whether an attempt that failed has to wait for a look at the devices it held."""
        lease = attempt.lease
        if (
            self._probe is None
            or lease is None
            or not lease.gpu_ids
            or state not in _SUSPECT
            or attempt.abandoned
            or attempt.examined
            or attempt.run.bars(attempt.node)
            or self.held_by(lease)
        ):
            return False
        attempt.examined = True
        self._suspects[attempt] = None
        self._scheduler.starting.park(attempt, Phase.EXAMINED)
        self._scheduler.timers += 1
        if self._look is None:
            self._look = self._scheduler.loop.create_task(self._look_again(self._probe))
        return True

    def clear(self, attempt: Attempt) -> None:
        """An attempt waits for the look no longer."""
        if attempt in self._suspects:
            del self._suspects[attempt]
            self._scheduler.timers -= 1
            self._scheduler.starting.unpark(attempt)

    async def _look_again(self, probe: GpuProbe) -> None:
        probe.forget()
        report = await find_gpus(probe)
        self._look = None
        self.lose(self._missing(report))
        blind = "" if report.gpus else "; ".join(report.faults)
        for attempt in list(self._suspects):
            self.clear(attempt)
            if blind and attempt.error is not None:
                attempt.error.add_note(f"its GPUs could not be looked at afterwards: {blind}")
            self._scheduler.settlement.fail(attempt)
        self._scheduler.wake()

    def _missing(self, report: GpuReport) -> dict[str, str]:
        """The devices that are there no more; none if the look itself came to nothing."""
        if not report.gpus and (report.faults or report.absent):
            return {}
        found = {device.id for device in devices_of(report, None)}
        why = "; ".join(report.faults) or "the driver does not list it any more"
        here = self._scheduler.limiter.capacity.devices
        return {device.id: why for device in here if device.id not in found}

    # -- what a loss leads to ------------------------------------------------------------

    def lose(self, reasons: dict[str, str]) -> None:
        """These devices are lost."""
        scheduler = self._scheduler
        gone = scheduler.limiter.lose(reasons)
        if not gone:
            return
        self.reasons |= {uuid: reasons[uuid] for uuid in gone}
        for run in list(scheduler.runs.values()):
            for uuid in gone:
                run.bus.publish(events.Warned, message=f"GPU {uuid} was lost: {self.reasons[uuid]}")
            for attempt in list(run.in_flight.values()):
                if attempt.phase is Phase.RUNNING and self.held_by(attempt.lease):
                    scheduler.stopping.stop_for_loss(attempt)
        self._fail_hopeless(scheduler.limiter.hopeless())
        scheduler.wake()

    def held_by(self, lease: Lease | None) -> tuple[str, ...]:
        """The lost devices that a lease holds."""
        if lease is None or not self.reasons:
            return ()
        return tuple(uuid for uuid in lease.gpu_ids if uuid in self.reasons)

    def blame(self, attempt: Attempt, error: BaseException) -> BaseException:
        """The error of an attempt that failed: ResourceLost if a device of its was lost."""
        devices = self.held_by(attempt.lease)
        if not devices:
            return error
        stories = (f"GPU {uuid} ({self.reasons[uuid]})" for uuid in devices)
        lost = ResourceLost(
            f"step {attempt.name!r}, attempt {attempt.number}, lost {' and '.join(stories)}"
            f"{self._outlook(attempt)}",
            step=attempt.name,
            attempt=attempt.number,
            devices=devices,
        )
        if attempt.stop is not Stop.LOST:
            lost.__cause__ = error
        return lost

    def _outlook(self, attempt: Attempt) -> str:
        why = self.refusal(attempt)
        return "" if why is None else f"; no other device will do: {why}"

    def refusal(self, attempt: Attempt) -> str | None:
        """Why what an attempt asks for can never be granted any more; None if it can."""
        if not self.reasons:
            return None
        demand = self._scheduler.starting.demand_of(attempt)
        if demand is None:
            return None
        limiter = self._scheduler.limiter
        return limiter.refusal(limiter.clamped(demand))

    def _fail_hopeless(self, hopeless: dict[Hashable, str]) -> None:
        for ticket, why in hopeless.items():
            if isinstance(ticket, Attempt):
                self._scheduler.limiter.withdraw(ticket)
                self._scheduler.starting.unpark(ticket)
                self.give_up(ticket, why)

    def give_up(self, attempt: Attempt, why: str) -> None:
        """Fail an attempt that can never have what it asks for any more."""
        lost = ", ".join(self.reasons)
        attempt.error = CapacityError(
            f"step {attempt.name!r} can never start any more: {why} Lost since the run began: "
            f"{lost}."
        )
        self._scheduler.settlement.refuse(attempt, FAILED)
