"""Virtual time for tests: a loop whose clock jumps to the next timer when nothing is ready.

A day of back-off takes no time, and what happens does not depend on how fast the machine is.
A thread that runs a step holds the clock, as its work takes no virtual time. One that waits at
a :class:`Gate` does not: that is how a test plays a step that hangs.

    @virtual_time
    async def test_a_day_passes() -> None:
        await asyncio.sleep(86_400)
"""

from __future__ import annotations

import asyncio
import functools
import selectors
import threading
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, Self, TypeVar
from unittest import mock

from asyncflow.lanes.lane import Call
from asyncflow.lanes.thread import ThreadLane

__all__ = ["Gate", "Stuck", "VirtualLoop", "now", "run_virtually", "turns", "virtual_time"]

P = ParamSpec("P")
T = TypeVar("T")

# Not 0, which stands for "not yet" in places.
BEGINNING_SECONDS = 1000.0
# How long, in real seconds, a thread or a file may take before the test counts as stuck.
PATIENCE_SECONDS = 5.0
TURNS_OF_GRACE = 20


class Stuck(AssertionError):
    """Nothing is ready, no timer is set, and no thread will ever change that."""


class _JumpingSelector(selectors.DefaultSelector):
    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self._loop.turns += 1
        if timeout is not None and timeout <= 0:
            return super().select(0)
        if timeout is None or self._loop.threads_at_work:
            ready = super().select(PATIENCE_SECONDS)
            if not ready:
                raise Stuck(
                    f"nothing happened for {PATIENCE_SECONDS:g} s and no timer is set; "
                    f"{self._loop.threads_at_work} threads are at work"
                )
            return ready
        ready = super().select(0)
        if not ready:
            self._loop.now_seconds += timeout
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop that never waits for time to pass.

    Attributes:
        now_seconds: what its clock shows.
        turns: how often it has gone round.
        threads_at_work: how many threads hold the clock.
        faults: what went to its exception handler.
    """

    def __init__(self) -> None:
        self.now_seconds = BEGINNING_SECONDS
        self.turns = 0
        self.threads_at_work = 0
        self.faults: list[dict[str, Any]] = []
        self._counting = threading.Lock()
        super().__init__(_JumpingSelector(self))
        self.set_exception_handler(lambda _, fault: self.faults.append(fault))

    def time(self) -> float:
        return self.now_seconds

    def hold(self, threads: int) -> None:
        """Count so many threads more (or fewer) as being at work."""
        with self._counting:
            self.threads_at_work += threads


class Gate:
    """Where steps in threads wait until the test lets them go on; the clock runs meanwhile.

    A context manager: leaving it opens the gate, so that no thread outlives its test.
    """

    def __init__(self) -> None:
        self._loop = _running()
        self._opened = threading.Event()
        self._lock = threading.Lock()
        self._waiting = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.open()

    def wait(self) -> None:
        """Called by a step in a thread."""
        with self._lock:
            if self._opened.is_set():
                return
            self._waiting += 1
            self._loop.hold(-1)
        # The loop may be waiting for this thread; it looks at the clock again.
        self._loop.call_soon_threadsafe(lambda: None)
        if not self._opened.wait(10 * PATIENCE_SECONDS):
            raise Stuck("the gate was never opened")

    def open(self) -> None:
        """Let all through, now and later."""
        with self._lock:
            if not self._opened.is_set():
                # Counted here: the clock must not jump before they come to their senses.
                self._loop.hold(self._waiting)
                self._opened.set()


def _running() -> VirtualLoop:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop), "this test does not run in virtual time"
    return loop


def now() -> float:
    """Virtual seconds since the test began."""
    return _running().now_seconds - BEGINNING_SECONDS


def turns() -> int:
    """How often the loop has gone round."""
    return _running().turns


_start_in_thread = ThreadLane.start


def _start_and_count(lane: ThreadLane, call: Call) -> None:
    loop, report = _running(), call.done

    def done(ended: Call) -> None:
        loop.hold(-1)
        report(ended)

    call.done = done
    loop.hold(1)
    _start_in_thread(lane, call)


async def _tidy(main: Coroutine[Any, Any, T]) -> T:
    """Fail what leaves tasks behind or has the loop report a fault."""
    result = await main
    left: set[asyncio.Task[Any]] = set()
    for _ in range(TURNS_OF_GRACE):
        left = asyncio.all_tasks() - {asyncio.current_task()}
        if not left:
            break
        await asyncio.sleep(0)
    assert not left, f"the test left tasks behind: {left}"
    assert not _running().faults, f"the loop reported {_running().faults}"
    return result


def run_virtually(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on a virtual loop of its own; threads of the thread lane hold its clock."""
    with (
        mock.patch.object(ThreadLane, "start", _start_and_count),
        asyncio.Runner(loop_factory=VirtualLoop) as runner,
    ):
        return runner.run(_tidy(main))


def virtual_time(test: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, T]:
    """Make a test function of a coroutine function: each call has a virtual loop of its own."""

    @functools.wraps(test)
    def in_virtual_time(*args: P.args, **kwargs: P.kwargs) -> T:
        return run_virtually(test(*args, **kwargs))

    return in_virtual_time
