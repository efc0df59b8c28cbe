"""Nested nodes are who they are by key; what they may do, and what is refused them."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from asyncflow import GraphError, Pipeline, Runtime, StepContext, step
from asyncflow.errors import StepCancelled, StepFailed, StepTimeout
from asyncflow.events import NodeFinished, NodeRetrying
from tests.virtual_time import Gate, now, virtual_time


@step
async def double(number: int) -> int:
    await asyncio.sleep(number)
    return 2 * number


async def names_in(pipeline: Pipeline) -> list[str]:
    """The nodes that ended, in that order."""
    async with Runtime() as runtime, pipeline.start(runtime=runtime) as run:
        return [event.node async for event in run.events() if isinstance(event, NodeFinished)]


# -- who they are ------------------------------------------------------------------------


@virtual_time
async def test_a_nested_node_is_named_by_its_key_whatever_the_order_of_the_calls() -> None:
    @step
    async def parent(order: list[int], context: StepContext) -> list[int]:
        return list(await asyncio.gather(*(context.call(double, k, key=k) for k in order)))

    there = Pipeline("p").add_step(parent, params={"order": [3, 1, 2]})
    back = Pipeline("p").add_step(parent, params={"order": [2, 1, 3]})
    expected = ["parent/double[1]", "parent/double[2]", "parent/double[3]", "parent"]
    assert await names_in(there) == await names_in(back) == expected


@virtual_time
async def test_items_of_a_map_without_a_key_are_their_own_and_must_differ() -> None:
    @step
    async def parent(context: StepContext) -> str:
        with pytest.raises(GraphError) as twice:
            await context.map(double, [1, 2, 1])
        with pytest.raises(GraphError, match="no key for an item of type float"):
            await context.map(double, [1.5])
        return str(twice.value)

    result = await Pipeline("p", steps=[parent]).run()
    assert (
        "has called 'parent/double[1]' already; give every call a key of its own"
        in (result["parent"])
    )


@virtual_time
async def test_two_calls_without_a_key_are_one_too_many() -> None:
    @step
    async def parent(context: StepContext) -> None:
        await context.call(double, 1)
        with pytest.raises(GraphError, match="'parent/double' already"):
            await context.call(double, 2)
        await context.call(double.with_options(name="other"), 2)

    (await Pipeline("p", steps=[parent]).run()).raise_for_failure()


@virtual_time
async def test_a_nested_run_and_a_nested_step_share_the_names() -> None:
    @step
    async def parent(context: StepContext) -> None:
        await context.call(double, 1)
        with pytest.raises(GraphError, match="'parent/double' already"):
            await context.run(Pipeline("double"))

    (await Pipeline("p", steps=[parent]).run()).raise_for_failure()


@virtual_time
async def test_a_new_try_of_the_parent_calls_anew() -> None:
    @step(retry=1)
    async def parent(context: StepContext) -> int:
        value = await context.call(double, 1, key="a")
        if context.attempt == 1:
            raise OSError("once")
        return int(value)

    assert await names_in(Pipeline("p", steps=[parent])) == [
        "parent/double[a]",
        "parent/double[a]#2",
        "parent",
    ]


# -- options of the nested step ----------------------------------------------------------


@virtual_time
async def test_a_nested_step_has_a_timeout_of_its_own() -> None:
    @step
    async def parent(context: StepContext) -> float:
        with pytest.raises(StepTimeout, match=r"'parent/double\[9\]', attempt 1, took longer"):
            await context.call(double.with_options(timeout=2), 9, key=9)
        return now()

    assert (await Pipeline("p", steps=[parent]).run())["parent"] == 2


@virtual_time
async def test_a_nested_step_is_tried_again_as_it_says_and_each_try_is_told() -> None:
    @step(retry=2)
    async def flaky(context: StepContext) -> int:
        if context.attempt < 3:
            raise OSError("not yet")
        return context.attempt

    @step
    async def parent(context: StepContext) -> list[int]:
        return await context.map(flaky.with_options(name="f"), [], key=str) + [
            await context.call(flaky)
        ]

    async with Runtime() as runtime, Pipeline("p", steps=[parent]).start(runtime=runtime) as run:
        told = [(e.node, e.attempt) async for e in run.events() if isinstance(e, NodeRetrying)]
        assert (await run.result())["parent"] == [3]
    assert told == [("parent/flaky", 1), ("parent/flaky", 2)]


@virtual_time
async def test_a_nested_step_takes_named_limits_like_any_other() -> None:
    limited = double.with_options(limits={"api": 1})

    @step
    async def parent(context: StepContext) -> list[int]:
        return await context.map(limited, [1, 2, 0.5], key=str) + [
            await context.call(limited, 0, key="last")
        ]

    async with Runtime(limits={"api": 1}) as runtime:
        result = await Pipeline("p", steps=[parent]).run(runtime=runtime)
    assert (result["parent"], now()) == ([2, 4, 1, 0], 3.5)


@pytest.mark.parametrize("number, value", [(1, 2), (7, None)])
@virtual_time
async def test_a_condition_decides_whether_a_nested_step_runs(
    number: int, value: int | None
) -> None:
    def is_small(number: int, limit: int) -> bool:
        return number < limit

    @step
    async def parent(context: StepContext) -> Any:
        return await context.call(double.with_options(condition=is_small), number)

    pipeline = Pipeline("p", steps=[parent], context={"limit": 5})
    assert (await pipeline.run())["parent"] == value


@virtual_time
async def test_a_nested_step_that_is_cancelled_in_its_condition_ends() -> None:
    async def never(number: int) -> bool:
        await asyncio.sleep(1_000)
        return True

    @step
    async def parent(context: StepContext) -> str:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await context.call(double.with_options(condition=never), 1)
        return "went on"

    assert (await Pipeline("p", steps=[parent]).run())["parent"] == "went on"
    assert now() == 1


@pytest.mark.parametrize(
    "wrong, words",
    [
        (
            {"execution_group": "g"},
            r"has execution_group=, .*with_options\(execution_group=None\)",
        ),
        ({"when": "failure"}, r"has when=, .*with_options\(when='success'\)"),
        ({"resources": {"gpu": 1}}, "asks for a GPU in the inline lane"),
    ],
)
@virtual_time
async def test_what_only_a_pipeline_can_heed_is_refused(wrong: dict[str, Any], words: str) -> None:
    @step
    async def parent(context: StepContext) -> None:
        with pytest.raises(GraphError, match=words):
            await context.call(double.with_options(**wrong), 1)

    async with Runtime(max_gpus=1) as runtime:
        (await Pipeline("p", steps=[parent]).run(runtime=runtime)).raise_for_failure()


@virtual_time
async def test_what_is_no_step_is_refused() -> None:
    async def plain(number: int) -> int:
        return number

    @step
    async def parent(context: StepContext) -> None:
        with pytest.raises(GraphError, match="'plain' is none: put @step on it"):
            await context.call(plain, 1)
        with pytest.raises(GraphError, match=r"is none: use run\(\) for a pipeline"):
            await context.call(Pipeline("below"))
        with pytest.raises(GraphError, match=r"is no pipeline; call\(\) is for steps"):
            await context.run(double)

    (await Pipeline("p", steps=[parent]).run()).raise_for_failure()


# -- maps --------------------------------------------------------------------------------


@step
async def picky(number: int) -> int:
    await asyncio.sleep(1)
    if number % 2:
        raise ValueError(f"{number} is odd")
    return number


@virtual_time
async def test_a_map_raises_the_first_error_and_cancels_the_others() -> None:
    ended: list[int] = []

    @step
    async def slow(number: int) -> int:
        try:
            await asyncio.sleep(100 * number)
        finally:
            ended.append(number)
        return number

    @step
    async def work(number: int, context: StepContext) -> int:
        return int(await context.call(picky if number < 4 else slow, number))

    @step
    async def parent(context: StepContext) -> str:
        with pytest.raises(ValueError, match="3 is odd"):
            await context.map(work, [5, 3, 1, 6])
        return "caught"

    assert (await Pipeline("p", steps=[parent]).run())["parent"] == "caught"
    assert (ended, now()) == ([5, 6], 1)


@virtual_time
async def test_a_map_may_give_errors_in_the_place_of_values() -> None:
    @step
    async def parent(context: StepContext) -> list[str]:
        values = await context.map(picky, range(4), on_error="yield", concurrency=2)
        return [repr(value) for value in values]

    result = await Pipeline("p", steps=[parent]).run()
    assert result["parent"] == ["0", "ValueError('1 is odd')", "2", "ValueError('3 is odd')"]
    assert now() == 2


@pytest.mark.parametrize("ordered, keys", [(True, [3, 1, 2]), (False, [1, 2, 3])])
@virtual_time
async def test_a_map_is_iterated_over_in_order_or_as_they_come(
    ordered: bool, keys: list[int]
) -> None:
    @step
    async def parent(context: StepContext) -> list[tuple[int, int]]:
        return [pair async for pair in context.map(double, [3, 1, 2], ordered=ordered)]

    assert (await Pipeline("p", steps=[parent]).run())["parent"] == [(k, 2 * k) for k in keys]


@virtual_time
async def test_leaving_a_map_early_cancels_the_rest() -> None:
    @step
    async def parent(context: StepContext) -> int:
        async for key, _ in context.map(double, [100, 1, 200], ordered=False):
            return int(key)
        raise AssertionError("nothing came")

    async with Runtime() as runtime:
        result = await Pipeline("p", steps=[parent]).run(runtime=runtime)
        assert runtime._scheduler is not None
        assert runtime._scheduler.in_flight == 0
    assert (result["parent"], now()) == (1, 1)


@virtual_time
async def test_a_map_over_a_pipeline_gives_results_and_raises_what_failed_in_it() -> None:
    pipeline = Pipeline("below", inputs=["number", "offset"])

    @step
    async def shifted(number: int, offset: int) -> int:
        if number == 3:
            raise ValueError("no threes")
        return number + offset

    pipeline.add_step(shifted)

    @step
    async def parent(context: StepContext) -> list[int]:
        def key(inputs: dict[str, int]) -> int:
            return inputs["number"]

        results = await context.map(pipeline, [{"number": 1}, {"number": 2}], key=key, offset=10)
        with pytest.raises(StepFailed, match="no threes"):
            await context.map(pipeline, [{"number": 3}], key=key, offset=10)
        with pytest.raises(TypeError, match="a mapping; item 4 is of type int"):
            await context.map(pipeline, [4], offset=10)
        (error,) = await context.map(
            pipeline.with_steps({}), [{"number": 3}], key=str, on_error="yield", offset=0
        )
        assert isinstance(error, StepFailed)
        return [result["shifted"] for result in results]

    assert (await Pipeline("p", steps=[parent]).run())["parent"] == [11, 12]


# -- too late ----------------------------------------------------------------------------


@virtual_time
async def test_who_was_told_to_stop_gets_no_more_work() -> None:
    refused: list[str] = []

    @step(timeout=1)
    async def parent(context: StepContext) -> None:
        try:
            await context.call(double, 100, key="slow")
        finally:
            with pytest.raises(StepCancelled) as late:
                await context.call(double, 1, key="more")
            refused.append(str(late.value))

    result = await Pipeline("p", steps=[parent]).run()
    assert result.step_results["parent"].status == "timed_out"
    assert refused == ["step 'parent' was told to stop, so 'double' does not run"]


@virtual_time
async def test_what_a_step_left_behind_can_ask_for_nothing_any_more() -> None:
    left: list[asyncio.Task[Any]] = []

    @step
    async def parent(context: StepContext) -> None:
        async def later() -> None:
            await asyncio.sleep(1)
            await context.call(double, 1)

        left.append(asyncio.create_task(later()))

    @step
    async def other() -> None:
        await asyncio.sleep(5)

    result = await Pipeline("p", steps=[parent, other]).run()
    assert result.success
    with pytest.raises(StepCancelled, match="asks for 'double' after it has ended"):
        await left[0]


@virtual_time
async def test_what_nobody_waits_for_any_more_is_cancelled_with_its_step() -> None:
    left: list[asyncio.Task[Any]] = []

    @step(resources={"cpu": 1, "memory": 1024})
    async def parent(context: StepContext) -> None:
        work = double.with_options(resources={"cpu": 1, "memory": 1024})
        left.append(asyncio.create_task(context.call(work, 100)))
        await asyncio.sleep(1)

    async with Runtime(max_cpus=1) as runtime:
        assert (await Pipeline("p", steps=[parent]).run(runtime=runtime)).success
        assert runtime._scheduler is not None
        assert runtime._limiter is not None
        assert runtime._scheduler.in_flight == 0
        assert runtime._limiter.statistics().leases == 0
    with pytest.raises(StepCancelled):
        await left[0]
    assert now() == 1


@pytest.mark.parametrize("how", ["call_sync", "map_sync", "run_sync"])
@virtual_time
async def test_a_thread_that_waits_for_its_nest_is_cancelled_at_once(how: str) -> None:
    ended: list[str] = []

    @step
    async def endless(number: int) -> None:
        try:
            await asyncio.sleep(1_000)
        finally:
            ended.append(how)

    @step
    def parent(context: StepContext) -> None:
        if how == "call_sync":
            context.call_sync(endless, 1)
        elif how == "map_sync":
            context.map_sync(endless, [1, 2], concurrency=1, on_error="yield")
        else:
            context.run_sync(Pipeline("below", steps=[endless]), {"number": 1})

    async with Runtime() as runtime:
        run = await runtime.start(Pipeline("p", steps=[parent]))
        await asyncio.sleep(1)
        await run.cancel()
        assert (run.abandoned, ended, now()) == ((), [how], 1)
        assert runtime._scheduler is not None
        assert not runtime._scheduler.runs


@virtual_time
async def test_a_nested_step_that_was_cancelled_before_its_turn_never_starts() -> None:
    started: list[str] = []

    @step
    async def late() -> None:
        started.append("late")

    @step(timeout=1)
    def parent(context: StepContext) -> None:
        context.call_sync(late)

    @step
    async def other() -> int:
        return 1

    @step
    async def long() -> None:
        await asyncio.sleep(10)

    async with Runtime(max_concurrency=1) as runtime:
        first = await runtime.start(
            Pipeline("first", steps=[parent, other], failure_policy="collect_all")
        )
        second = await runtime.start(Pipeline("second", steps=[long]))
        results = [await run.result() for run in (first, second)]
    assert results[0].step_results["parent/late"].status == "cancelled"
    assert (results[1].success, results[0]["other"], started) == (True, 1, [])


@virtual_time
async def test_a_step_in_a_run_that_drains_may_still_ask_for_what_it_needs() -> None:
    """Also for what it has asked for before: on one CPU that waits for another step to end."""
    work = double.with_options(resources={"cpu": 1}, retry=1)

    @step
    async def parent(context: StepContext) -> int:
        before = [context.call(work, number, key=number) for number in (1, 2)]
        values = await asyncio.gather(*before)
        return int(sum(values) + await context.call(double, 3))

    @step
    async def never(parent: int) -> None: ...

    async with Runtime(max_cpus=1) as runtime:
        async with Pipeline("p", steps=[parent, never]).start(runtime=runtime) as run:
            await asyncio.sleep(0.5)
            run.drain_nowait("closing time")
        result = run.result_now()
    assert (result["parent"], now()) == (12, 6)
    assert result.step_results["never"].status == "cancelled"


@virtual_time
async def test_a_step_in_a_runtime_that_drains_may_still_ask_for_what_it_needs() -> None:
    @step
    async def parent(context: StepContext) -> int:
        await asyncio.sleep(2)
        below = Pipeline("below", inputs=["number"], steps=[double])
        result = await context.run(below, {"number": 1})
        return int(await context.call(double, 2)) + int(result["double"])

    async with Runtime() as runtime:
        run = await runtime.start(Pipeline("p", steps=[parent]))
        await asyncio.sleep(1)
        await runtime.aclose(drain_seconds=60)
    assert (await run.result())["parent"] == 6
    assert now() == 5


@virtual_time
async def test_a_thread_that_never_returns_from_its_nest_does_not_hold_up_the_run() -> None:
    gate = Gate()

    @step
    def stuck() -> None:
        gate.wait()

    @step
    async def parent(context: StepContext) -> None:
        await context.call(stuck.with_options(timeout=1))

    async with Runtime(grace_seconds=1) as runtime:
        result = await Pipeline("p", steps=[parent]).run(runtime=runtime)
        assert isinstance(result.step_results["parent"].error, StepTimeout)
        gate.open()


def test_a_thread_that_outlives_its_event_loop_gets_no_nested_work() -> None:
    gate, refused = threading.Event(), threading.Event()

    @step(timeout=0.01)
    def stubborn(context: StepContext) -> None:
        gate.wait(30)
        with pytest.raises(StepCancelled, match="has outlived its event loop"):
            context.call_sync(double, 1)
        refused.set()

    async def main() -> None:
        async with Runtime(grace_seconds=0.01) as runtime:
            await Pipeline("p", steps=[stubborn]).run(runtime=runtime)

    asyncio.run(main())
    gate.set()
    assert refused.wait(30)


def test_the_twin_of_a_thread_may_be_used_from_a_thread_of_its_own() -> None:
    """A sync step may itself use threads: each may ask for nested work."""

    @step
    def parent(context: StepContext) -> list[int]:
        found: dict[int, int] = {}

        def ask(number: int) -> None:
            found[number] = context.call_sync(double.with_options(name="d"), number, key=number)

        helpers = [threading.Thread(target=ask, args=(number,)) for number in (0, 0.01)]
        for helper in helpers:
            helper.start()
        for helper in helpers:
            helper.join()
        return sorted(found.values())

    assert Pipeline("p", steps=[parent]).run_sync()["parent"] == [0, 0.02]
