"""The thread lane: as every lane, and its pool: grown when needed, bounded, never in the way."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import AsyncIterator

import pytest

from asyncflow.lanes.lane import Call, Lane
from asyncflow.lanes.thread import ThreadLane
from tests.lanes.conformance import Held, LaneConformance, Reports, held_call, make_call
from tests.programs import run_program

pytestmark = pytest.mark.both_loops

MOST_THREADS = 3
PATIENCE_SECONDS = 30.0


def make_lane(max_threads: int = MOST_THREADS) -> ThreadLane:
    loop = asyncio.get_running_loop()
    return ThreadLane(loop, loop.time, max_threads=max_threads, thread_name="worker")


@pytest.fixture
async def lane() -> AsyncIterator[ThreadLane]:
    made = make_lane()
    yield made
    made.close()


@pytest.fixture
def reports() -> Reports:
    return Reports()


def hold_a_thread() -> Held:
    """A thread cannot be cancelled: it ends when it is let go, told to stop or not."""
    loop, begun, gate = asyncio.get_running_loop(), asyncio.Event(), threading.Event()

    def wait() -> None:
        loop.call_soon_threadsafe(begun.set)
        assert gate.wait(PATIENCE_SECONDS)

    return Held(wait, False, begun.wait, gate.set)


class TestThreadLane(LaneConformance):
    most_at_once = MOST_THREADS

    @pytest.fixture
    async def lane(self) -> Lane:
        return make_lane()

    def hold(self, *, stubborn: bool = False) -> Held:
        return hold_a_thread()


# -- the pool ----------------------------------------------------------------------------


async def test_no_thread_is_started_before_the_first_call(lane: ThreadLane) -> None:
    before = threading.enumerate()
    assert lane.has_room()
    assert lane.statistics().workers == 0
    assert threading.enumerate() == before


async def test_one_call_after_the_other_needs_one_thread(
    lane: ThreadLane, reports: Reports
) -> None:
    for count in range(1, 21):
        lane.start(make_call(threading.get_ident, reports))
        await reports.wait_for(count)
    assert len({call.value for call in reports.calls}) == 1
    assert lane.statistics().workers == 1


async def test_calls_at_the_same_time_get_a_thread_each(lane: ThreadLane, reports: Reports) -> None:
    meeting = threading.Barrier(MOST_THREADS, timeout=PATIENCE_SECONDS)
    for _ in range(MOST_THREADS):
        lane.start(make_call(meeting.wait, reports))
    assert not lane.has_room()
    assert lane.statistics().workers == lane.statistics().busy == MOST_THREADS
    await reports.wait_for(MOST_THREADS)
    assert sorted(call.value for call in reports.calls) == list(range(MOST_THREADS))
    assert (lane.statistics().workers, lane.statistics().busy) == (MOST_THREADS, 0)


async def test_threads_are_daemons_with_the_lane_s_name(lane: ThreadLane, reports: Reports) -> None:
    lane.start(make_call(threading.current_thread, reports))
    await reports.wait_for(1)
    thread = reports.calls[0].value
    assert thread.daemon
    assert thread.name == reports.calls[0].worker.name == "worker-1"


async def test_a_kept_thread_takes_up_room_until_it_is_released(reports: Reports) -> None:
    lane = make_lane(max_threads=1)
    call = make_call(len, reports, "", keep_worker=True)
    lane.start(call)
    await reports.wait_for(1)
    assert not lane.has_room()
    assert lane.statistics().busy == 1
    lane.release(call.worker)
    assert lane.has_room()
    lane.release(call.worker)
    assert (lane.statistics().workers, lane.statistics().busy) == (1, 0)
    lane.close()


async def test_a_lost_thread_makes_room_for_another_and_is_not_used_again(
    reports: Reports,
) -> None:
    lane = make_lane(max_threads=1)
    held = hold_a_thread()
    stuck = held_call(held, reports, keep_worker=True)
    lane.start(stuck)
    lane.abandon(stuck)
    assert lane.has_room()
    assert lane.statistics().workers == 0
    after = make_call(threading.get_ident, reports)
    lane.start(after)
    await reports.wait_for(1)
    lane.release(stuck.worker)
    held.let_go()
    await reports.wait_for(2)
    stuck.handle.thread.join(PATIENCE_SECONDS)
    assert not stuck.handle.thread.is_alive()
    assert (lane.statistics().workers, lane.statistics().lost) == (1, 0)
    assert after.value != stuck.handle.thread.ident
    lane.close()


async def test_an_idle_thread_does_not_keep_the_last_value_alive(
    lane: ThreadLane, reports: Reports
) -> None:
    class Value:
        pass

    lane.start(make_call(Value, reports))
    await reports.wait_for(1)
    died = threading.Event()
    watched = weakref.ref(reports.calls[0].value, lambda _: died.set())
    reports.calls.clear()
    assert died.wait(PATIENCE_SECONDS)
    assert watched() is None


async def test_a_thread_that_cannot_be_started_fails_the_call_and_no_more(
    lane: ThreadLane, reports: Reports, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    call = make_call(len, reports, "abc", name="late")
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        lane.start(call)
    await reports.wait_for(1)
    assert isinstance(call.error, RuntimeError)
    assert str(call.error) == (
        "step 'late' got no thread: the system gives this process no more (can't start new "
        "thread); lower max_threads, or raise the limit of threads"
    )
    assert call.worker is None
    assert 0 < call.started == call.finished
    assert lane.statistics().workers == 0
    lane.start(make_call(len, reports, "abc"))
    await reports.wait_for(2)


# -- threads that outlive their lane or loop ---------------------------------------------


def test_a_thread_that_outlives_its_loop_ends_quietly() -> None:
    async def main() -> tuple[Call, Held]:
        lane, held = make_lane(), hold_a_thread()
        call = held_call(held, Reports())
        lane.start(call)
        await held.begun()
        lane.abandon(call)
        lane.close()
        return call, held

    call, held = asyncio.run(main())
    held.let_go()
    call.handle.thread.join(PATIENCE_SECONDS)
    assert not call.handle.thread.is_alive()


async def test_a_worker_that_a_nest_needed_gives_nobody_a_place_once_its_caller_goes_on(
    reports: Reports,
) -> None:
    lane = make_lane(max_threads=1)
    held = hold_a_thread()
    caller = held_call(held, reports)
    lane.start(caller)
    await held.begun()
    assert not lane.has_room()
    lane.lend(caller.worker)
    assert lane.has_room()
    lane.start(make_call(divmod, reports, 17, 5))
    await reports.wait_for(1)
    lane.take_back(caller.worker)
    assert not lane.has_room()
    held.let_go()
    await reports.wait_for(2)
    assert lane.has_room()
    assert lane.statistics().workers == 1
    lane.close()


STUCK = """
import asyncio, contextvars, threading
from asyncflow.lanes.lane import Call
from asyncflow.lanes.thread import ThreadLane

async def main():
    loop = asyncio.get_running_loop()
    lane = ThreadLane(loop, loop.time, max_threads=2)
    begun = threading.Event()

    def never_ends():
        begun.set()
        threading.Event().wait()

    call = Call(never_ends, [], None, contextvars.copy_context(), "stuck", print)
    lane.start(call)
    begun.wait()
    lane.abandon(call)
    lane.close()

asyncio.run(main())
print("left")
"""


def test_a_stuck_thread_does_not_keep_the_interpreter_from_exiting() -> None:
    ended = run_program(STUCK)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "left\n", "")
