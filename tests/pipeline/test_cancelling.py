"""A cancel, wherever it comes from, ends the run in order: clean-up first, and nothing new."""

from __future__ import annotations

import asyncio
import contextvars

import anyio
import pytest

from asyncflow import (
    NodeState,
    Pipeline,
    PipelineResult,
    Run,
    RunState,
    Runtime,
    StepContext,
    step,
)
from asyncflow.events import NodeStarted
from tests.virtual_time import Gate, now, turns, virtual_time

LOG: list[str] = []


@pytest.fixture(autouse=True)
def empty_log() -> None:
    LOG.clear()


@step
async def tidy() -> str:
    try:
        await asyncio.sleep(100)
    finally:
        await asyncio.sleep(1)
        LOG.append(f"tidied up at {now():g}")
    return "done"


@step
async def after_tidy(tidy: str) -> None:
    LOG.append("ran after a cancel")


TIDY = Pipeline("p", steps=[tidy, after_tidy])


def states_of(result: PipelineResult) -> dict[str, str]:
    return {name: str(step.status) for name, step in result.step_results.items()}


def assert_cancelled(run: Run, reason: str) -> None:
    result = run.result_now()
    assert (result.state, result.success, result.reason) == (RunState.CANCELLED, False, reason)
    assert states_of(result) == {"tidy": "cancelled", "after_tidy": "cancelled"}
    (line,) = LOG
    assert line == f"tidied up at {now():g}"


@virtual_time
async def test_cancel_returns_when_nothing_runs_any_more() -> None:
    async with TIDY.start() as run:
        await asyncio.sleep(5)
        await run.cancel("no longer needed")
        assert (now(), run.state) == (6, RunState.CANCELLED)
    assert_cancelled(run, "no longer needed")


@virtual_time
async def test_a_second_cancel_changes_nothing() -> None:
    async with TIDY.start() as run:
        await asyncio.sleep(5)
        async with asyncio.TaskGroup() as group:
            group.create_task(run.cancel("first"))
            group.create_task(run.cancel("second"))
        await run.cancel("third")
    assert_cancelled(run, "first")


@virtual_time
async def test_a_run_that_is_over_cannot_be_cancelled_any_more() -> None:
    @step
    async def quick() -> str:
        return "done"

    async with Pipeline("p", steps=[quick]).start() as run:
        await run.wait()
        await run.cancel()
        run.cancel_nowait()
        assert (await run.result()).success


@virtual_time
async def test_a_run_may_be_cancelled_before_it_began() -> None:
    async with TIDY.start() as run:
        run.cancel_nowait("changed my mind")
    assert states_of(run.result_now()) == {"tidy": "cancelled", "after_tidy": "cancelled"}
    assert (LOG, now()) == ([], 0)


@virtual_time
async def test_cancelling_the_task_that_awaits_a_run_cancels_the_run_and_is_raised_again() -> None:
    task = asyncio.create_task(TIDY.run())
    await asyncio.sleep(5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert LOG == ["tidied up at 6"]
    assert now() == 6


@virtual_time
async def test_however_often_the_task_is_cancelled_it_waits_for_the_clean_up() -> None:
    task = asyncio.create_task(TIDY.run())
    await asyncio.sleep(5)
    for _ in range(4):
        task.cancel()
        await asyncio.sleep(0.1)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert LOG == ["tidied up at 6"]


@virtual_time
async def test_the_timeout_of_the_caller_cancels_the_run() -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(5):
            await TIDY.run()
    assert (LOG, now()) == (["tidied up at 6"], 6)


@virtual_time
async def test_a_scope_of_anyio_cancels_the_run_without_burning_a_core() -> None:
    before = turns()
    with anyio.move_on_after(5) as scope:
        await TIDY.run()
    assert scope.cancelled_caught
    assert (LOG, now()) == (["tidied up at 6"], 6)
    assert turns() - before < 60


@virtual_time
async def test_a_scope_of_anyio_around_a_step_that_refuses_burns_no_core() -> None:
    given_up = asyncio.Event()

    @step
    async def stubborn() -> None:
        while not given_up.is_set():
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                LOG.append(f"refused at {now():g}")

    async with Runtime(grace_seconds=10) as runtime:
        before = turns()
        with anyio.move_on_after(5) as scope:
            await Pipeline("p", steps=[stubborn]).run(runtime=runtime)
        assert scope.cancelled_caught
        assert (LOG, now()) == (["refused at 5"], 15)
        assert turns() - before < 60
        given_up.set()
        await asyncio.sleep(3600)


@virtual_time
async def test_leaving_the_block_by_an_exception_cancels_the_run() -> None:
    runs: list[Run] = []

    async def leave() -> None:
        async with TIDY.start() as run:
            runs.append(run)
            await asyncio.sleep(5)
            raise LookupError("my own")

    with pytest.raises(LookupError, match="my own"):
        await leave()
    assert_cancelled(runs[0], "the block that started the run raised LookupError")


@virtual_time
async def test_leaving_the_block_normally_waits_for_the_end() -> None:
    async with TIDY.start() as run:
        await asyncio.sleep(5)
    assert now() == 101
    assert run.result_now()["tidy"] == "done"


@virtual_time
async def test_a_cancel_while_an_exception_leaves_the_block_is_not_lost() -> None:
    async def leave() -> None:
        async with TIDY.start():
            await asyncio.sleep(5)
            raise LookupError("my own")

    task = asyncio.create_task(leave())
    await asyncio.sleep(5.5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError) as caught:
        await task
    assert isinstance(caught.value.__context__, LookupError)
    assert LOG == ["tidied up at 6"]


@virtual_time
async def test_whoever_only_waits_for_a_result_may_be_cancelled_alone() -> None:
    async with TIDY.start() as run:
        waiting = asyncio.create_task(run.result())
        await asyncio.sleep(5)
        waiting.cancel()
        await asyncio.wait([waiting])
        assert (waiting.cancelled(), run.state) == (True, RunState.RUNNING)
    assert run.result_now().success


@virtual_time
async def test_nothing_starts_after_a_cancel() -> None:
    """Ready ones, those that wait for CPUs, for a worker, or to be tried again."""
    with Gate() as gate:

        @step(resources={"cpu": 1})
        async def wants_cpu() -> None:
            await asyncio.sleep(100)

        @step(retry=5)
        async def flaky() -> None:
            raise OSError("again")

        @step
        def wants_thread() -> None:
            gate.wait()

        pipeline = Pipeline("p")
        for number in range(20):
            pipeline.add_step(wants_cpu, f"cpu {number}").add_step(flaky, f"flaky {number}")
            pipeline.add_step(wants_thread, f"thread {number}").add_step(tidy, f"tidy {number}")
        async with Runtime(max_cpus=2, max_threads=2, max_concurrency=10) as runtime:
            async with pipeline.start(runtime=runtime) as run:
                events = run.events(buffer=10_000)
                await asyncio.sleep(0.01)
                cancelled_at = run._record.bus.sequence
                run.cancel_nowait("enough")
                gate.open()
                await run.wait()
                late = [event async for event in events if event.sequence > cancelled_at]
            limiter = runtime._get_limiter()
            assert (limiter.waiting(), limiter.statistics().leases) == ([], 0)
            scheduler = runtime._entered()
            assert (scheduler.in_flight, scheduler.timers) == (0, 0)
    assert not any(isinstance(event, NodeStarted) for event in late)
    assert len([event for event in late if event.kind == "NodeFinished"]) == 80
    counts = run.snapshot().counts
    assert counts[NodeState.SUCCEEDED] == 2
    assert counts[NodeState.CANCELLED] == 78


@virtual_time
async def test_a_step_may_cancel_its_own_run() -> None:
    runs: list[Run] = []

    @step
    async def decides() -> None:
        runs[0].cancel_nowait("found what I sought")
        await asyncio.sleep(100)

    async with Pipeline("p", steps=[decides, tidy]).start() as run:
        runs.append(run)
    result = run.result_now()
    assert (result.state, result.reason) == (RunState.CANCELLED, "found what I sought")
    assert result.step_results["decides"].status is NodeState.CANCELLED
    assert now() < 10


@virtual_time
async def test_a_step_that_ends_while_it_cancels_its_own_run_has_succeeded() -> None:
    runs: list[Run] = []

    @step
    async def decides() -> str:
        runs[0].cancel_nowait("found what I sought")
        return "this"

    @step
    async def below(decides: str) -> None:
        LOG.append("ran after a cancel")

    async with Pipeline("p", steps=[decides, below]).start() as run:
        runs.append(run)
    assert run.result_now()["decides"] == "this"
    assert states_of(run.result_now())["below"] == "cancelled"
    assert LOG == []


@virtual_time
async def test_a_thread_that_ignores_a_cancel_is_abandoned_and_named() -> None:
    with Gate() as gate:

        @step
        def hang() -> None:
            gate.wait()

        async with Runtime(grace_seconds=3) as runtime:
            async with Pipeline("p", steps=[hang]).start(runtime=runtime) as run:
                events = run.events()
                await asyncio.sleep(1)
                await run.cancel()
                assert (now(), run.abandoned) == (4, ("hang",))
                assert states_of(run.result_now()) == {"hang": "abandoned"}
                last = [event async for event in events][-1]
                assert getattr(last, "abandoned", None) == ("hang",)
            gate.open()
            await asyncio.sleep(1)
            assert not run.abandoned


@virtual_time
async def test_clean_up_after_a_timeout_is_not_interrupted_by_a_cancel() -> None:
    late = tidy.with_options(timeout=5)
    async with Pipeline("p").add_step(late, "tidy").start() as run:
        await asyncio.sleep(5.5)
        await run.cancel()
    assert states_of(run.result_now()) == {"tidy": "timed_out"}
    assert (LOG, now()) == (["tidied up at 6"], 6)


@virtual_time
async def test_a_cancel_does_not_lengthen_the_grace_period_of_a_timeout() -> None:
    given_up = asyncio.Event()

    @step(timeout=5)
    async def stubborn() -> None:
        while not given_up.is_set():
            try:
                await given_up.wait()
            except asyncio.CancelledError:
                LOG.append(f"refused at {now():g}")

    async with (
        Runtime(grace_seconds=3) as runtime,
        Pipeline("p", steps=[stubborn]).start(runtime=runtime) as run,
    ):
        await asyncio.sleep(7)
        await run.cancel()
        assert (LOG, now()) == (["refused at 5"], 8)
        given_up.set()
        await asyncio.sleep(1)


@virtual_time
async def test_closing_a_runtime_cancels_the_runs_that_are_left() -> None:
    async def use(runtime: Runtime) -> PipelineResult:
        return await TIDY.run(runtime=runtime)

    async with Runtime() as runtime:
        user = asyncio.create_task(use(runtime))
        await asyncio.sleep(5)
        await runtime.aclose(drain_seconds=0)
    assert LOG == ["tidied up at 6"]
    result = await user
    assert (result.state, result.reason) == (RunState.CANCELLED, "the runtime was closed")


@virtual_time
async def test_a_cancel_while_a_runtime_is_closed_is_not_lost() -> None:
    async def close() -> None:
        async with Runtime() as runtime:
            users.append(asyncio.create_task(TIDY.run(runtime=runtime)))
            await asyncio.sleep(5)
        LOG.append("went on")

    users: list[asyncio.Task[PipelineResult]] = []
    task = asyncio.create_task(close())
    await asyncio.sleep(5.5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert LOG == ["tidied up at 6.5"]
    assert (await users[0]).state is RunState.CANCELLED


# ------------------------------------------------------------------- contexts

VARIABLE = contextvars.ContextVar("VARIABLE", default="unset")


@virtual_time
async def test_steps_see_the_caller_s_context_and_change_only_their_own() -> None:
    seen: list[str] = []

    @step
    async def inline() -> None:
        seen.append(VARIABLE.get())
        VARIABLE.set("changed inline")

    @step
    def thread() -> None:
        seen.append(VARIABLE.get())
        VARIABLE.set("changed in a thread")

    VARIABLE.set("the caller's")
    pipeline = Pipeline("p", steps=[inline]).add_step(thread, after=[inline])
    pipeline.add_step(inline, "again", after=[thread])
    assert (await pipeline.run()).success
    assert seen == ["the caller's"] * 3
    assert VARIABLE.get() == "the caller's"


@virtual_time
async def test_a_step_that_cancels_its_own_task_fails_alone() -> None:
    @step
    async def odd(context: StepContext) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel("of my own")
        await asyncio.sleep(1)

    @step
    async def other() -> str:
        await asyncio.sleep(5)
        return "undisturbed"

    result = await Pipeline("p", steps=[odd, other], failure_policy="collect_all").run()
    assert states_of(result) == {"odd": "failed", "other": "succeeded"}


@virtual_time
async def test_steps_that_somebody_else_cancels_before_they_began_are_reported() -> None:
    @step
    async def meddles() -> None:
        for task in asyncio.all_tasks():
            if task.get_name().startswith("victim"):
                task.cancel()

    @step
    async def victim() -> None:
        await asyncio.sleep(5)

    pipeline = Pipeline("p", steps=[meddles], failure_policy="collect_all")
    for number in range(3):
        pipeline.add_step(victim, f"victim {number}")
    result = await pipeline.run()
    assert set(states_of(result).values()) <= {"failed", "succeeded"}
    assert now() <= 5.1
