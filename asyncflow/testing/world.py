"""The surroundings of a simulated run: chance by seed, made-up time, names that repeat."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from random import Random
from threading import get_ident
from typing import TYPE_CHECKING, cast

import msgspec

from asyncflow.engine.attempt import Attempt
from asyncflow.engine.bus import Subscription
from asyncflow.engine.gpus import GpuProbe, installed_probe
from asyncflow.engine.record import RunRecord
from asyncflow.engine.reporting import publish_progress
from asyncflow.engine.surroundings import Surroundings
from asyncflow.events import Event
from asyncflow.lanes.lane import Lane
from asyncflow.testing.gpus import FakeGpus
from asyncflow.testing.lanes import (
    SimulatedInlineLane,
    SimulatedProcessLane,
    SimulatedThreadLane,
)
from asyncflow.testing.script import Script
from asyncflow.testing.threads import ThreadsAtWork

if TYPE_CHECKING:
    from asyncflow.testing.virtual_loop import VirtualLoop

__all__ = ["World"]

# Not 0, which stands for "not yet" in places.
BEGINNING_SECONDS = 1000.0
# 2000-01-01, in UTC seconds since the epoch: what the wall clock shows at the beginning.
BEGINNING_WALL_TIME = 946_684_800.0


class World(Surroundings):
    """What is the same again with the same seed.

    Args:
        seed: for every choice; None leaves nothing to chance, and what is equal goes in the
            order of arrival.
        script: how long steps take and how they fail.

    Attributes:
        now_seconds: the virtual time; the beginning is not 0.
    """

    has_cache = False  # a run shall not depend on those before it

    def __init__(self, seed: int | str | None = None, script: Script | None = None) -> None:
        self.now_seconds = BEGINNING_SECONDS
        self._script = Script(None, None) if script is None else script
        self._seed = seed
        # Each kind of choice has a source of its own: one more retry leaves the rest as it was.
        self.tie = None if seed is None else Random(f"{seed}: ready").random
        self._of_timers = None if seed is None else Random(f"{seed}: timers")
        self._timers = 0
        self._runtimes = 0
        self._runs = 0
        self._log: list[bytes] = []

    @property
    def seconds(self) -> float:
        """Virtual seconds since the beginning."""
        return self.now_seconds - BEGINNING_SECONDS

    def timer_tie(self) -> float:
        """Decides which of the timers of one instant goes off first."""
        if self._of_timers is not None:
            return self._of_timers.random()
        self._timers += 1
        return self._timers

    def event_log(self) -> bytes:
        """The events of all runs so far, one in a line of JSON."""
        return b"".join(self._log)

    # -- what a runtime asks for ---------------------------------------------------------

    def random(self) -> Random:
        self._runtimes += 1
        return Random(f"{self._seed}: jitter of runtime {self._runtimes}")

    def wall_clock(self) -> float:
        return BEGINNING_WALL_TIME + self.seconds

    def new_run_id(self) -> str:
        self._runs += 1
        return f"virtual-{self._runs}"

    def lanes(
        self,
        loop: asyncio.AbstractEventLoop,
        clock: Callable[[], float],
        *,
        max_threads: int,
        max_processes: int,
    ) -> dict[str, Lane]:
        threads, script = cast("VirtualLoop", loop).threads, self._script
        inline = SimulatedInlineLane(loop, clock, script)
        return {
            "inline": inline,
            "thread": SimulatedThreadLane(loop, clock, script, threads, max_threads=max_threads),
            "process": SimulatedProcessLane(
                loop, clock, script, threads, inline, max_workers=max_processes
            ),
        }

    def gpu_probe(self) -> GpuProbe:
        """That of the fake GPUs that are entered; nothing is taken from this machine."""
        return installed_probe() or FakeGpus(0)

    def launched(self, run: RunRecord) -> None:
        self._script.see(run.graph)
        run.bus.admit(_Recorder(run, self._log))
        run.report_soon = partial(_report_soon, get_ident(), run.report_soon)


def _report_soon(
    loop_thread: int, report_soon: Callable[[Attempt], None], attempt: Attempt
) -> None:
    """What a thread reports is told when it waits or ends: when it said so is real time."""
    ticket = ThreadsAtWork.current()
    if ticket is None or get_ident() == loop_thread:
        report_soon(attempt)
    else:
        ticket.news = partial(publish_progress, attempt)


class _Recorder(Subscription):
    """Writes down what happens in a run."""

    def __init__(self, run: RunRecord, log: list[bytes]) -> None:
        super().__init__(run.bus, 0, 1, "drop_oldest")
        self._log = log

    def put(self, event: Event) -> None:
        self._log.append(msgspec.json.encode(event) + b"\n")
