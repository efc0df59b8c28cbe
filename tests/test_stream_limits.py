"""``stream_map(limits=…)``: calls take named keys like steps do, and share them with steps."""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections import Counter
from contextlib import aclosing
from typing import Any

import pytest

from asyncflow import (
    CapacityError,
    Pipeline,
    Rate,
    Retry,
    RetryAfter,
    Runtime,
    StepContext,
    StepFailed,
    step,
    stream_map,
)
from asyncflow.testing import VirtualRuntime
from tests.virtual_time import now, virtual_time

inside: Counter[str] = Counter()
most: Counter[str] = Counter()


@pytest.fixture(autouse=True)
def nobody_inside() -> None:
    inside.clear()
    most.clear()


async def call(number: int) -> int:
    key = str(number % 3)
    for name in (key, "all"):
        inside[name] += 1
        most[name] = max(most[name], inside[name])
    await asyncio.sleep(1)
    inside[key] -= 1
    inside["all"] -= 1
    return number


@pytest.mark.parametrize("ordered", [True, False])
@virtual_time
async def test_no_more_calls_run_at_once_than_a_key_has(ordered: bool) -> None:
    async with Runtime(limits={"api": 4}) as runtime:
        results = stream_map(call, range(20), concurrency=10, ordered=ordered, limits=["api"])
        assert len([result async for result in results]) == 20
        assert runtime._supply.limiter.statistics().keys == {}
    assert most["all"] == 4
    assert now() == 5


@virtual_time
async def test_a_function_of_the_item_says_which_key() -> None:
    async with Runtime(limits={"part:*": 2}):
        results = stream_map(
            call, range(30), concurrency=30, limits=lambda number: f"part:{number % 3}"
        )
        assert [result async for result in results] == list(range(30))
    assert [most[key] for key in "012"] == [2, 2, 2]
    assert now() == 5


@virtual_time
async def test_a_rate_is_exact_for_streams_as_well() -> None:
    starts: list[float] = []

    async def quick(_: int) -> None:
        starts.append(now())

    async with Runtime(limits={"api": Rate(10, per_seconds=2)}):
        async for _ in stream_map(quick, range(100), concurrency=50, limits=["api"]):
            pass
    assert starts[-1] == pytest.approx(18)
    for place, begin in enumerate(starts):
        assert bisect_right(starts, begin + 2) - place <= 10


def test_threads_take_keys_as_well() -> None:
    def in_thread(number: int) -> int:
        return number

    async def main() -> list[int]:
        results = stream_map(in_thread, range(6), concurrency=3, limits=["api"])
        return [result async for result in results]

    virtual = VirtualRuntime(limits={"api": Rate(1, per_seconds=10)})
    assert virtual.run_async(main) == list(range(6))
    assert virtual.clock == pytest.approx(50)


@virtual_time
async def test_a_step_brings_its_own_limits_unless_others_are_given() -> None:
    @step(limits=lambda number: f"part:{number % 3}")
    async def part(number: int) -> int:
        return await call(number)

    async with Runtime(limits={"part:*": 1, "api": 5}):
        assert len([x async for x in stream_map(part, range(6), concurrency=6)]) == 6
        assert most["0"] == 1
        most.clear()
        assert len([x async for x in stream_map(part, range(6), concurrency=6, limits="api")]) == 6
        assert most["all"] == 5


@virtual_time
async def test_streams_and_steps_share_a_key() -> None:
    @step(limits=["api"])
    async def one(number: int) -> int:
        return await call(number)

    pipeline = Pipeline("p")
    for number in range(10):
        pipeline.add_step(one, name=f"one{number}", params={"number": number})

    async def stream() -> None:
        async for _ in stream_map(call, range(10), concurrency=10, limits=["api"]):
            pass

    async with Runtime(limits={"api": 2}) as runtime:
        await asyncio.gather(pipeline.run(runtime=runtime), stream())
    assert most["all"] == 2
    assert now() == 10


@virtual_time
async def test_a_step_that_fills_the_window_still_gets_keys_for_its_stream() -> None:
    @step
    async def crawl() -> int:
        results = stream_map(call, range(6), concurrency=6, limits=["api"])
        return sum([number async for number in results])

    async with Runtime(max_concurrency=1, limits={"api": Rate(1, per_seconds=5)}) as runtime:
        pipeline = Pipeline("p", steps=[crawl])
        assert (await pipeline.run(runtime=runtime))[crawl] == 15
    assert now() == pytest.approx(26)


@virtual_time
async def test_what_waits_behind_a_full_window_does_not_keep_a_stream_from_its_keys() -> None:
    @step
    async def crawl() -> int:
        await asyncio.sleep(1)
        results = stream_map(call, range(3), concurrency=1, limits=["api"])
        return sum([number async for number in results])

    @step(limits=["api"])
    async def other() -> None: ...

    async with Runtime(max_concurrency=1, limits={"api": 1}) as runtime:
        held = await runtime.start(Pipeline("p", steps=[crawl]))
        waits = await runtime.start(Pipeline("q", steps=[other]))
        assert (await held.result())[crawl] == 3
        assert (await waits.result()).success


@virtual_time
async def test_each_try_of_an_item_takes_a_token_of_its_own() -> None:
    starts: list[float] = []

    async def refused(item: int) -> int:
        starts.append(now())
        if len(starts) < 3:
            raise RetryAfter(1)
        return item

    async with Runtime(limits={"api": Rate(1, per_seconds=10)}):
        results = stream_map(
            refused, [7], concurrency=1, retry=Retry(3), limits=lambda item: {"api": 1}
        )
        assert [value async for value in results] == [7]
    assert starts == pytest.approx([0, 10, 20])


@virtual_time
async def test_leaving_a_stream_early_withdraws_what_waits() -> None:
    async with Runtime(limits={"api": Rate(1, per_seconds=10)}) as runtime:
        results = stream_map(call, range(100), concurrency=50, limits=["api"])
        async with aclosing(results):
            async for _ in results:
                break
        limiter = runtime._supply.limiter
        assert limiter.waiting() == []
        assert limiter.statistics().leases == 0
        limiter.validate()
        results = stream_map(call, [1], concurrency=1, limits=["api"])
        assert [number async for number in results] == [1]
        assert now() == pytest.approx(10 + 1)  # the second token, and the call


@virtual_time
async def test_a_timeout_does_not_count_the_wait_for_a_key() -> None:
    async with Runtime(limits={"api": 1}):
        results = stream_map(call, range(5), concurrency=5, timeout=2, limits=["api"])
        assert [number async for number in results] == list(range(5))


# ------------------------------------------------------------------------ refusals


async def test_limits_without_a_runtime_are_an_error_that_says_so() -> None:
    with pytest.raises(RuntimeError, match="there is no Runtime here that defines any"):
        async for _ in stream_map(call, [1], concurrency=1, limits=["api"]):
            pass


async def test_an_unknown_key_is_refused_before_the_first_item_is_taken() -> None:
    taken: list[int] = []

    def source() -> Any:
        taken.append(1)
        yield 1

    async with Runtime(limits={"api": 1}):
        with pytest.raises(CapacityError, match=r"stream_map\(call\) can never start: .*'api'"):
            async for _ in stream_map(call, source(), concurrency=1, limits=["apj"]):
                pass
    assert taken == []


@pytest.mark.parametrize(
    "limits, error, told",
    [
        (lambda item: "nope", CapacityError, "there is no limit 'nope'"),
        (lambda item: 1 // 0, StepFailed, r"the limits of stream_map\(call\) raised ZeroDivision"),
        (lambda item: 5, StepFailed, "takes keys such as"),
    ],
)
async def test_a_computed_key_that_makes_no_sense_fails_its_item(
    limits: Any, error: type[Exception], told: str
) -> None:
    async with Runtime(limits={"api": 1}) as runtime:
        with pytest.raises(error, match=told):
            async for _ in stream_map(call, [1, 2], concurrency=1, limits=limits):
                pass
        results = stream_map(call, [1, 2], concurrency=1, limits=limits, on_error="yield")
        values = [value async for _, value in results]
        assert [type(value) for value in values] == [error, error]
        runtime._supply.limiter.validate()


@virtual_time
async def test_a_stream_that_needs_what_its_own_step_holds_is_refused() -> None:
    @step(limits=["api"])
    async def crawl(context: StepContext) -> None:
        async for _ in stream_map(call, [1], concurrency=1, limits=["api"]):
            pass

    async with Runtime(limits={"api": 1}) as runtime:
        result = await Pipeline("p", steps=[crawl]).run(runtime=runtime)
    assert "holds 1 ('crawl') and waits for it" in str(result.step_results["crawl"].error)


@virtual_time
async def test_a_stream_whose_runtime_is_closed_ends_with_an_error() -> None:
    async with Runtime(limits={"api": Rate(1, per_seconds=1000)}) as runtime:
        results = stream_map(call, range(3), concurrency=3, limits=["api"], runtime=runtime)
        assert await anext(results) == 0
    with pytest.raises(RuntimeError, match="was closed"):
        await anext(results)


def test_senseless_limits_are_refused_by_the_call_itself() -> None:
    with pytest.raises(ValueError, match="stream_map: limits: the weight of 'api'"):
        stream_map(call, [1], concurrency=1, limits={"api": 0})

    @step(limits=lambda number, host: host)
    async def wants_two(number: int) -> None: ...

    with pytest.raises(TypeError, match="nothing fills the parameter 'host' of its limits"):
        stream_map(wants_two, [1], concurrency=1)
