"""What becomes of a run when a step fails, under either policy and whatever was raised."""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from asyncflow import (
    DependencyError,
    NodeState,
    Pipeline,
    PipelineResult,
    RunState,
    Step,
    StepCancelled,
    StepContext,
    StepFailed,
    step,
)
from asyncflow.events import Event
from tests.virtual_time import now, virtual_time


@step
async def broken() -> None:
    await asyncio.sleep(1)
    raise ValueError("no good")


@step
async def below(broken: None) -> None: ...


@step
async def further_below(below: None) -> None: ...


@step
async def long() -> str:
    await asyncio.sleep(10)
    return "done"


@step
async def after_long(long: str) -> str:
    return long


ALL: list[Step[..., Any]] = [broken, below, further_below, long, after_long]


def states_of(result: PipelineResult) -> dict[str, str]:
    return {name: str(step.status) for name, step in result.step_results.items()}


@virtual_time
async def test_fail_fast_cancels_what_runs_and_what_waits() -> None:
    result = await Pipeline("p", steps=ALL).run()
    assert now() == 1
    assert (result.state, result.success) == (RunState.FAILED, False)
    assert result.reason == "step 'broken' failed: ValueError: no good"
    assert states_of(result) == {
        "broken": "failed",
        "below": "upstream_failed",
        "further_below": "upstream_failed",
        "long": "cancelled",
        "after_long": "cancelled",
    }
    assert isinstance(result.step_results["long"].error, StepCancelled)
    with pytest.raises(StepCancelled, match="step 'after_long' was cancelled"):
        result["after_long"]


@virtual_time
async def test_collect_all_runs_everything_that_is_not_below_a_failure() -> None:
    result = await Pipeline("p", steps=ALL, failure_policy="collect_all").run()
    assert result.state is RunState.FAILED
    assert states_of(result) == {
        "broken": "failed",
        "below": "upstream_failed",
        "further_below": "upstream_failed",
        "long": "succeeded",
        "after_long": "succeeded",
    }
    assert result["after_long"] == "done"


@virtual_time
async def test_what_is_below_a_failure_names_it_and_carries_its_cause() -> None:
    result = await Pipeline("p", steps=ALL, failure_policy="collect_all").run()
    error = result.step_results["further_below"].error
    assert isinstance(error, DependencyError)
    assert (error.step, error.ancestor) == ("further_below", "broken")
    assert str(error) == (
        "step 'further_below' did not run because 'broken' above it failed: ValueError: no good"
    )
    assert isinstance(error.__cause__, ValueError)


@virtual_time
async def test_the_policy_of_a_run_goes_before_that_of_the_pipeline() -> None:
    pipeline = Pipeline("p", steps=ALL, failure_policy="fail_fast")
    assert "succeeded" in states_of(await pipeline.run(failure_policy="collect_all")).values()
    pipeline = Pipeline("p", steps=ALL, failure_policy="collect_all")
    assert "cancelled" in states_of(await pipeline.run(failure_policy="fail_fast")).values()


@virtual_time
async def test_threads_see_that_the_run_is_over() -> None:
    started = asyncio.Event()
    loop = asyncio.get_running_loop()

    @step
    def watchful(context: StepContext) -> str:
        loop.call_soon_threadsafe(started.set)
        while not context.cancelled:
            pass
        context.raise_if_cancelled()
        return "never"

    @step
    async def fails() -> None:
        await started.wait()
        raise ValueError("no good")

    result = await Pipeline("p", steps=[watchful, fails]).run()
    assert states_of(result) == {"watchful": "cancelled", "fails": "failed"}


@virtual_time
async def test_a_step_that_fails_in_its_clean_up_has_failed() -> None:
    @step
    async def untidy() -> None:
        try:
            await asyncio.sleep(100)
        finally:
            raise OSError("could not delete")

    result = await Pipeline("p", steps=[broken, untidy]).run()
    assert states_of(result) == {"broken": "failed", "untidy": "failed"}
    assert result.reason == "step 'broken' failed: ValueError: no good"


@virtual_time
async def test_a_step_that_ends_well_in_spite_of_the_cancel_has_succeeded() -> None:
    @step
    async def saves() -> str:
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            return "what there was"
        return "everything"

    result = await Pipeline("p", steps=[broken, saves]).run()
    assert result["saves"] == "what there was"


@virtual_time
async def test_the_last_step_of_a_run_may_fail_like_any_other() -> None:
    async with Pipeline("p", steps=[broken]).start() as run:
        kinds = [event.kind async for event in run.events()]
    assert kinds == [
        "RunStarted",
        "UnitStarted",
        "NodeStarted",
        "NodeFinished",
        "UnitFinished",
        "RunFinished",
    ]


@virtual_time
async def test_a_failed_run_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="asyncflow"):
        await Pipeline("p", steps=ALL, failure_policy="collect_all").run()
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("asyncflow", "ERROR")
    assert "broken: failed at attempt 1: ValueError: no good" in record.getMessage()


# ------------------------------------------------------- whatever is raised


class Custom(BaseException):
    """An exception that `except Exception` does not see."""


@pytest.mark.parametrize("lane", ["inline", "thread"])
@pytest.mark.parametrize("kind", [SystemExit, GeneratorExit, Custom, asyncio.CancelledError])
@virtual_time
async def test_whatever_a_step_raises_fails_that_step_only(
    lane: Any, kind: type[BaseException]
) -> None:
    @step(lane=lane)
    def raises() -> None:
        raise kind("from the step")

    @step
    async def other() -> str:
        return "undisturbed"

    pipeline = Pipeline("p", steps=[raises, other], failure_policy="collect_all")
    result = await pipeline.run()
    assert states_of(result) == {"raises": "failed", "other": "succeeded"}
    assert isinstance(result.step_results["raises"].error, kind)


@pytest.mark.parametrize("kind", [SystemExit, GeneratorExit, Custom, asyncio.CancelledError])
@virtual_time
async def test_whatever_a_coroutine_raises_fails_that_step_only(kind: type[BaseException]) -> None:
    @step
    async def raises() -> None:
        await asyncio.sleep(1)
        raise kind("from the step")

    result = await Pipeline("p", steps=[raises]).run()
    assert states_of(result) == {"raises": "failed"}
    with pytest.raises(StepFailed) as caught:
        result["raises"]
    assert isinstance(caught.value.__cause__, kind)


@virtual_time
async def test_an_interrupt_in_an_inline_step_cancels_its_run() -> None:
    @step
    async def interrupted() -> None:
        raise KeyboardInterrupt

    pipeline = Pipeline("p", steps=[interrupted, long], failure_policy="collect_all")
    result = await pipeline.run()
    assert (result.state, result.reason) == (RunState.CANCELLED, "interrupted")
    assert states_of(result)["long"] == "cancelled"
    assert isinstance(result.step_results["interrupted"].error, KeyboardInterrupt)


@virtual_time
async def test_an_interrupt_in_a_thread_is_an_error_of_that_step() -> None:
    @step
    def interrupted() -> None:
        raise KeyboardInterrupt

    pipeline = Pipeline("p", steps=[interrupted, long], failure_policy="collect_all")
    result = await pipeline.run()
    assert (result.state, states_of(result)["long"]) == (RunState.FAILED, "succeeded")


@virtual_time
async def test_an_exception_that_cannot_be_shown_is_told_by_its_type() -> None:
    class Unprintable(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no words")

    @step
    async def raises() -> None:
        raise Unprintable

    result = await Pipeline("p", steps=[raises]).run()
    assert "Unprintable: (its text cannot be shown: str() raised RuntimeError)" in result.summary()


@pytest.mark.parametrize("lane", ["inline", "thread"])
@virtual_time
async def test_a_traceback_begins_in_the_step(lane: Any) -> None:
    @step(lane=lane)
    def raises() -> None:
        raise ValueError("here")

    error = (await Pipeline("p", steps=[raises]).run()).step_results["raises"].error
    assert error is not None
    assert [frame.name for frame in traceback.extract_tb(error.__traceback__)] == ["raises"]


@virtual_time
async def test_a_sync_step_that_returns_a_coroutine_is_told_so() -> None:
    async def fetch() -> int:
        return 1

    @step
    def forgot() -> object:
        return fetch()

    result = await Pipeline("p", steps=[forgot]).run()
    with pytest.raises(StepFailed, match="declare it with 'async def', or await"):
        result["forgot"]


# ------------------------------------------------------------ several outputs


class Unreadable(Mapping[str, int]):
    """A mapping whose methods raise."""

    def __getitem__(self, key: str) -> int:
        raise KeyError(key)

    def __iter__(self) -> Iterator[str]:
        raise OSError("the file is gone")

    def __len__(self) -> int:
        return 2


@pytest.mark.parametrize("value", [(1, 2), [1, 2], {"low": 1, "high": 2}, {"high": 2, "low": 1}])
@virtual_time
async def test_several_outputs_take_a_tuple_a_list_or_a_mapping(value: object) -> None:
    @step(outputs=["low", "high"])
    async def limits() -> object:
        return value

    @step
    async def span(high: int, low: int) -> int:
        return high - low

    result = await Pipeline("p", steps=[limits, span]).run()
    assert (result["low"], result["high"], result["span"]) == (1, 2, 1)
    assert result[limits] == value
    assert result.step_results["limits"].output == value


@pytest.mark.parametrize(
    "value, found",
    [
        ((1,), "1 values"),
        ([1, 2, 3], "3 values"),
        ({"low": 1}, "a mapping with the keys low"),
        ({}, "a mapping with the keys none"),
        ({"low": 1, "high": 2, "mid": 3}, "a mapping with the keys low, high, mid"),
        (None, "a value of type NoneType"),
        ("ab", "a value of type str"),
    ],
)
@virtual_time
async def test_anything_else_fails_the_step_and_says_what_was_found(
    value: object, found: str
) -> None:
    @step(outputs=["low", "high"])
    async def limits() -> object:
        return value

    result = await Pipeline("p", steps=[limits]).run()
    with pytest.raises(StepFailed, match=rf"declares the outputs low, high but returned {found};"):
        result["limits"]
    assert result.get("low") is None


@virtual_time
async def test_a_mapping_that_cannot_be_read_fails_its_step() -> None:
    @step(outputs=["low", "high"])
    async def limits() -> Unreadable:
        return Unreadable()

    result = await Pipeline("p", steps=[limits]).run()
    with pytest.raises(
        StepFailed, match="returned a value of type Unreadable whose parts cannot be read"
    ) as caught:
        result["low"]
    assert isinstance(caught.value.__cause__, OSError)


@virtual_time
async def test_events_of_a_failed_run_tell_the_error_once() -> None:
    events: list[Event] = []
    async with Pipeline("p", steps=ALL).start() as run:
        async for event in run.events():
            events.append(event)
    errors = [getattr(event, "error", "") for event in events if event.kind == "NodeFinished"]
    assert errors.count("ValueError: no good") == 1
    finished = {event.node: getattr(event, "state", None) for event in events}
    assert finished["after_long"] is NodeState.CANCELLED
