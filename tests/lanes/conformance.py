"""What every lane must do, as tests: a new lane subclasses :class:`LaneConformance`."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import pytest

from asyncflow.lanes.lane import Call, Lane

__all__ = ["Held", "LaneConformance", "Reports", "make_call"]

SETTING: contextvars.ContextVar[str] = contextvars.ContextVar("SETTING", default="unset")
LOOP_TURNS = 20


class Reports:
    """The calls that a lane has reported, in order, and on which thread it did."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.threads: set[int] = set()
        self._changed = asyncio.Event()

    def __call__(self, call: Any) -> None:
        self.calls.append(call)
        self.threads.add(threading.get_ident())
        self._changed.set()

    async def wait_for(self, count: int) -> None:
        """Wait until so many calls were reported, and give one too many the time to come."""
        while len(self.calls) < count:
            self._changed.clear()
            await self._changed.wait()
        for _ in range(LOOP_TURNS):
            await asyncio.sleep(0)
        assert len(self.calls) == count


class Held(NamedTuple):
    """A function that stays in progress: ``begun`` waits for a call of it to get there, and
    ``let_go`` has them end."""

    func: Callable[..., Any]
    is_coroutine: bool
    begun: Callable[[], Awaitable[object]]
    let_go: Callable[[], object]


def make_call(
    func: Callable[..., Any], reports: Reports, *args: Any, name: str = "call", **fields: Any
) -> Call:
    """A call in a copy of the present context."""
    context = contextvars.copy_context()
    return Call(func, list(args), fields.pop("kwargs", None), context, name, reports, **fields)


def held_call(held: Held, reports: Reports, **fields: Any) -> Call:
    return make_call(held.func, reports, is_coroutine=held.is_coroutine, **fields)


class OwnError(BaseException):
    """Neither an Exception nor known to Python."""


ERRORS: list[BaseException] = [
    ValueError("wrong"),
    SystemExit(3),
    KeyboardInterrupt(),
    GeneratorExit(),
    asyncio.CancelledError("mine"),
    ExceptionGroup("two", [OSError("a"), ValueError("b")]),
    BaseExceptionGroup("two", [KeyboardInterrupt(), ValueError("b")]),
    OwnError(),
]


def fail(error: BaseException) -> None:
    raise error


class LaneConformance(ABC):
    """Subclass it, make the lane, say what stays in progress there, and run under pytest.

    Attributes:
        most_at_once: how many calls without a worker the lane takes; None for any number.
        shares_memory: whether calls run in this process, so that what they raise is the very
            object and the context that of the caller.
        who: tells the workers of the lane apart, called in them.
    """

    most_at_once: int | None = None
    shares_memory = True
    who: Callable[[], int] = staticmethod(threading.get_ident)

    @pytest.fixture
    @abstractmethod
    async def lane(self) -> Lane:
        """The lane under test, on the running loop; the suite closes it."""

    @abstractmethod
    def hold(self, *, stubborn: bool = False) -> Held:
        """Something that stays in progress; a stubborn one also when it is cancelled."""

    def begin(self, lane: Lane, call: Call) -> None:
        """Start a call; a lane with several doors is tried at each."""
        lane.start(call)

    @pytest.fixture
    def reports(self) -> Reports:
        return Reports()

    # -- what came of a call -----------------------------------------------------------------

    async def test_a_value_is_reported_with_the_time_it_took(
        self, lane: Lane, reports: Reports
    ) -> None:
        call = make_call(divmod, reports, 17, 5)
        before = asyncio.get_running_loop().time()
        self.begin(lane, call)
        await reports.wait_for(1)
        assert reports.calls == [call]
        assert (call.value, call.error) == ((3, 2), None)
        assert before <= call.started <= call.finished <= asyncio.get_running_loop().time()
        lane.close()

    async def test_keywords_reach_the_function(self, lane: Lane, reports: Reports) -> None:
        call = make_call(dict, reports, [("a", 1)], kwargs={"b": 2})
        lane.start(call)
        await reports.wait_for(1)
        assert call.value == {"a": 1, "b": 2}
        lane.close()

    @pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
    async def test_whatever_a_function_raises_is_its_result(
        self, lane: Lane, reports: Reports, error: BaseException
    ) -> None:
        call = make_call(fail, reports, error)
        self.begin(lane, call)
        await reports.wait_for(1)
        if self.shares_memory:
            assert call.error is error
        else:
            assert repr(call.error) == repr(error)
        assert call.value is None
        assert 0 < call.started <= call.finished
        after = make_call(len, reports, "still here")
        self.begin(lane, after)
        await reports.wait_for(2)
        assert after.value == 10
        lane.close()

    async def test_a_coroutine_that_nobody_asked_for_is_an_error_with_its_remedy(
        self, lane: Lane, reports: Reports
    ) -> None:
        async def forgotten() -> None: ...

        call = make_call(lambda: forgotten(), reports, name="forgetful")
        lane.start(call)
        await reports.wait_for(1)
        assert isinstance(call.error, TypeError)
        assert str(call.error) == (
            "the sync function of step 'forgetful' returned a coroutine; declare it with "
            "'async def', or await the coroutine in it"
        )
        lane.close()

    async def test_every_call_is_reported_once_on_the_loop_s_thread(
        self, lane: Lane, reports: Reports
    ) -> None:
        calls = [
            make_call(fail, reports, ValueError()) if n % 2 else make_call(len, reports, "x")
            for n in range(200)
        ]
        waiting = list(calls)
        while waiting:
            while waiting and lane.has_room():
                self.begin(lane, waiting.pop())
            await asyncio.sleep(0)
        await reports.wait_for(len(calls))
        assert set(map(id, reports.calls)) == set(map(id, calls))
        assert reports.threads == {threading.get_ident()}
        lane.close()

    # -- the context ---------------------------------------------------------------------------

    async def test_a_function_runs_in_the_context_of_its_call(
        self, lane: Lane, reports: Reports
    ) -> None:
        if not self.shares_memory:
            pytest.skip("context variables do not go to another process")

        def exchange() -> str:
            found = SETTING.get()
            SETTING.set("changed")
            return found

        SETTING.set("caller")
        first, second = make_call(exchange, reports), make_call(exchange, reports)
        self.begin(lane, first)
        await reports.wait_for(1)
        self.begin(lane, second)
        await reports.wait_for(2)
        assert (first.value, second.value) == ("caller", "caller")
        assert first.context[SETTING] == "changed"
        assert SETTING.get() == "caller"
        lane.close()

    # -- stopping ------------------------------------------------------------------------------

    async def test_a_cancelled_call_reports_once_when_it_ends(
        self, lane: Lane, reports: Reports
    ) -> None:
        held = self.hold()
        call = held_call(held, reports)
        self.begin(lane, call)
        await held.begun()
        call.cancel_requested = True
        lane.cancel(call)
        held.let_go()
        await reports.wait_for(1)
        assert 0 < call.started <= call.finished
        assert call.error is None or isinstance(call.error, asyncio.CancelledError)
        lane.close()

    async def test_a_call_may_be_cancelled_right_after_it_was_started(
        self, lane: Lane, reports: Reports
    ) -> None:
        held = self.hold()
        call = held_call(held, reports)
        self.begin(lane, call)
        call.cancel_requested = True
        lane.cancel(call)
        held.let_go()
        await reports.wait_for(1)
        assert 0 < call.started <= call.finished
        lane.close()

    async def test_cancelling_one_call_leaves_the_others_alone(
        self, lane: Lane, reports: Reports
    ) -> None:
        told, other = self.hold(), self.hold()
        call, untold = held_call(told, reports), held_call(other, reports)
        self.begin(lane, call)
        self.begin(lane, untold)
        await asyncio.gather(told.begun(), other.begun())
        call.cancel_requested = True
        lane.cancel(call)
        told.let_go()
        await reports.wait_for(1)
        assert reports.calls == [call]
        other.let_go()
        await reports.wait_for(2)
        assert untold.error is None
        lane.close()

    async def test_an_abandoned_call_counts_as_lost_and_still_reports(
        self, lane: Lane, reports: Reports
    ) -> None:
        held = self.hold(stubborn=True)
        call = await self._abandoned(lane, held, reports)
        assert lane.statistics().lost == 1
        after = make_call(len, reports, "abc")
        self.begin(lane, after)
        await reports.wait_for(1)
        assert after.value == 3
        held.let_go()
        await reports.wait_for(2)
        assert reports.calls == [after, call]
        assert reports.threads == {threading.get_ident()}
        lane.close()

    async def test_an_abandoned_call_that_has_ended_is_lost_no_more(
        self, lane: Lane, reports: Reports
    ) -> None:
        held = self.hold(stubborn=True)
        await self._abandoned(lane, held, reports)
        held.let_go()
        await reports.wait_for(1)
        assert lane.statistics().lost == 0
        lane.close()

    async def test_a_lane_closes_although_an_abandoned_call_goes_on(
        self, lane: Lane, reports: Reports
    ) -> None:
        held = self.hold(stubborn=True)
        await self._abandoned(lane, held, reports)
        lane.close()
        assert not reports.calls
        held.let_go()
        await reports.wait_for(1)

    async def _abandoned(self, lane: Lane, held: Held, reports: Reports) -> Call:
        call = held_call(held, reports)
        self.begin(lane, call)
        await held.begun()
        call.cancel_requested = True
        lane.cancel(call)
        lane.abandon(call)
        return call

    # -- workers and room ----------------------------------------------------------------------

    async def test_members_of_a_group_run_on_one_worker(self, lane: Lane, reports: Reports) -> None:
        first = make_call(self.who, reports, keep_worker=True)
        self.begin(lane, first)
        await reports.wait_for(1)
        # Work of others in between must not get the worker that is kept.
        self.begin(lane, make_call(len, reports, ""))
        await reports.wait_for(2)
        second = make_call(self.who, reports, keep_worker=True, worker=first.worker)
        self.begin(lane, second)
        await reports.wait_for(3)
        assert first.value == second.value
        assert first.worker is second.worker
        lane.release(second.worker)
        lane.close()

    async def test_there_is_room_up_to_the_bound_and_again_after_it(
        self, lane: Lane, reports: Reports
    ) -> None:
        held = self.hold()
        count = self.most_at_once or 50
        for _ in range(count):
            assert lane.has_room()
            self.begin(lane, held_call(held, reports))
        assert lane.has_room() == (self.most_at_once is None)
        held.let_go()
        await reports.wait_for(count)
        assert lane.has_room()
        lane.close()

    async def test_statistics_of_a_lane_at_rest(self, lane: Lane, reports: Reports) -> None:
        fresh = lane.statistics()
        assert (fresh.busy, fresh.lost) == (0, 0)
        self.begin(lane, make_call(len, reports, "abc"))
        await reports.wait_for(1)
        rested = lane.statistics()
        assert (rested.busy, rested.lost) == (0, 0)
        assert rested.workers >= 1
        lane.close()

    async def test_closing_leaves_no_thread(self, lane: Lane, reports: Reports) -> None:
        before = set(threading.enumerate())
        held = self.hold()
        for _ in range(self.most_at_once or 3):
            self.begin(lane, held_call(held, reports))
        held.let_go()
        await reports.wait_for(self.most_at_once or 3)
        lane.close()
        assert set(threading.enumerate()) <= before

    async def test_closing_a_lane_that_was_never_used_is_fine(self, lane: Lane) -> None:
        lane.close()
