"""A failed attempt is tried again as its policy says, and nothing is held while it waits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from asyncflow import NodeState, Pipeline, Retry, RetryAfter, Runtime, Step, StepContext, step
from asyncflow.events import NodeRetrying, NodeStarted
from asyncflow.retry import RetryOn
from tests.virtual_time import now, virtual_time

EVERY_SECOND = Retry(5, wait_initial=1, wait_max=1, wait_jitter=0)


def failing(times: int, retry: int | Retry, error: Callable[[], Exception] = OSError) -> Flaky:
    return Flaky(times, retry, error)


class Flaky:
    """A step that fails so many times before it succeeds, and when it was tried."""

    def __init__(self, times: int, retry: int | Retry, error: Callable[[], Exception]) -> None:
        self.tried_at: list[float] = []

        @step(name="flaky", retry=retry)
        async def flaky() -> str:
            self.tried_at.append(now())
            if len(self.tried_at) <= times:
                raise error()
            return "done"

        self.step: Step[..., Any] = flaky
        self.pipeline = Pipeline("p", steps=[flaky])


@virtual_time
async def test_a_step_is_tried_until_it_succeeds() -> None:
    flaky = failing(2, retry=3)
    result = await flaky.pipeline.run()
    assert result["flaky"] == "done"
    assert result.step_results["flaky"].attempts == 3


@virtual_time
async def test_retry_counts_the_tries_after_the_first() -> None:
    flaky = failing(99, retry=3)
    result = await flaky.pipeline.run()
    assert len(flaky.tried_at) == 4
    assert result.step_results["flaky"].attempts == 4
    assert result.step_results["flaky"].status is NodeState.FAILED


@virtual_time
async def test_a_step_without_retries_is_tried_once() -> None:
    flaky = failing(99, retry=0)
    await flaky.pipeline.run()
    assert flaky.tried_at == [0]


@virtual_time
async def test_waits_double_up_to_the_longest() -> None:
    flaky = failing(4, Retry(4, wait_initial=1, wait_max=5, wait_jitter=0))
    await flaky.pipeline.run()
    assert flaky.tried_at == [0, 1, 3, 7, 12]


@virtual_time
async def test_jitter_lengthens_a_wait_but_never_beyond_the_longest() -> None:
    flaky = failing(30, Retry(1, wait_initial=2, wait_max=2.5, wait_jitter=1))
    pipeline = Pipeline("p")
    for number in range(30):
        pipeline.add_step(flaky.step, f"flaky {number}")
    await pipeline.run(failure_policy="collect_all")
    waits = sorted(flaky.tried_at)[30:]
    assert 2 <= waits[0] < waits[-1] == 2.5


@virtual_time
async def test_a_step_may_ask_for_the_wait_itself() -> None:
    flaky = failing(1, retry=1, error=lambda: RetryAfter(90, "busy"))
    result = await flaky.pipeline.run()
    assert result.success
    assert flaky.tried_at == [0, 90]


@virtual_time
async def test_asking_for_a_wait_counts_as_one_of_the_retries() -> None:
    flaky = failing(99, retry=2, error=lambda: RetryAfter(1))
    result = await flaky.pipeline.run()
    assert flaky.tried_at == [0, 1, 2]
    assert isinstance(result.step_results["flaky"].error, RetryAfter)


@pytest.mark.parametrize(
    "on, tries",
    [
        (OSError, 3),
        ((KeyError, OSError), 3),
        (KeyError, 1),
        (lambda error: "busy" in str(error), 3),
        (lambda error: "gone" in str(error), 1),
    ],
)
@virtual_time
async def test_only_errors_that_the_policy_names_are_tried_again(on: RetryOn, tries: int) -> None:
    flaky = failing(99, Retry(2, on=on), error=lambda: OSError("busy"))
    result = await flaky.pipeline.run()
    assert len(flaky.tried_at) == tries
    assert isinstance(result.step_results["flaky"].error, OSError)


@virtual_time
async def test_a_predicate_that_raises_ends_the_tries_and_is_noted() -> None:
    def broken(error: BaseException) -> bool:
        raise TypeError("cannot say")

    flaky = failing(99, Retry(2, on=broken))
    result = await flaky.pipeline.run()
    error = result.step_results["flaky"].error
    assert isinstance(error, OSError)
    assert error.__notes__ == ["the retry predicate of the step raised TypeError: cannot say"]
    assert len(flaky.tried_at) == 1


@virtual_time
async def test_nothing_is_held_while_a_step_waits_to_be_tried_again() -> None:
    ran: list[tuple[str, float]] = []

    @step(resources={"cpu": 1, "memory": "1Gi", "gpu": 1}, retry=EVERY_SECOND)
    async def first(context: StepContext) -> None:
        ran.append(("first", now()))
        if context.attempt == 1:
            raise OSError("again")

    @step(resources={"cpu": 1, "memory": "1Gi", "gpu": 1})
    async def second(context: StepContext) -> None:
        ran.append(("second", now()))
        await asyncio.sleep(0.5)

    async with Runtime(max_cpus=1, max_memory="1Gi", max_gpus=1) as runtime:
        result = await Pipeline("p", steps=[first, second]).run(runtime=runtime)
    assert result.success
    assert ran == [("first", 0), ("second", 0), ("first", 1)]


@virtual_time
async def test_no_worker_is_held_while_a_step_waits_to_be_tried_again() -> None:
    ran: list[str] = []

    @step(retry=EVERY_SECOND)
    def first(context: StepContext) -> None:
        ran.append("first")
        if context.attempt == 1:
            raise OSError("again")

    @step
    def second() -> None:
        ran.append("second")

    async with Runtime(max_threads=1) as runtime:
        await Pipeline("p", steps=[first, second]).run(runtime=runtime)
    assert ran == ["first", "second", "first"]


@virtual_time
async def test_every_attempt_has_its_number_and_the_same_idempotency_key() -> None:
    seen: list[tuple[int, str]] = []

    @step(retry=2)
    async def flaky(context: StepContext) -> None:
        seen.append((context.attempt, context.idempotency_key))
        if context.attempt < 3:
            raise OSError("again")

    await Pipeline("p", steps=[flaky]).run(run_id="night")
    assert seen == [(1, "night/flaky"), (2, "night/flaky"), (3, "night/flaky")]


@virtual_time
async def test_events_tell_of_every_attempt() -> None:
    flaky = failing(2, Retry(2, wait_initial=4, wait_jitter=0), error=lambda: OSError("busy"))
    async with flaky.pipeline.start() as run:
        events = [event async for event in run.events()]
    waits = [event for event in events if isinstance(event, NodeRetrying)]
    assert [(event.attempt, event.delay_seconds, event.error) for event in waits] == [
        (1, 4, "OSError: busy"),
        (2, 8, "OSError: busy"),
    ]
    starts = [event.attempt for event in events if isinstance(event, NodeStarted)]
    assert starts == [1, 2, 3]
    kinds = [event.kind for event in events]
    assert kinds.count("UnitStarted") == kinds.count("UnitFinished") == 1
    assert kinds.count("NodeFinished") == 1


@virtual_time
async def test_a_waiting_step_is_shown_as_retrying() -> None:
    async with failing(1, EVERY_SECOND).pipeline.start() as run:
        await asyncio.sleep(0.5)
        assert run.snapshot().counts == {NodeState.RETRYING: 1}


@virtual_time
async def test_the_first_failure_that_counts_is_the_last_attempt() -> None:
    @step
    async def long() -> str:
        await asyncio.sleep(1.5)
        return "undisturbed"

    flaky = failing(99, Retry(2, wait_initial=1, wait_max=1, wait_jitter=0))
    result = await flaky.pipeline.add_step(long).run(failure_policy="fail_fast")
    assert result["long"] == "undisturbed"
    assert not result.success


@virtual_time
async def test_a_cancel_ends_the_waiting_at_once() -> None:
    flaky = failing(99, Retry(2, wait_initial=100, wait_max=100))
    async with flaky.pipeline.start() as run:
        await asyncio.sleep(1)
        await run.cancel("enough")
        assert now() == 1
    outcome = run.result_now().step_results["flaky"]
    assert (outcome.status, outcome.attempts) == (NodeState.CANCELLED, 1)
    assert isinstance(outcome.error, OSError)


@virtual_time
async def test_a_wait_that_ends_in_the_moment_of_a_failure_leads_to_nothing() -> None:
    flaky = failing(99, Retry(2, wait_initial=1, wait_jitter=0))

    @step
    async def fatal() -> None:
        await asyncio.sleep(1)
        raise RuntimeError("the end")

    for first in (True, False):
        pipeline = Pipeline("p", steps=[fatal, flaky.step] if first else [flaky.step, fatal])
        result = await pipeline.run()
        assert result.step_results["flaky"].status in (NodeState.CANCELLED, NodeState.FAILED)
        tries = len(flaky.tried_at)
        await asyncio.sleep(10)
        assert len(flaky.tried_at) == tries


@virtual_time
async def test_a_result_of_the_wrong_shape_is_tried_again_too() -> None:
    tries: list[float] = []

    @step(outputs=["a", "b"], retry=1)
    async def halves() -> tuple[int, ...]:
        tries.append(now())
        return (1, 2) if len(tries) > 1 else (1,)

    assert (await Pipeline("p", steps=[halves]).run())["b"] == 2


@virtual_time
async def test_a_thousand_steps_that_fail_together_are_all_tried_again() -> None:
    tries: list[float] = []

    @step(retry=Retry(3, wait_initial=1, wait_jitter=1))
    async def flaky(context: StepContext) -> None:
        tries.append(now())
        if context.attempt < 4:
            raise OSError("busy")

    pipeline = Pipeline("storm")
    for number in range(1000):
        pipeline.add_step(flaky, f"flaky {number}")
    assert (await pipeline.run()).success
    assert len(tries) == 4000
    assert len(set(tries)) > 2000
