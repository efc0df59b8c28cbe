"""Nested calls: their values and errors, their depth, and the capacity of who waits."""

from __future__ import annotations

import asyncio

import pytest

from asyncflow import GraphError, Pipeline, Runtime, StepContext, step
from asyncflow.errors import NestedDepthError
from tests.virtual_time import now, virtual_time


@step
async def double(number: int) -> int:
    return 2 * number


@step
async def broken() -> None:
    raise LookupError("nothing there")


@step(resources={"cpu": 1})
async def descend(levels: int, context: StepContext) -> int:
    if not levels:
        return 0
    others = [context.call(double, k, key=k) for k in range(7)]
    deeper = context.call(descend, levels - 1)
    return 1 + int((await asyncio.gather(deeper, *others))[0])


@virtual_time
async def test_a_nested_call_gives_its_value() -> None:
    @step
    async def parent(context: StepContext) -> list[int]:
        return await context.map(double, [3, 1, 2])

    result = await Pipeline("p", steps=[parent]).run()
    assert result["parent"] == [6, 2, 4]


@virtual_time
async def test_a_nested_failure_that_its_parent_handles_does_not_fail_the_run() -> None:
    @step
    async def parent(context: StepContext) -> str:
        with pytest.raises(LookupError, match="nothing there"):
            await context.call(broken)
        return "handled"

    result = await Pipeline("p", steps=[parent]).run()
    assert result.success
    assert result["parent"] == "handled"


@virtual_time
async def test_a_key_is_used_once() -> None:
    @step
    async def parent(context: StepContext) -> None:
        await context.call(double, 1, key="a")
        with pytest.raises(GraphError, match=r"has called 'parent/double\[a\]' already"):
            await context.call(double, 1, key="a")

    assert (await Pipeline("p", steps=[parent]).run()).success


@virtual_time
async def test_the_blocking_twin_is_refused_on_the_loop() -> None:
    @step
    async def parent(context: StepContext) -> None:
        with pytest.raises(RuntimeError, match="would wait for itself"):
            context.call_sync(double, 1)

    assert (await Pipeline("p", steps=[parent]).run()).success


@virtual_time
async def test_depth_32_with_8_tasks_per_level_ends_on_one_cpu() -> None:
    async with Runtime(max_cpus=1, max_concurrency=1) as runtime:
        pipeline = Pipeline("p").add_step(descend, "top", params={"levels": 31})
        result = await pipeline.run(runtime=runtime)
    assert result["top"] == 31


@virtual_time
async def test_one_level_too_many_is_refused() -> None:
    async with Runtime(max_cpus=1, max_nested_depth=3) as runtime:
        pipeline = Pipeline("p").add_step(descend, "top", params={"levels": 4})
        result = await pipeline.run(runtime=runtime)
    assert isinstance(result.step_results["top"].error, NestedDepthError)


@virtual_time
async def test_two_parents_of_one_cpu_that_nest_two_cpus_each_end() -> None:
    @step(resources={"cpu": 2})
    async def wide() -> str:
        await asyncio.sleep(1)
        return "wide"

    @step(resources={"cpu": 1})
    async def parent(context: StepContext) -> str:
        await asyncio.sleep(1)
        return str(await context.call(wide))

    async with Runtime(max_cpus=2) as runtime:
        pipeline = Pipeline("p").add_step(parent, "a").add_step(parent, "b")
        result = await pipeline.run(runtime=runtime)
    assert (result["a"], result["b"]) == ("wide", "wide")


@virtual_time
async def test_a_parent_that_is_cancelled_takes_its_nest_with_it() -> None:
    ended: list[str] = []

    @step
    async def endless() -> None:
        try:
            await asyncio.sleep(1_000)
        finally:
            ended.append("endless")

    @step
    async def parent(context: StepContext) -> None:
        await context.call(endless)

    async with Runtime() as runtime:
        run = await runtime.start(Pipeline("p", steps=[parent]))
        await asyncio.sleep(1)
        await run.cancel()
        assert ended == ["endless"]
        assert runtime._scheduler is not None
        assert (runtime._scheduler.in_flight, runtime._scheduler.nesting.waiting) == (0, 0)


@virtual_time
async def test_a_nested_step_has_retries_of_its_own() -> None:
    tries: list[int] = []

    @step(retry=2)
    async def flaky(context: StepContext) -> int:
        tries.append(context.attempt)
        if context.attempt < 3:
            raise OSError("not yet")
        return context.attempt

    @step
    async def parent(context: StepContext) -> int:
        return int(await context.call(flaky))

    assert (await Pipeline("p", steps=[parent]).run())["parent"] == 3
    assert tries == [1, 2, 3]


@pytest.mark.parametrize("fails", [False, True])
@virtual_time
async def test_nested_work_that_is_cancelled_is_not_tried_again(fails: bool) -> None:
    """Also where it answers its cancel with an error of its own: nobody would wait for that try,
    and the end of the run would."""
    tries: list[float] = []

    @step(retry=4, resources={"cpu": 1})
    async def stubborn() -> None:
        tries.append(now())
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            raise ValueError("not now") from None

    @step
    async def parent(context: StepContext) -> str:
        call = asyncio.create_task(context.call(stubborn))
        await asyncio.sleep(1)
        call.cancel()
        if fails:
            raise ValueError("as told")
        await asyncio.sleep(50)
        return "went on"

    async with Runtime(max_cpus=1) as runtime:
        result = await Pipeline("p", steps=[parent]).run(runtime=runtime)
        assert runtime._limiter is not None
        assert runtime._limiter.statistics().leases == 0
    assert result.success is not fails
    assert (tries, now()) == ([0], 1 if fails else 51)
