"""How much is started in one turn of the loop, so that it stays free for others."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from asyncflow.lanes.inline import InlineLane
from asyncflow.lanes.lane import Call

__all__ = ["Pace"]

# A turn has two of them: that of who starts calls, and that of who takes their results.
TURN_SECONDS = 0.001
_SMALLEST_BATCH, _LARGEST_BATCH = 8, 2048


class Pace:
    """Tells who starts calls one after the other when to let the loop go round.

    That is after about a millisecond, *including the first steps of what was started*.
    Where tasks do not start eagerly these steps are taken later, so it learns from the last
    batch how long they take, and bounds the next one. It also sees to tasks that somebody
    cancelled before their first step, which would never report.

    Args:
        loop, clock: the running event loop and seconds on its clock.
        inline: the lane in which calls are started; None where they start elsewhere.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        clock: Callable[[], float],
        inline: InlineLane | None = None,
    ) -> None:
        self._loop = loop
        self._clock = clock
        self._inline = None if inline is None or inline.starts_eagerly else inline
        self._limit = _SMALLEST_BATCH * 4
        self._count = 0
        self._young: list[Call] = []
        self._old: list[Call] = []
        self.begin_turn()

    def begin_turn(self) -> None:
        """The loop has gone round."""
        self._count = 0
        self._until = self._clock() + TURN_SECONDS

    def is_due(self) -> bool:
        """Whether the loop should go round before anything more is started."""
        return self._count >= self._limit or self._clock() >= self._until

    def started(self, call: Call) -> None:
        """A call was handed to its lane."""
        if self._inline is None:
            return
        self._count += 1
        if not self._young and not self._old:
            self._loop.call_soon(self._look)
        self._young.append(call)

    def _look(self) -> None:
        """Learn from the calls that were started before the last look; their turn has come."""
        assert self._inline is not None
        old, self._old, self._young = self._old, self._young, []
        for call in old:
            if not call.started:
                self._inline.report_unstarted(call)
        if len(old) >= _SMALLEST_BATCH:
            each = max(old[-1].started - old[0].started, 1e-6) / len(old)
            limit = min(int(TURN_SECONDS / each), 2 * self._limit, _LARGEST_BATCH)
            self._limit = max(_SMALLEST_BATCH, limit)
        if self._old:
            self._loop.call_soon(self._look)
