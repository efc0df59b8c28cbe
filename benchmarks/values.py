"""Values on their way to the disk: small ones, a very large one, fingerprints, and the cache."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from asyncflow import Pipeline, Runtime, step
from asyncflow.storage.codecs import Codecs
from asyncflow.storage.fingerprint import Fingerprints
from benchmarks.report import Goal, Row
from benchmarks.sampling import Scale, compare, compare_async, run_in

__all__ = ["measure_cache", "measure_fingerprints", "measure_large_value", "measure_small_values"]

SMALL = {"loss": 0.25, "step": 12, "rate": 1e-3}
ROUNDS = 100_000
NODES = 50_000
LARGE_BYTES = 1_000_000_000
CACHED_STEPS = 1_000
LIMIT_1_US = Goal("limit", 1e-6)


@contextmanager
def folder() -> Iterator[Path]:
    """A folder on the disk of the working directory: the temporary one may be in memory."""
    made = Path(tempfile.mkdtemp(prefix=".asyncflow-benchmark-", dir=os.getcwd()))
    try:
        yield made
    finally:
        shutil.rmtree(made)


def _each(function: Callable[[Any], Any], value: Any, rounds: int) -> float:
    began = time.perf_counter()
    for _ in range(rounds):
        function(value)
    return (time.perf_counter() - began) / rounds


def measure_small_values(scale: Scale) -> list[Row]:
    """What a codec costs for what most steps return."""
    rounds = scale.of(ROUNDS)
    codecs = Codecs()
    pack, unpack = msgspec.msgpack.Encoder().encode, msgspec.msgpack.Decoder().decode
    packed, encoded = pack(SMALL), codecs.encode(SMALL)
    encode, bare = compare(
        scale, lambda: _each(codecs.encode, SMALL, rounds), lambda: _each(pack, SMALL, rounds)
    )
    decode, bare_decode = compare(
        scale, lambda: _each(codecs.decode, encoded, rounds), lambda: _each(unpack, packed, rounds)
    )
    return [
        Row("a dict of 3 numbers encoded, checked to be lossless", encode, bare, goal=LIMIT_1_US),
        Row("the same decoded", decode, bare_decode, goal=LIMIT_1_US),
    ]


def measure_fingerprints(scale: Scale) -> list[Row]:
    """What it costs to see whether the nodes of a graph have changed."""

    @step
    async def follow(before: int = 0) -> int:
        return before

    count = scale.of(NODES)
    pipeline = Pipeline("chain").add_step(follow, "n0")
    for index in range(1, count):
        pipeline.add_step(follow, f"n{index}", inputs={"before": f"n{index - 1}"})
    graph = pipeline.build()

    def all_of_them() -> float:
        began = time.perf_counter()
        fingerprints = Fingerprints(graph, {})
        for index in range(count):
            fingerprints.of(index)
        return (time.perf_counter() - began) / count

    each = sorted(all_of_them() for _ in range(scale.samples))[scale.samples // 2]
    return [Row(f"fingerprint of a node, of {count:,}", each, goal=Goal("limit", 10e-6))]


def measure_large_value(scale: Scale) -> list[Row]:
    """A large array recorded, against its bytes written and synced by hand."""
    try:
        import numpy
    except ImportError:
        return []
    array = numpy.frombuffer(os.urandom(1 << 20) * (scale.of(LARGE_BYTES) >> 20 or 1), numpy.uint8)

    @step
    async def pass_on(value: Any) -> Any:
        return value()

    with folder() as kept:

        async def ours() -> None:
            async with Runtime(
                directory=kept / "runs", services={"value": lambda: array}
            ) as runtime:
                await run_in(runtime, Pipeline("large", steps=[pass_on]))()
            shutil.rmtree(kept / "runs")

        async def by_hand() -> None:
            await asyncio.to_thread(_write_plainly, kept / "plain", memoryview(array))

        recorded, plain = asyncio.run(compare_async(scale, ours, by_hand))
    name = f"numpy result of {array.nbytes / 1e9:.2g} GB recorded, against write and fsync"
    return [Row(name, recorded, plain, goal=Goal("ratio", 2.0))]


def _write_plainly(path: Path, data: memoryview) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        while data:
            data = data[os.write(descriptor, data) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    path.unlink()


def measure_cache(scale: Scale) -> list[Row]:
    """Steps found in the cache, against the same steps run."""

    @step(cache="code_hash")
    async def cached(x: int) -> int:
        return x

    count = scale.of(CACHED_STEPS)
    with folder() as kept:

        async def both() -> tuple[float, float]:
            async with Runtime(directory=kept) as runtime:
                found = _fan_out(cached, count)
                made = _fan_out(cached.with_options(cache=False), count)
                await found.run(runtime=runtime, checkpoint=False)
                return await compare_async(
                    scale,
                    lambda: found.run(runtime=runtime, checkpoint=False),
                    lambda: made.run(runtime=runtime, checkpoint=False),
                )

        hit, plain = asyncio.run(both())
    return [Row(f"{count:,} no-op steps found in the cache, for each", hit / count, plain / count)]


def _fan_out(step_: Any, count: int) -> Pipeline:
    pipeline = Pipeline("found")
    for index in range(count):
        pipeline.add_step(step_, f"n{index}", params={"x": index})
    return pipeline
