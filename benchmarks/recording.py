"""Runs that record: what the journal adds, its size, and how soon a finished run is back."""

from __future__ import annotations

import asyncio
import itertools
import os
import sqlite3
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Literal

from asyncflow import Pipeline, PipelineResult, Runtime, step
from benchmarks.graphs import Deps, chain, fan_out, pipeline_of
from benchmarks.report import Goal, Row
from benchmarks.sampling import Scale, compare, compare_async

__all__ = ["measure_recording", "measure_recording_large", "measure_resume"]

_NUMBERS = itertools.count()


def _run(
    pipeline: Pipeline, runtime: Runtime, checkpoint: str | Literal[False], run_id: str = ""
) -> Callable[[], Awaitable[PipelineResult]]:
    async def run() -> PipelineResult:
        result = await pipeline.run(
            runtime=runtime, checkpoint=checkpoint, run_id=run_id or f"run{next(_NUMBERS)}"
        )
        if not result.success:
            raise RuntimeError(f"a measured run failed: {result.summary()}")
        return result

    return run


async def _against_unrecorded(
    scale: Scale, deps: Deps, directory: str, durability: Literal["process", "power"] = "process"
) -> tuple[float, float]:
    """Seconds for each step, recorded and not."""
    pipeline = pipeline_of(deps)
    async with Runtime(durability=durability) as runtime:
        await _run(pipeline, runtime, directory)()  # what is imported late is imported now
        ours, reference = await compare_async(
            scale, _run(pipeline, runtime, directory), _run(pipeline, runtime, False)
        )
    return ours / len(deps), reference / len(deps)


def _bytes_for_each_step(deps: Deps, directory: str) -> float:
    async def run() -> None:
        async with Runtime() as runtime:
            await _run(pipeline_of(deps), runtime, directory, "measured")()

    asyncio.run(run())
    return (Path(directory) / "runs" / "measured" / "journal").stat().st_size / len(deps)


def _sqlite_commit_seconds(directory: str, commits: int, synchronous: str) -> float:
    """Seconds for each row that is committed alone to a database with a write-ahead log."""
    path = Path(directory) / f"{synchronous}{next(_NUMBERS)}.sqlite"
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute(f"PRAGMA synchronous={synchronous}")
        connection.execute("CREATE TABLE ended (node INTEGER, began REAL, ended REAL, value BLOB)")
        began = time.perf_counter()
        for number in range(commits):
            connection.execute("INSERT INTO ended VALUES (?, 0.5, 0.75, ?)", (number, b"\x01\xc0"))
        return (time.perf_counter() - began) / commits
    finally:
        connection.close()


def measure_recording(scale: Scale) -> list[Row]:
    """What recording adds to each no-op step, wide and in a chain; bytes; SQLite beside it."""
    wide, long = fan_out(scale.of(10_000)), chain(scale.of(1_000))
    with tempfile.TemporaryDirectory() as directory:
        fanned = asyncio.run(_against_unrecorded(scale, wide, directory))
        chained = asyncio.run(_against_unrecorded(scale, long, directory))
        powered = asyncio.run(_against_unrecorded(scale, long, directory, "power"))
        size = _bytes_for_each_step(wide, directory)
        normal, full = (
            _sqlite_commit_seconds(directory, len(long), level) for level in ("NORMAL", "FULL")
        )
    return [
        Row("recorded fan-out of 10k, each step", *fanned, goal=Goal("extra", 10e-6)),
        Row("recorded chain of 1k, each step", *chained, goal=Goal("extra", 120e-6)),
        Row("journal bytes for each no-op step", size, unit="B", goal=Goal("limit", 150)),
        Row("recorded chain, process; SQLite WAL NORMAL, a commit each", chained[0], normal),
        Row("recorded chain, power; SQLite WAL FULL, a commit each", powered[0], full),
    ]


# -- resuming ------------------------------------------------------------------------------------


async def _resume_seconds(pipeline: Pipeline, directory: str) -> float:
    async with Runtime() as runtime:
        run = _run(pipeline, runtime, directory, "finished")
        await run()
        began = time.perf_counter()
        result = await run()
        seconds = time.perf_counter() - began
    if not all(found.resumed for found in itertools.islice(result.step_results.values(), 100)):
        raise RuntimeError("a finished run was run again")
    return seconds


def measure_resume(scale: Scale) -> list[Row]:
    """Giving back a finished run of 50,000 steps."""
    pipeline = pipeline_of(fan_out(scale.of(50_000)))
    pipeline.build()
    samples = []
    for _ in range(scale.samples):
        with tempfile.TemporaryDirectory() as directory:
            samples.append(asyncio.run(_resume_seconds(pipeline, directory)))
    return [
        Row("resume of a finished 50k-step run", sorted(samples)[len(samples) // 2],
            goal=Goal("limit", 1.5)),
    ]  # fmt: skip


# -- large values --------------------------------------------------------------------------------


@step
async def give(array: Any) -> Any:
    """A step with a large result."""
    return array


def _plain_write_seconds(directory: str, array: Any) -> float:
    """The disk's own speed: all of it written and synced."""
    path = Path(directory) / "plain"
    view = memoryview(array).cast("B")
    began = time.perf_counter()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        for start in range(0, view.nbytes, 4 << 20):
            os.write(descriptor, view[start : start + (4 << 20)])
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    seconds = time.perf_counter() - began
    path.unlink()
    return seconds


def _recorded_write_seconds(directory: str, array: Any) -> float:
    async def run() -> float:
        pipeline = Pipeline("large", steps=[give])
        async with Runtime(services={"array": array}) as runtime:
            run_id = f"run{next(_NUMBERS)}"
            began = time.perf_counter()
            await _run(pipeline, runtime, directory, run_id)()
            seconds = time.perf_counter() - began
        (blob,) = (Path(directory) / "runs" / run_id / "blobs").iterdir()
        blob.unlink()
        return seconds

    return asyncio.run(run())


def measure_recording_large(scale: Scale) -> list[Row]:
    """A numpy result of 1 GB, recorded, against writing as many bytes."""
    try:
        import numpy as np
    except ImportError:
        return []
    size = 1_000_000_000 if scale.divisor == 1 else 1_000_000
    array: Any = np.arange(size // 8, dtype="int64")
    with tempfile.TemporaryDirectory(dir=".") as directory:
        samples = Scale(samples=min(3, scale.samples), divisor=scale.divisor)
        ours, reference = compare(
            samples,
            lambda: _recorded_write_seconds(directory, array),
            lambda: _plain_write_seconds(directory, array),
        )
    return [Row("a 1 GB numpy result, recorded", ours, reference, goal=Goal("ratio", 2.0))]
