"""The lanes of a simulated run: steps take the time that the script gives them.

A function runs for real and at once. What it returned or raised is held back until its time is
over, and meanwhile the step runs as far as the engine can tell: it can time out, it can be
cancelled, and it keeps its worker.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

from asyncflow.engine.attempt import Attempt, Phase
from asyncflow.engine.reporting import publish_progress
from asyncflow.lanes.inline import InlineLane
from asyncflow.lanes.lane import Call
from asyncflow.lanes.thread import ThreadLane, ThreadWorker
from asyncflow.testing.script import Script
from asyncflow.testing.threads import ThreadsAtWork, Ticket

__all__ = ["SimulatedInlineLane", "SimulatedProcessLane", "SimulatedThreadLane"]


def _play(call: Call, script: Script) -> float:
    """Let a call fail if the script wants that; returns how many seconds it takes."""
    if not isinstance(call, Attempt) or call.phase is not Phase.RUNNING:
        return 0.0
    node = call.run.graph.nodes[call.node]
    failure = script.failure_of(node, call.number)
    if failure is not None:
        call.func = partial(_fail_later if call.is_coroutine else _fail, failure)
    return script.seconds_of(node)


def _fail(failure: BaseException, *_: Any, **__: Any) -> None:
    raise failure


async def _fail_later(failure: BaseException, *_: Any, **__: Any) -> None:
    raise failure


class SimulatedInlineLane(InlineLane):
    """An inline lane that plays a script."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, clock: Callable[[], float], script: Script
    ) -> None:
        super().__init__(loop, clock)
        self._loop = loop
        self._script = script
        self._held: dict[Call, tuple[asyncio.TimerHandle, Callable[[Any], None]]] = {}
        start_coroutine = self.start_coroutine

        def start(call: Call) -> None:
            self._prepare(call)
            start_coroutine(call)

        self.start_coroutine = start

    def start(self, call: Call) -> None:
        self._prepare(call)
        super().start(call)

    def _prepare(self, call: Call) -> None:
        seconds = _play(call, self._script)
        if seconds:
            call.done = partial(self._hold, seconds, call.done)

    def _hold(self, seconds: float, done: Callable[[Any], None], call: Call) -> None:
        ends_at = call.started + seconds
        if ends_at <= self._clock() or isinstance(call.error, asyncio.CancelledError):
            done(call)
            return
        call.finished = 0.0
        self._held[call] = self._loop.call_at(ends_at, self._let_go, call), done

    def _let_go(self, call: Call) -> None:
        _, done = self._held.pop(call)
        call.finished = self._clock()
        done(call)

    def cancel(self, call: Call) -> None:
        if call not in self._held:
            super().cancel(call)
            return
        self._held[call][0].cancel()
        call.value, call.error = None, asyncio.CancelledError()
        self._let_go(call)


class SimulatedThreadLane(ThreadLane):
    """A thread lane that plays a script and whose threads hold the clock."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        clock: Callable[[], float],
        script: Script,
        threads: ThreadsAtWork,
        *,
        max_threads: int,
    ) -> None:
        super().__init__(loop, clock, max_threads=max_threads)
        self._script = script
        self._threads = threads
        self._at_work: dict[Call, tuple[Ticket, float]] = {}
        self._tickets: dict[ThreadWorker, Ticket] = {}
        self._held: dict[Call, asyncio.TimerHandle] = {}

    def start(self, call: Call) -> None:
        ticket = self._threads.begin(call.name)
        self._at_work[call] = ticket, _play(call, self._script)
        call.context.run(ticket.enter)
        super().start(call)
        if call.handle is None:
            self._threads.drop(ticket)  # it got no thread
        else:
            self._tickets[call.handle] = ticket

    def _hand_back(self, call: Call) -> None:
        ticket, seconds = self._at_work.pop(call)
        ticket.end(partial(self._settle, call, seconds))

    def _settle(self, call: Call, seconds: float) -> None:
        """A thread is done: tell what it reported last, and end its call when its time is over."""
        call.finished = 0.0
        if isinstance(call, Attempt):
            publish_progress(call)
        ends_at = call.started + seconds
        if ends_at <= self._clock():
            self._finish(call)
        else:
            self._held[call] = self._loop.call_at(ends_at, self._finish, call)

    def _finish(self, call: Call) -> None:
        self._held.pop(call, None)
        call.finished = self._clock()
        self._ended.append(call)
        self._report_ended()

    def lend(self, worker: ThreadWorker) -> None:
        super().lend(worker)
        ticket = self._tickets.get(worker)
        if ticket is not None:  # else it is kept for a group whose coroutine waits
            ticket.pause()

    def take_back(self, worker: ThreadWorker) -> None:
        ticket = self._tickets.get(worker)
        if ticket is not None:
            ticket.resume()
        super().take_back(worker)

    def close(self) -> None:
        for call, timer in self._held.items():
            # An abandoned one whose time never came: only its thread is left to end.
            timer.cancel()
            worker: ThreadWorker = call.handle
            worker.inbox.put(None)
        self._held.clear()
        super().close()


class SimulatedProcessLane(SimulatedThreadLane):
    """A process lane that starts no process: its calls run in threads, which hold the clock.

    Coroutines run on the virtual loop, as a loop of their own would take real time.
    """

    name: ClassVar[str] = "process"

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        clock: Callable[[], float],
        script: Script,
        threads: ThreadsAtWork,
        inline: SimulatedInlineLane,
        *,
        max_workers: int,
    ) -> None:
        super().__init__(loop, clock, script, threads, max_threads=max_workers)
        self._inline = inline

    def start(self, call: Call) -> None:
        if call.is_coroutine:
            self._inline.start(call)
        else:
            super().start(call)

    def cancel(self, call: Call) -> None:
        if call.is_coroutine:
            self._inline.cancel(call)

    def abandon(self, call: Call) -> None:
        if call.is_coroutine:
            self._inline.abandon(call)
        else:
            super().abandon(call)
