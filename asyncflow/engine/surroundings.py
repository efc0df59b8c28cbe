"""What a runtime takes from around it: chance, the wall clock, run ids, its lanes.

An event loop that plays another world (virtual time, for tests) brings its own as the attribute
``surroundings``; every runtime entered in that loop then lives in that world.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from random import Random

from asyncflow.engine.gpus import GpuProbe, current_probe
from asyncflow.engine.record import RunRecord
from asyncflow.lanes.inline import InlineLane
from asyncflow.lanes.lane import Lane
from asyncflow.lanes.thread import ThreadLane

__all__ = ["Lanes", "Surroundings", "clock_of", "new_run_id", "surroundings_of"]


class Lanes(dict[str, Lane]):
    """Lanes by name; the process lane is made when first asked for, as few programs have one."""

    def __init__(self, lanes: dict[str, Lane], process_lane: Callable[[], Lane]) -> None:
        super().__init__(lanes)
        self._process_lane = process_lane

    def __missing__(self, name: str) -> Lane:
        if name != "process":
            raise KeyError(name)
        lane = self[name] = self._process_lane()
        return lane


class Surroundings:
    """The real world, and what a play of it replaces.

    Attributes:
        tie: gives a number that decides which of several ready units starts first; None
            leaves them in the order in which they became ready.
        has_cache: whether steps find results of earlier runs.
    """

    tie: Callable[[], float] | None = None
    has_cache: bool = True

    def random(self) -> Random:
        """Where the jitter of retries comes from; one for each runtime."""
        return Random()

    def wall_clock(self) -> float:
        """UTC seconds since the epoch, as events show them."""
        return time.time()

    def new_run_id(self) -> str:
        """A run id nobody has."""
        return new_run_id()

    def lanes(
        self,
        loop: asyncio.AbstractEventLoop,
        clock: Callable[[], float],
        *,
        max_threads: int,
        max_processes: int,
    ) -> dict[str, Lane]:
        """The lanes of a runtime, by name."""

        def process_lane() -> Lane:
            if sys.platform == "win32":
                raise RuntimeError("the process lane does not work on Windows; use lane='thread'")
            from asyncflow.lanes.process.lane import ProcessLane

            return ProcessLane(loop, clock, max_workers=max_processes)

        return Lanes(
            {
                "inline": InlineLane(loop, clock),
                "thread": ThreadLane(loop, clock, max_threads=max_threads),
            },
            process_lane,
        )

    def gpu_probe(self) -> GpuProbe:
        """Who finds the machine's GPUs."""
        return current_probe()

    def launched(self, run: RunRecord) -> None:
        """A run was handed to the scheduler; nothing of it has begun."""


def new_run_id() -> str:
    """A run id nobody has: the UTC time and a random part."""
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{os.urandom(4).hex()}"


_REAL = Surroundings()


def surroundings_of(loop: asyncio.AbstractEventLoop) -> Surroundings:
    """Those that a loop brings, else the real world."""
    found = getattr(loop, "surroundings", _REAL)
    return found if isinstance(found, Surroundings) else _REAL


def clock_of(loop: asyncio.AbstractEventLoop) -> Callable[[], float]:
    """Seconds on the loop's clock, by the shortest way.

    A virtual loop has a clock of its own; the usual one only wraps ``time.monotonic``.
    """
    usual = getattr(type(loop), "time", None) is asyncio.BaseEventLoop.time
    return time.monotonic if usual else loop.time
