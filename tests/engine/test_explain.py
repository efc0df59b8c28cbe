"""Asked about any step, a run says in a sentence what it does or waits for, and for whom."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from asyncflow import ParallelExecutor, Pipeline, Retry, Run, Runtime, step
from tests.virtual_time import Gate, virtual_time


@step
async def long() -> int:
    await asyncio.sleep(100)
    return 1


@asynccontextmanager
async def after_a_second(pipeline: Pipeline, runtime: Runtime | None = None) -> AsyncIterator[Run]:
    async with pipeline.start(runtime=runtime) as run:
        await asyncio.sleep(1)
        yield run
        await run.cancel("the test is over")


@virtual_time
async def test_a_step_that_runs() -> None:
    async with after_a_second(Pipeline("p", steps=[long])) as run:
        assert run.explain("long") == "'long' runs in the inline lane for 1 s, attempt 1"


@virtual_time
async def test_a_step_that_runs_in_a_thread() -> None:
    with Gate() as gate:

        @step
        def hang() -> None:
            gate.wait()

        async with after_a_second(Pipeline("p", steps=[hang])) as run:
            assert run.explain("hang") == "'hang' runs in the thread lane for 1 s, attempt 1"
            gate.open()


@virtual_time
async def test_a_step_that_waits_for_its_parents() -> None:
    @step
    async def below(long: int, also: int) -> None: ...

    pipeline = Pipeline("p", steps=[long, below]).add_step(long, "also", after=["long"])
    async with after_a_second(pipeline) as run:
        assert run.explain("below") == "'below' waits for 'long' (running), 'also' (waiting)"


@virtual_time
async def test_a_step_with_many_parents_names_a_few_and_counts_the_rest() -> None:
    names = [f"parent {number}" for number in range(9)]

    @step
    async def below() -> None: ...

    pipeline = Pipeline("p")
    for name in names:
        pipeline.add_step(long, name)
    async with after_a_second(pipeline.add_step(below, after=names)) as run:
        assert run.explain("below") == (
            "'below' waits for 'parent 0' (running), 'parent 1' (running), 'parent 2' (running), "
            "'parent 3' (running), 'parent 4' (running) and 4 more"
        )


@virtual_time
async def test_a_step_that_waits_for_its_turn() -> None:
    pipeline = Pipeline("p", steps=[long]).add_step(long, "other").add_step(long, "third")
    async with Runtime(max_concurrency=1) as runtime, after_a_second(pipeline, runtime) as run:
        assert run.explain("third") == (
            "'third' is ready and waits for its turn: 1 units are in flight, max_concurrency is 1, "
            "and 2 units of this run are ready"
        )


@virtual_time
async def test_a_step_that_waits_for_capacity_names_the_holder() -> None:
    @step(resources={"cpu": 2, "memory": "1Gi"})
    async def holder() -> None:
        await asyncio.sleep(100)

    pipeline = Pipeline("p", steps=[holder]).add_step(holder, "other").add_step(holder, "third")
    runtime = Runtime(max_cpus=3, max_memory="1Gi")
    async with runtime, after_a_second(pipeline, runtime) as run:
        assert run.explain("third") == (
            "'third' waits for 2 CPUs (1 CPU free of 3 CPUs, held by 'holder') and 1 GiB of memory "
            "(0 bytes free of 1 GiB, held by 'holder'). 1 request is before it."
        )


@virtual_time
async def test_a_step_that_waits_for_a_worker() -> None:
    with Gate() as gate:

        @step
        def hang() -> None:
            gate.wait()

        pipeline = Pipeline("p", steps=[hang]).add_step(hang, "other")
        async with Runtime(max_threads=1) as runtime, after_a_second(pipeline, runtime) as run:
            assert run.explain("other") == (
                "'other' waits for a worker: all 1 workers of the thread lane are busy"
            )
            gate.open()


@virtual_time
async def test_a_step_that_waits_because_of_its_executor() -> None:
    with Gate() as gate:

        @step
        def hang() -> None:
            gate.wait()

        pipeline = Pipeline("p", steps=[hang]).add_step(hang, "other")
        async with pipeline.start(executor=ParallelExecutor(1, backend="thread")) as run:
            await asyncio.sleep(1)
            assert run.explain("other") == (
                "'other' waits for a worker: its executor allows 1 at once"
            )
            gate.open()


@virtual_time
async def test_a_step_that_waits_to_be_tried_again() -> None:
    @step(retry=Retry(1, wait_initial=10, wait_jitter=0))
    async def flaky() -> None:
        raise OSError("busy")

    async with after_a_second(Pipeline("p", steps=[flaky])) as run:
        assert run.explain("flaky") == (
            "'flaky' failed at attempt 1 (OSError: busy) and is tried again in 9 s"
        )


@virtual_time
async def test_a_step_whose_condition_is_being_asked() -> None:
    async def ask() -> bool:
        await asyncio.sleep(100)
        return True

    @step(condition=ask)
    async def guarded() -> None: ...

    async with after_a_second(Pipeline("p", steps=[guarded])) as run:
        assert run.explain("guarded") == "'guarded' has its condition evaluated"


@virtual_time
async def test_a_member_that_waits_in_its_group() -> None:
    member = long.with_options(execution_group="g")
    pipeline = Pipeline("p").add_step(member, "one").add_step(member, "two")
    async with after_a_second(pipeline) as run:
        assert run.explain("two") == (
            "'two' waits in its group for 'one', which runs in the inline lane for 1 s, attempt 1"
        )


@virtual_time
async def test_a_step_that_was_told_to_stop() -> None:
    @step(timeout=0.5)
    async def slow() -> None:
        try:
            await asyncio.sleep(100)
        finally:
            await asyncio.sleep(1)

    async with after_a_second(Pipeline("p", steps=[slow])) as run:
        assert run.explain("slow") == (
            "'slow' runs in the inline lane for 1 s, attempt 1, and was told to stop"
        )


@virtual_time
async def test_a_step_that_will_not_start_any_more() -> None:
    @step
    async def slow() -> None:
        try:
            await asyncio.sleep(100)
        finally:
            await asyncio.sleep(1)

    @step
    async def below(slow: None) -> None: ...

    async with Pipeline("p", steps=[slow, below]).start() as run:
        await asyncio.sleep(1)
        run.cancel_nowait("enough")
        assert run.explain("below") == "'below' will not start: the run is stopping (enough)"


@virtual_time
async def test_steps_that_have_ended() -> None:
    @step
    async def good() -> None:
        await asyncio.sleep(2)

    @step(retry=Retry(1, wait_initial=1, wait_jitter=0))
    async def bad() -> None:
        raise OSError("busy")

    @step
    async def below(bad: None) -> None: ...

    @step(condition=lambda: False)
    async def unwanted() -> None: ...

    pipeline = Pipeline("p", steps=[good, bad, below, unwanted], failure_policy="collect_all")
    async with pipeline.start() as run:
        await run.wait()
    assert run.explain("good") == "'good' succeeded after 2 s, attempt 1"
    assert run.explain("bad") == "'bad' failed after 0 s, attempt 2: OSError: busy"
    assert run.explain("below") == "'below' did not run because 'bad' failed"
    assert run.explain("unwanted") == (
        "'unwanted' was skipped: its condition, or that of a step whose value it needs, was false"
    )


@virtual_time
async def test_an_unknown_name_is_answered_with_the_nearest_one() -> None:
    async with after_a_second(Pipeline("p", steps=[long])) as run:
        with pytest.raises(KeyError, match=r"has no step 'lnog'.*'long'"):
            run.explain("lnog")
