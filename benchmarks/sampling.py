"""How samples are taken: turn and turn about, with the collector's debts paid before each."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from asyncflow import Pipeline, Runtime

__all__ = ["FULL", "QUICK", "Scale", "compare", "compare_async", "run_in"]


class Scale(msgspec.Struct, frozen=True):
    """How much is measured: ``samples`` of each side, sizes divided by ``divisor``."""

    samples: int
    divisor: int = 1

    def of(self, size: int) -> int:
        """A size at this scale, never below 4."""
        return max(4, size // self.divisor)


FULL = Scale(samples=5)
QUICK = Scale(samples=1, divisor=200)


def compare(
    scale: Scale, ours: Callable[[], float], reference: Callable[[], float]
) -> tuple[float, float]:
    """The medians of what both give (seconds, as a rule), called in turn."""
    pairs = [(ours(), reference()) for _ in range(scale.samples)]
    return statistics.median(p[0] for p in pairs), statistics.median(p[1] for p in pairs)


async def compare_async(
    scale: Scale, ours: Callable[[], Awaitable[Any]], reference: Callable[[], Awaitable[Any]]
) -> tuple[float, float]:
    """The median seconds that both take, awaited in turn."""
    pairs = [(await _seconds(ours), await _seconds(reference)) for _ in range(scale.samples)]
    return statistics.median(p[0] for p in pairs), statistics.median(p[1] for p in pairs)


async def _seconds(run: Callable[[], Awaitable[Any]]) -> float:
    gc.collect()
    began = time.perf_counter()
    # Kept until the clock is read: taking 100,000 values apart is not what is measured.
    kept = await run()
    seconds = time.perf_counter() - began
    del kept
    return seconds


def run_in(runtime: Runtime, pipeline: Pipeline) -> Callable[[], Awaitable[Any]]:
    """A call that runs a pipeline and makes sure that it succeeded."""

    async def run() -> Any:
        result = await pipeline.run(runtime=runtime)
        if not result.success:
            raise RuntimeError(f"a measured run failed: {result.summary()}")
        return result

    return run
