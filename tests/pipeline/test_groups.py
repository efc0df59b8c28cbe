"""Members of a group run one after the other in one worker, each with a policy of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from asyncflow import (
    Group,
    NodeState,
    Pipeline,
    PipelineResult,
    ResourceRequirements,
    Retry,
    RunState,
    Runtime,
    Step,
    StepContext,
    step,
)
from asyncflow.events import NodeFinished, NodeStarted, UnitFinished, UnitStarted
from tests.virtual_time import Gate, now, virtual_time


def states_of(result: PipelineResult) -> list[str]:
    return [str(step.status) for step in result.step_results.values()]


@step(execution_group="g")
def where_1() -> int:
    return threading.get_ident()


@step(execution_group="g")
def where_2(where_1: int) -> tuple[int, ...]:
    return (where_1, threading.get_ident())


@step(execution_group="g")
def where_3(where_2: tuple[int, ...]) -> tuple[int, ...]:
    return (*where_2, threading.get_ident())


@virtual_time
async def test_members_run_in_one_thread() -> None:
    result = await Pipeline("p", steps=[where_1, where_2, where_3]).run()
    assert len(set(result["where_3"])) == 1
    assert result["where_3"][0] != threading.get_ident()
    workers = {step.worker for step in result.step_results.values()}
    assert len(workers) == 1
    assert workers != {""}


@virtual_time
async def test_members_run_one_after_the_other_even_if_they_could_run_side_by_side() -> None:
    spans: list[tuple[float, float]] = []

    @step(execution_group="g")
    async def second() -> None:
        began = now()
        await asyncio.sleep(1)
        spans.append((began, now()))

    pipeline = Pipeline("p")
    for number in range(4):
        pipeline.add_step(second, f"second {number}")
    await pipeline.run()
    assert spans == [(0, 1), (1, 2), (2, 3), (3, 4)]


@virtual_time
async def test_a_group_is_one_unit_in_the_events() -> None:
    async with Pipeline("p", steps=[where_1, where_2, where_3]).start() as run:
        events = [event async for event in run.events()]
    inner = [event for event in events if event.kind not in ("RunStarted", "RunFinished")]
    (started,) = (event for event in inner if isinstance(event, UnitStarted))
    assert (started.node, started.members) == ("g", ("where_1", "where_2", "where_3"))
    assert isinstance(inner[0], UnitStarted)
    assert isinstance(inner[-1], UnitFinished)
    middle = [(type(event), event.node) for event in inner[1:-1]]
    assert middle == [
        (kind, node)
        for node in ("where_1", "where_2", "where_3")
        for kind in (NodeStarted, NodeFinished)
    ]


@virtual_time
async def test_values_are_handed_over_by_reference() -> None:
    @step(execution_group="g")
    def make() -> list[object]:
        return [object()]

    @step(execution_group="g")
    async def pass_on(make: list[object]) -> list[object]:
        return make

    @step(execution_group="g")
    def check(make: list[object], pass_on: list[object]) -> bool:
        return make is pass_on

    assert (await Pipeline("p", steps=[make, pass_on, check]).run())["check"] is True


@virtual_time
async def test_coroutine_members_of_a_thread_group_run_on_the_caller_s_loop() -> None:
    @step(execution_group="g")
    def in_thread() -> int:
        return threading.get_ident()

    @step(execution_group="g")
    async def on_loop(in_thread: int) -> tuple[int, int, asyncio.AbstractEventLoop]:
        await asyncio.sleep(1)
        return in_thread, threading.get_ident(), asyncio.get_running_loop()

    @step(execution_group="g")
    def in_thread_again(on_loop: object) -> int:
        return threading.get_ident()

    result = await Pipeline("p", steps=[in_thread, on_loop, in_thread_again]).run()
    worker, own, loop = result["on_loop"]
    assert own == threading.get_ident() != worker
    assert loop is asyncio.get_running_loop()
    assert result["in_thread_again"] == worker
    assert result.step_results["on_loop"].lane == "inline"
    assert result.step_results["in_thread"].lane == "thread"


@virtual_time
async def test_a_group_waits_for_the_outside_parents_of_all_its_members() -> None:
    began: list[tuple[str, float]] = []

    @step
    async def slow() -> int:
        await asyncio.sleep(10)
        return 1

    @step(execution_group="g")
    async def first() -> None:
        began.append(("first", now()))

    @step(execution_group="g")
    async def last(slow: int) -> None:
        began.append(("last", now()))

    await Pipeline("p", steps=[slow, first, last]).run()
    assert began == [("first", 10), ("last", 10)]


@virtual_time
async def test_dependents_of_a_member_need_not_wait_for_the_whole_group() -> None:
    @step(execution_group="g")
    async def first() -> int:
        return 1

    @step(execution_group="g")
    async def slow_member() -> None:
        await asyncio.sleep(10)

    @step
    async def outside(first: int) -> float:
        return now()

    assert (await Pipeline("p", steps=[first, slow_member, outside]).run())["outside"] == 0


@virtual_time
async def test_a_group_holds_what_its_members_need_at_most_and_only_once() -> None:
    held: list[tuple[float, int, tuple[str, ...]]] = []

    @step(execution_group="g", resources={"cpu": 2, "gpu": 1})
    def one(context: StepContext) -> None:
        held.append((context.lease.cpus, context.lease.memory_bytes, context.lease.gpu_ids))

    @step(execution_group="g", resources={"cpu": "500m", "memory": 1000})
    async def two(context: StepContext) -> None:
        held.append((context.lease.cpus, context.lease.memory_bytes, context.lease.gpu_ids))

    async with Runtime(max_cpus=2, max_memory=1000, max_gpus=1) as runtime:
        result = await Pipeline("p", steps=[one, two]).run(runtime=runtime)
        assert runtime._get_limiter().statistics().granted_total == 1
    assert result.success
    assert held == [(2, 1000, ("0",))] * 2


@virtual_time
async def test_what_is_said_of_a_group_goes_before_the_sum_of_its_members() -> None:
    @step(execution_group="g", resources={"cpu": 2})
    async def one(context: StepContext) -> float:
        return context.lease.cpus

    groups = {"g": Group(resources=ResourceRequirements(cpu=1))}
    async with Runtime(max_cpus=1) as runtime:
        result = await Pipeline("p", steps=[one], groups=groups).run(runtime=runtime)
    assert result["one"] == 1


# --------------------------------------------------------- retries, timeouts


@virtual_time
async def test_a_retry_in_a_group_gives_back_cpus_and_keeps_memory_and_devices() -> None:
    ran: list[tuple[str, float]] = []

    def note(name: str) -> None:
        ran.append((name, now()))

    @step(execution_group="g", resources={"cpu": 1, "memory": 600, "gpu": 1})
    async def first(context: StepContext) -> None:
        note("first")

    @step(execution_group="g", retry=Retry(1, wait_initial=10, wait_jitter=0))
    async def flaky(context: StepContext) -> tuple[str, ...]:
        note("flaky")
        if context.attempt == 1:
            raise OSError("again")
        assert context.lease.cpus == 1
        return context.lease.gpu_ids

    @step(resources={"cpu": 1})
    async def wants_cpu() -> None:
        note("wants_cpu")
        await asyncio.sleep(1)

    @step(resources={"memory": 600})
    async def wants_memory() -> None:
        note("wants_memory")

    @step(resources={"gpu": 1})
    async def wants_gpu(context: StepContext) -> None:
        note("wants_gpu")

    steps: list[Step[..., Any]] = [first, flaky, wants_cpu, wants_memory, wants_gpu]
    async with Runtime(max_cpus=1, max_memory=1000, max_gpus=1) as runtime:
        result = await Pipeline("p", steps=steps).run(runtime=runtime)
        runtime._get_limiter().validate()
    assert result["flaky"] == ("0",)
    assert ran[:4] == [("first", 0), ("flaky", 0), ("wants_cpu", 0), ("flaky", 10)]
    assert sorted(ran[4:]) == [("wants_gpu", 10), ("wants_memory", 10)]


@virtual_time
async def test_a_retry_in_a_group_keeps_the_thread() -> None:
    threads: list[int] = []

    @step(execution_group="g")
    def first() -> None:
        threads.append(threading.get_ident())

    @step(execution_group="g", retry=Retry(2, wait_initial=10, wait_jitter=0))
    def flaky(context: StepContext) -> None:
        threads.append(threading.get_ident())
        if context.attempt < 3:
            raise OSError("again")

    @step
    def other() -> int:
        return threading.get_ident()

    async with Runtime(max_threads=2) as runtime:
        pipeline = Pipeline("p", steps=[first, flaky])
        for number in range(5):
            pipeline.add_step(other, f"other {number}")
        result = await pipeline.run(runtime=runtime)
    assert result.success
    assert len(threads) == 4
    assert len(set(threads)) == 1
    assert threads[0] not in [result[f"other {number}"] for number in range(5)]


@virtual_time
async def test_each_member_has_a_timeout_of_its_own() -> None:
    @step(execution_group="g", timeout=5)
    async def four_seconds(first: int = 0) -> int:
        await asyncio.sleep(4)
        return first + 1

    @step(execution_group="g", timeout=5)
    async def too_slow() -> None:
        await asyncio.sleep(6)

    pipeline = Pipeline("p", failure_policy="collect_all")
    pipeline.add_step(four_seconds, "one").add_step(four_seconds, "two").add_step(too_slow)
    result = await pipeline.add_step(four_seconds, "three").run()
    assert states_of(result) == ["succeeded", "succeeded", "timed_out", "succeeded"]
    assert now() == 4 + 4 + 5 + 4


@virtual_time
async def test_after_an_abandoned_member_the_rest_runs_in_another_thread() -> None:
    with Gate() as gate:
        threads: list[int] = []

        @step(execution_group="g", resources={"cpu": 1})
        def first() -> None:
            threads.append(threading.get_ident())

        @step(execution_group="g", timeout=1)
        def hang() -> None:
            threads.append(threading.get_ident())
            gate.wait()

        @step(execution_group="g")
        def last() -> None:
            threads.append(threading.get_ident())

        async with Runtime(max_cpus=2, max_threads=1, grace_seconds=1) as runtime:
            pipeline = Pipeline("p", steps=[first, hang, last], failure_policy="collect_all")
            result = await pipeline.run(runtime=runtime)
            assert states_of(result) == ["succeeded", "abandoned", "succeeded"]
            assert threads[0] == threads[1] != threads[2]
            assert runtime._get_limiter().statistics().cpu_millis_held == 1000
            gate.open()
            await asyncio.sleep(1)
            assert runtime._get_limiter().statistics().leases == 0


@virtual_time
async def test_an_abandoned_coroutine_member_does_not_take_the_thread_with_it() -> None:
    given_up = asyncio.Event()

    @step(execution_group="g")
    def first() -> None: ...

    @step(execution_group="g", timeout=1)
    async def stubborn() -> None:
        while not given_up.is_set():
            try:
                await given_up.wait()
            except asyncio.CancelledError:
                continue

    @step(execution_group="g")
    def last() -> str:
        return "ran"

    async with Runtime(max_threads=1, grace_seconds=1) as runtime:
        pipeline = Pipeline("p", steps=[first, stubborn, last], failure_policy="collect_all")
        result = await pipeline.run(runtime=runtime)
        given_up.set()
        await asyncio.sleep(1)
        assert runtime._entered().lanes["thread"].statistics().busy == 0
    assert states_of(result) == ["succeeded", "abandoned", "succeeded"]


# ----------------------------------------------------------- skips, failures


def in_group(name: str, does: Callable[[], object], condition: bool = True) -> Pipeline:
    @step(execution_group="g")
    def before() -> str:
        return "before"

    @step(execution_group="g", name=name, condition=lambda: condition)
    def middle() -> object:
        return does()

    @step(execution_group="g")
    def after() -> str:
        return "after"

    @step(execution_group="g", inputs={"value": name})
    def needs(value: object) -> object:
        return value

    return Pipeline("p", steps=[before, middle, after, needs])


@virtual_time
async def test_a_skipped_member_is_passed_over() -> None:
    result = await in_group("middle", lambda: "never", condition=False).run()
    assert result.success
    assert states_of(result) == ["succeeded", "skipped", "succeeded", "skipped"]


@virtual_time
async def test_a_failed_member_is_passed_over_with_collect_all() -> None:
    result = await in_group("middle", lambda: 1 / 0).run(failure_policy="collect_all")
    assert states_of(result) == ["succeeded", "failed", "succeeded", "upstream_failed"]


@virtual_time
async def test_a_failed_member_ends_the_group_with_fail_fast() -> None:
    async with in_group("middle", lambda: 1 / 0).start() as run:
        kinds = [event.kind async for event in run.events()]
    result = run.result_now()
    assert states_of(result) == ["succeeded", "failed", "cancelled", "upstream_failed"]
    assert result.state is RunState.FAILED
    assert kinds.count("UnitStarted") == kinds.count("UnitFinished") == 1


@virtual_time
async def test_a_cancel_ends_the_group_after_the_member_that_runs() -> None:
    ran: list[str] = []

    @step(execution_group="g", resources={"cpu": 1})
    async def first() -> None:
        try:
            await asyncio.sleep(10)
        finally:
            ran.append("first")

    @step(execution_group="g")
    async def second() -> None:
        ran.append("second")

    async with (
        Runtime(max_cpus=1) as runtime,
        Pipeline("p", steps=[first, second]).start(runtime=runtime) as run,
    ):
        await asyncio.sleep(1)
        await run.cancel()
        assert runtime._get_limiter().statistics().leases == 0
    assert ran == ["first"]
    assert states_of(run.result_now()) == ["cancelled", "cancelled"]


@pytest.mark.parametrize("lane", ["inline", "thread"])
@virtual_time
async def test_five_thousand_members_may_all_be_skipped(lane: str) -> None:
    @step(execution_group="g", condition=lambda: False)
    async def head() -> int:
        return 0

    async def coroutine(value: int) -> int:
        raise AssertionError("ran without its input")

    def function(value: int) -> int:
        raise AssertionError("ran without its input")

    body: Callable[..., Any] = coroutine if lane == "inline" else function
    member = step(body, name="member", execution_group="g")
    pipeline = Pipeline("p", steps=[head])
    above = "head"
    for number in range(5000):
        pipeline.add_step(member, f"member {number}", inputs={"value": above})
        above = f"member {number}"
    async with pipeline.start() as run:
        await run.wait()
    assert run.snapshot().counts == {NodeState.SKIPPED: 5001}


@virtual_time
async def test_five_thousand_members_may_each_skip_themselves() -> None:
    @step(execution_group="g", condition=lambda: False)
    async def member() -> None:
        raise AssertionError("ran although its condition is false")

    pipeline = Pipeline("p")
    for number in range(5000):
        pipeline.add_step(member, f"member {number}")
    async with pipeline.start() as run:
        await run.wait()
    assert run.snapshot().counts == {NodeState.SKIPPED: 5000}


@virtual_time
async def test_five_thousand_members_run_one_after_the_other() -> None:
    @step(execution_group="g")
    async def member(value: int) -> int:
        return value + 1

    pipeline = Pipeline("p")
    pipeline.add_step(member, "member 0", params={"value": 0})
    for number in range(1, 5000):
        pipeline.add_step(member, f"member {number}", inputs={"value": f"member {number - 1}"})
    assert (await pipeline.run())["member 4999"] == 5000
