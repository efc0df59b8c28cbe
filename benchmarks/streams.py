"""A million items through ``stream_map``: time for each, hold-up of the loop, memory.

``python -m benchmarks.streams 1000000`` sends so many items through it in a process of its own
and prints how long a sibling coroutine was held up, in CPU time of the loop's thread, and by how
much the process grew.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any

import msgspec
import psutil

from asyncflow import stream_map
from benchmarks.fresh_process import output_of
from benchmarks.hold_up import CollectorPauses, watching
from benchmarks.report import Goal, Row
from benchmarks.sampling import Scale, compare_async

__all__ = ["Passage", "bounded_pool", "measure_stream", "pass_through"]

CONCURRENCY = 1_000
WARM_UP_ITEMS = 5_000
LOOK_EVERY = 10_000
_END = object()


class Passage(msgspec.Struct, frozen=True):
    """What one passage of items through ``stream_map`` did to its process."""

    longest_hold_up_seconds: float
    p99_hold_up_seconds: float
    ticks: int
    longest_collector_pause_seconds: float
    grown_bytes: int


async def give_way(item: int) -> int:
    """A coroutine function that waits for one turn of the loop."""
    await asyncio.sleep(0)
    return item


async def no_op(item: int) -> int:
    """A coroutine function that never waits."""
    return item


async def bounded_pool(
    fn: Callable[[int], Awaitable[int]], source: Iterable[int], concurrency: int
) -> AsyncIterator[tuple[int, int]]:
    """What one would write by hand: so many workers on one iterator, and a bounded queue.

    Its workers take one item after the other in the same task and the same context.
    """
    items = iter(source)
    results: asyncio.Queue[Any] = asyncio.Queue(concurrency)

    async def work() -> None:
        for item in items:
            await results.put((item, await fn(item)))
        await results.put(_END)

    async with asyncio.TaskGroup() as group:
        for _ in range(concurrency):
            group.create_task(work())
        left = concurrency
        while left:
            result = await results.get()
            if result is _END:
                left -= 1
            else:
                yield result


async def _drain(results: AsyncIterator[Any], expected: int) -> None:
    count = 0
    async for _ in results:
        count += 1
    if count != expected:
        raise RuntimeError(f"{count} results came of {expected} items")


async def _compare(
    scale: Scale, fn: Callable[[int], Awaitable[int]], concurrency: int
) -> tuple[float, float]:
    items = scale.of(100_000)
    return await compare_async(
        scale,
        lambda: _drain(stream_map(fn, range(items), concurrency=concurrency, ordered=False), items),
        lambda: _drain(bounded_pool(fn, range(items), concurrency), items),
    )


async def pass_through(items: int) -> Passage:
    """Send so many items through, and look at the loop and at this process meanwhile."""
    process = psutil.Process()
    await _drain(stream_map(give_way, range(WARM_UP_ITEMS), concurrency=CONCURRENCY), WARM_UP_ITEMS)
    gc.collect()
    before = most = process.memory_info().rss
    held_seconds: list[float] = []
    with CollectorPauses(time.thread_time) as pauses:
        async with watching(pauses, held_seconds):
            async for item in stream_map(give_way, range(items), concurrency=CONCURRENCY):
                if item % LOOK_EVERY == 0:
                    most = max(most, process.memory_info().rss)
    most = max(most, process.memory_info().rss)
    held_seconds.sort()
    return Passage(
        longest_hold_up_seconds=held_seconds[-1],
        p99_hold_up_seconds=held_seconds[int(0.99 * len(held_seconds))],
        ticks=len(held_seconds),
        longest_collector_pause_seconds=pauses.longest_seconds,
        grown_bytes=most - before,
    )


def measure_stream(scale: Scale) -> list[Row]:
    """A million items through stream_map: hold-up, memory; time against a pool by hand."""
    items = scale.of(1_000_000)
    found = msgspec.json.decode(output_of(["-m", "benchmarks.streams", str(items)]), type=Passage)
    hold_up = f"hold-up in stream_map 1M, longest of {found.ticks:,} ticks"
    per_item = []
    for fn in (no_op, give_way):
        ours, reference = asyncio.run(_compare(scale, fn, 100))
        count = scale.of(100_000)
        per_item.append(
            Row(f"stream_map, each item of {fn.__name__}", ours / count, reference / count)
        )
    return [
        Row(hold_up, found.longest_hold_up_seconds, goal=Goal("limit", 0.015)),
        Row("hold-up in stream_map 1M, 99th percentile", found.p99_hold_up_seconds),
        Row("collector's longest pause in stream_map 1M", found.longest_collector_pause_seconds),
        Row(
            "resident growth in stream_map 1M",
            float(found.grown_bytes),
            unit="B",
            goal=Goal("limit", 100_000_000),
        ),
        *per_item,
    ]


if __name__ == "__main__":
    print(json.dumps(msgspec.to_builtins(asyncio.run(pass_through(int(sys.argv[1]))))))
