"""How long the host's event loop is held while a run fans out.

A sibling coroutine asks for a turn again and again; the time between two of its turns is
how long it was held up. Pauses of the garbage collector are taken out and told apart: they
grow with everything the host keeps, not with what the engine does.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Self

from asyncflow import Runtime
from benchmarks.graphs import fan_out, pipeline_of
from benchmarks.report import Goal, Row
from benchmarks.sampling import Scale, run_in

__all__ = ["CollectorPauses", "measure_hold_up", "watching"]

TICKS = 1_000


class CollectorPauses:
    """While entered, knows how long the collector has paused everything.

    Args:
        clock: seconds; ``time.thread_time`` counts only what this thread computes, so that what
            else the machine does meanwhile does not show.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self.clock = clock
        self.total_seconds = 0.0
        self.longest_seconds = 0.0
        self._began = 0.0

    def __enter__(self) -> Self:
        gc.callbacks.append(self._hear)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        gc.callbacks.remove(self._hear)

    def _hear(self, phase: str, about: dict[str, int]) -> None:
        if phase == "start":
            self._began = self.clock()
            return
        pause = self.clock() - self._began
        self.total_seconds += pause
        self.longest_seconds = max(self.longest_seconds, pause)


@asynccontextmanager
async def watching(pauses: CollectorPauses, held_seconds: list[float]) -> AsyncIterator[None]:
    """Collect, for as long as the block runs, how long each turn of the loop held a sibling."""
    done = False

    async def sibling() -> None:
        before, paused = pauses.clock(), pauses.total_seconds
        while not done:
            await asyncio.sleep(0)
            now = pauses.clock()
            held_seconds.append(now - before - (pauses.total_seconds - paused))
            before, paused = now, pauses.total_seconds

    task = asyncio.create_task(sibling())
    await asyncio.sleep(0)
    try:
        yield
    finally:
        done = True
        await task


async def _while_running(scale: Scale, pauses: CollectorPauses) -> list[float]:
    held_seconds: list[float] = []
    pipeline = pipeline_of(fan_out(scale.of(100_000)))
    enough = TICKS // scale.divisor
    async with Runtime() as runtime:
        run = run_in(runtime, pipeline)
        while len(held_seconds) < enough:
            gc.collect()
            async with watching(pauses, held_seconds):
                # Kept until the watch is over: what letting go of it takes is the host's.
                kept = await run()
            del kept
    return held_seconds


async def _while_building(scale: Scale, pauses: CollectorPauses) -> list[float]:
    held_seconds: list[float] = []
    deps = fan_out(scale.of(100_000))
    for _ in range(scale.samples):
        pipeline = pipeline_of(deps, build=False)
        gc.collect()
        async with watching(pauses, held_seconds):
            await pipeline.build_async()
    return held_seconds


def _rows(
    when: str, held_seconds: list[float], pauses: CollectorPauses, p99_goal: Goal | None = None
) -> list[Row]:
    p99 = sorted(held_seconds)[int(0.99 * len(held_seconds))]
    ticks = f"{len(held_seconds):,} ticks"
    return [
        Row(f"hold-up {when}, longest of {ticks}", max(held_seconds), goal=Goal("limit", 0.015)),
        Row(f"hold-up {when}, 99th percentile", p99, goal=p99_goal),
        Row(f"collector's longest pause {when}", pauses.longest_seconds),
    ]


def measure_hold_up(scale: Scale) -> list[Row]:
    """How long a sibling coroutine is held up while 100,000 steps fan out and are built."""
    with CollectorPauses() as running:
        held_seconds = asyncio.run(_while_running(scale, running))
    rows = _rows("in a 100k fan-out", held_seconds, running, Goal("limit", 0.005))
    with CollectorPauses() as building:
        held_seconds = asyncio.run(_while_building(scale, building))
    return [*rows, *_rows("while 100k steps are built", held_seconds, building)]
