"""Resident memory for each step that waits and for each that is done.

``python -m benchmarks.resident 100000`` prints the resident bytes of a process of its own
before one step is added under so many names, at the first dispatch, and after the run.
"""

from __future__ import annotations

import asyncio
import gc
import json
import statistics
import sys

import msgspec
import psutil

from asyncflow import Runtime, step
from benchmarks.fresh_process import output_of
from benchmarks.graphs import fan_out, pipeline_of
from benchmarks.report import Goal, Row
from benchmarks.sampling import Scale

__all__ = ["ResidentBytes", "measure_resident", "probe"]

WARM_UP_STEPS = 2_000


class ResidentBytes(msgspec.Struct, frozen=True):
    """Resident bytes of one process at three moments of a run of ``steps`` steps."""

    steps: int
    before: int
    at_first_dispatch: int
    after: int

    @property
    def per_waiting_step(self) -> float:
        return (self.at_first_dispatch - self.before) / self.steps

    @property
    def per_finished_step(self) -> float:
        return (self.after - self.at_first_dispatch) / self.steps


def _resident_bytes() -> int:
    gc.collect()
    resident: int = psutil.Process().memory_info().rss
    return resident


async def probe(steps: int) -> ResidentBytes:
    """Run ``steps`` steps and look at this process before, at the first dispatch and after."""
    at_first: list[int] = []

    @step
    async def look_once() -> None:
        if not at_first:
            at_first.append(_resident_bytes())

    async with Runtime() as runtime:
        # Everything that is loaded or grown once must be there before the first look.
        await pipeline_of(fan_out(WARM_UP_STEPS)).run(runtime=runtime)
        before = _resident_bytes()
        pipeline = pipeline_of(fan_out(steps), look_once, build=False)
        result = await pipeline.run(runtime=runtime)
        after = _resident_bytes()
        if not result.success:
            raise RuntimeError(f"the measured run failed: {result.summary()}")
    return ResidentBytes(steps, before, at_first[0], after)


def _sample(steps: int) -> ResidentBytes:
    return msgspec.json.decode(
        output_of(["-m", "benchmarks.resident", str(steps)]), type=ResidentBytes
    )


def measure_resident(scale: Scale) -> list[Row]:
    """Resident growth of 100,000 steps, waiting and finished, in fresh processes."""
    found = [_sample(scale.of(100_000)) for _ in range(scale.samples)]
    waiting = statistics.median(sample.per_waiting_step for sample in found)
    finished = statistics.median(sample.per_finished_step for sample in found)
    return [
        Row("resident growth per waiting step", waiting, unit="B", goal=Goal("limit", 1024)),
        Row(
            "resident growth per finished step, value apart",
            finished,
            unit="B",
            goal=Goal("limit", 600),
        ),
    ]


if __name__ == "__main__":
    print(json.dumps(msgspec.to_builtins(asyncio.run(probe(int(sys.argv[1]))))))
