"""A step's context without a run."""

from __future__ import annotations

import logging

import pytest

from asyncflow import GrantedLease, Pipeline, StepCancelled, StepContext, step
from asyncflow.testing import step_context


@step
def count(context: StepContext, upto: int) -> int:
    for done in range(upto):
        context.raise_if_cancelled()
        context.report(done, total=upto, message="counting")
    return upto


def test_a_step_is_called_with_it() -> None:
    context = step_context()
    assert count(context, 3) == 3
    assert [tuple(report) for report in context.reports] == [
        (done, 3, "counting") for done in range(3)
    ]


def test_it_says_what_it_is_told() -> None:
    lease, logger = GrantedLease(2.0, 2**30, ("0",)), logging.getLogger("mine")
    context = step_context(run_id="r", node="n", attempt=4, lease=lease, logger=logger)
    assert (context.run_id, context.node, context.attempt) == ("r", "n", 4)
    assert (context.lease, context.logger, context.idempotency_key) == (lease, logger, "r/n")
    assert step_context().lease == GrantedLease()


def test_a_step_can_be_told_to_stop() -> None:
    with pytest.raises(StepCancelled, match="'step' was told to stop"):
        count(step_context(cancelled=True), 3)
    context = step_context()
    assert count(context, 1) == 1
    context.cancel()
    assert context.cancelled
    with pytest.raises(StepCancelled):
        count(context, 1)


@step
async def double(number: int) -> int:
    return 2 * number


@step
def treble(number: int) -> int:
    return 3 * number


async def test_nested_work_is_done_on_the_spot() -> None:
    context = step_context()
    assert await context.call(double, 4, key="a") == 8
    assert await context.call(treble, number=4, key="b") == 12
    assert await context.map(double, [1, 2, 3]) == [2, 4, 6]
    result = await context.run(Pipeline("p", steps=[double]), {"number": 5})
    assert result["double"] == 10


def test_nested_work_of_a_sync_step_is_done_on_the_spot() -> None:
    context = step_context()
    assert context.call_sync(double, 4) == 8
    assert context.map_sync(treble, [1, 2]) == [3, 6]
    assert context.run_sync(Pipeline("p", steps=[treble]), {"number": 5})["treble"] == 15


async def test_waiting_for_nested_work_on_the_loop_is_refused_as_in_a_run() -> None:
    with pytest.raises(RuntimeError, match="would wait for itself"):
        step_context().call_sync(double, 4)
