"""The inline lane: calls run on the caller's event loop, each in a task of its own."""

from __future__ import annotations

import asyncio
import contextvars
import sys
from collections.abc import Callable, Coroutine
from typing import Any, ClassVar

from asyncflow.lanes.lane import CURRENT, Call, Lane, LaneStatistics, invoke, without_lane_frames

__all__ = ["InlineLane"]

MakeTask = Callable[[Coroutine[Any, Any, None], str, contextvars.Context], "asyncio.Task[None]"]
EAGER = sys.version_info >= (3, 12)


class InlineLane(Lane):
    """Coroutines, and sync functions that asked for it, on the event loop itself.

    Every call is its own task with its own context, never one reused: a stale cancel, an
    open ``asyncio.timeout`` or state keyed by the current task ends with it. On Python
    3.12 and later the task starts at once (as with ``asyncio.eager_task_factory``),
    so a call that does not wait is over when :meth:`start` returns.

    Args:
        loop: the running event loop.
        clock: seconds on its clock.
    """

    name: ClassVar[str] = "inline"

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._abandoned: list[Call] = []
        # A loop with a task factory of its own (instrumentation) is obeyed.
        self.starts_eagerly = EAGER and loop.get_task_factory() is None
        self._make_task = _task_maker(loop)
        self.start_coroutine = _coroutine_starter(loop, clock, self._make_task)

    def start(self, call: Call) -> None:
        call.handle = self._make_task(self._run(call), call.name, call.context)
        if call.cancel_requested:
            _cancel_now(call)

    async def _run(self, call: Call) -> None:
        call.started = self._clock()
        CURRENT.set(call)
        try:
            if not call.is_coroutine:
                call.value = invoke(call)
            elif call.kwargs:
                call.value = await call.func(*call.args, **call.kwargs)
            else:
                call.value = await call.func(*call.args)
        except BaseException as error:  # noqa: BLE001
            # Also SystemExit and KeyboardInterrupt: let out of a task they would end the
            # whole event loop; and CancelledError: who asked for it is known to the engine.
            call.error = error
            without_lane_frames(error)
        finally:
            CURRENT.set(None)  # the context would keep the call alive, and the call the context
            call.finished = self._clock()
            call.done(call)

    def cancel(self, call: Call) -> None:
        if call.started:
            # Without a handle it is still in its eager first step; start() will cancel it.
            if call.handle is not None:
                call.handle.cancel()
            return
        # A task that is cancelled before its first step never enters _run and would
        # never report.
        call.handle.cancel()
        self.report_unstarted(call)

    def report_unstarted(self, call: Call) -> None:
        """Report a call whose task was cancelled before its first step."""
        call.error = asyncio.CancelledError()
        call.started = call.finished = self._clock()
        call.done(call)

    def abandon(self, call: Call) -> None:
        self._abandoned = [other for other in self._abandoned if not other.finished]
        self._abandoned.append(call)

    def has_room(self) -> bool:
        return True

    def reserve(self, kind: Any = None) -> Any:
        return None

    def release(self, worker: Any) -> None:
        return None

    def lend(self, worker: Any) -> None:
        return None

    def take_back(self, worker: Any) -> None:
        return None

    def statistics(self) -> LaneStatistics:
        lost = sum(not call.finished for call in self._abandoned)
        return LaneStatistics(workers=1, busy=0, lost=lost)

    def close(self) -> None:
        return None


def _task_maker(loop: asyncio.AbstractEventLoop) -> MakeTask:
    # Keywords are spelled out at each call: a functools.partial would merge two dicts for
    # every task.
    if loop.get_task_factory() is not None:
        return lambda coroutine, name, context: loop.create_task(
            coroutine, name=name, context=context
        )
    task: Any = asyncio.Task
    if EAGER:
        return lambda coroutine, name, context: task(
            coroutine, loop=loop, name=name, context=context, eager_start=True
        )
    return lambda coroutine, name, context: task(coroutine, loop=loop, name=name, context=context)


def _cancel_now(call: Call) -> None:
    """Cancel a call that was told to stop in its eager first step, when it had no task yet."""
    if not call.finished:
        call.handle.cancel()


def _coroutine_starter(
    loop: asyncio.AbstractEventLoop, clock: Callable[[], float], make_task: MakeTask
) -> Callable[[Call], None]:
    """:meth:`InlineLane.start` for coroutine functions without keywords: the hot path."""

    async def run(call: Call) -> None:
        call.started = clock()
        try:
            call.value = await call.func(*call.args)
        except BaseException as error:  # noqa: BLE001
            # As in InlineLane._run.
            call.error = error
            without_lane_frames(error)
        finally:
            call.finished = clock()
            call.done(call)

    task: Any = asyncio.Task

    def start(call: Call) -> None:
        call.handle = task(run(call), loop=loop, name=call.name, context=call.context)

    def start_eagerly(call: Call) -> None:
        call.handle = task(
            run(call), loop=loop, name=call.name, context=call.context, eager_start=True
        )
        if call.cancel_requested:
            _cancel_now(call)

    def start_by_factory(call: Call) -> None:
        call.handle = make_task(run(call), call.name, call.context)
        if call.cancel_requested:
            _cancel_now(call)

    if loop.get_task_factory() is not None:
        return start_by_factory
    return start_eagerly if EAGER else start
