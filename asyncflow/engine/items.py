"""The calls of a stream map: every item tried until it has a result, at so many at once."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Callable
from typing import Any

import msgspec

from asyncflow.engine.item_limits import ItemKeys, ItemLimits
from asyncflow.engine.limiter import Lease
from asyncflow.engine.pace import Pace
from asyncflow.engine.surroundings import clock_of, surroundings_of
from asyncflow.errors import StepCancelled, StepTimeout, text_of
from asyncflow.lanes.inline import InlineLane
from asyncflow.lanes.lane import Call, Lane
from asyncflow.limits import Keys
from asyncflow.retry import Retry
from asyncflow.step import Step

__all__ = ["Bounds", "ItemCall", "ItemCalls", "Work"]

_MAX_ABANDONED = 32
_MOST_PROCESSES = 32
_CANCELS_IN_A_TURN = 256
_LOGGER = logging.getLogger("asyncflow")


class Work(msgspec.Struct, frozen=True):
    """What is to be done with each item, and how it is told."""

    step: Step[..., Any]
    concurrency: int
    ordered: bool
    raises: bool
    retry: Retry
    timeout_seconds: float | None
    keys: ItemKeys = ()


class Bounds(msgspec.Struct, frozen=True):
    """What a runtime says: how many threads (None: as many as calls), how long a grace, and
    what calls wait for before they start."""

    max_threads: int | None = None
    grace_seconds: float = 2.0
    limits: ItemLimits | None = None


class ItemCall(Call, eq=False):
    """One try of one item; ``place`` is the item's among those taken, from 0.

    ``waiting``: for the end of its back-off, or for named keys. ``timer``: of its timeout, its
    grace or its back-off. ``keys``: what it takes, where that had to be worked out.
    """

    place: int = 0
    number: int = 1
    timer: asyncio.TimerHandle | None = None
    waiting: bool = False
    timed_out: bool = False
    abandoned: bool = False
    keys: Keys | None = None
    lease: Lease | None = None
    run: ItemCalls | None = None

    def began(self) -> None:
        """A worker process begins with it: its timeout counts from now on."""
        if self.run is not None and self.timer is None:
            self.run.count_time(self)

    def drop_timer(self) -> None:
        """Forget the timer, whether it has gone off or not."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


class ItemCalls:
    """Makes the calls of one iteration and sees to their retries, timeouts and cancels.

    Args:
        work, bounds: what to do, and within what.
        finish: told of the last try of an item, once its value (or the exception in its
            place) is there.
        fail: told of the error that ends the stream.
        ended: told of each call that ends after :meth:`stop`.

    Attributes:
        in_progress: calls that run or wait for their next try.
        most: how many there may be.
        pace: when who starts them has to let the loop go round.
        grace_seconds: how long a cancelled call may take to end.
    """

    def __init__(
        self,
        work: Work,
        bounds: Bounds,
        *,
        finish: Callable[[ItemCall], None],
        fail: Callable[[BaseException], None],
        ended: Callable[[], None],
    ) -> None:
        self._work = work
        self._finish, self._fail, self._ended = finish, fail, ended
        self.grace_seconds = bounds.grace_seconds
        self._limits = bounds.limits
        if bounds.limits is not None:
            bounds.limits.start, bounds.limits.refuse = self._begin, self._refuse
        self.in_progress: set[ItemCall] = set()
        self._abandoned: set[ItemCall] = set()
        self._stopping = False
        self._context = contextvars.copy_context()
        self._loop = asyncio.get_running_loop()
        surroundings = surroundings_of(self._loop)
        self._random = surroundings.random() if work.retry.retries else None
        clock = clock_of(self._loop)
        threads = bounds.max_threads or work.concurrency
        self._lanes = surroundings.lanes(
            self._loop, clock, max_threads=threads, max_processes=_MOST_PROCESSES
        )
        inline = self._lanes["inline"]
        assert isinstance(inline, InlineLane)
        self._lane: Lane = inline
        self._start: Callable[[Call], None] = inline.start
        self.most = work.concurrency
        if work.step.lane == "process":
            self._lane = self._lanes["process"]
            self._start = self._lane.start
            self.most = min(work.concurrency, _MOST_PROCESSES)
        elif work.step.is_coroutine:
            self._start = inline.start_coroutine
        elif work.step.lane != "inline":
            self._lane = self._lanes["thread"]
            self._start = self._lane.start
            self.most = min(work.concurrency, threads)
        self.pace = Pace(self._loop, clock, inline if self._lane is inline else None)

    # -- starting ------------------------------------------------------------------------

    def start(self, item: Any, place: int) -> None:
        """Call the function on an item."""
        call = self._make(item, place, 1)
        self.in_progress.add(call)
        self._enter(call)

    def _enter(self, call: ItemCall) -> None:
        """Start a call, once it has what it waits for."""
        if self._limits is None:
            self._go(call)
        else:
            call.waiting = True
            self._limits.request(call)

    def _begin(self, call: ItemCall) -> None:
        """A call has its named keys."""
        assert self._limits is not None
        if self._stopping:
            self._limits.give_back(call, unused=True)
            self._cancel(call)
        else:
            call.waiting = False
            self._go(call)

    def _refuse(self, call: ItemCall, error: BaseException) -> None:
        """A call can never have its named keys."""
        self.in_progress.discard(call)
        if self._work.raises or not isinstance(error, Exception):
            self._fail(error)
        else:
            call.error = error
            self._finish(call)

    def _make(self, item: Any, place: int, number: int) -> ItemCall:
        step = self._work.step
        return ItemCall(
            step.func,
            [item],
            None,
            self._context.copy(),
            step.name,
            self._done,
            step.is_coroutine,
            place=place,
            number=number,
            run=self,
        )

    def _go(self, call: ItemCall) -> None:
        if not self._lane.tells_begin:
            self.count_time(call)
        self._start(call)
        self.pace.started(call)

    def count_time(self, call: ItemCall) -> None:
        """The timeout of a call counts from now on."""
        seconds = self._work.timeout_seconds
        if seconds is not None and not call.cancel_requested:
            call.timer = self._loop.call_later(seconds, self._time_out, call)

    def _go_again(self, call: ItemCall) -> None:
        """The back-off is over."""
        if self._stopping:
            self._cancel(call)
            return
        call.waiting = False
        call.timer = None
        self._enter(call)

    # -- ends of calls -------------------------------------------------------------------

    def _done(self, call: ItemCall) -> None:
        """A lane's report that a call ended."""
        if call.timer is not None:
            call.drop_timer()
        if call.lease is not None and self._limits is not None:
            self._limits.give_back(call)
        if call.abandoned:
            self._abandoned.discard(call)
        elif call.error is None and not call.cancel_requested and not self._stopping:
            self.in_progress.discard(call)
            self._finish(call)
        else:
            self._settle(call)

    def _settle(self, call: ItemCall) -> None:
        """A call did not succeed: try again, tell, or end the stream."""
        self.in_progress.discard(call)
        if self._stopping:
            self._ended()
            return
        error = self._error_of(call)
        if len(self._abandoned) > _MAX_ABANDONED:
            error.add_note(
                f"it is one of {len(self._abandoned)} tries that ignored their cancel and are "
                "still running, too many to go on"
            )
            self._fail(error)
        elif self._wants_retry(call, error):
            self._back_off(call, error)
        elif self._work.raises or not isinstance(error, Exception):
            self._fail(error)
        else:
            call.error = error
            self._finish(call)

    def _error_of(self, call: ItemCall) -> BaseException:
        """What a call raised; of one that was cancelled or timed out, an error that says so."""
        told: StepTimeout | StepCancelled
        if call.timed_out:
            seconds = self._work.timeout_seconds or 0.0
            told = StepTimeout(
                f"{call.name!r}, attempt {call.number}, took longer than its timeout of "
                f"{seconds:g} s; raise timeout=, or retry=",
                step=call.name,
                attempt=call.number,
                timeout_seconds=seconds,
            )
        elif isinstance(call.error, asyncio.CancelledError):
            told = StepCancelled(
                f"the task of {call.name!r}, attempt {call.number}, was cancelled, and not by who "
                "iterates over the stream",
                step=call.name,
                attempt=call.number,
            )
        else:
            assert call.error is not None
            return call.error
        told.__cause__ = call.error
        return told

    def _wants_retry(self, call: ItemCall, error: BaseException) -> bool:
        if isinstance(call.error, asyncio.CancelledError) and not call.timed_out:
            return False
        try:
            return self._work.retry.wants(error, call.number)
        except BaseException as broken:  # noqa: BLE001 - the predicate is the user's
            error.add_note(f"the retry predicate of {call.name!r} raised {text_of(broken)}")
            return False

    def _back_off(self, call: ItemCall, error: BaseException) -> None:
        """Set up the next try, which counts as in progress meanwhile."""
        assert self._random is not None
        following = self._make(call.args[0], call.place, call.number + 1)
        following.waiting = True
        following.keys = call.keys
        self.in_progress.add(following)
        seconds = self._work.retry.delay_seconds(error, call.number, self._random)
        following.timer = self._loop.call_later(seconds, self._go_again, following)

    # -- stopping ------------------------------------------------------------------------

    def _time_out(self, call: ItemCall) -> None:
        call.timed_out = call.cancel_requested = True
        call.timer = self._loop.call_later(self.grace_seconds, self._abandon, call)
        self._lane.cancel(call)

    def _abandon(self, call: ItemCall) -> None:
        """Go on without a call that ignored its cancel; it may run on."""
        call.drop_timer()
        if self._lane.kill(call):
            call.timer = self._loop.call_later(self.grace_seconds, self._abandon, call)
            return
        call.abandoned = True
        self._abandoned.add(call)
        self._lane.abandon(call)
        _LOGGER.warning(
            "a call of %r in stream_map ignored its cancel and was abandoned; it may still run",
            call.name,
        )
        self._settle(call)

    def stop(self) -> None:
        """Cancel all calls in progress; they count as such until they have ended."""
        self._stopping = True
        self._cancel_some(list(self.in_progress))

    def _cancel_some(self, calls: list[ItemCall]) -> None:
        """Cancel so many that they and their clean-up do not hold the loop, then the others."""
        for _ in range(min(len(calls), _CANCELS_IN_A_TURN)):
            self._cancel(calls.pop())
        if calls:
            self._loop.call_soon(self._cancel_some, calls)

    def _cancel(self, call: ItemCall) -> None:
        if call not in self.in_progress or call.timed_out:
            return  # it has ended meanwhile, or was cancelled and its grace is running
        call.drop_timer()
        if call.waiting:
            if self._limits is not None:
                self._limits.withdraw(call)
            self.in_progress.discard(call)
            self._ended()
        else:
            call.cancel_requested = True
            self._lane.cancel(call)

    def give_up(self) -> None:
        """Go on without those that have ignored their cancel until now."""
        for call in tuple(self.in_progress):
            self._abandon(call)

    def close(self) -> None:
        """End the threads; nothing may be in progress."""
        if self._limits is not None:
            self._limits.close()
        for lane in self._lanes.values():
            lane.close()
