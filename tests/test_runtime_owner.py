"""A runtime as the owner of runs: started, found again, watched, and ended with it."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
import weakref
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from asyncflow import GraphError, Pipeline, PipelineResult, Run, RunState, Runtime, step
from asyncflow.events import Event, Gap, RunFinished, RunStarted
from asyncflow.runtime import ambient_runtime
from tests.virtual_time import now, virtual_time


@step
async def work(seconds: float = 1) -> float:
    await asyncio.sleep(seconds)
    return now()


@step
async def fail() -> None:
    raise ValueError("no")


@step
async def which() -> int:
    """Which runtime a step sees."""
    runtime = ambient_runtime()
    return id(runtime)


WORK = Pipeline("work", [work])
FAIL = Pipeline("fail", [fail])
WHICH = Pipeline("which", [which])


# ----------------------------------------------------------------------- start


@virtual_time
async def test_a_run_goes_on_when_the_request_that_started_it_is_cancelled() -> None:
    async with Runtime() as runtime:
        started: list[str] = []

        async def request() -> None:
            run = await runtime.start(WORK, {"seconds": 10})
            started.append(run.id)
            await run.result()

        task = asyncio.create_task(request())
        await asyncio.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        run = runtime.get(started[0])
        assert run.state is RunState.RUNNING
        assert (await run.result())["work"] == 10


@virtual_time
async def test_start_takes_what_run_takes() -> None:
    async with Runtime() as runtime:
        run = await runtime.start(
            FAIL, run_id="night", failure_policy="collect_all", services=None, targets=["fail"]
        )
        assert run.id == "night"
        assert (await run.result()).state is RunState.FAILED
        with pytest.raises(GraphError, match="no step takes the run input 'wrong'"):
            await runtime.start(WORK, {"wrong": 1})
    with pytest.raises(RuntimeError, match="this Runtime is closed"):
        await runtime.start(WORK)


@virtual_time
async def test_a_run_that_fails_is_logged_once_though_nobody_waits(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with Runtime() as runtime:
        await runtime.start(FAIL)
        await asyncio.sleep(1)
    logged = [record for record in caplog.records if record.name == "asyncflow"]
    assert len(logged) == 1
    assert "fail: failed at attempt 1: ValueError: no" in logged[0].getMessage()


@virtual_time
async def test_a_run_can_be_cancelled_by_its_id() -> None:
    async with Runtime() as runtime:
        run_id = (await runtime.start(WORK, {"seconds": 60})).id
        await asyncio.sleep(1)
        await runtime.get(run_id).cancel("asked to")
        result = await runtime.get(run_id).result()
    assert (result.state, result.reason, now()) == (RunState.CANCELLED, "asked to", 1)


# ------------------------------------------------------------------ get and runs


@virtual_time
async def test_runs_are_found_while_they_go_on_and_afterwards() -> None:
    async with Runtime() as runtime:
        first = await runtime.start(WORK, {"seconds": 1}, run_id="first")
        second = await runtime.start(WORK, {"seconds": 9}, run_id="second")
        third = await runtime.start(FAIL, run_id="third")
        await asyncio.sleep(2)
        assert runtime.runs() == [first, second, third]
        assert runtime.runs("running") == [second]
        assert runtime.runs(RunState.SUCCEEDED) == [first]
        assert runtime.runs("failed") == [third]
        assert runtime.runs("cancelled") == []
        assert runtime.get("first") is first


@virtual_time
async def test_a_wrong_id_or_state_is_refused_with_the_right_ones() -> None:
    async with Runtime() as runtime:
        await runtime.start(WORK, run_id="night")
        with pytest.raises(KeyError, match="this runtime has no run 'nigth'; did you mean 'night'"):
            runtime.get("nigth")
        with pytest.raises(ValueError, match="'succeeded', 'failed', 'cancelled', got 'finished'"):
            runtime.runs("finished")


@virtual_time
async def test_only_the_last_that_ended_are_kept() -> None:
    async with Runtime(max_finished_runs=2) as runtime:
        long = await runtime.start(WORK, {"seconds": 60}, run_id="long")
        for number in range(5):
            await (await runtime.start(WORK, {"seconds": 5 - number}, run_id=f"{number}")).wait()
        assert [run.id for run in runtime.runs()] == ["long", "3", "4"]
        with pytest.raises(KeyError):
            runtime.get("2")
        await long.wait()
        assert [run.id for run in runtime.runs()] == ["long", "4"]


# On a usual loop: a virtual one keeps a log of its runs.
async def test_of_runs_that_somebody_awaits_nothing_is_kept_when_they_end() -> None:
    class Large:
        """Something whose end can be seen."""

    gone: list[weakref.ref[Large]] = []
    begun, go_on = asyncio.Event(), asyncio.Event()

    @step
    async def make() -> Large:
        begun.set()
        await go_on.wait()
        gone.append(weakref.ref(value := Large()))
        return value

    pipeline = Pipeline("large", [make])
    async with Runtime() as runtime:
        user = asyncio.create_task(pipeline.run(run_id="mine"))
        await begun.wait()
        assert [run.id for run in runtime.runs()] == ["mine"]
        go_on.set()
        result: PipelineResult | None = await user
        assert result is not None
        assert result.success
        assert runtime.runs() == []
        del result, user
        await asyncio.sleep(0)  # the loop holds the task that woke this one until then
        gc.collect()
        assert gone[0]() is None


@virtual_time
async def test_an_id_may_be_used_again_when_its_run_is_over() -> None:
    async with Runtime(max_finished_runs=1) as runtime:
        first = await runtime.start(WORK, run_id="night")
        await first.wait()
        second = await runtime.start(WORK, run_id="night")
        assert runtime.get("night") is second
        assert runtime.runs() == [second]
        await second.wait()
        assert runtime.runs() == [second]
        await WORK.run(run_id="night")
        assert runtime.runs() == []
        other = await runtime.start(WORK, run_id="other")
        await other.wait()
        assert runtime.runs()[-1] is other
        assert len(runtime.runs()) == 1


@pytest.mark.parametrize("number", [0, -1, 2.5, True])
def test_how_many_are_kept_is_a_whole_number_of_one_or_more(number: int) -> None:
    with pytest.raises(ValueError, match="max_finished_runs takes a whole number of 1 or more"):
        Runtime(max_finished_runs=number)


# ---------------------------------------------------------------------- events


def kinds(events: list[Event], run_id: str) -> list[str]:
    return [event.kind for event in events if event.run_id == run_id]


WHOLE_RUN = [
    "RunStarted",
    "UnitStarted",
    "NodeStarted",
    "NodeFinished",
    "UnitFinished",
    "RunFinished",
]


@virtual_time
async def test_events_come_from_all_runs_also_those_that_begin_later() -> None:
    async with Runtime() as runtime:
        await runtime.start(WORK, {"seconds": 3}, run_id="before")
        await asyncio.sleep(1)
        stream = runtime.events()
        await runtime.start(WORK, {"seconds": 1}, run_id="later")
        user = asyncio.create_task(WORK.run({"seconds": 1}, run_id="awaited"))
        await asyncio.sleep(5)
        await user
        await runtime.aclose()
        events = [event async for event in stream]
    assert kinds(events, "before") == WHOLE_RUN[3:]
    assert kinds(events, "later") == kinds(events, "awaited") == WHOLE_RUN
    own = [event.sequence for event in events if event.run_id == "later"]
    assert own == list(range(1, 7))


@virtual_time
async def test_events_end_when_the_runtime_is_closed() -> None:
    seen: list[Event] = []

    async def read(runtime: Runtime) -> None:
        seen.extend([event async for event in runtime.events()])

    async with Runtime() as runtime:
        reader = asyncio.create_task(read(runtime))
        await asyncio.sleep(1)
        await runtime.start(WORK)
        await asyncio.sleep(5)
        assert not reader.done()
    await reader
    assert [event.kind for event in seen] == WHOLE_RUN
    with pytest.raises(RuntimeError, match="this Runtime is closed"):
        runtime.events()


@virtual_time
async def test_a_reader_that_stops_costs_its_buffer_and_learns_what_it_missed() -> None:
    async with Runtime() as runtime:
        lazy, closing = runtime.events(buffer=3), runtime.events(buffer=3, overflow="close")
        for _ in range(50):
            await WORK.run()
        assert len(lazy._buffer) == 3
        await runtime.aclose()
        dropped = [event async for event in lazy]
        closed = [event async for event in closing]
    assert isinstance(dropped[0], Gap)
    assert dropped[0].missed == 50 * 6 - 3
    assert [event.kind for event in dropped[1:]] == WHOLE_RUN[3:]
    assert [event.kind for event in closed] == [*WHOLE_RUN[:3], "Gap"]


# On a usual loop: a virtual one listens to all its runs.
async def test_a_reader_that_left_is_forgotten_by_the_runs_it_watched() -> None:
    async with Runtime() as runtime:
        run = await runtime.start(WORK, {"seconds": 0})
        stream = runtime.events()
        bus = run._record.bus
        heard = [bus.listening]
        await stream.aclose()
        await stream.aclose()
        heard.append(bus.listening)
        assert heard == [True, False]
        assert [event async for event in stream] == []


@virtual_time
async def test_readers_of_one_run_and_of_all_do_not_disturb_each_other() -> None:
    async with Runtime() as runtime:
        everything = runtime.events()
        run = await runtime.start(WORK)
        own = run.events()
        await own.aclose()
        await run.wait()
        await runtime.aclose()
        assert [event.kind async for event in everything] == WHOLE_RUN


@pytest.mark.parametrize("options", [{"buffer": 0}, {"overflow": "wait"}])
@virtual_time
async def test_event_options_that_make_no_sense_are_refused(options: dict[str, object]) -> None:
    async with Runtime() as runtime:
        with pytest.raises(ValueError, match=r"events\("):
            runtime.events(**options)  # type: ignore[arg-type]


# ---------------------------------------------------------------------- closing


@virtual_time
async def test_closing_lets_runs_end_that_are_quick_enough() -> None:
    async with Runtime() as runtime:
        quick = await runtime.start(WORK, {"seconds": 4})
        slow = await runtime.start(WORK, {"seconds": 60})
        await asyncio.sleep(1)
        await runtime.aclose(drain_seconds=5)
    assert (quick.state, slow.state) == (RunState.SUCCEEDED, RunState.CANCELLED)
    assert (await slow.result()).reason == "the runtime was closed"
    assert now() == 6


@virtual_time
async def test_closing_ends_as_soon_as_nothing_runs() -> None:
    async with Runtime() as runtime:
        await runtime.start(WORK, {"seconds": 4})
        await runtime.aclose(drain_seconds=1000)
        assert now() == 4


@virtual_time
async def test_leaving_the_block_drains_and_leaving_it_by_an_exception_does_not() -> None:
    async with Runtime() as runtime:
        run = await runtime.start(WORK, {"seconds": 20})
    assert (run.state, now()) == (RunState.SUCCEEDED, 20)
    with pytest.raises(LookupError):  # noqa: PT012 - leaving the block is the subject
        async with Runtime() as runtime:
            run = await runtime.start(WORK, {"seconds": 20})
            await asyncio.sleep(1)
            raise LookupError
    assert (run.state, now()) == (RunState.CANCELLED, 21)


@virtual_time
async def test_while_it_closes_a_runtime_takes_no_more_runs() -> None:
    async with Runtime() as runtime:
        await runtime.start(WORK, {"seconds": 5})
        closing = asyncio.create_task(runtime.aclose())
        await asyncio.sleep(1)
        with pytest.raises(RuntimeError, match="this Runtime is closed; make another one"):
            await runtime.start(WORK)
        with pytest.raises(RuntimeError, match="this Runtime is closed; make another one"):
            await WORK.run(runtime=runtime)
        await closing


@virtual_time
async def test_a_run_that_is_drained_may_still_nest_runs() -> None:
    @step
    async def outer() -> float:
        await asyncio.sleep(3)
        return float((await WORK.run())["work"])

    async with Runtime() as runtime:
        run = await runtime.start(Pipeline("outer", [outer]))
        await asyncio.sleep(1)
        await runtime.aclose()
    assert (await run.result())["outer"] == 4


@virtual_time
async def test_a_cancel_while_draining_cuts_it_short_and_still_ends_all() -> None:
    async with Runtime() as runtime:
        run = await runtime.start(WORK, {"seconds": 60})
        closing = asyncio.create_task(runtime.aclose(drain_seconds=30))
        await asyncio.sleep(1)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        assert (run.state, now()) == (RunState.CANCELLED, 1)


# ---------------------------------------------------------------------- ambient


@virtual_time
async def test_runs_use_the_innermost_runtime_around_them() -> None:
    async with Runtime() as outer:
        assert (await WHICH.run())["which"] == id(outer)
        async with Runtime() as inner:
            assert (await WHICH.run())["which"] == id(inner)
            assert (await WHICH.run(runtime=outer))["which"] == id(outer)
        assert (await WHICH.run())["which"] == id(outer)
    assert ambient_runtime() is None


@virtual_time
async def test_a_private_runtime_is_seen_by_its_steps_and_not_by_the_caller() -> None:
    async with WHICH.start() as run:
        assert ambient_runtime() is None
        private = (await run.result())["which"]
        assert private != id(None)
        assert (await WHICH.run())["which"] != private
    assert ambient_runtime() is None


@virtual_time
async def test_runs_inside_steps_use_the_runtime_of_their_step() -> None:
    @step
    async def nest() -> tuple[int, int]:
        return id(ambient_runtime()), (await WHICH.run())["which"]

    pipeline = Pipeline("nest", [nest])
    async with Runtime(), Runtime() as inner:
        own = Runtime()
        own.open()
        assert (await pipeline.run(runtime=own))["nest"] == (id(own), id(own))
        assert (await pipeline.run())["nest"] == (id(inner), id(inner))
        await own.aclose()
    first, second = (await pipeline.run())["nest"]
    assert first == second


@virtual_time
async def test_tasks_have_ambient_runtimes_of_their_own() -> None:
    entered: list[int] = []
    found: list[int] = []

    async def one() -> None:
        async with Runtime() as runtime:
            await asyncio.sleep(1)
            entered.append(id(runtime))
            found.append((await WHICH.run())["which"])
            await asyncio.sleep(1)

    async with Runtime() as around:
        await asyncio.gather(one(), one())
        assert found == entered
        assert len(set(found)) == 2
        assert ambient_runtime() is around


@virtual_time
async def test_a_task_made_inside_sees_the_runtime_until_it_is_closed() -> None:
    async def late() -> tuple[int, int]:
        first = (await WHICH.run())["which"]
        await asyncio.sleep(10)
        return first, (await WHICH.run())["which"]

    async with Runtime() as runtime:
        task = asyncio.create_task(late())
        await asyncio.sleep(5)
    first, second = await task
    assert first == id(runtime)
    assert second != first


@virtual_time
async def test_left_out_of_order_no_closed_runtime_is_used() -> None:
    first, second = Runtime(), Runtime()
    await first.__aenter__()
    await second.__aenter__()
    await first.__aexit__(None, None, None)
    assert (await WHICH.run())["which"] == id(second)
    await second.__aexit__(None, None, None)
    assert ambient_runtime() is None
    assert (await WHICH.run()).success


@virtual_time
async def test_no_runtime_is_ambient_where_no_loop_runs() -> None:
    async with Runtime():
        context = contextvars.copy_context()
        seen: list[object] = []
        thread = threading.Thread(target=lambda: seen.append(context.run(ambient_runtime)))
        thread.start()
        thread.join()
    assert seen == [None]


async def test_the_runtime_of_another_loop_is_not_used() -> None:
    @step
    async def loop_and_runtime() -> tuple[int, int]:
        return id(asyncio.get_running_loop()), id(ambient_runtime())

    pipeline = Pipeline("p", [loop_and_runtime])
    async with Runtime() as runtime:
        elsewhere = await asyncio.to_thread(pipeline.run_sync)
        here = await pipeline.run()
    assert here["loop_and_runtime"] == (id(asyncio.get_running_loop()), id(runtime))
    assert not set(elsewhere["loop_and_runtime"]) & set(here["loop_and_runtime"])


async def test_a_sync_step_may_run_a_pipeline_of_its_own() -> None:
    @step
    async def inner() -> int:
        return 7

    nested = Pipeline("inner", [inner])

    @step
    def outer() -> int:
        return int(nested.run_sync()["inner"])

    async with Runtime():
        assert (await Pipeline("outer", [outer]).run())["outer"] == 7


@pytest_asyncio.fixture
async def shared() -> AsyncIterator[Runtime]:
    async with Runtime() as runtime:
        yield runtime


async def test_a_runtime_of_a_fixture_can_be_handed_over(shared: Runtime) -> None:
    assert (await WHICH.run(runtime=shared))["which"] == id(shared)


@virtual_time
async def test_watching_all_from_begin_to_end() -> None:
    """The whole of it: a service that starts runs, watches them and shuts down."""
    open_runs: set[str] = set()
    most: list[int] = []

    async def watch(runtime: Runtime) -> None:
        async for event in runtime.events():
            if isinstance(event, RunStarted):
                open_runs.add(event.run_id)
            elif isinstance(event, RunFinished):
                open_runs.discard(event.run_id)
            most.append(len(open_runs))

    async with Runtime(max_finished_runs=10) as runtime:
        watcher = asyncio.create_task(watch(runtime))
        await asyncio.sleep(0)
        runs: list[Run] = [
            await runtime.start(WORK, {"seconds": seconds}) for seconds in range(1, 21)
        ]
        assert len(runtime.runs("running")) == 20
    await watcher
    assert {run.state for run in runs} == {RunState.SUCCEEDED}
    assert (max(most), open_runs) == (20, set())
    assert len(runtime.runs()) == 10
