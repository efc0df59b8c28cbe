"""Clean-up and alert steps run whatever happens, once, within their time, and leave nothing."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator
from typing import Any, Literal

import msgspec
import pytest
from hypothesis import event as note
from hypothesis import given
from hypothesis import strategies as st

from asyncflow import (
    GraphError,
    NodeState,
    Pipeline,
    PipelineResult,
    Retry,
    Run,
    RunFailure,
    RunState,
    Runtime,
    RunTimeout,
    Step,
    StepCancelled,
    StepContext,
    step,
)
from asyncflow.events import Event, NodeFinished, NodeStarted, RunFinished
from asyncflow.states import FAILURES, NODE_STATES
from tests.engine.holding import assert_nothing_is_held
from tests.virtual_time import Gate, now, run_virtually, virtual_time

Policy = Literal["fail_fast", "collect_all"]
FAILED_STATES = frozenset(NODE_STATES[code] for code in FAILURES)


class Diary:
    """What happened when, in virtual seconds."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, float]] = []
        self.failures: list[RunFailure | None] = []

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.lines]

    def write(self, name: str) -> None:
        self.lines.append((name, now()))


def working(diary: Diary, name: str, seconds: float = 1, **options: Any) -> Step[[], Any]:
    """A step that takes its time and writes into the diary when it is done."""

    async def work() -> str:
        await asyncio.sleep(seconds)
        diary.write(name)
        return name

    return step(work, name=name, **options)


def failing(name: str = "broken", seconds: float = 0, **options: Any) -> Step[[], Any]:
    async def fail() -> str:
        await asyncio.sleep(seconds)
        raise ValueError(f"{name} is broken")

    return step(fail, name=name, **options)


def telling(diary: Diary, name: str = "clean", **options: Any) -> Step[..., Any]:
    """A clean-up step that writes down when it ran and what it was told."""

    async def tell(why: RunFailure | None) -> None:
        diary.failures.append(why)
        diary.write(name)

    return step(tell, name=name, **{"when": "always", **options})


def states_of(result: PipelineResult) -> dict[str, str]:
    return {name: str(found.status) for name, found in result.step_results.items()}


@contextlib.asynccontextmanager
async def started(
    pipeline: Pipeline, *, grace_seconds: float = 2, **options: Any
) -> AsyncIterator[Run]:
    """A run on a runtime that must be empty when it is over."""
    async with Runtime(max_cpus=2, max_memory=1000, grace_seconds=grace_seconds) as runtime:
        async with pipeline.start(runtime=runtime, **options) as run:
            yield run
        assert_nothing_is_held(runtime)


# ---------------------------------------------------------------------- when


@virtual_time
async def test_after_a_success_always_runs_and_failure_does_not() -> None:
    diary = Diary()
    pipeline = Pipeline("p", [working(diary, "work"), telling(diary)])
    pipeline.add_step(telling(diary, "alert", when="failure"))
    async with started(pipeline) as run:
        result = await run.result()
    assert result.success
    assert diary.lines == [("work", 1), ("clean", 1)]
    assert diary.failures == [None]
    assert states_of(result) == {"work": "succeeded", "clean": "succeeded", "alert": "skipped"}


@pytest.mark.parametrize("policy", ["fail_fast", "collect_all"])
@virtual_time
async def test_after_a_failure_both_run(policy: Policy) -> None:
    diary = Diary()
    pipeline = Pipeline("p", [failing(), working(diary, "slow", 5), telling(diary)])
    pipeline.add_step(telling(diary, "alert", when="failure"))
    async with started(pipeline, failure_policy=policy, run_id="night") as run:
        result = await run.result()
    assert result.state is RunState.FAILED
    waited = policy == "collect_all"
    assert diary.lines == [("slow", 5)] * waited + [("clean", 5 * waited), ("alert", 5 * waited)]
    why = diary.failures[0]
    assert why is not None
    assert (why.run_id, why.pipeline_name, why.state) == ("night", "p", "failed")
    assert why.reason == ("" if waited else "step 'broken' failed: ValueError: broken is broken")
    assert [(name, str(error)) for name, error in why.errors.items()] == [
        ("broken", "broken is broken")
    ]
    slow = "succeeded" if waited else "cancelled"
    assert states_of(result) == {
        "broken": "failed",
        "slow": slow,
        "clean": "succeeded",
        "alert": "succeeded",
    }


@virtual_time
async def test_after_a_cancel_both_run_and_are_told_why() -> None:
    diary = Diary()
    pipeline = Pipeline("p", [working(diary, "slow", 60), telling(diary)])
    pipeline.add_step(telling(diary, "alert", when="failure"))
    async with started(pipeline) as run:
        await asyncio.sleep(1)
        await run.cancel("the user went away")
        result = await run.result()
    assert result.state is RunState.CANCELLED
    assert diary.lines == [("clean", 1), ("alert", 1)]
    for why in diary.failures:
        assert why is not None
        assert (why.state, why.reason, why.errors) == ("cancelled", "the user went away", {})


@virtual_time
async def test_after_the_timeout_of_the_run_clean_up_still_runs() -> None:
    diary = Diary()
    pipeline = Pipeline("p", [working(diary, "slow", 60), telling(diary)])
    with pytest.raises(RunTimeout) as caught:
        async with started(pipeline, timeout=3) as run:
            await run.result()
    assert diary.lines == [("clean", 3)]
    assert diary.failures[0] is not None
    assert "timeout of 3 s" in diary.failures[0].reason
    assert states_of(caught.value.result) == {"slow": "cancelled", "clean": "succeeded"}


@virtual_time
async def test_a_drain_lets_what_runs_end_and_then_cleans_up() -> None:
    diary = Diary()
    pipeline = Pipeline("p", [working(diary, "slow", 60), telling(diary)])
    pipeline.add_step(working(diary, "next"), after=["slow"])
    async with started(pipeline) as run:
        await asyncio.sleep(1)
        run.drain_nowait("enough")
        result = await run.result()
    assert diary.lines == [("slow", 60), ("clean", 60)]
    assert result.state is RunState.CANCELLED
    assert states_of(result) == {"slow": "succeeded", "clean": "succeeded", "next": "cancelled"}


@virtual_time
async def test_the_task_that_awaits_a_run_waits_for_clean_up_when_it_is_cancelled() -> None:
    diary = Diary()
    pipeline = Pipeline("p", [working(diary, "slow", 60), telling(diary)])
    user = asyncio.create_task(pipeline.run())
    await asyncio.sleep(1)
    user.cancel()
    with pytest.raises(asyncio.CancelledError):
        await user
    assert diary.lines == [("clean", 1)]


@virtual_time
async def test_a_run_cancelled_before_it_began_cleans_up_too() -> None:
    diary = Diary()
    pipeline = Pipeline("p", [working(diary, "work"), telling(diary)])
    async with started(pipeline) as run:
        run.cancel_nowait("changed my mind")
        result = await run.result()
    assert states_of(result) == {"work": "cancelled", "clean": "succeeded"}


@virtual_time
async def test_closing_a_runtime_leaves_time_for_clean_up() -> None:
    diary = Diary()
    async with Runtime() as runtime:
        run = await runtime.start(Pipeline("p", [working(diary, "slow", 60), telling(diary)]))
        await asyncio.sleep(1)
        await runtime.aclose(drain_seconds=0)
    assert run.state is RunState.CANCELLED
    assert diary.lines == [("clean", 1)]


@virtual_time
async def test_an_interrupt_in_a_step_is_followed_by_clean_up() -> None:
    diary = Diary()

    @step
    async def interrupted() -> None:
        raise KeyboardInterrupt

    async with started(Pipeline("p", [interrupted, telling(diary)])) as run:
        result = await run.result()
    assert result.state is RunState.CANCELLED
    assert diary.names == ["clean"]


# --------------------------------------------------------------------- order


@virtual_time
async def test_without_parents_it_waits_for_the_end_of_everything() -> None:
    diary = Diary()
    pipeline = Pipeline("p", [telling(diary)])  # declared first, runs last
    for seconds in (1, 7, 3):
        pipeline.add_step(working(diary, f"work {seconds}", seconds))
    pipeline.add_step(working(diary, "below", 2), after=["work 7"])
    async with started(pipeline) as run:
        await run.wait()
    assert diary.lines[-1] == ("clean", 9)


@virtual_time
async def test_with_parents_it_waits_for_those_only() -> None:
    diary = Diary()
    pipeline = Pipeline("p", [working(diary, "quick", 1), working(diary, "slow", 9)])
    pipeline.add_step(telling(diary), after=["quick"])
    async with started(pipeline) as run:
        await run.wait()
    assert diary.lines == [("quick", 1), ("clean", 1), ("slow", 9)]


@virtual_time
async def test_one_with_parents_hears_of_their_failures_only() -> None:
    diary = Diary()
    pipeline = Pipeline("p", [failing(), working(diary, "fine", 1)])
    pipeline.add_step(telling(diary, "of broken", when="failure"), after=["broken"])
    pipeline.add_step(telling(diary, "of fine", when="failure"), after=["fine"])
    async with started(pipeline, failure_policy="collect_all") as run:
        result = await run.result()
    assert diary.lines == [("of broken", 0), ("fine", 1)]
    assert states_of(result)["of fine"] == "skipped"


@virtual_time
async def test_a_failure_reaches_the_alert_through_all_that_is_below_it() -> None:
    diary = Diary()
    pipeline = Pipeline("p", [failing()])
    pipeline.add_step(working(diary, "below"), after=["broken"])
    pipeline.add_step(working(diary, "far below"), after=["below"])
    pipeline.add_step(telling(diary, when="failure"), after=["far below"])
    async with started(pipeline, failure_policy="collect_all") as run:
        await run.wait()
    assert diary.names == ["clean"]


@virtual_time
async def test_clean_up_steps_wait_for_each_other() -> None:
    diary = Diary()
    pipeline = Pipeline("p", [failing()])
    pipeline.add_step(working(diary, "first", 0.5, when="always"))
    pipeline.add_step(working(diary, "second", 0.5, when="always"), after=["first"])
    pipeline.add_step(working(diary, "third", 0.5, when="failure"), after=["first"])
    async with started(pipeline) as run:
        result = await run.result()
    assert diary.lines == [("first", 0.5), ("second", 1.0)]
    # Its parents did not fail: it is about them, not about the run.
    assert states_of(result)["third"] == "skipped"


@virtual_time
async def test_a_usual_step_below_clean_up_runs_while_the_run_goes_on() -> None:
    diary = Diary()
    pipeline = Pipeline("p", [working(diary, "work"), failing(seconds=2)])
    pipeline.add_step(working(diary, "closed", when="always"), after=["work"])
    pipeline.add_step(working(diary, "report"), after=["closed"])
    async with started(pipeline, failure_policy="collect_all") as run:
        await run.wait()
    assert diary.names == ["work", "closed", "report"]


@virtual_time
async def test_a_usual_step_below_clean_up_does_not_run_after_a_stop() -> None:
    diary = Diary()
    pipeline = Pipeline("p", [failing()])
    pipeline.add_step(working(diary, "closed", when="always"), after=["broken"])
    pipeline.add_step(working(diary, "report"), after=["closed"])
    pipeline.add_step(working(diary, "more"), after=["report"])
    async with started(pipeline) as run:
        result = await run.result()
    assert diary.lines == [("closed", 1)]
    assert states_of(result) == {
        "broken": "failed",
        "closed": "succeeded",
        "report": "cancelled",
        "more": "cancelled",
    }
    assert result.duration_seconds == 1  # and nothing waits for the grace period to be over


@virtual_time
async def test_a_usual_step_behind_clean_up_at_the_end_comes_after_that() -> None:
    diary = Diary()
    pipeline = Pipeline("p", [working(diary, "work"), telling(diary)])
    pipeline.add_step(working(diary, "other", 3))
    pipeline.add_step(working(diary, "last"), after=["clean", "other"])
    async with started(pipeline) as run:
        await run.wait()
    assert diary.lines == [("work", 1), ("other", 3), ("clean", 3), ("last", 4)]


@virtual_time
async def test_a_pipeline_of_clean_up_steps_alone_runs_them() -> None:
    diary = Diary()
    async with started(Pipeline("p", [telling(diary), telling(diary, "too")])) as run:
        result = await run.result()
    assert result.success
    assert diary.names == ["clean", "too"]


@virtual_time
async def test_ten_thousand_that_wait_behind_a_failure_do_not_hold_up_clean_up() -> None:
    diary = Diary()
    pipeline = Pipeline("p", [failing(), telling(diary)])
    waiting = working(diary, "never")
    for number in range(5_000):
        pipeline.add_step(waiting, f"below {number}", after=["broken"])
        pipeline.add_step(waiting, f"ready {number}")
    async with Runtime(max_concurrency=10) as runtime:
        async with pipeline.start(runtime=runtime) as run:
            events = run.events(buffer=100_000)
            result = await run.result()
            ends = [event async for event in events if isinstance(event, NodeFinished)]
        assert_nothing_is_held(runtime)
    assert diary.lines == [("clean", 0)]
    assert result.counts() == {
        NodeState.SUCCEEDED: 1,
        NodeState.FAILED: 1,
        NodeState.UPSTREAM_FAILED: 5_000,
        NodeState.CANCELLED: 5_000,
    }
    assert len({event.node for event in ends}) == len(ends) == 10_002


@virtual_time
async def test_many_clean_up_steps_of_one_node_all_run() -> None:
    # More than the frontier releases at once.
    diary = Diary()
    pipeline = Pipeline("p", [failing()])
    for number in range(4_500):
        pipeline.add_step(telling(diary, f"clean {number}"), after=["broken"])
    async with started(pipeline) as run:
        result = await run.result()
    assert result.counts() == {NodeState.SUCCEEDED: 4_500, NodeState.FAILED: 1}


# -------------------------------------------------------------------- values


def opened(diary: Diary, *, fails: bool) -> list[Step[..., Any]]:
    @step(outputs=["connection"])
    async def connect() -> str:
        if fails:
            raise ConnectionError("refused")
        return "a connection"

    @step
    async def use(connection: str) -> None:
        await asyncio.sleep(60)

    @step(when="always")
    async def close(connection: str) -> None:
        diary.write(f"closed {connection}")

    @step(when="always")
    async def close_if_any(connection: str | None = None) -> None:
        diary.write(f"had {connection}")

    return [connect, use, close, close_if_any]


@virtual_time
async def test_clean_up_takes_the_values_that_are_there() -> None:
    diary = Diary()
    async with started(Pipeline("p", opened(diary, fails=False))) as run:
        await run.wait()
    assert diary.names == ["closed a connection", "had a connection"]


@virtual_time
async def test_without_its_value_clean_up_is_skipped_or_takes_its_default() -> None:
    diary = Diary()
    async with started(Pipeline("p", opened(diary, fails=True))) as run:
        result = await run.result()
    assert diary.names == ["had None"]
    assert states_of(result)["close"] == "skipped"


@virtual_time
async def test_a_value_that_only_clean_up_takes_is_kept_for_it() -> None:
    diary = Diary()
    pipeline = Pipeline("p", opened(diary, fails=False), outputs=["use"])
    pipeline.add_step(failing(seconds=1))
    async with started(pipeline) as run:
        await run.wait()
    assert "closed a connection" in diary.names


@virtual_time
async def test_what_clean_up_returns_is_in_the_result() -> None:
    @step(when="failure")
    async def alert(why: RunFailure) -> str:
        return f"{len(why.errors)} failed in {why.pipeline_name}"

    async with started(Pipeline("p", [failing(), alert])) as run:
        result = await run.result()
    assert result["alert"] == "1 failed in p"


# ------------------------------------------------------------- clean-up fails


@virtual_time
async def test_clean_up_that_fails_fails_a_run_that_had_succeeded() -> None:
    diary = Diary()
    pipeline = Pipeline("p", [working(diary, "work"), failing("clean", when="always")])
    pipeline.add_step(telling(diary, "other"))
    async with started(pipeline) as run:
        result = await run.result()
    assert result.state is RunState.FAILED
    assert diary.names == ["work", "other"]
    assert states_of(result) == {"work": "succeeded", "clean": "failed", "other": "succeeded"}


@virtual_time
async def test_clean_up_that_fails_does_not_hide_why_the_run_ended() -> None:
    pipeline = Pipeline("p", [failing(), failing("clean", when="always")])
    async with started(pipeline) as run:
        result = await run.result()
    assert result.reason == "step 'broken' failed: ValueError: broken is broken"
    assert states_of(result) == {"broken": "failed", "clean": "failed"}
    with pytest.raises(ExceptionGroup) as caught:
        result.raise_for_failure()
    assert len(caught.value.exceptions) == 2


@virtual_time
async def test_a_cancelled_run_whose_clean_up_fails_stays_cancelled() -> None:
    diary = Diary()
    pipeline = Pipeline("p", [working(diary, "slow", 60), failing("clean", when="always")])
    async with started(pipeline) as run:
        await asyncio.sleep(1)
        await run.cancel("enough")
        result = await run.result()
    assert (result.state, result.reason) == (RunState.CANCELLED, "enough")
    assert states_of(result) == {"slow": "cancelled", "clean": "failed"}


@virtual_time
async def test_clean_up_is_tried_again_within_its_time() -> None:
    @step(when="always", retry=Retry(3, wait_initial=0.5, wait_jitter=0))
    async def clean(context: StepContext) -> int:
        if context.attempt < 3:
            raise ConnectionError("busy")
        return context.attempt

    async with started(Pipeline("p", [failing(), clean])) as run:
        result = await run.result()
    assert result["clean"] == 3
    assert result.duration_seconds == 1.5


@virtual_time
async def test_clean_up_that_waits_to_be_tried_again_when_its_time_is_over_is_cancelled() -> None:
    clean = failing("clean", when="always", retry=Retry(9, wait_initial=1.5, wait_jitter=0))
    async with started(Pipeline("p", [failing(), clean])) as run:
        result = await run.result()
    found = result.step_results["clean"]
    assert (found.status, found.attempts, str(found.error)) == (
        NodeState.CANCELLED,
        2,
        "clean is broken",
    )
    assert result.duration_seconds == 2


@virtual_time
async def test_clean_up_has_timeouts_of_its_own() -> None:
    diary = Diary()
    pipeline = Pipeline("p", [failing(), working(diary, "clean", 60, when="always", timeout=0.5)])
    async with started(pipeline) as run:
        result = await run.result()
    assert states_of(result)["clean"] == "timed_out"
    assert result.duration_seconds == 0.5


@virtual_time
async def test_after_a_success_clean_up_may_take_its_time() -> None:
    diary = Diary()
    pipeline = Pipeline("p", [working(diary, "work"), working(diary, "clean", 60, when="always")])
    async with started(pipeline) as run:
        result = await run.result()
    assert result.success
    assert diary.lines == [("work", 1), ("clean", 61)]


@virtual_time
async def test_clean_up_that_takes_longer_than_the_grace_period_is_cancelled() -> None:
    diary = Diary()

    @step(when="always")
    async def clean() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            diary.write("told to stop")

    pipeline = Pipeline("p", [failing(), clean])
    pipeline.add_step(telling(diary, "never"), after=["clean"])
    async with started(pipeline, grace_seconds=3) as run:
        result = await run.result()
    assert diary.lines == [("told to stop", 3)]
    assert states_of(result) == {"broken": "failed", "clean": "cancelled", "never": "cancelled"}
    assert isinstance(result.step_results["never"].error, StepCancelled)


@virtual_time
async def test_clean_up_that_ignores_its_cancel_is_abandoned() -> None:
    with Gate() as gate:

        @step(when="always")
        def clean() -> None:
            gate.wait()

        async with Runtime(grace_seconds=3) as runtime:
            async with Pipeline("p", [failing(), clean]).start(runtime=runtime) as run:
                result = await run.result()
                assert run.abandoned == ("clean",)
            # Three seconds for clean-up, three more to end when told so.
            assert (states_of(result)["clean"], result.duration_seconds) == ("abandoned", 6)
            gate.open()
            await asyncio.sleep(1)
            assert_nothing_is_held(runtime)


@virtual_time
async def test_clean_up_that_runs_when_the_run_is_stopped_goes_on_but_not_for_ever() -> None:
    diary = Diary()
    pipeline = Pipeline("p", [working(diary, "quick", 1), working(diary, "slow", 60)])
    pipeline.add_step(working(diary, "short", 3.5, when="always"), after=["quick"])
    pipeline.add_step(working(diary, "endless", 1e6, when="always"), after=["quick"])
    async with started(pipeline) as run:
        await asyncio.sleep(4)
        await run.cancel("enough")
        result = await run.result()
    assert diary.lines == [("quick", 1), ("short", 4.5)]
    assert states_of(result) == {
        "quick": "succeeded",
        "slow": "cancelled",
        "short": "succeeded",
        "endless": "cancelled",
    }
    assert result.duration_seconds == 6


@virtual_time
async def test_a_second_cancel_changes_nothing() -> None:
    diary = Diary()
    pipeline = Pipeline("p", [working(diary, "slow", 60), working(diary, "clean", when="always")])
    async with started(pipeline) as run:
        await asyncio.sleep(1)
        run.cancel_nowait("first")
        await asyncio.sleep(0.5)
        run.cancel_nowait("second")
        result = await run.result()
    assert (diary.lines, result.reason) == ([("clean", 2)], "first")


@virtual_time
async def test_the_grace_of_clean_up_begins_when_the_others_have_ended() -> None:
    diary = Diary()

    @step
    async def stubborn() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(1.5)

    pipeline = Pipeline("p", [stubborn, working(diary, "clean", 1.5, when="always")])
    async with started(pipeline) as run:
        await asyncio.sleep(1)
        await run.cancel()
    assert diary.lines == [("clean", 4)]


# ---------------------------------------------------------------- conditions


@pytest.mark.parametrize("wanted", [True, False])
@virtual_time
async def test_a_condition_holds_for_clean_up_as_well(wanted: bool) -> None:
    diary = Diary()

    async def slowly() -> bool:
        await asyncio.sleep(0.5)
        return wanted

    pipeline = Pipeline("p", [failing(), telling(diary, condition=slowly)])
    async with started(pipeline) as run:
        result = await run.result()
    assert diary.lines == [("clean", 0.5)] * wanted
    assert states_of(result)["clean"] == ("succeeded" if wanted else "skipped")


@virtual_time
async def test_a_condition_that_hangs_is_cut_off_with_clean_up() -> None:
    async def endless() -> bool:
        await asyncio.sleep(1e6)
        return True

    diary = Diary()
    async with started(Pipeline("p", [failing(), telling(diary, condition=endless)])) as run:
        result = await run.result()
    assert states_of(result) == {"broken": "failed", "clean": "cancelled"}
    assert result.duration_seconds == 2


# ------------------------------------------------------------------ capacity


@virtual_time
async def test_clean_up_asks_for_capacity_and_threads_like_any_step() -> None:
    diary = Diary()

    cleaned: list[str] = []

    @step(when="always", resources={"cpu": 2})
    def clean() -> None:
        cleaned.append("in a thread")

    busy = working(diary, "busy", 60, resources={"cpu": 2})
    pipeline = Pipeline("p", [busy, clean])
    pipeline.add_step(busy, "waits for cpus")
    pipeline.add_step(failing(seconds=1))
    async with started(pipeline) as run:
        result = await run.result()
    assert cleaned == ["in a thread"]
    assert result.duration_seconds == 1
    assert states_of(result)["waits for cpus"] == "cancelled"


# ------------------------------------------------------------------- refusals


def test_only_clean_up_steps_take_a_run_failure() -> None:
    @step
    async def curious(why: RunFailure) -> None: ...

    with pytest.raises(GraphError, match="parameter 'why' takes a RunFailure, which only steps"):
        Pipeline("p", [curious]).build()


def test_a_clean_up_step_in_a_group_is_refused() -> None:
    diary = Diary()
    with pytest.raises(GraphError, match="'clean' has when='always' and an execution group"):
        Pipeline("p", [telling(diary, execution_group="g")]).build()


def test_an_unknown_when_is_refused() -> None:
    with pytest.raises(GraphError, match="when: is 'success', 'failure' or 'always', not 'never'"):
        step(print, when="never")  # type: ignore[call-overload]


# --------------------------------------------------------------------- events


@virtual_time
async def test_every_node_ends_once_and_the_run_last() -> None:
    diary = Diary()
    pipeline = Pipeline("p", [failing(), working(diary, "slow", 9), telling(diary)])
    pipeline.add_step(working(diary, "below"), after=["broken"])
    async with started(pipeline) as run:
        stream = run.events()
        await run.wait()
        events = [event async for event in stream]
    assert_consistent(events, {"broken", "slow", "clean", "below"})
    order = [event.node for event in events if isinstance(event, NodeFinished)]
    assert order[-1] == "clean"


def assert_consistent(events: list[Event], names: set[str]) -> None:
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    ends = [event.node for event in events if isinstance(event, NodeFinished)]
    assert sorted(ends) == sorted(names), "a node ended twice, or never"
    assert isinstance(events[-1], RunFinished)
    ended: set[str] = set()
    for event in events:
        if isinstance(event, NodeFinished):
            ended.add(event.node)
        elif isinstance(event, NodeStarted):
            assert event.node not in ended, f"{event.node} started after its end"


# ----------------------------------------------------------------- properties


class Plan(msgspec.Struct, frozen=True):
    """One random node: usual or clean-up, with parents by order and by optional value."""

    name: str
    after: tuple[str, ...]
    when: Literal["success", "failure", "always"]
    fails: bool
    retries: int
    seconds: float
    cpu: float | None
    condition: bool | None


@st.composite
def plans(draw: st.DrawFn) -> list[Plan]:
    nodes: list[Plan] = []
    for number in range(draw(st.integers(1, 9))):
        above = [node.name for node in nodes]
        parents = (
            st.lists(st.sampled_from(above), unique=True, max_size=3) if above else st.just([])
        )
        nodes.append(
            Plan(
                name=f"n{number}",
                after=tuple(draw(parents)),
                when=draw(st.sampled_from(["success", "success", "failure", "always"])),
                fails=draw(st.sampled_from([False, False, True])),
                retries=draw(st.sampled_from([0, 0, 1])),
                seconds=draw(st.sampled_from([0, 0.5, 1, 3, 50])),
                cpu=draw(st.sampled_from([None, None, 1, 2])),
                condition=draw(st.sampled_from([None, None, None, True, False])),
            )
        )
    return nodes


def pipeline_of(nodes: list[Plan], tries: list[tuple[str, int]]) -> Pipeline:
    pipeline = Pipeline("random")
    for node in nodes:
        condition = None if node.condition is None else (lambda verdict=node.condition: verdict)
        placed = step(
            _function_of(node, tries),
            name=node.name,
            when=node.when,
            condition=condition,
            retry=Retry(node.retries, wait_initial=1, wait_jitter=0),
            resources=None if node.cpu is None else {"cpu": node.cpu},
        )
        pipeline.add_step(placed, after=node.after)
    return pipeline


def _function_of(node: Plan, tries: list[tuple[str, int]]) -> Any:
    async def work(context: StepContext) -> str:
        tries.append((node.name, context.attempt))
        await asyncio.sleep(node.seconds)
        if node.fails:
            raise OSError(f"{node.name} fails")
        return node.name

    return work


async def _run_and_watch(
    nodes: list[Plan], policy: Policy, window: int, stop: tuple[str, float] | None
) -> tuple[PipelineResult, list[tuple[str, int]]]:
    tries: list[tuple[str, int]] = []
    pipeline = pipeline_of(nodes, tries)
    async with Runtime(max_cpus=2, max_memory=1000, max_concurrency=window) as runtime:
        async with pipeline.start(runtime=runtime, failure_policy=policy) as run:
            stream = run.events(buffer=100_000)
            if stop is not None:
                what = run.cancel_nowait if stop[0] == "cancel" else run.drain_nowait
                asyncio.get_running_loop().call_later(stop[1], what, "at a random moment")
            result = await run.result()
            events = [event async for event in stream]
        await asyncio.sleep(1000)  # a stop that comes after the end
        assert_nothing_is_held(runtime)
    assert_consistent(events, {node.name for node in nodes})
    return result, tries


@given(
    plans(),
    st.sampled_from(["fail_fast", "collect_all"]),
    st.integers(1, 4),
    st.sampled_from(
        [None, None, *itertools.product(["cancel", "drain"], [0, 0.5, 1, 2, 3.25, 60])]
    ),
)
def test_whatever_happens_every_run_ends_with_nothing_held(
    nodes: list[Plan], policy: Policy, window: int, stop: tuple[str, float] | None
) -> None:
    result, tries = run_virtually(_run_and_watch(nodes, policy, window, stop))
    assert len(set(tries)) == len(tries), "an attempt was made twice"
    states = {name: found.status for name, found in result.step_results.items()}
    note(str(result.state))
    if result.success:
        assert not FAILED_STATES & set(states.values())
    tried = {name for name, _ in tries}
    for node in nodes:
        above = {states[parent] for parent in node.after}
        if node.name in tried and node.when == "success":
            assert not above & FAILED_STATES, f"{node.name} ran below a failure"
        if node.name in tried and node.when == "failure" and node.after:
            assert above & FAILED_STATES, f"{node.name} ran though nothing above it failed"


@given(plans(), st.sampled_from(["fail_fast", "collect_all"]), st.integers(1, 4))
def test_quick_clean_up_without_conditions_always_runs(
    nodes: list[Plan], policy: Policy, window: int
) -> None:
    nodes = [
        node
        if node.when == "success"
        else msgspec.structs.replace(node, seconds=0, condition=None, cpu=None, retries=0)
        for node in nodes
    ]
    result, tries = run_virtually(_run_and_watch(nodes, policy, window, None))
    tried = [name for name, _ in tries]
    for node in nodes:
        if node.when == "always":
            assert tried.count(node.name) == 1, f"{node.name} did not run"
    assert result.state in (RunState.SUCCEEDED, RunState.FAILED)
