"""Parts that are slow or dead, inside steps: the run does what it says, and nothing is left."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from typing import Any

import pytest

from asyncflow import NodeState, Pipeline, Runtime, StepContext, step, stream_map
from asyncflow.errors import StepTimeout
from tests.virtual_time import now, virtual_time


@step
async def double(number: int) -> int:
    await asyncio.sleep(1)
    return 2 * number


class Source:
    """Three items, then it hangs or raises; knows when it was closed."""

    def __init__(self, then: str) -> None:
        self.then = then
        self.closed_at: list[float] = []

    async def __aiter__(self) -> AsyncIterator[int]:
        try:
            for number in range(3):
                yield number
            if self.then == "raises":
                raise OSError("the connection broke")
            await asyncio.Event().wait()
        finally:
            self.closed_at.append(now())


class Streaming:
    """A step that streams from a source, and what came of it."""

    def __init__(self, then: str, **options: Any) -> None:
        self.source = Source(then)
        self.found: list[int] = []

        async def stream(context: StepContext) -> int:
            results = stream_map(double, aiter(self.source), concurrency=2)
            async with aclosing(results):
                async for value in results:
                    self.found.append(value)
            return len(self.found)

        self.step = step(stream).with_options(**options)
        self.pipeline = Pipeline("p", steps=[self.step])


def check_that_nothing_is_left(runtime: Runtime) -> None:
    scheduler = runtime._scheduler
    assert scheduler is not None
    assert (scheduler.in_flight, scheduler.nesting.waiting, scheduler.timers) == (0, 0, 0)
    assert not scheduler.runs


# -- sources -----------------------------------------------------------------------------


@virtual_time
async def test_a_source_that_raises_fails_its_step_with_that_error() -> None:
    streaming = Streaming("raises")
    async with Runtime() as runtime:
        result = await streaming.pipeline.run(runtime=runtime)
        check_that_nothing_is_left(runtime)
    assert isinstance(result.step_results["stream"].error, OSError)
    assert (streaming.found, len(streaming.source.closed_at)) == ([0, 2, 4], 1)


@virtual_time
async def test_a_source_that_hangs_is_ended_by_the_timeout_of_its_step() -> None:
    streaming = Streaming("hangs", timeout=30)
    async with Runtime() as runtime:
        result = await streaming.pipeline.run(runtime=runtime)
        check_that_nothing_is_left(runtime)
    assert isinstance(result.step_results["stream"].error, StepTimeout)
    assert (streaming.found, streaming.source.closed_at) == ([0, 2, 4], [30])


@virtual_time
async def test_a_source_that_hangs_is_ended_by_a_cancel_of_the_run() -> None:
    streaming = Streaming("hangs")
    async with Runtime() as runtime:
        run = await runtime.start(streaming.pipeline)
        await asyncio.sleep(10)
        await run.cancel()
        check_that_nothing_is_left(runtime)
        assert (run.abandoned, streaming.source.closed_at) == ((), [10])


@pytest.mark.parametrize("drain_seconds, ended_at", [(0, 10), (60, 70)])
@virtual_time
async def test_a_source_that_hangs_is_ended_when_the_runtime_is_closed(
    drain_seconds: float, ended_at: float
) -> None:
    streaming = Streaming("hangs")
    async with Runtime() as runtime:
        run = await runtime.start(streaming.pipeline)
        await asyncio.sleep(10)
        await runtime.aclose(drain_seconds=drain_seconds)
        check_that_nothing_is_left(runtime)
    result = await run.result()
    assert result.step_results["stream"].status is NodeState.CANCELLED
    assert streaming.source.closed_at == [ended_at]


@virtual_time
async def test_the_items_of_a_nested_map_that_raise_fail_the_step_and_cancel_its_calls() -> None:
    def items() -> Iterator[int]:
        yield from range(3)
        raise OSError("the disk is gone")

    @step
    async def parent(context: StepContext) -> list[int]:
        return await context.map(double, items(), concurrency=2)

    async with Runtime() as runtime:
        result = await Pipeline("p", steps=[parent]).run(runtime=runtime)
        check_that_nothing_is_left(runtime)
    assert isinstance(result.step_results["parent"].error, OSError)


@virtual_time
async def test_the_items_of_a_blocking_map_are_read_in_the_thread_of_the_step() -> None:
    readers: list[str] = []

    def items() -> Iterator[int]:
        readers.append(threading.current_thread().name)
        yield from range(3)

    @step
    def parent(context: StepContext) -> bool:
        assert context.map_sync(double, items()) == [0, 2, 4]
        return readers == [threading.current_thread().name]

    assert (await Pipeline("p", steps=[parent]).run())["parent"]


# -- services ----------------------------------------------------------------------------


class Broken:
    """A client that answers nothing, not even to ``repr``."""

    def __getattr__(self, name: str) -> Any:
        raise ConnectionError(f"no {name}: the server is gone")

    def __repr__(self) -> str:
        raise ConnectionError("not even that")


@virtual_time
async def test_a_service_that_always_raises_fails_its_step_only_and_is_tried_again() -> None:
    tries: list[int] = []

    @step(retry=2)
    async def ask(client: Any, context: StepContext) -> str:
        tries.append(context.attempt)
        return str(client.get("page"))

    @step
    def ask_in_a_thread(client: Any) -> str:
        return str(client.get("page"))

    @step
    async def nests(context: StepContext) -> str:
        with pytest.raises(ConnectionError, match="no get"):
            await context.call(ask.with_options(name="nested", retry=0))
        return "went on"

    @step
    async def other() -> int:
        return 1

    async with Runtime(services={"client": Broken()}) as runtime:
        pipeline = Pipeline("p", steps=[ask, ask_in_a_thread, nests, other])
        result = await pipeline.run(runtime=runtime, failure_policy="collect_all")
        check_that_nothing_is_left(runtime)
    assert {name: str(found.status) for name, found in result.step_results.items()} == {
        "ask": "failed",
        "ask_in_a_thread": "failed",
        "nests": "succeeded",
        "other": "succeeded",
        "nests/nested": "failed",
    }
    assert sorted(tries) == [1, 1, 2, 3]
    assert "no get: the server is gone" in result.summary()


# -- subscribers -------------------------------------------------------------------------


@virtual_time
async def test_subscribers_that_stop_reading_hold_up_neither_a_run_nor_its_end() -> None:
    """One that never reads, one that stops after an event, and one that waits when all ends."""
    heard: list[str] = []

    async def stop_after_one(run: Any) -> None:
        async for event in run.events(buffer=4):
            heard.append(event.kind)
            await asyncio.Event().wait()

    @step
    async def parent(context: StepContext) -> list[int]:
        return await context.map(double, range(200), concurrency=50)

    async with Runtime() as runtime:
        everything = runtime.events(buffer=16)
        run = await runtime.start(Pipeline("p", steps=[parent]))
        never_read, closing = run.events(buffer=8), run.events(buffer=8, overflow="close")
        stopped = asyncio.create_task(stop_after_one(run))
        result = await run.result()
        assert now() == 4
        check_that_nothing_is_left(runtime)
        await asyncio.sleep(0)
        stopped.cancel()
        await asyncio.wait([stopped])
    assert result.success
    assert len(heard) == 1
    kinds = [event.kind async for event in never_read]
    assert (kinds[0], kinds[-1], len(kinds)) == ("Gap", "RunFinished", 9)
    assert [event.kind async for event in closing][-1] == "Gap"
    assert len([event async for event in everything]) <= 17
