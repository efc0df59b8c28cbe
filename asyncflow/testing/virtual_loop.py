"""An event loop whose clock jumps to the next timer when nothing is ready.

A day of back-off takes no time, and what happens does not depend on how fast the machine is.
The idea is that of trio's ``MockClock(autojump_threshold=0)``.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import math
import selectors
import threading
from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial
from typing import Any, TypeVar, TypeVarTuple

from asyncflow.testing.threads import ThreadsAtWork
from asyncflow.testing.world import World

__all__ = ["Stuck", "VirtualLoop"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

PATIENCE_SECONDS = 30.0
# Times closer together than the clock can tell apart are one instant.
_INSTANT_DIGITS = 9
_RESOLUTION_SECONDS = 1e-9
_NAMED_TASKS = 5


class Stuck(AssertionError):
    """Nothing is ready, no timer is set, and nothing that runs for real has ended for long."""


class _JumpingSelector(selectors.DefaultSelector):
    """Asked to wait, it has the clock jump instead, unless a thread is at work."""

    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        loop = self._loop
        loop.turns += 1
        ready = super().select(0)
        if ready or (timeout is not None and timeout <= 0):
            return ready
        tell = loop.threads.next_word()
        if tell is not None:
            loop.call_soon(tell)
        elif timeout is None or loop.threads.at_work():
            ready = super().select(loop.patience_seconds)
            if not ready:
                raise Stuck(loop.story())
        else:
            loop.jump()
        return ready


class _Timer(asyncio.TimerHandle):
    """A timer that the loop's world orders among those of the same instant."""

    __slots__ = ("_place",)

    def __init__(
        self,
        when: float,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        loop: VirtualLoop,
        context: contextvars.Context | None,
    ) -> None:
        super().__init__(when, callback, args, loop, context)
        self._place = (round(when, _INSTANT_DIGITS), loop.world.timer_tie())

    def __lt__(self, other: object) -> bool:
        return self._place < other._place if isinstance(other, _Timer) else NotImplemented


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop that never waits for time to pass.

    Threads that runtimes or ``asyncio.to_thread`` start in it hold the clock while they are at
    work. Sockets, pipes and processes do not: replace what talks to them.

    Args:
        world: what runtimes entered in this loop live in; None for one without chance.
        patience_seconds: real seconds that a thread may take, or a socket when there is nothing
            else to wait for, before :class:`Stuck` is raised.

    Attributes:
        threads: those that hold the clock.
        turns: how often it has gone round.
    """

    def __init__(
        self, world: World | None = None, *, patience_seconds: float = PATIENCE_SECONDS
    ) -> None:
        self.world = self.surroundings = World() if world is None else world
        self.patience_seconds = patience_seconds
        self.threads = ThreadsAtWork(self._wake)
        self.turns = 0
        self._own_thread = 0
        super().__init__(_JumpingSelector(self))

    def time(self) -> float:
        return self.world.now_seconds

    def jump(self) -> None:
        """Set the clock to the next timer."""
        # The sum of now and the wait would miss it by the last digit of a float.
        due: asyncio.TimerHandle = self._scheduled[0]  # type: ignore[attr-defined]
        self.world.now_seconds = now = max(self.world.now_seconds, due.when())
        # A loop runs what is due before now plus this. After some months on the clock a float
        # is too coarse for a nanosecond, and nothing would ever be due.
        self._clock_resolution = max(_RESOLUTION_SECONDS, 2 * math.ulp(now))

    def call_at(
        self,
        when: float,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        # That of the base class makes handles that know no order within an instant.
        self._check_closed()  # type: ignore[attr-defined]
        timer = _Timer(when, callback, args, self, context)
        heapq.heappush(self._scheduled, timer)  # type: ignore[attr-defined]
        timer._scheduled = True  # type: ignore[attr-defined]
        return timer

    def call_soon_threadsafe(
        self,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> asyncio.Handle:
        ticket = self.threads.current()
        if ticket is None or ticket.over or threading.get_ident() == self._own_thread:
            return super().call_soon_threadsafe(callback, *args, context=context)
        handle = asyncio.Handle(callback, args, self, context)
        ticket.ask(partial(_call, handle))
        return handle

    def run_forever(self) -> None:
        self._own_thread = threading.get_ident()
        super().run_forever()

    def _wake(self) -> None:
        try:
            super().call_soon_threadsafe(_look_again)
        except RuntimeError:
            # A thread that outlived the loop has nobody left to tell.
            if not self.is_closed():
                raise

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts
    ) -> asyncio.Future[T]:
        ticket = self.threads.begin(getattr(func, "__name__", repr(func)))
        working = super().run_in_executor(executor, func, *args)
        outcome: asyncio.Future[T] = self.create_future()
        working.add_done_callback(lambda _: ticket.end(lambda: _copy(working, outcome)))
        return outcome

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        # The timeout would be over at once: its threads end in real time.
        await super().shutdown_default_executor()

    def story(self) -> str:
        """What a loop that does not go on waits for."""
        at_work = self.threads.at_work()
        threads = f"threads at work: {', '.join(at_work)}" if at_work else "no timer is set"
        tasks = sorted(task.get_name() for task in asyncio.all_tasks(self))
        more = f" and {len(tasks) - _NAMED_TASKS} more" if len(tasks) > _NAMED_TASKS else ""
        return (
            f"nothing happened for {self.patience_seconds:g} real seconds ({threads}); "
            f"tasks that wait: {', '.join(tasks[:_NAMED_TASKS])}{more}. Sockets and processes "
            "do not move the virtual clock: replace what talks to them"
        )


def _look_again() -> None:
    """Nothing to do but to come round once more."""


def _call(handle: asyncio.Handle) -> None:
    if not handle.cancelled():
        handle._run()


def _copy(working: asyncio.Future[T], outcome: asyncio.Future[T]) -> None:
    """Give the outcome of work in a thread to who waits for it, if anybody still does."""
    error = None if working.cancelled() else working.exception()
    if outcome.done():
        return
    if working.cancelled():
        outcome.cancel()
    elif error is not None:
        outcome.set_exception(error)
    else:
        outcome.set_result(working.result())
