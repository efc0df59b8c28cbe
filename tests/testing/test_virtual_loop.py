"""The virtual loop: the clock jumps, threads hold it, and what cannot go on says so."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncflow.testing import Stuck, VirtualLoop
from asyncflow.testing.world import BEGINNING_SECONDS, World

T = TypeVar("T")
BEGAN = BEGINNING_SECONDS


def run(main: Coroutine[Any, Any, T], loop: VirtualLoop | None = None) -> T:
    with asyncio.Runner(loop_factory=lambda: loop or VirtualLoop()) as runner:
        return runner.run(main)


def clock() -> float:
    return asyncio.get_running_loop().time() - BEGAN


@given(delays_ms=st.lists(st.integers(0, 10**13), min_size=1, max_size=20))
def test_sleepers_wake_in_the_order_of_their_times_exactly_then(delays_ms: list[int]) -> None:
    woken: list[int] = []

    async def sleeper(delay_ms: int) -> None:
        due = asyncio.get_running_loop().time() + delay_ms / 1000
        await asyncio.sleep(delay_ms / 1000)
        assert asyncio.get_running_loop().time() == due
        woken.append(delay_ms)

    async def main() -> None:
        await asyncio.gather(*map(sleeper, delays_ms))

    run(main())
    assert woken == sorted(delays_ms)


def test_waits_longer_than_a_selector_bears_are_jumped_at_once() -> None:
    async def main() -> tuple[float, int]:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        before = loop.turns
        await asyncio.sleep(1e6)
        return clock(), loop.turns - before

    passed, turns = run(main())
    assert passed == 1e6
    assert turns < 10


def test_a_cancelled_timer_does_not_move_the_clock() -> None:
    async def main() -> float:
        loop = asyncio.get_running_loop()
        loop.call_later(10, lambda: None).cancel()
        await asyncio.sleep(5)
        return clock()

    assert run(main()) == 5


def test_callbacks_run_in_the_context_they_were_given() -> None:
    name: contextvars.ContextVar[str] = contextvars.ContextVar("name", default="outside")

    async def main() -> list[str]:
        loop, seen = asyncio.get_running_loop(), list[str]()
        context = contextvars.copy_context()
        context.run(name.set, "inside")
        loop.call_later(1, lambda: seen.append(name.get()), context=context)
        loop.call_soon_threadsafe(lambda: seen.append(name.get()), context=context)
        await asyncio.sleep(2)
        return seen

    assert run(main()) == ["inside", "inside"]


# -- threads ---------------------------------------------------------------------------------


def test_work_in_the_loop_s_executor_holds_the_clock() -> None:
    def work() -> str:
        time.sleep(0.05)
        return "done"

    async def main() -> tuple[str, float]:
        async with asyncio.timeout(1):
            return await asyncio.to_thread(work), clock()

    assert run(main()) == ("done", 0)


def test_errors_and_cancels_of_work_in_the_executor_arrive() -> None:
    def fails() -> None:
        raise OSError("disk full")

    async def main() -> None:
        with pytest.raises(OSError, match="disk full"):
            await asyncio.to_thread(fails)
        may_end = threading.Event()
        waits = asyncio.create_task(asyncio.to_thread(may_end.wait, 30))
        await asyncio.sleep(0)
        waits.cancel()
        may_end.set()
        with pytest.raises(asyncio.CancelledError):
            await waits

    run(main())


def test_several_threads_end_in_the_order_in_which_they_began() -> None:
    async def main() -> list[int]:
        order: list[int] = []

        async def one(number: int) -> None:
            await asyncio.to_thread(time.sleep, 0.002 * (5 - number))
            order.append(number)

        await asyncio.gather(*map(one, range(5)))
        return order

    assert run(main()) == [0, 1, 2, 3, 4]


def test_a_thread_of_somebody_else_wakes_the_loop() -> None:
    async def main() -> str:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[str] = loop.create_future()
        thread = threading.Thread(
            target=lambda: loop.call_soon_threadsafe(future.set_result, "woken")
        )
        thread.start()
        try:
            return await future
        finally:
            thread.join()

    assert run(main()) == "woken"


# -- going nowhere ---------------------------------------------------------------------------


def test_a_loop_that_can_never_go_on_names_who_waits() -> None:
    async def main() -> None:
        waits = asyncio.create_task(asyncio.Event().wait(), name="the one that waits")
        await waits

    with pytest.raises(Stuck, match=r"no timer is set.*the one that waits.*replace what talks"):
        run(main(), VirtualLoop(patience_seconds=0.05))


def test_a_thread_that_never_ends_is_named() -> None:
    may_end = threading.Event()

    def hangs() -> None:
        may_end.wait(30)

    async def main() -> None:
        try:
            await asyncio.to_thread(hangs)
        finally:
            may_end.set()

    with pytest.raises(Stuck, match="threads at work"):
        run(main(), VirtualLoop(patience_seconds=0.05))


def test_many_who_wait_are_counted() -> None:
    async def main() -> None:
        await asyncio.gather(*(asyncio.Event().wait() for _ in range(8)))

    with pytest.raises(Stuck, match="and 4 more"):
        run(main(), VirtualLoop(patience_seconds=0.05))


# -- chance ----------------------------------------------------------------------------------


def test_times_that_differ_by_rounding_only_are_one_instant() -> None:
    async def main() -> str:
        order: list[str] = []
        loop = asyncio.get_running_loop()
        begin = loop.time()
        loop.call_at(begin + 0.1 + 0.2, order.append, "a")
        loop.call_at(begin + 0.3, order.append, "b")
        await asyncio.sleep(1)
        return "".join(order)

    assert {run(main(), VirtualLoop(World(seed))) for seed in range(20)} == {"ab", "ba"}
    assert run(main()) == "ab"
