"""The thread lane: sync functions in a bounded pool of its own threads."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, ClassVar

from asyncflow.lanes.lane import Call, Lane, LaneStatistics, invoke, without_lane_frames

__all__ = ["ThreadLane", "ThreadWorker"]

_JOIN_SECONDS = 5.0


class ThreadWorker:
    """One thread and its inbox.

    It is a daemon: a call that never returns must not keep the interpreter from exiting.
    """

    __slots__ = ("inbox", "lost", "name", "reserved", "thread")

    def __init__(self, name: str, work: Callable[[ThreadWorker], None]) -> None:
        self.name = name
        self.inbox: SimpleQueue[Call | None] = SimpleQueue()
        self.reserved = False
        self.lost = False
        self.thread = threading.Thread(target=work, args=(self,), name=name, daemon=True)
        self.thread.start()


class ThreadLane(Lane):
    """Threads that are started when first needed and live as long as the lane.

    Never the loop's default executor: that is shared with everybody's ``to_thread`` and
    ``getaddrinfo``, and a hung call there keeps ``asyncio.run`` from returning.

    Args:
        loop: the running event loop.
        clock: seconds on its clock; must be callable from any thread.
        max_threads: how many threads may live at once, lost ones apart.
        thread_name: what thread names begin with.
    """

    name: ClassVar[str] = "thread"

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        clock: Callable[[], float],
        *,
        max_threads: int,
        thread_name: str = "asyncflow",
    ) -> None:
        self._loop = loop
        self._clock = clock
        self._max_threads = max_threads
        self._thread_name = thread_name
        self._started = 0
        self._workers: set[ThreadWorker] = set()
        self._idle: list[ThreadWorker] = []
        self._lost = 0
        self._waiting = 0  # workers whose calls only wait for their nests
        self._ended: deque[Call] = deque()
        self._wake_pending = False

    # -- on the loop's thread ------------------------------------------------------------

    def start(self, call: Call) -> None:
        if call.worker is None:
            try:
                call.worker = self._idle.pop() if self._idle else self._spawn()
            except RuntimeError as error:
                self._refuse(call, error)
                return
        worker: ThreadWorker = call.worker
        worker.reserved = call.keep_worker
        call.handle = worker
        worker.inbox.put(call)

    def _spawn(self) -> ThreadWorker:
        self._started += 1
        worker = ThreadWorker(f"{self._thread_name}-{self._started}", self._work)
        self._workers.add(worker)
        return worker

    def _refuse(self, call: Call, error: RuntimeError) -> None:
        """Report a call for which the system starts no thread: that step's failure only."""
        call.error = RuntimeError(
            f"step {call.name!r} got no thread: the system gives this process no more ({error}); "
            "lower max_threads, or raise the limit of threads"
        )
        call.error.__cause__ = error
        call.started = call.finished = self._clock()
        call.done(call)

    def cancel(self, call: Call) -> None:
        """Nothing to do: a thread cannot be stopped, it can only see ``cancel_requested``."""

    def abandon(self, call: Call) -> None:
        worker: ThreadWorker = call.handle
        worker.lost = True
        worker.reserved = False
        self._workers.discard(worker)
        self._lost += 1

    def has_room(self) -> bool:
        return len(self._workers) - len(self._idle) - self._waiting < self._max_threads

    def lend(self, worker: ThreadWorker) -> None:
        self._waiting += 1

    def take_back(self, worker: ThreadWorker) -> None:
        self._waiting -= 1

    def reserve(self, kind: Any = None) -> ThreadWorker | None:
        try:
            worker = self._idle.pop() if self._idle else self._spawn()
        except RuntimeError:
            return None
        worker.reserved = True
        return worker

    def release(self, worker: ThreadWorker) -> None:
        if worker.reserved and not worker.lost:
            worker.reserved = False
            self._rest(worker)

    def _rest(self, worker: ThreadWorker) -> None:
        """Keep a worker for the next call, or end it: nests may have needed more than are kept."""
        if len(self._workers) - self._waiting > self._max_threads:
            self._workers.discard(worker)
            worker.inbox.put(None)
        else:
            self._idle.append(worker)

    def statistics(self) -> LaneStatistics:
        return LaneStatistics(
            workers=len(self._workers),
            busy=len(self._workers) - len(self._idle),
            lost=self._lost,
        )

    def close(self) -> None:
        for worker in self._workers:
            worker.inbox.put(None)
        for worker in self._workers:
            worker.thread.join(_JOIN_SECONDS)
        self._workers.clear()
        self._idle.clear()

    def _report_ended(self) -> None:
        self._wake_pending = False
        while self._ended:
            call = self._ended.popleft()
            worker: ThreadWorker = call.handle
            if worker.lost:
                self._lost -= 1
                worker.inbox.put(None)
            elif not worker.reserved:
                self._rest(worker)
            call.done(call)

    # -- on the worker's thread ----------------------------------------------------------

    def _work(self, worker: ThreadWorker) -> None:
        while (call := worker.inbox.get()) is not None:
            call.started = self._clock()
            try:
                call.value = call.context.run(invoke, call)
            except BaseException as error:  # noqa: BLE001 - a result like any other
                call.error = error
                without_lane_frames(error)
            finally:
                call.finished = self._clock()
                self._hand_back(call)
            if worker.lost:
                # Its loop may be closed by now, and nobody left to tell it to end.
                return
            # An idle thread must not keep the last call's values alive.
            del call

    def _hand_back(self, call: Call) -> None:
        self._ended.append(call)
        if self._wake_pending:
            return
        self._wake_pending = True
        try:
            self._loop.call_soon_threadsafe(self._report_ended)
        except RuntimeError:
            # The loop is closed: this was an abandoned call that outlived its program's
            # last run, and nobody is left to tell.
            if not self._loop.is_closed():
                raise
