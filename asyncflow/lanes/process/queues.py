"""Looks after calls that wait behind others, each at the worker it was sent to."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import TYPE_CHECKING

from asyncflow.lanes.process import wire

if TYPE_CHECKING:
    from asyncflow.lanes.process.worker_handle import WorkerHandle

__all__ = ["QueueWatch"]

_LOOK_SECONDS = 0.005


class QueueWatch:
    """Recalls what waits behind a call that takes long; looks only while something waits.

    Args:
        loop: the running event loop.
        workers: those of the lane, as they come and go.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, workers: Collection[WorkerHandle]) -> None:
        self._loop = loop
        self._workers = workers
        self._is_set = False

    def look_soon(self) -> None:
        """Something waits."""
        if not self._is_set:
            self._is_set = True
            self._loop.call_later(_LOOK_SECONDS, self._look)

    def _look(self) -> None:
        self._is_set = False
        for worker in self._workers:
            if len(worker.calls) < 2:
                continue
            current = worker.current
            if current == worker.seen_at and current in worker.calls:
                waiting = [number for number in worker.calls if number != current]
                worker.control.send(wire.Recall(waiting))
            worker.seen_at = current
            self.look_soon()
