"""Elements through two mapped nodes: what each costs, and how long the loop is held up.

``python -m benchmarks.maps 100000`` sends so many through in a process of its own and prints how
long a sibling coroutine was held up, in CPU time of the loop's thread, and when the second
node began.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import time

import msgspec

from asyncflow import Pipeline, Runtime, step
from benchmarks.fresh_process import output_of
from benchmarks.hold_up import CollectorPauses, watching
from benchmarks.report import Goal, Row
from benchmarks.sampling import Scale

__all__ = ["measure_maps", "pass_through"]


class Passage(msgspec.Struct, frozen=True):
    """What one passage of elements did; all in CPU time of the loop's thread."""

    cpu_seconds: float
    longest_hold_up_seconds: float
    p99_hold_up_seconds: float
    ticks: int
    longest_collector_pause_seconds: float
    second_began_seconds: float


async def pass_through(count: int) -> Passage:
    """Send so many elements through two mapped nodes, and look at the loop meanwhile."""
    second_began: list[float] = []

    @step
    async def numbers() -> range:
        return range(count)

    @step
    async def first(numbers: int) -> int:
        return numbers + 1

    @step
    async def second(first: int) -> int:
        if not second_began:
            second_began.append(time.thread_time())
        return 2 * first

    pipeline = Pipeline("maps", steps=[numbers])
    pipeline.add_step(first, map="numbers").add_step(second, map="first")
    held_seconds: list[float] = []
    gc.collect()
    async with Runtime() as runtime:
        with CollectorPauses(time.thread_time) as pauses:
            began = time.thread_time()
            async with watching(pauses, held_seconds):
                result = await pipeline.run(runtime=runtime)
            cpu_seconds = time.thread_time() - began
    if result["second"][-1] != 2 * count:
        raise RuntimeError("the values are wrong")
    held_seconds.sort()
    return Passage(
        cpu_seconds=cpu_seconds,
        longest_hold_up_seconds=held_seconds[-1],
        p99_hold_up_seconds=held_seconds[int(0.99 * len(held_seconds))],
        ticks=len(held_seconds),
        longest_collector_pause_seconds=pauses.longest_seconds,
        second_began_seconds=second_began[0] - began,
    )


def measure_maps(scale: Scale) -> list[Row]:
    """100,000 elements through two mapped nodes: hold-up, time, how soon the second begins."""
    count = scale.of(100_000)
    found = msgspec.json.decode(output_of(["-m", "benchmarks.maps", str(count)]), type=Passage)
    hold_up = f"hold-up in two maps of 100k, longest of {found.ticks:,} ticks"
    return [
        Row(hold_up, found.longest_hold_up_seconds, goal=Goal("limit", 0.015)),
        Row("hold-up in two maps of 100k, 99th percentile", found.p99_hold_up_seconds),
        Row("collector's longest pause in two maps of 100k", found.longest_collector_pause_seconds),
        Row("two mapped nodes, each element of both", found.cpu_seconds / count),
        Row("the second of two maps of 100k begins after", found.second_began_seconds),
    ]


if __name__ == "__main__":
    print(json.dumps(msgspec.to_builtins(asyncio.run(pass_through(int(sys.argv[1]))))))
