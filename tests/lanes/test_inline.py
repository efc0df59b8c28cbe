"""The inline lane: as every lane, by both of its doors, and what only it can do."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from asyncflow.lanes.inline import EAGER, InlineLane
from asyncflow.lanes.lane import Call, Lane
from tests.lanes.conformance import Held, LaneConformance, Reports, make_call

pytestmark = pytest.mark.both_loops


def make_lane() -> InlineLane:
    loop = asyncio.get_running_loop()
    return InlineLane(loop, loop.time)


@pytest.fixture
async def lane() -> InlineLane:
    return make_lane()


@pytest.fixture
def reports() -> Reports:
    return Reports()


def hold_a_coroutine(*, stubborn: bool) -> Held:
    begun, gate = asyncio.Event(), asyncio.Event()

    async def wait() -> None:
        begun.set()
        while True:
            try:
                await gate.wait()
            except asyncio.CancelledError:
                if not stubborn:
                    raise
            else:
                return

    return Held(wait, True, begun.wait, gate.set)


class TestInlineLane(LaneConformance):
    @pytest.fixture
    async def lane(self) -> Lane:
        return make_lane()

    def hold(self, *, stubborn: bool = False) -> Held:
        return hold_a_coroutine(stubborn=stubborn)


class TestInlineLaneByItsShortWay(TestInlineLane):
    """``start_coroutine``, which the engine takes for coroutines without keywords."""

    def begin(self, lane: Lane, call: Call) -> None:
        assert isinstance(lane, InlineLane)
        if not call.is_coroutine:
            func = call.func

            async def as_coroutine(*args: Any) -> Any:
                return func(*args)

            call.func, call.is_coroutine = as_coroutine, True
        lane.start_coroutine(call)


class TestInlineLaneOfALoopWithATaskFactory(TestInlineLane):
    @pytest.fixture
    async def lane(self) -> Lane:
        loop = asyncio.get_running_loop()
        loop.set_task_factory(lambda loop, coro, **kwargs: asyncio.Task(coro, loop=loop, **kwargs))
        return make_lane()


# -- what only it can do -----------------------------------------------------------------


async def test_a_call_that_does_not_wait_is_over_at_once_where_tasks_are_eager(
    lane: InlineLane, reports: Reports
) -> None:
    async def at_once() -> str:
        return "value"

    lane.start(make_call(at_once, reports, is_coroutine=True))
    assert len(reports.calls) == (1 if EAGER else 0)
    await reports.wait_for(1)
    assert reports.calls[0].value == "value"


async def test_tasks_are_named_after_their_calls(lane: InlineLane, reports: Reports) -> None:
    async def own_name() -> str:
        task = asyncio.current_task()
        assert task is not None
        return task.get_name()

    lane.start(make_call(own_name, reports, name="fetch", is_coroutine=True))
    await reports.wait_for(1)
    assert reports.calls[0].value == "fetch"


async def test_a_loop_s_own_task_factory_makes_the_tasks(reports: Reports) -> None:
    made: list[str] = []

    def factory(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> asyncio.Task[Any]:
        made.append(coro.__qualname__)
        return asyncio.Task(coro, loop=loop, **options)

    async def nothing() -> None: ...

    asyncio.get_running_loop().set_task_factory(factory)
    lane = make_lane()
    assert not lane.starts_eagerly
    lane.start(make_call(nothing, reports, is_coroutine=True))
    lane.start_coroutine(make_call(nothing, reports, is_coroutine=True))
    await reports.wait_for(2)
    assert len(made) == 2


async def test_a_call_cancelled_before_its_first_step_reports_once(reports: Reports) -> None:
    entered: list[bool] = []

    async def never_entered() -> None:
        entered.append(True)

    asyncio.get_running_loop().set_task_factory(
        lambda loop, coro, **options: asyncio.Task(coro, loop=loop, **options)
    )
    lane = make_lane()
    call = make_call(never_entered, reports, is_coroutine=True)
    lane.start(call)
    lane.cancel(call)
    await reports.wait_for(1)
    assert isinstance(call.error, asyncio.CancelledError)
    assert 0 < call.started == call.finished
    assert not entered


async def test_calls_run_on_the_thread_of_the_loop_and_take_no_worker(
    lane: InlineLane, reports: Reports
) -> None:
    call = make_call(len, reports, "abc", keep_worker=True)
    lane.start(call)
    await reports.wait_for(1)
    assert call.worker is None
    lane.release(None)
    assert lane.statistics().workers == 1
