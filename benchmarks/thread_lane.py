"""The thread lane: what it costs to send a call to a thread and hear of its end."""

from __future__ import annotations

import asyncio

from anyio.to_thread import run_sync

from asyncflow import Runtime, step
from benchmarks.by_hand import by_hand
from benchmarks.graphs import fan_out, pipeline_of
from benchmarks.report import Goal, Row
from benchmarks.sampling import Scale, compare_async, run_in

__all__ = ["measure_thread_lane"]

THREADS = 40  # anyio's own default, so that both sides have as many


@step(lane="thread")
def blocking_no_op() -> int:
    """A blocking function that does nothing."""
    return 1


async def _in_thread() -> int:
    return await run_sync(blocking_no_op.func)


async def _compare(scale: Scale) -> tuple[float, float]:
    deps = fan_out(scale.of(5_000))
    pipeline = pipeline_of(deps, blocking_no_op)
    async with Runtime(max_threads=THREADS) as runtime:
        return await compare_async(
            scale, run_in(runtime, pipeline), lambda: by_hand(deps, _in_thread)
        )


def measure_thread_lane(scale: Scale) -> list[Row]:
    """5,000 no-op steps in the thread lane, against anyio.to_thread.run_sync."""
    ours, reference = asyncio.run(_compare(scale))
    return [Row("thread lane, 5k no-ops", ours, reference, goal=Goal("ratio", 0.7))]
