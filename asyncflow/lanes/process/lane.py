"""The process lane: calls in worker processes of our own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, ClassVar

from asyncflow.lanes.lane import Call, Lane, LaneStatistics
from asyncflow.lanes.process import wire
from asyncflow.lanes.process.deaths import Death, worker_died
from asyncflow.lanes.process.early import Early
from asyncflow.lanes.process.framing import Framer, if_not_written
from asyncflow.lanes.process.guardian import Guardian
from asyncflow.lanes.process.host_logging import handle_record
from asyncflow.lanes.process.nests import Nests
from asyncflow.lanes.process.outcomes import take_times, take_value
from asyncflow.lanes.process.payload import discard
from asyncflow.lanes.process.queues import QueueWatch
from asyncflow.lanes.process.refusals import never_up, no_worker
from asyncflow.lanes.process.worker_handle import WorkerHandle
from asyncflow.lanes.worker_kind import PLAIN, WorkerKind

__all__ = ["ProcessLane"]

_FINISH_SECONDS = 1.5
_MOST_STILLBORN = 10
_DROP_SECONDS = 2.0


class ProcessLane(Lane):
    """Worker processes that are started when first needed and live as long as the lane.

    Spawned, never forked. Each makes one call at a time. One that dies fails only the call that
    it was making, and another takes its place.

    Args:
        loop: the running event loop; it must be able to watch descriptors.
        clock: seconds on its clock.
        max_workers: how many workers may live at once, those that wait for nests apart.
        max_units: a worker that has made this many calls is replaced.
        max_resident_bytes: so is one that holds more memory than this after a call.
        worker_name: what names of workers begin with.
    """

    name: ClassVar[str] = "process"
    most_replaced: ClassVar[int] = 4
    tells_begin: ClassVar[bool] = True
    queues: ClassVar[bool] = True

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        clock: Callable[[], float],
        *,
        max_workers: int,
        max_units: int = 10_000,
        max_resident_bytes: int = 1 << 30,
        worker_name: str = "process",
    ) -> None:
        self._loop = loop
        self._clock = clock
        self._max_workers = max_workers
        self._max_units = max_units
        self._max_resident_bytes = max_resident_bytes
        self._worker_name = worker_name
        self._spawned = 0
        self._workers: set[WorkerHandle] = set()
        self._idle: dict[WorkerKind, list[WorkerHandle]] = {}
        self._ending: set[WorkerHandle] = set()
        self._waiting = 0  # workers whose calls only wait for their nests
        self._lost: set[WorkerHandle] = set()
        self._framer = Framer(loop)
        self._queues = QueueWatch(loop, self._workers)
        self._nests = Nests(loop)
        self._guardian = Guardian()
        self._gone = asyncio.Event()
        self._closed, self._stillborn = False, 0

    # -- starting --------------------------------------------------------------------------

    def start(self, call: Call) -> None:
        if call.worker is None:
            try:
                call.worker = self._take(call.worker_kind or PLAIN)
            except OSError as error:
                self._refuse(call, no_worker(call.name, call.worker_kind or PLAIN, error))
                return
        worker: WorkerHandle = call.worker
        idle = self._idle.get(worker.kind)
        if idle and worker in idle:
            idle.remove(worker)
        worker.reserved = call.keep_worker
        if call.keep_worker and not worker.chain:
            self._framer.renew_chain(worker)
        call.handle = worker
        if not (worker.ahead and self._catch_up(call, worker)):
            self._send(call, worker)

    def _take(self, kind: WorkerKind) -> WorkerHandle:
        """An idle worker of a kind, else a new one."""
        idle = self._idle.get(kind)
        if idle:
            return idle.pop()
        if len(self._workers) - self._waiting >= self._max_workers:
            self._retire_one_idle()
        return self._spawn(kind)

    def _retire_one_idle(self) -> None:
        """Make room for a worker of another kind."""
        for workers in self._idle.values():
            if workers:
                self._retire(workers.pop(0))
                return

    def _spawn(self, kind: WorkerKind) -> WorkerHandle:
        self._spawned += 1
        name = f"{self._worker_name}-{self._spawned}"
        worker = WorkerHandle(self._loop, name, kind, self._told, self._died)
        self._workers.add(worker)
        self._guardian.watch(worker.pid)
        return worker

    def prepare(self, count: int, kind: WorkerKind | None = None) -> None:
        idle = self._idle.setdefault(kind or PLAIN, [])
        room = self._max_workers - (len(self._workers) - self._waiting)
        with suppress(OSError):  # the first call that finds none tells
            for _ in range(min(count - len(idle), room)):
                idle.insert(0, self._spawn(kind or PLAIN))  # the last in the list is taken first

    def _send(self, call: Call, worker: WorkerHandle) -> None:
        try:
            number, frame, descriptor = self._framer.letter(call, worker)
        except Exception as error:  # noqa: BLE001 - pickling calls the user's code
            self._free(worker)
            self._refuse(call, error)
            return
        is_first = not worker.calls
        worker.calls[number] = call
        if_not_written(descriptor, partial(self._not_written, worker, number))
        if worker.reserved:
            worker.work.send_soon(frame, descriptor)  # together with what send_ahead() brings
        elif is_first:
            worker.work.send(frame, descriptor)
        else:
            worker.work.send_soon(frame, descriptor)
            self._queues.look_soon()
        if is_first and worker.started:
            self._begins(call)

    def _not_written(self, worker: WorkerHandle, number: int, error: BaseException) -> None:
        """Report a call whose arguments found no room in memory."""
        worker.known.clear()  # what was to go with it
        call = worker.calls.pop(number, None)
        if number in worker.ahead:
            early = worker.ahead[number].call
            early.error, early.over = error, True
        elif call is not None:
            self._free(worker)
            self._refuse(call, error)

    def _begins(self, call: Call) -> None:
        call.started = self._clock()  # until the worker says better
        call.began()

    def _refuse(self, call: Call, error: BaseException) -> None:
        """Report a call that did not get to a worker: that step's failure only."""
        call.error = error
        call.finished = self._clock()
        call.started = call.started or call.finished
        call.done(call)

    # -- what workers say --------------------------------------------------------------------

    def _told(self, worker: WorkerHandle, frame: Any) -> None:
        kind = type(frame)
        if kind is wire.Done or kind is wire.Failed:
            self._ended(worker, frame)
        elif kind is wire.Report:
            call = worker.calls.get(frame.number)
            if call is not None:
                call.report(frame.done, frame.total, frame.message)
            elif frame.number in worker.ahead:
                worker.ahead[frame.number].reported = frame
        elif kind is wire.Output:
            worker.feed_output(frame.stream, frame.data)
        elif kind is wire.LogLine:
            handle_record(frame)
        elif kind is wire.Recalled:
            for number in frame.numbers:
                self._move(worker, number)
        elif kind is wire.Ask:
            self._nests.asked(worker, frame)
        elif kind is wire.Withdraw:
            self._nests.withdrawn(worker, frame.ticket)
        elif kind is wire.Hello:
            worker.started, self._stillborn = True, 0
            if worker.calls:
                self._begins(next(iter(worker.calls.values())))

    def _ended(self, worker: WorkerHandle, frame: wire.Outcome) -> None:
        worker.end_output(frame.marks)
        call = worker.calls.pop(frame.number, None)
        if call is None and frame.number in worker.ahead:
            self._ended_ahead(worker, frame)
            return
        worker.resume_output()
        worker.units += 1
        if call is None:
            discard(frame.value, worker.next_descriptor)
            return
        take_times(call, worker, frame, self._clock())
        take_value(call, worker, frame)
        self._look_at_chain(worker, frame)
        if worker.calls:
            self._begins(next(iter(worker.calls.values())))
        if worker.lost:
            self._lost.discard(worker)
            worker.lost = False
            self._retire(worker)
        else:
            worker.worn = worker.worn or self._is_worn(worker, frame)
            self._free(worker)
        call.done(call)

    def _look_at_chain(self, worker: WorkerHandle, frame: wire.Outcome) -> None:
        """If a call of a chain has failed, its worker leaves out those behind it by itself."""
        if type(frame) is wire.Failed and worker.chain and frame.number >= worker.chain_begins:
            self._framer.renew_chain(worker)
            worker.ahead = {n: early for n, early in worker.ahead.items() if n <= frame.number}

    def _is_worn(self, worker: WorkerHandle, frame: wire.Outcome) -> bool:
        """Whether a worker should be replaced."""
        is_spent = worker.units >= self._max_units
        return bool(frame.dirty) or is_spent or frame.resident_bytes > self._max_resident_bytes

    def _free(self, worker: WorkerHandle) -> None:
        """Have a worker that has nothing to do wait for something, or replace it."""
        if not worker.is_free or worker not in self._workers:
            return
        if worker.worn or len(self._workers) - self._waiting > self._max_workers:
            self._retire(worker)  # nests may have needed more than are kept
        else:
            self._idle.setdefault(worker.kind, []).append(worker)

    def _move(self, worker: WorkerHandle, number: int) -> None:
        """A call was not begun and will not be here."""
        call = worker.calls.pop(number, None)
        if call is not None:
            self._make_elsewhere(call)
        elif worker.ahead.pop(number, None) is not None:
            self._free(worker)

    def _make_elsewhere(self, call: Call) -> None:
        if call.cancel_requested:
            self._cancel_dead(call)
        elif not call.unbegun():
            call.worker = None
            self.start(call)

    def recall(self, call: Call) -> None:
        worker: WorkerHandle = call.handle
        numbers = [number for number, other in worker.calls.items() if other is call]
        worker.control.send(wire.Recall(numbers))

    def is_open(self, worker: WorkerHandle, call: Call) -> bool:
        """Whether further calls that are like this one may be sent to a worker."""
        if worker.is_gone or worker.retiring or worker.lost or worker.worn or worker.reserved:
            return False
        like: Any = call
        first: Any = next(iter(worker.calls.values()), like)
        return bool(first.convoy is like.convoy)

    # -- ahead of their turn ---------------------------------------------------------------

    def send_ahead(self, calls: list[Call], worker: WorkerHandle) -> int:
        sent = 0
        for call in calls:
            try:
                number, frame, descriptor = self._framer.letter(call, worker)
            except Exception:  # noqa: BLE001 - it is told when it is this call's turn
                break
            call.handle = worker
            worker.ahead[number] = Early(call)
            if_not_written(descriptor, partial(self._not_written, worker, number))
            worker.work.send_soon(frame, descriptor)
            sent += 1
        worker.work.flush()
        return sent

    def _catch_up(self, call: Call, worker: WorkerHandle) -> bool:
        """It is the turn of a call that was sent ahead; false if it was not."""
        number = worker.number_ahead(call)
        if not number:
            return False
        early = worker.ahead.pop(number)
        if not call.over:
            worker.calls[number] = call
            self._begins(call)
        early.tell()
        self._nests.caught_up(worker, early)
        if call.over:
            if early.ended is not None:
                take_times(call, worker, *early.ended)
            call.done(call)
        return True

    def _ended_ahead(self, worker: WorkerHandle, frame: wire.Outcome) -> None:
        """A call has ended before the engine came to it; nobody may want it any more."""
        worker.units += 1
        worker.worn = worker.worn or self._is_worn(worker, frame)
        early = worker.ahead[frame.number]
        early.ended = frame, self._clock()
        take_value(early.call, worker, frame)
        early.call.over = True
        self._look_at_chain(worker, frame)
        worker.resume_output()
        if not worker.reserved:
            del worker.ahead[frame.number]
            self._free(worker)

    def drop_ahead(self, worker: WorkerHandle) -> None:
        worker.ahead = {n: early for n, early in worker.ahead.items() if not early.call.over}
        for number, early in worker.ahead.items():
            early.call.cancel_requested = True
            worker.control.send(wire.Cancel(number, worker.chain))
            self._nests.dropped(worker, early)
        if worker.ahead:
            self._framer.renew_chain(worker)
            self._loop.call_later(_DROP_SECONDS, worker.kill_if_busy, set(worker.ahead))

    # -- ends --------------------------------------------------------------------------------

    def _retire(self, worker: WorkerHandle) -> None:
        self._forget(worker)
        if not worker.is_gone:
            self._ending.add(worker)
            worker.retire()

    def _forget(self, worker: WorkerHandle) -> None:
        """Count on a worker no longer."""
        self._workers.discard(worker)
        idle = self._idle.get(worker.kind, ())
        if worker in idle:
            idle.remove(worker)  # type: ignore[union-attr]

    def _died(self, worker: WorkerHandle, death: Death) -> None:
        """A worker has ended, and all that it had sent was told."""
        self._guardian.forget(worker.pid)
        self._nests.forget(worker)
        self._forget(worker)
        self._ending.discard(worker)
        self._lost.discard(worker)
        calls, worker.calls = worker.calls, {}
        blamed = worker.last_number
        if blamed in worker.ahead:
            self._fail_dead(worker.ahead[blamed].call, worker, death)
        if (
            blamed not in calls
            and calls
            and not worker.started
            and self._is_hopeless(worker, death)
        ):
            blamed = next(iter(calls))
        for number, call in calls.items():
            if worker.never_was_up:
                self._refuse(call, never_up(call.name, worker, death))
            elif number == blamed or (worker.reserved and not worker.retiring):
                self._fail_dead(call, worker, death)
            elif self._closed:
                self._cancel_dead(call)
            else:
                self._make_elsewhere(call)
        self._gone.set()

    def _is_hopeless(self, worker: WorkerHandle, death: Death) -> bool:
        """Whether so many in a row were never up that the next will not be either.

        What makes one end by itself while it loads is no bad luck.
        """
        self._stillborn += 1 if death.signal else _MOST_STILLBORN // 2
        return worker.killed or self._stillborn > _MOST_STILLBORN

    def _fail_dead(self, call: Call, worker: WorkerHandle, death: Death) -> None:
        if worker.killed:
            self._cancel_dead(call)
            return
        number, told = getattr(call, "number", 1), worker.last_output
        call.take_peak(death.peak_memory_bytes)
        call.error = worker_died(death, call.name, worker.name, number, told, was_up=worker.started)
        self._end_dead(call)

    def _cancel_dead(self, call: Call) -> None:
        call.error = asyncio.CancelledError("its worker was killed")
        self._end_dead(call)

    def _end_dead(self, call: Call) -> None:
        call.finished = self._clock()
        call.started = call.started or call.finished
        worker: WorkerHandle | None = call.handle
        if worker is not None and worker.number_ahead(call):
            call.over = True
        else:
            call.done(call)

    # -- stopping ----------------------------------------------------------------------------

    def cancel(self, call: Call) -> None:
        worker: WorkerHandle = call.handle
        number = next((number for number, other in worker.calls.items() if other is call), None)
        if number is not None:
            worker.control.send(wire.Cancel(number, worker.chain))
            if worker.chain:
                self._framer.renew_chain(worker)

    def kill(self, call: Call) -> bool:
        worker: WorkerHandle = call.handle
        if worker.killed:
            return False
        worker.kill()
        return True

    def abandon(self, call: Call) -> None:
        worker: WorkerHandle = call.handle
        worker.lost = True
        worker.reserved = False
        self._forget(worker)
        self._lost.add(worker)

    # -- room --------------------------------------------------------------------------------

    def has_room(self) -> bool:
        # Idle ones are counted out: nests may have needed more than may work at once.
        idle = sum(map(len, self._idle.values()))
        return len(self._workers) - idle - self._waiting < self._max_workers

    def reserve(self, kind: Any = None) -> WorkerHandle | None:
        try:
            worker = self._take(kind or PLAIN)
        except OSError:
            return None
        worker.reserved = True
        return worker

    def release(self, worker: WorkerHandle) -> None:
        if worker.reserved:
            self.drop_ahead(worker)
            worker.reserved, worker.chain = False, 0
            if worker.kept:
                worker.work.send(wire.Forget(kept=list(worker.kept)))
                worker.kept.clear()
            self._free(worker)

    def spoil(self, worker: WorkerHandle) -> None:
        worker.worn = True

    def lend(self, worker: WorkerHandle) -> None:
        self._waiting += 1

    def take_back(self, worker: WorkerHandle) -> None:
        self._waiting -= 1

    def statistics(self) -> LaneStatistics:
        workers, idle = len(self._workers), sum(map(len, self._idle.values()))
        return LaneStatistics(workers=workers, busy=workers - idle, lost=len(self._lost))

    def pids(self) -> list[int]:
        return [worker.pid for worker in (*self._workers, *self._ending, *self._lost)]

    async def finish(self) -> None:
        """Let idle workers leave in peace, so that what they have to tidy up is tidied up."""
        for worker in list(self._workers):
            if worker.is_free:
                self._retire(worker)
        until = self._loop.time() + _FINISH_SECONDS
        while self._ending and (left := until - self._loop.time()) > 0:
            self._gone.clear()
            try:
                async with asyncio.timeout(left):
                    await self._gone.wait()
            except TimeoutError:
                return

    def close(self) -> None:
        self._closed = True
        self._framer.close()
        for worker in (*self._workers, *self._ending, *self._lost):
            calls, worker.calls, worker.ahead = worker.calls, {}, {}
            worker.end_now()
            self._nests.forget(worker)
            self._guardian.forget(worker.pid)
            for call in calls.values():
                self._loop.call_soon(self._cancel_dead, call)
        self._workers.clear()
        self._idle.clear()
        self._ending.clear()
        self._lost.clear()
        self._guardian.close()
