"""An attempt that takes too long is stopped, or given up; so is a run."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from asyncflow import (
    GraphError,
    NodeState,
    Pipeline,
    Retry,
    RunState,
    Runtime,
    RunTimeout,
    StepCancelled,
    StepContext,
    StepFailed,
    StepTimeout,
    step,
)
from asyncflow.runtime import FailurePolicy
from tests.virtual_time import Gate, now, turns, virtual_time


@virtual_time
async def test_a_coroutine_is_cancelled_when_its_time_is_up() -> None:
    seen: list[str] = []

    @step(timeout=5)
    async def slow() -> None:
        try:
            await asyncio.sleep(100)
        finally:
            seen.append(f"cleaned up after {now():g} s")

    result = await Pipeline("p", steps=[slow]).run()
    assert seen == ["cleaned up after 5 s"]
    outcome = result.step_results["slow"]
    assert (outcome.status, outcome.duration_seconds) == (NodeState.TIMED_OUT, 5)
    error = outcome.error
    assert isinstance(error, StepTimeout)
    assert isinstance(error, TimeoutError)
    assert (error.step, error.attempt, error.timeout_seconds) == ("slow", 1, 5)
    assert isinstance(error.__cause__, asyncio.CancelledError)
    with pytest.raises(StepTimeout, match="step 'slow', attempt 1, took longer than its timeout"):
        result["slow"]


@pytest.mark.parametrize("policy", ["fail_fast", "collect_all"])
@virtual_time
async def test_what_is_below_a_late_step_does_not_run(policy: FailurePolicy) -> None:
    @step(timeout=5)
    async def slow() -> None:
        await asyncio.sleep(100)

    @step
    async def below(slow: None) -> None: ...

    result = await Pipeline("p", steps=[slow, below], failure_policy=policy).run()
    assert result.step_results["below"].status is NodeState.UPSTREAM_FAILED


@virtual_time
async def test_a_timeout_may_be_a_timedelta() -> None:
    @step(timeout=timedelta(minutes=2))
    async def slow() -> None:
        await asyncio.sleep(1000)

    await Pipeline("p", steps=[slow]).run()
    assert now() == 120


@virtual_time
async def test_a_step_that_is_in_time_has_no_timer_left() -> None:
    @step(timeout=5)
    async def quick() -> None:
        await asyncio.sleep(4)

    async with Runtime() as runtime, Pipeline("p", steps=[quick]).start(runtime=runtime) as run:
        await run.wait()
        assert run._scheduler.timers == 0
    assert run.result_now().success


@virtual_time
async def test_each_attempt_has_the_full_time() -> None:
    began: list[float] = []

    @step(timeout=5, retry=Retry(2, wait_initial=10, wait_max=10, wait_jitter=0))
    async def slow(context: StepContext) -> str:
        began.append(now())
        await asyncio.sleep(100 if context.attempt < 3 else 4)
        return "in time"

    result = await Pipeline("p", steps=[slow]).run()
    assert result["slow"] == "in time"
    assert began == [0, 15, 30]


@virtual_time
async def test_the_time_in_a_queue_does_not_count() -> None:
    @step(resources={"cpu": 1}, timeout=5)
    async def four() -> float:
        await asyncio.sleep(4)
        return now()

    pipeline = Pipeline("p")
    for number in range(5):
        pipeline.add_step(four, f"four {number}")
    async with Runtime(max_cpus=1) as runtime:
        result = await pipeline.run(runtime=runtime)
    assert sorted(result.outputs.values()) == [4, 8, 12, 16, 20]


@virtual_time
async def test_what_is_returned_after_the_time_is_up_does_not_count() -> None:
    @step(timeout=1)
    async def late() -> str:
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            return "too late"
        return "in time"

    result = await Pipeline("p", steps=[late]).run()
    assert result.step_results["late"].status is NodeState.TIMED_OUT
    assert result.get("late") is None


@virtual_time
async def test_a_thread_that_notices_in_time_is_timed_out() -> None:
    seen: list[bool] = []
    with Gate() as gate:

        @step(timeout=5)
        def watchful(context: StepContext) -> None:
            seen.append(context.cancelled)
            gate.wait()
            seen.append(context.cancelled)
            context.raise_if_cancelled()

        async with (
            Runtime(grace_seconds=2) as runtime,
            Pipeline("p", steps=[watchful]).start(runtime=runtime) as run,
        ):
            await asyncio.sleep(6)
            gate.open()
    outcome = run.result_now().step_results["watchful"]
    assert (outcome.status, now(), seen) == (NodeState.TIMED_OUT, 6, [False, True])
    assert isinstance(outcome.error, StepTimeout)
    assert isinstance(outcome.error.__cause__, StepCancelled)


@virtual_time
async def test_a_thread_that_hangs_is_abandoned_after_the_grace_period() -> None:
    with Gate() as gate:
        hang = step(gate.wait, name="hang", timeout=5)

        async with (
            Runtime(grace_seconds=2) as runtime,
            Pipeline("p", steps=[hang]).start(runtime=runtime) as run,
        ):
            result = await run.result()
            assert now() == 7
            assert run.abandoned == ("hang",)
            outcome = result.step_results["hang"]
            assert outcome.status is NodeState.ABANDONED
            assert isinstance(outcome.error, StepTimeout)
            assert outcome.worker
            gate.open()
            await asyncio.sleep(1)
            assert not run.abandoned


@virtual_time
async def test_the_capacity_of_an_abandoned_thread_is_booked_until_it_ends() -> None:
    with Gate() as gate:
        hang = step(gate.wait, name="hang", resources={"cpu": 1, "memory": 1000}, timeout=1)

        @step(resources={"cpu": 1})
        async def other() -> float:
            return now()

        async with Runtime(max_cpus=1, max_memory=1000, grace_seconds=1) as runtime:
            limiter = runtime._get_limiter()
            await Pipeline("one", steps=[hang]).run(runtime=runtime)
            assert limiter.statistics().cpu_millis_free == 0
            assert limiter.statistics().memory_bytes_free == 0
            gate.open()
            await asyncio.sleep(1)
            assert limiter.statistics().leases == 0
            result = await Pipeline("two", steps=[other]).run(runtime=runtime)
            assert result["other"] == 3
            limiter.validate()


@virtual_time
async def test_an_abandoned_thread_leaves_the_count_of_the_pool() -> None:
    with Gate() as gate:
        hang = step(gate.wait, name="hang", timeout=1)

        @step
        def other() -> str:
            return "ran"

        async with Runtime(max_threads=1, grace_seconds=1) as runtime:
            pipeline = Pipeline("p", steps=[hang, other], failure_policy="collect_all")
            result = await pipeline.run(runtime=runtime)
            assert result["other"] == "ran"
            lane = runtime._entered().lanes["thread"]
            assert (lane.statistics().workers, lane.statistics().lost) == (1, 1)
            gate.open()
            await asyncio.sleep(1)
            assert lane.statistics().lost == 0


@virtual_time
async def test_an_abandoned_attempt_is_tried_again_in_another_thread() -> None:
    with Gate() as gate:
        workers: list[int] = []

        @step(timeout=1, retry=Retry(1, wait_initial=1, wait_jitter=0))
        def hang(context: StepContext) -> str:
            workers.append(context.attempt)
            if context.attempt == 1:
                gate.wait()
            return "second try"

        async with (
            Runtime(grace_seconds=1, max_threads=1) as runtime,
            Pipeline("p", steps=[hang]).start(runtime=runtime) as run,
        ):
            result = await run.result()
            assert run.abandoned == ("hang",)
    assert result["hang"] == "second try"
    assert workers == [1, 2]


@virtual_time
async def test_a_coroutine_that_swallows_its_cancel_is_abandoned_and_does_not_spin() -> None:
    given_up = False
    cancels: list[float] = []

    @step(timeout=5)
    async def stubborn() -> None:
        while not given_up:
            try:
                await asyncio.sleep(3600)
            except BaseException:  # noqa: BLE001 - the step under test refuses to stop
                cancels.append(now())

    async with (
        Runtime(grace_seconds=2) as runtime,
        Pipeline("p", steps=[stubborn]).start(runtime=runtime) as run,
    ):
        before = turns()
        result = await run.result()
        assert turns() - before < 30
        assert (now(), cancels) == (7, [5])
        assert result.step_results["stubborn"].status is NodeState.ABANDONED
        assert run.abandoned == ("stubborn",)
        given_up = True
        await asyncio.sleep(3600)
        assert not run.abandoned


@virtual_time
async def test_clean_up_within_the_grace_period_may_await() -> None:
    @step(timeout=5)
    async def slow() -> None:
        try:
            await asyncio.sleep(100)
        finally:
            await asyncio.sleep(1.5)

    result = await Pipeline("p", steps=[slow]).run()
    assert result.step_results["slow"].status is NodeState.TIMED_OUT
    assert now() == 6.5


@virtual_time
async def test_too_many_abandoned_steps_fail_the_run_and_are_named() -> None:
    with Gate() as gate:
        hang = step(gate.wait, name="hang", timeout=1)

        @step
        async def long() -> None:
            await asyncio.sleep(100)

        pipeline = Pipeline("p", steps=[long], failure_policy="collect_all")
        for number in range(3):
            pipeline.add_step(hang, f"hang {number}")
        async with Runtime(grace_seconds=1, max_abandoned=2) as runtime:
            result = await pipeline.run(runtime=runtime)
        assert now() == 2
    assert result.state is RunState.FAILED
    assert result.reason == ("too many steps ignored their cancel: 'hang 0', 'hang 1', 'hang 2'")
    assert result.step_results["long"].status is NodeState.CANCELLED


@virtual_time
async def test_as_many_abandoned_steps_as_allowed_are_borne() -> None:
    with Gate() as gate:
        hang = step(gate.wait, name="hang", timeout=1)

        @step
        async def long() -> str:
            await asyncio.sleep(100)
            return "done"

        pipeline = Pipeline("p", steps=[hang, long], failure_policy="collect_all")
        async with Runtime(grace_seconds=1, max_abandoned=1) as runtime:
            assert (await pipeline.run(runtime=runtime))["long"] == "done"


# ---------------------------------------------------------------------- runs


@step
async def first() -> int:
    await asyncio.sleep(1)
    return 1


@step
async def second(first: int) -> int:
    await asyncio.sleep(100)
    return 2


@pytest.mark.parametrize("timeout", [10, timedelta(seconds=10)])
@virtual_time
async def test_a_run_that_takes_too_long_is_cancelled_and_raises_with_what_was_done(
    timeout: float | timedelta,
) -> None:
    with pytest.raises(RunTimeout, match="took longer than 10 s and was cancelled") as caught:
        await Pipeline("p", steps=[first, second]).run(timeout=timeout, run_id="night")
    assert now() == 10
    error = caught.value
    assert isinstance(error, TimeoutError)
    assert (error.run_id, error.timeout_seconds) == ("night", 10)
    assert error.result["first"] == 1
    assert error.result.state is RunState.CANCELLED
    assert error.result.reason == "the run took longer than its timeout of 10 s"
    with pytest.raises(StepFailed):
        error.result["second"]


@virtual_time
async def test_a_run_in_time_does_not_hear_of_its_timeout() -> None:
    assert (await Pipeline("p", steps=[first]).run(timeout=10))["first"] == 1
    await asyncio.sleep(100)


@virtual_time
async def test_another_cancel_is_not_mistaken_for_the_timeout() -> None:
    async with Pipeline("p", steps=[first, second]).start(timeout=10) as run:
        await asyncio.sleep(5)
        await run.cancel("enough")
        assert (await run.result()).reason == "enough"


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), True, "10"])
@virtual_time
async def test_a_timeout_that_makes_no_sense_is_refused(timeout: float) -> None:
    with pytest.raises(GraphError, match=r"run\(timeout=…\)"):
        await Pipeline("p", steps=[first]).run(timeout=timeout)
