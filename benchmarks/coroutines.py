"""Coroutine steps: what the engine itself costs where the steps cost nothing."""

from __future__ import annotations

import asyncio

from asyncflow import Runtime, step
from benchmarks.by_hand import by_hand
from benchmarks.graphs import Deps, chain, fan_out, layers, no_op, pipeline_of
from benchmarks.report import Goal, Row
from benchmarks.sampling import Scale, compare_async, run_in

__all__ = [
    "measure_chain",
    "measure_fan_out_10k",
    "measure_fan_out_100k",
    "measure_layers",
    "measure_sleeps",
]

SLEEP_SECONDS = 0.01
AT_ONCE = 1_000


async def _against_by_hand(scale: Scale, deps: Deps) -> tuple[float, float]:
    pipeline = pipeline_of(deps)
    async with Runtime() as runtime:
        return await compare_async(
            scale, run_in(runtime, pipeline), lambda: by_hand(deps, no_op.func)
        )


def _no_op_row(scale: Scale, measure: str, deps: Deps, goal: Goal) -> list[Row]:
    ours, reference = asyncio.run(_against_by_hand(scale, deps))
    return [Row(measure, ours, reference, goal=goal)]


def measure_fan_out_10k(scale: Scale) -> list[Row]:
    """No-op coroutine steps, fan-out of 10,000."""
    goal = Goal("ratio", 0.8, 0.5)
    return _no_op_row(scale, "no-op coroutines, fan-out 10k", fan_out(scale.of(10_000)), goal)


def measure_fan_out_100k(scale: Scale) -> list[Row]:
    """No-op coroutine steps, fan-out of 100,000."""
    goal = Goal("ratio", 0.8, 0.5)
    return _no_op_row(scale, "no-op coroutines, fan-out 100k", fan_out(scale.of(100_000)), goal)


def measure_chain(scale: Scale) -> list[Row]:
    """A chain of 5,000 no-op coroutine steps."""
    return _no_op_row(scale, "chain of 5k", chain(scale.of(5_000)), Goal("ratio", 1.2, 0.7))


def measure_layers(scale: Scale) -> list[Row]:
    """100 layers of 100 steps, the values of three parents passed to each."""
    deps = layers(scale.of(10_000) // 100 or 3, 100)
    goal = Goal("ratio", 1.3, 0.9)
    return _no_op_row(scale, "100 × 100 layers, values passed", deps, goal)


@step
async def nap() -> None:
    """A step that only waits, as a call to a service does."""
    await asyncio.sleep(SLEEP_SECONDS)


async def _sleeps(scale: Scale) -> tuple[float, float]:
    deps = fan_out(scale.of(10_000))
    pipeline = pipeline_of(deps, nap)
    window = asyncio.Semaphore(AT_ONCE)

    async def nap_in_window() -> None:
        async with window:
            await asyncio.sleep(SLEEP_SECONDS)

    async with Runtime(max_concurrency=AT_ONCE) as runtime:
        return await compare_async(
            scale, run_in(runtime, pipeline), lambda: by_hand(deps, nap_in_window)
        )


def measure_sleeps(scale: Scale) -> list[Row]:
    """10,000 steps that sleep 10 ms, 1,000 at once, against a semaphore."""
    ours, reference = asyncio.run(_sleeps(scale))
    goal = Goal("ratio", 0.8)
    return [Row("10k steps of 10 ms sleep, 1,000 at once", ours, reference, goal=goal)]
