"""A hundred thousand steps: no recursion, no task per waiting step, little left of each."""

from __future__ import annotations

import asyncio
import gc
import sys
import weakref
from collections.abc import Callable

import pytest

from asyncflow import NodeState, Pipeline, PipelineResult, Runtime, step
from tests.virtual_time import virtual_time

MANY = 100_000


@step
async def one() -> int:
    return 1


@step
async def add(value: int) -> int:
    return value + 1


def chain(length: int) -> Pipeline:
    pipeline = Pipeline("chain").add_step(one, "0")
    for number in range(1, length):
        pipeline.add_step(add, str(number), inputs={"value": str(number - 1)})
    return pipeline


def fan_out(width: int) -> Pipeline:
    pipeline = Pipeline("fan-out", steps=[one])
    for number in range(width):
        pipeline.add_step(add, str(number), inputs={"value": "one"})
    return pipeline


@virtual_time
async def test_a_chain_of_a_hundred_thousand_steps() -> None:
    result = await chain(MANY).run()
    assert result[str(MANY - 1)] == MANY
    assert result.counts() == {NodeState.SUCCEEDED: MANY}


@virtual_time
async def test_a_fan_out_to_a_hundred_thousand_steps() -> None:
    result = await fan_out(MANY).run()
    assert result.counts() == {NodeState.SUCCEEDED: MANY + 1}
    assert result[str(MANY - 1)] == 2


@virtual_time
async def test_a_fan_in_of_a_hundred_thousand_steps() -> None:
    names = [str(number) for number in range(MANY)]

    @step(inputs={"values": names})
    async def total(values: list[int]) -> int:
        return sum(values)

    pipeline = Pipeline("fan-in")
    for name in names:
        pipeline.add_step(one, name)
    assert (await pipeline.add_step(total).run())["total"] == MANY


async def test_a_hundred_thousand_elements_flow_through_two_mapped_nodes() -> None:
    first_done = 0
    done_when_second_began: list[int] = []

    @step
    async def numbers() -> range:
        return range(MANY)

    @step
    async def first(numbers: int) -> int:
        nonlocal first_done
        first_done += 1
        return numbers + 1

    @step
    async def second(first: int) -> int:
        done_when_second_began.append(first_done)
        return 2 * first

    pipeline = Pipeline("maps", steps=[numbers])
    result = await pipeline.add_step(first, map="numbers").add_step(second, map="first").run()
    assert result["second"] == [2 * (number + 1) for number in range(MANY)]
    assert done_when_second_began[0] < MANY / 10


@virtual_time
async def test_a_failure_above_a_hundred_thousand_steps_reaches_all_of_them() -> None:
    @step
    async def broken() -> int:
        raise ValueError("no good")

    pipeline = Pipeline("p", steps=[broken], failure_policy="collect_all")
    for number in range(MANY // 2):
        pipeline.add_step(add, str(number), inputs={"value": "broken"})
    for number in range(MANY // 2, MANY):
        pipeline.add_step(add, str(number), inputs={"value": str(number - 1)})
    result = await pipeline.run()
    assert result.counts() == {NodeState.FAILED: 1, NodeState.UPSTREAM_FAILED: MANY}
    assert "broken" in str(result.step_results[str(MANY - 1)].error)


@virtual_time
async def test_a_cancel_of_a_hundred_thousand_steps_ends_all_of_them() -> None:
    pipeline = fan_out(MANY)
    async with Runtime(max_concurrency=10) as runtime, pipeline.start(runtime=runtime) as run:
        await asyncio.sleep(0)
        await run.cancel()
    counts = run.snapshot().counts
    assert sum(counts.values()) == MANY + 1
    assert set(counts) <= {NodeState.CANCELLED, NodeState.SUCCEEDED}


@virtual_time
async def test_a_waiting_step_is_no_task() -> None:
    @step
    async def slow() -> None:
        await asyncio.sleep(1)

    pipeline = Pipeline("p")
    for number in range(10_000):
        pipeline.add_step(slow, str(number))
    async with (
        Runtime(max_concurrency=50) as runtime,
        pipeline.start(runtime=runtime) as run,
    ):
        await asyncio.sleep(0.5)
        assert len(asyncio.all_tasks()) <= 50 + 1
        await run.cancel()


def tracked_objects() -> int:
    gc.collect()
    return len(gc.get_objects())


@pytest.mark.parametrize("shape", [chain, fan_out])
@virtual_time
async def test_a_finished_step_leaves_at_most_one_object_to_the_collector(
    shape: Callable[[int], Pipeline],
) -> None:
    count = 10_000
    pipeline = shape(count)
    pipeline.build()
    before = tracked_objects()
    result = await pipeline.run()
    left = tracked_objects() - before
    assert result.success
    assert left <= count


# Not in virtual time, where every event is built and kept.
async def test_a_finished_step_leaves_little_memory() -> None:
    count = 20_000
    pipeline = fan_out(count)
    pipeline.build()
    gc.collect()
    before = sys.getallocatedblocks()
    result = await pipeline.run()
    gc.collect()
    assert result.success
    # Blocks, not bytes: times and states are columns, so that a step adds none of its own.
    assert sys.getallocatedblocks() - before < 3 * count


class Value:
    """Something whose end can be seen."""


@virtual_time
async def test_no_value_outlives_its_run() -> None:
    values: weakref.WeakSet[Value] = weakref.WeakSet()

    @step
    async def make() -> Value:
        value = Value()
        values.add(value)
        return value

    @step
    def make_in_thread() -> Value:
        value = Value()
        values.add(value)
        return value

    pipeline = Pipeline("p")
    for number in range(500):
        pipeline.add_step(make, f"inline {number}").add_step(make_in_thread, f"thread {number}")
    async with Runtime() as runtime:
        result: PipelineResult | None = await pipeline.run(runtime=runtime)
        gc.collect()
        assert len(values) == 1000
        del result
        gc.collect()
        assert len(values) == 0


@virtual_time
async def test_values_that_are_let_go_do_not_pile_up() -> None:
    alive: weakref.WeakSet[Value] = weakref.WeakSet()
    most: list[int] = []

    @step
    async def begin() -> Value:
        return Value()

    @step
    async def pass_on(value: Value) -> Value:
        made = Value()
        alive.add(made)
        most.append(len(alive))
        return made

    pipeline = Pipeline("p", steps=[begin], outputs=["999"])
    above = "begin"
    for number in range(1000):
        pipeline.add_step(pass_on, str(number), inputs={"value": above})
        above = str(number)
    assert (await pipeline.run()).success
    # The last one or two may still be held by the task that has just ended.
    assert max(most) <= 4
