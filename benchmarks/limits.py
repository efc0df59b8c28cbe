"""Named limits: what a step pays for its keys, and how much of a rate is left unused."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from functools import partial
from typing import Any

from asyncflow import Pipeline, Rate, Runtime, step
from benchmarks.report import Goal, Row
from benchmarks.sampling import Scale, compare_async, run_in

__all__ = ["measure_limits"]

HOSTS, HOLDERS = 100, 8
SLEEP_SECONDS = 0.001
STARTS_PER_SECOND = 1000


async def _work(number: int) -> int:
    await asyncio.sleep(SLEEP_SECONDS)
    return number


by_host = step(limits=lambda number: f"host:{number % HOSTS}", name="by_host")(_work)
at_a_rate = step(limits=["api"], name="at_a_rate")(_work)


def _fan_out(one: Any, size: int) -> Pipeline:
    pipeline = Pipeline("limits")
    for number in range(size):
        pipeline.add_step(one, name=f"s{number}", params={"number": number})
    pipeline.build()
    return pipeline


async def _with_semaphores(size: int) -> list[int]:
    free: dict[int, asyncio.Semaphore] = defaultdict(partial(asyncio.Semaphore, HOLDERS))

    async def one(number: int) -> int:
        async with free[number % HOSTS]:
            return await _work(number)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(number)) for number in range(size)]
    return [task.result() for task in tasks]


async def _hosts(scale: Scale) -> tuple[float, float]:
    size = scale.of(10_000)
    pipeline = _fan_out(by_host, size)
    async with Runtime(limits={"host:*": HOLDERS}) as runtime:
        return await compare_async(
            scale, run_in(runtime, pipeline), partial(_with_semaphores, size)
        )


async def _rate(scale: Scale) -> tuple[float, float]:
    """Seconds that so many starts take, and the least that the rate allows."""
    size = scale.of(5 * STARTS_PER_SECOND) + 1
    pipeline = _fan_out(at_a_rate, size)

    async def least() -> None:
        await asyncio.sleep((size - 1) // STARTS_PER_SECOND)

    async with Runtime(limits={"api": Rate(STARTS_PER_SECOND)}) as runtime:
        # One sample: it takes as long as the rate says, and a second one begins with nothing.
        once = Scale(samples=1)
        return await compare_async(once, run_in(runtime, pipeline), least)


def measure_limits(scale: Scale) -> list[Row]:
    """10,000 steps over 100 hosts, 8 at once each; 5,000 at 1,000 a second."""
    hosts = asyncio.run(_hosts(scale))
    rate = asyncio.run(_rate(scale))
    return [
        Row("10k steps over 100 hosts, 8 at once each", *hosts),
        Row("5k starts at 1,000 a second", *rate, goal=Goal("ratio", 1.02)),
    ]
