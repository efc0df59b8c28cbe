"""What a nest may use: its parents' memory and devices, and the CPUs and places of who waits."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from asyncflow import ParallelExecutor, Pipeline, Runtime, StepContext, step
from asyncflow.errors import CapacityError
from asyncflow.events import Warned
from tests.virtual_time import now, virtual_time


class Together:
    """How many are at work at the same time."""

    def __init__(self) -> None:
        self.now = self.most = 0

    def __enter__(self) -> None:
        self.now += 1
        self.most = max(self.most, self.now)

    def __exit__(self, *_: object) -> None:
        self.now -= 1


@pytest.mark.parametrize("asked, at_once", [(1, 1), (0.5, 2), (0.3, 3)])
@virtual_time
async def test_siblings_never_share_the_device_of_their_parent_unasked(
    asked: float, at_once: int
) -> None:
    together = Together()

    @step(resources={"gpu": asked})
    async def train(number: int, context: StepContext) -> tuple[str, ...]:
        with together:
            await asyncio.sleep(1)
        return context.lease.gpu_ids

    @step(resources={"gpu": 1})
    async def parent(context: StepContext) -> bool:
        devices = await context.map(train, range(6))
        return {context.lease.gpu_ids} == set(devices)

    async with Runtime(max_gpus=1) as runtime:
        assert (await Pipeline("p", steps=[parent]).run(runtime=runtime))["parent"]
        assert runtime._limiter is not None
        assert runtime._limiter.statistics().busy_devices == ()
    assert together.most == at_once
    assert now() == pytest.approx(6 / at_once)


@virtual_time
async def test_siblings_take_free_devices_besides_that_of_their_parent() -> None:
    together = Together()

    @step(resources={"gpu": 1})
    async def train(number: int, context: StepContext) -> str:
        with together:
            await asyncio.sleep(1)
        return context.lease.gpu_ids[0]

    @step(resources={"gpu": 1})
    async def parent(context: StepContext) -> list[str]:
        return await context.map(train, range(4))

    async with Runtime(max_gpus=2) as runtime:
        devices = (await Pipeline("p", steps=[parent]).run(runtime=runtime))["parent"]
    assert together.most == 2
    assert len(set(devices)) == 2


@pytest.mark.parametrize("resources", [{"gpu": 1}, {"memory": "4GiB"}, {"gpu": 1, "cpu": 1}])
@virtual_time
async def test_grandchildren_use_what_their_grandparent_holds(resources: dict[str, Any]) -> None:
    @step(resources=resources)
    async def grandchild(context: StepContext) -> tuple[str, ...]:
        return context.lease.gpu_ids

    @step(resources={"cpu": 1})
    async def child(context: StepContext) -> tuple[str, ...]:
        return tuple(await context.call(grandchild))

    @step(resources=resources)
    async def parent(context: StepContext) -> bool:
        return bool(context.lease.gpu_ids == await context.call(child))

    async with Runtime(max_gpus=1, max_cpus=1, max_memory="4GiB") as runtime:
        assert (await Pipeline("p", steps=[parent]).run(runtime=runtime))["parent"]


@virtual_time
async def test_the_steps_of_a_nested_pipeline_use_what_their_parent_holds() -> None:
    @step(resources={"gpu": 1, "memory": "3GiB"})
    async def inner(context: StepContext) -> tuple[str, ...]:
        return context.lease.gpu_ids

    @step(resources={"gpu": 1, "memory": "2GiB"})
    async def parent(context: StepContext) -> bool:
        result = await context.run(Pipeline("below", steps=[inner]))
        return bool(result["inner"] == context.lease.gpu_ids)

    async with Runtime(max_gpus=1, max_memory="3GiB") as runtime:
        assert (await Pipeline("p", steps=[parent]).run(runtime=runtime))["parent"]


@virtual_time
async def test_a_step_that_asks_for_nothing_is_told_what_its_parent_holds_for_it() -> None:
    @step(resources={"cpu": 1})
    async def child(context: StepContext) -> tuple[float, int, tuple[str, ...]]:
        return context.lease.cpus, context.lease.memory_bytes, context.lease.gpu_ids

    @step(resources={"cpu": 2, "gpu": 1, "memory": 1024})
    async def parent(context: StepContext) -> tuple[float, int, tuple[str, ...]]:
        return tuple(await context.call(child))

    async with Runtime(max_gpus=1, max_cpus=2) as runtime:
        lease = (await Pipeline("p", steps=[parent]).run(runtime=runtime))["parent"]
    assert lease == (1.0, 1024, ("0",))


@step(resources={"memory": "3GiB"})
async def large() -> None:
    await asyncio.sleep(1)


@step(resources={"memory": "2GiB"})
async def wants_more_later(context: StepContext) -> None:
    await asyncio.sleep(1)
    await context.call(large)


@virtual_time
async def test_nests_that_wait_for_what_each_other_holds_fail_with_a_story() -> None:
    async with Runtime(max_memory="4GiB") as runtime:
        pipeline = Pipeline("p")
        pipeline.add_step(wants_more_later, "a").add_step(wants_more_later, "b")
        result = await pipeline.run(runtime=runtime, failure_policy="collect_all")
    errors = [found.error for found in result.step_results.values() if found.error is not None]
    assert all(isinstance(error, CapacityError) for error in errors)
    assert "held by 'a', 'b'" in str(errors[0])
    assert result.step_results["a"].success != result.step_results["b"].success


@virtual_time
async def test_who_only_waits_for_nests_that_wait_for_each_other_is_spared() -> None:
    """Of two runs that get in each other's way one request fails, and none outside nests."""
    async with Runtime(max_memory="4GiB") as runtime:
        runs = [await runtime.start(Pipeline(name, steps=[wants_more_later])) for name in "ab"]
        await asyncio.sleep(1.5)
        late = await runtime.start(Pipeline("late", steps=[large]))
        results = [await run.result() for run in (*runs, late)]
    assert [result.success for result in results] == [True, False, True]


@virtual_time
async def test_a_nested_step_is_held_to_the_labels_and_taints_of_the_runtime() -> None:
    @step(resources={"cpu": 1, "node_affinity": {"required": {"disk": "ssd"}}})
    async def picky() -> None: ...

    @step
    async def bare() -> None: ...

    @step(resources={"node_affinity": {"tolerations": ["gpu-only"]}})
    async def parent(context: StepContext) -> tuple[str, str]:
        with pytest.raises(CapacityError) as first:
            await context.call(picky)
        with pytest.raises(CapacityError) as second:
            await context.call(bare)
        return str(first.value), str(second.value)

    async with Runtime(taints=["gpu-only"]) as runtime:
        labels, taints = (await Pipeline("p", steps=[parent]).run(runtime=runtime))["parent"]
    assert "nested step 'parent/picky': it requires the label disk=ssd" in labels
    assert "nested step 'parent/bare': it does not tolerate the taint 'gpu-only'" in taints


@virtual_time
async def test_a_nested_step_that_gets_less_than_it_asks_for_says_so() -> None:
    @step(resources={"cpu": 8})
    async def wide(context: StepContext) -> float:
        return context.lease.cpus

    @step
    async def parent(context: StepContext) -> float:
        return float(await context.call(wide))

    async with (
        Runtime(max_cpus=2) as runtime,
        Pipeline("p", steps=[parent]).start(runtime=runtime) as run,
    ):
        warnings = [event async for event in run.events() if isinstance(event, Warned)]
        assert (await run.result())["parent"] == 2.0
    assert [(event.node, "8 CPUs" in event.message) for event in warnings] == [
        ("parent/wide", True)
    ]


# -- places in lanes and windows ---------------------------------------------------------


@step
def in_thread(number: int) -> str:
    return threading.current_thread().name


@step
async def numbers() -> list[int]:
    return list(range(200))


def threads_of(runtime: Runtime) -> int:
    """How many threads the lane of a runtime has."""
    assert runtime._scheduler is not None
    return runtime._scheduler.lanes["thread"].statistics().workers


@virtual_time
async def test_steps_that_nest_do_not_need_a_thread_each_however_many_there_are() -> None:
    @step
    def parent(number: int, context: StepContext) -> int:
        context.map_sync(in_thread, range(3))
        return threads_of(runtime)

    async with Runtime(max_threads=2) as runtime:
        pipeline = Pipeline("p", steps=[numbers]).add_step(parent, map="numbers")
        result = await pipeline.run(runtime=runtime)
    assert max(result["parent"]) <= 8


@virtual_time
async def test_of_threads_that_wait_for_their_nests_only_some_are_replaced() -> None:
    @step
    async def slow(number: int) -> None:
        await asyncio.sleep(1)

    @step
    def parent(number: int, context: StepContext) -> int:
        context.call_sync(slow, number)
        return threads_of(runtime)

    async with Runtime(max_threads=2) as runtime:
        pipeline = Pipeline("p", steps=[numbers]).add_step(parent, map="numbers")
        result = await pipeline.run(runtime=runtime)
    assert 64 <= max(result["parent"]) <= 64 + 2


@virtual_time
async def test_threads_that_only_nests_needed_do_not_stay() -> None:
    @step
    def parent(context: StepContext) -> int:
        context.map_sync(in_thread, range(3), concurrency=1)
        return threads_of(runtime)

    async with Runtime(max_threads=1) as runtime:
        result = await Pipeline("p", steps=[parent]).run(runtime=runtime)
        assert (result["parent"], threads_of(runtime)) == (2, 1)


@virtual_time
async def test_a_coroutine_in_a_thread_group_lends_the_thread_of_its_group() -> None:
    @step(execution_group="g", outputs=["first"])
    async def first(context: StepContext) -> str:
        return str(await context.call(in_thread, 1))

    @step(execution_group="g", inputs=["first"])
    def second(first: str) -> str:
        return first

    async with Runtime(max_threads=1, max_concurrency=1) as runtime:
        result = await Pipeline("p", steps=[first, second]).run(runtime=runtime)
        result.raise_for_failure()


@virtual_time
async def test_an_executor_with_one_worker_does_not_count_who_waits_for_its_nest() -> None:
    @step
    def parent(context: StepContext) -> str:
        return str(context.call_sync(in_thread, 1))

    pipeline = Pipeline("p").add_step(parent, "a").add_step(parent, "b")
    async with Runtime(max_threads=4) as runtime:
        executor = ParallelExecutor(max_workers=1, backend="thread")
        assert (await pipeline.run(runtime=runtime, executor=executor)).success


@virtual_time
async def test_what_was_started_ends_before_more_is_started() -> None:
    order: list[str] = []

    @step
    async def child(context: StepContext) -> None:
        order.append(context.node)

    @step
    async def parent(context: StepContext) -> None:
        order.append(context.node)
        await context.call(child)

    pipeline = Pipeline("p")
    for name in "abc":
        pipeline.add_step(parent, name)
    async with Runtime(max_concurrency=1) as runtime:
        await pipeline.run(runtime=runtime)
    assert order == ["a", "a/child", "b", "b/child", "c", "c/child"]


@virtual_time
async def test_a_step_that_asks_for_more_while_it_waits_for_its_cpus_lends_them_again() -> None:
    """On one CPU: it would hold the CPU that the second of its calls waits for.

    The first call ends at 1 s, but ``other`` takes the CPU then and has it until 6 s. At 1.5 s
    the second call comes, while the step waits for its CPU because of the first.
    """

    @step
    async def delay() -> None:
        await asyncio.sleep(0.5)

    @step(resources={"cpu": 1})
    async def work(seconds: float) -> float:
        await asyncio.sleep(seconds)
        return seconds

    @step(resources={"cpu": 1})
    async def parent(context: StepContext) -> list[float]:
        async def later(seconds: float) -> float:
            await asyncio.sleep(seconds)
            return float(await context.call(work, seconds))

        found = await asyncio.gather(context.call(work, 1.0, key="now"), later(1.5))
        return [float(value) for value in found]

    async with Runtime(max_cpus=1) as runtime:
        pipeline = Pipeline("p", steps=[parent, delay])
        pipeline.add_step(work, "other", {"seconds": 5}, after=["delay"])
        result = await pipeline.run(runtime=runtime)
        assert result["parent"] == [1.0, 1.5]
        assert runtime._scheduler is not None
        assert runtime._scheduler.in_flight == 0
