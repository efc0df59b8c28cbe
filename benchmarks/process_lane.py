"""The process lane: what a call in a worker costs, what a value costs, how long a start takes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from typing import Any

from anyio import CapacityLimiter
from anyio.to_process import run_sync

from asyncflow import Pipeline, Runtime, Step, step
from benchmarks.by_hand import by_hand
from benchmarks.graphs import fan_out, pipeline_of
from benchmarks.plain_functions import (
    add_one,
    add_up,
    all_in_turn,
    compute,
    make_array,
    make_large,
    no_op,
)
from benchmarks.report import Goal, Row
from benchmarks.sampling import Scale, compare, compare_async, run_in

__all__ = ["measure_process_lane", "measure_process_start", "measure_process_values"]

WORKERS = 2


def _in_process(func: Callable[..., Any], **options: Any) -> Step[..., Any]:
    return step(func, lane="process", **options)


def _grouped() -> Pipeline:
    """The three functions as a group, none of whose arrays comes back."""
    return Pipeline(
        "group",
        steps=[
            _in_process(make_large, execution_group="g", outputs=["large"]),
            _in_process(add_one, execution_group="g", inputs=["large"], outputs=["larger"]),
            _in_process(add_up, execution_group="g", inputs=["larger"], outputs=["total"]),
        ],
        outputs=["total"],
    )


def _pool() -> ProcessPoolExecutor:
    # Spawned as our own workers are: a fork in a program with threads may hang for good.
    return ProcessPoolExecutor(WORKERS, mp_context=get_context("spawn"))


# -- calls ---------------------------------------------------------------------------------


async def _compare_calls(scale: Scale) -> list[Row]:
    deps = fan_out(scale.of(2_000))
    pipeline = pipeline_of(deps, _in_process(no_op))
    limiter = CapacityLimiter(WORKERS)
    with _pool() as pool:
        async with Runtime(max_cpus=WORKERS) as runtime:
            ours = run_in(runtime, pipeline)
            by_submit = partial(_submitted, pool, no_op, len(deps))
            by_anyio = partial(by_hand, deps, partial(run_sync, no_op, limiter=limiter))
            await _warm_up(ours, by_submit, by_anyio)
            submitted = await compare_async(scale, ours, by_submit)
            beside_anyio = await compare_async(scale, ours, by_anyio)
            mapped = await _compare_computing(scale, runtime, pool)
    return [
        Row("process lane, 2k no-ops, against submit()", *submitted, goal=Goal("ratio", 0.33)),
        Row("the same against anyio.to_process", *beside_anyio),
        Row("process lane, 1k × 1 ms, against map()", *mapped, goal=Goal("ratio", 1.05)),
    ]


async def _compare_computing(
    scale: Scale, runtime: Runtime, pool: ProcessPoolExecutor
) -> tuple[float, float]:
    size = scale.of(1_000)
    ours = run_in(runtime, pipeline_of(fan_out(size), _in_process(compute)))

    def mapped() -> list[int]:
        chunk = max(1, size // (4 * WORKERS))
        return list(pool.map(compute, range(size), chunksize=chunk))

    return await compare_async(scale, ours, partial(asyncio.to_thread, mapped))


async def _submitted(pool: ProcessPoolExecutor, func: Callable[[], Any], size: int) -> list[Any]:
    """All at once, collected in a thread: that costs less than a future of the loop for each."""

    def collect() -> list[Any]:
        return [future.result() for future in [pool.submit(func) for _ in range(size)]]

    return await asyncio.to_thread(collect)


async def _submit(pool: ProcessPoolExecutor, func: Callable[[], Any]) -> Any:
    return await asyncio.get_running_loop().run_in_executor(pool, func)


async def _warm_up(*calls: Callable[[], Awaitable[Any]]) -> None:
    for call in calls:
        await call()


def measure_process_lane(scale: Scale) -> list[Row]:
    """Calls in two warm worker processes, against ProcessPoolExecutor and anyio.to_process."""
    return asyncio.run(_compare_calls(scale))


# -- values --------------------------------------------------------------------------------


async def _compare_values(scale: Scale) -> list[Row]:
    size = scale.of(200)
    deps, names = fan_out(size), [f"n{number}" for number in range(size)]
    pipeline = pipeline_of(deps, _in_process(make_array))
    group = _grouped()
    group.build()
    with _pool() as pool:
        async with Runtime(max_cpus=WORKERS) as runtime:

            async def ours() -> list[float]:
                result = await run_in(runtime, pipeline)()
                return [float(result[name].sum()) for name in names]

            async def reference() -> list[float]:
                arrays = await _submitted(pool, make_array, size)
                return [float(array.sum()) for array in arrays]

            async def in_turn() -> float:
                return float(await _submit(pool, all_in_turn))

            grouped = run_in(runtime, group)
            await _warm_up(ours, reference, grouped, in_turn)
            arrays = await compare_async(scale, ours, reference)
            handed_on = await compare_async(scale, grouped, in_turn)
    return [
        Row("200 × 1 MB arrays from processes", *arrays, goal=Goal("ratio", 0.33)),
        Row("a group hands 100 MB on, against calls", *handed_on, goal=Goal("ratio", 1.2)),
    ]


def measure_process_values(scale: Scale) -> list[Row]:
    """Arrays out of worker processes and between the members of a group."""
    return asyncio.run(_compare_values(scale))


# -- the start -----------------------------------------------------------------------------


async def _first_result() -> float:
    pipeline = pipeline_of([()], _in_process(no_op))
    began = time.perf_counter()
    async with Runtime(max_cpus=WORKERS) as runtime:
        await run_in(runtime, pipeline)()
        return time.perf_counter() - began


async def _first_of_a_pool() -> float:
    began = time.perf_counter()
    with _pool() as pool:
        await _submit(pool, no_op)
        return time.perf_counter() - began


def measure_process_start(scale: Scale) -> list[Row]:
    """From a new runtime to its first result from a process; a pool that spawns beside it."""
    ours, spawned = compare(
        scale, lambda: asyncio.run(_first_result()), lambda: asyncio.run(_first_of_a_pool())
    )
    return [Row("first result of a cold process lane", ours, spawned, goal=Goal("limit", 0.15))]
