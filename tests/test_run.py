"""A run in progress can be watched, asked, drained and awaited."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from asyncflow import (
    NodeState,
    Pipeline,
    Retry,
    Run,
    RunningNode,
    RunSnapshot,
    RunState,
    Runtime,
    Step,
    StepContext,
    step,
)
from asyncflow.events import Event, Gap, NodeFinished, NodeProgress, RunFinished, RunStarted
from tests.virtual_time import Gate, now, virtual_time


@step
async def first() -> int:
    await asyncio.sleep(1)
    return 1


@step
async def second(first: int) -> int:
    await asyncio.sleep(10)
    return first + 1


@step
async def third(second: int) -> int:
    return second + 1


CHAIN = Pipeline("chain", steps=[first, second, third])


# ------------------------------------------------------------------- snapshots


@virtual_time
async def test_a_snapshot_counts_nodes_and_lists_what_runs() -> None:
    async with CHAIN.start(run_id="night") as run:
        await asyncio.sleep(3)
        snapshot = run.snapshot()
    assert snapshot == RunSnapshot(
        run_id="night",
        pipeline_name="chain",
        state=RunState.RUNNING,
        counts={NodeState.WAITING: 1, NodeState.RUNNING: 1, NodeState.SUCCEEDED: 1},
        done=1,
        total=3,
        elapsed_seconds=3,
        running=(
            RunningNode(name="second", unit="second", lane="inline", attempt=1, elapsed_seconds=2),
        ),
    )


@virtual_time
async def test_a_snapshot_before_the_beginning_and_after_the_end() -> None:
    async with CHAIN.start() as run:
        before = run.snapshot()
    after = run.snapshot()
    assert (before.counts, before.elapsed_seconds) == ({NodeState.WAITING: 3}, 0)
    await asyncio.sleep(100)
    assert (after.counts, after.done, after.state) == (
        {NodeState.SUCCEEDED: 3},
        3,
        RunState.SUCCEEDED,
    )
    assert run.snapshot().elapsed_seconds == 11


@virtual_time
async def test_a_snapshot_lists_the_longest_running_first_and_not_too_many() -> None:
    @step
    async def waits(context: StepContext) -> None:
        await asyncio.sleep(100)

    pipeline = Pipeline("p", steps=[first]).add_step(waits, "late", after=[first])
    for number in range(5):
        pipeline.add_step(waits, f"early {number}")
    async with pipeline.start() as run:
        await asyncio.sleep(2)
        full, short = run.snapshot(), run.snapshot(limit=2)
        await run.cancel()
    assert [node.name for node in full.running][-1] == "late"
    assert [node.elapsed_seconds for node in full.running] == [2, 2, 2, 2, 2, 1]
    assert len(short.running) == 2
    assert short.counts == full.counts


@virtual_time
async def test_a_snapshot_of_a_run_that_stops_says_why() -> None:
    @step
    async def tidy() -> None:
        try:
            await asyncio.sleep(100)
        finally:
            await asyncio.sleep(1)

    async with Pipeline("p", steps=[tidy]).start() as run:
        await asyncio.sleep(1)
        run.cancel_nowait("enough")
        assert run.snapshot().stopping == "enough"
        assert run.state is RunState.RUNNING


@virtual_time
async def test_a_run_shows_what_it_is() -> None:
    async with CHAIN.start(run_id="night") as run:
        assert repr(run) == "<Run 'night' of 'chain': running>"
        assert run.id == "night"
    assert repr(run) == "<Run 'night' of 'chain': succeeded>"


# ---------------------------------------------------------------------- events


@virtual_time
async def test_events_tell_the_whole_story() -> None:
    async with CHAIN.start() as run:
        events = [event async for event in run.events()]
    assert [(event.kind, event.node) for event in events] == [
        ("RunStarted", ""),
        *(
            (kind, node)
            for node in ("first", "second", "third")
            for kind in ("UnitStarted", "NodeStarted", "NodeFinished", "UnitFinished")
        ),
        ("RunFinished", ""),
    ]
    began, *_, ended = events
    assert isinstance(began, RunStarted)
    assert (began.pipeline, began.nodes, began.units) == ("chain", 3, 3)
    assert isinstance(ended, RunFinished)
    assert (ended.state, ended.duration_seconds, ended.reason) == (RunState.SUCCEEDED, 11, "")
    finished = [event for event in events if isinstance(event, NodeFinished)]
    assert [event.duration_seconds for event in finished] == [1, 10, 0]
    assert [event.sequence for event in events] == list(range(1, 15))


@virtual_time
async def test_one_who_subscribes_in_the_middle_gets_a_gap_and_the_rest() -> None:
    async with CHAIN.start() as run:
        await asyncio.sleep(5)
        gap, *rest = [event async for event in run.events()]
    assert isinstance(gap, Gap)
    assert gap.missed == rest[0].sequence - 1
    assert [event.kind for event in rest if event.node == "third"] == [
        "UnitStarted",
        "NodeStarted",
        "NodeFinished",
        "UnitFinished",
    ]


@virtual_time
async def test_the_number_of_events_is_the_same_whether_somebody_listens_or_not() -> None:
    @step(retry=Retry(1, wait_initial=1), execution_group="g")
    async def flaky(context: StepContext) -> None:
        if context.attempt == 1:
            raise OSError("again")

    @step(condition=lambda: False, execution_group="g")
    async def unwanted() -> None: ...

    @step
    async def broken(first: int) -> None:
        raise ValueError("no good")

    steps: list[Step[..., Any]] = [first, second, third, flaky, unwanted, broken]
    pipeline = Pipeline("p", steps=steps, failure_policy="collect_all")
    async with pipeline.start() as unheard:
        await unheard.wait()
    async with pipeline.start() as heard:
        events = [event async for event in heard.events()]
    assert unheard._record.bus.sequence == len(events)


# -------------------------------------------------------------------- progress


async def progress_of(run: Run) -> list[NodeProgress]:
    return [event async for event in run.events() if isinstance(event, NodeProgress)]


@virtual_time
async def test_reports_of_a_coroutine_are_events_and_the_latest_wins() -> None:
    @step
    async def counts(context: StepContext) -> None:
        for tenth in range(3):
            for hundredth in range(10):
                context.report(10 * tenth + hundredth, total=30, message="counting")
            await asyncio.sleep(1)

    async with Pipeline("p", steps=[counts]).start() as run:
        reports = await progress_of(run)
    assert [(event.done, event.total, event.message) for event in reports] == [
        (9, 30, "counting"),
        (19, 30, "counting"),
        (29, 30, "counting"),
    ]


@virtual_time
async def test_reports_of_a_thread_are_events_and_are_kept_in_snapshots() -> None:
    with Gate() as gate:

        @step
        def counts(context: StepContext) -> None:
            for done in range(10_000):
                context.report(done)
            gate.wait()

        async with Pipeline("p", steps=[counts]).start() as run:
            reader = asyncio.create_task(progress_of(run))
            await asyncio.sleep(1)
            (running,) = run.snapshot().running
            assert running.progress is not None
            assert running.progress[0] == 9_999
            gate.open()
            reports = await reader
    assert reports[-1].done == 9_999
    assert len(reports) < 10_000
    assert [event.done for event in reports] == sorted({event.done for event in reports})


@virtual_time
async def test_reports_from_outside_a_run_s_time_are_dropped() -> None:
    kept: list[StepContext] = []

    @step
    async def leaks(context: StepContext) -> None:
        kept.append(context)

    async with Pipeline("p", steps=[leaks]).start() as run:
        reader = asyncio.create_task(progress_of(run))
        await run.wait()
        kept[0].report(1)
        assert await reader == []


# ------------------------------------------------------------------ the result


@virtual_time
async def test_any_number_of_tasks_may_wait_for_a_result() -> None:
    async with CHAIN.start() as run:
        results = await asyncio.gather(*(run.result() for _ in range(5)))
    assert all(result is results[0] for result in results)
    assert results[0]["third"] == 3


@virtual_time
async def test_a_failed_step_does_not_raise_out_of_the_result() -> None:
    @step
    async def broken() -> None:
        raise ValueError("no good")

    async with Pipeline("p", steps=[broken]).start() as run:
        assert not (await run.result()).success
    assert run.state is RunState.FAILED


# -------------------------------------------------------------------- draining


@virtual_time
async def test_a_drained_run_starts_nothing_more_and_lets_what_runs_end() -> None:
    async with CHAIN.start() as run:
        await asyncio.sleep(5)
        run.drain_nowait("closing time")
    result = run.result_now()
    assert now() == 11
    assert (result.state, result.reason) == (RunState.CANCELLED, "closing time")
    assert result["second"] == 2
    assert result.step_results["third"].status is NodeState.CANCELLED


@virtual_time
async def test_a_drained_run_can_still_be_cancelled() -> None:
    async with CHAIN.start() as run:
        await asyncio.sleep(5)
        run.drain_nowait("closing time")
        await asyncio.sleep(1)
        await run.cancel("now!")
        assert now() == 6
    assert run.result_now().reason == "closing time"
    assert run.result_now().step_results["second"].status is NodeState.CANCELLED


@virtual_time
async def test_draining_a_run_that_waits_for_capacity_ends_it() -> None:
    @step(resources={"cpu": 1})
    async def holder() -> None:
        await asyncio.sleep(10)

    other = Pipeline("other", steps=[holder])
    async with Runtime(max_cpus=1) as runtime:
        busy = asyncio.create_task(other.run(runtime=runtime))
        await asyncio.sleep(1)
        async with other.start(runtime=runtime) as run:
            await asyncio.sleep(1)
            run.drain_nowait()
        assert now() == 2
        assert (await busy).success


@pytest.mark.parametrize("buffer", [1, 1000])
@virtual_time
async def test_the_last_event_of_every_run_is_its_end(buffer: int) -> None:
    last: list[Event] = []
    for _ in range(3):
        async with CHAIN.start() as run:
            stream = run.events(buffer=buffer)
            await run.wait()
            last += [event async for event in stream][-1:]
    assert [event.kind for event in last] == ["RunFinished"] * 3
