"""Nested work that calls in workers ask the host for."""

from __future__ import annotations

import asyncio
import contextvars
from typing import TYPE_CHECKING, Any

from asyncflow.errors import StepCancelled
from asyncflow.lanes.process import wire
from asyncflow.lanes.process.payload import discard, pack, unpack
from asyncflow.lanes.process.raised import flatten
from asyncflow.pickling.sending import dumps

if TYPE_CHECKING:
    from asyncflow.lanes.lane import Call
    from asyncflow.lanes.process.early import Early
    from asyncflow.lanes.process.worker_handle import WorkerHandle

__all__ = ["Nests"]


class Nests:
    """Has the engine do what calls ask for, and answers them.

    Args:
        loop: the running event loop.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._tasks: dict[tuple[WorkerHandle, int], asyncio.Task[None]] = {}

    def asked(self, worker: WorkerHandle, frame: wire.Ask) -> None:
        """A call wants something; it may have ended meanwhile, as threads of it go on."""
        call, early = worker.calls.get(frame.number), worker.ahead.get(frame.number)
        if call is None and early is None:
            discard(frame.args, worker.next_descriptor)
            self._refuse(worker, frame.ticket, _ended())
            return
        try:
            args = unpack(frame.args, worker.next_descriptor)
        except BaseException as error:  # noqa: BLE001 - unpickling calls the user's code
            self._refuse(worker, frame.ticket, error)
            return
        if call is not None:
            self._begin(worker, frame.ticket, call, (frame.what, args))
        elif early is not None and early.is_dropped:
            self._refuse(worker, frame.ticket, _stopped(early.call))
        elif early is not None:
            early.asked[frame.ticket] = frame.what, args

    def caught_up(self, worker: WorkerHandle, early: Early) -> None:
        """The turn of a call has come that has asked for something before."""
        for ticket, wanted in early.asked.items():
            if early.call.over:
                self._refuse(worker, ticket, _ended())
            else:
                self._begin(worker, ticket, early.call, wanted)

    def dropped(self, worker: WorkerHandle, early: Early) -> None:
        """The turn of a call will not come; it waits no longer for what it has asked for."""
        for ticket in early.asked:
            self._refuse(worker, ticket, _stopped(early.call))
        early.asked.clear()

    def _begin(
        self, worker: WorkerHandle, ticket: int, call: Call, wanted: tuple[str, Any]
    ) -> None:
        # In the context of its own run, not in that of whatever frame was read before.
        context = getattr(call, "context", None) or contextvars.copy_context()
        doing = self._do(worker, ticket, call, wanted)
        task = self._loop.create_task(doing, context=context.copy())
        self._tasks[worker, ticket] = task
        # Not at the end of what it does: one that is cancelled at once does not even begin.
        task.add_done_callback(lambda _: self._tasks.pop((worker, ticket), None))

    def _refuse(self, worker: WorkerHandle, ticket: int, error: BaseException) -> None:
        self._answer(worker, ticket, flatten(error, dumps), failed=True)

    async def _do(
        self, worker: WorkerHandle, ticket: int, attempt: Any, wanted: tuple[str, Any]
    ) -> None:
        what, args = wanted
        ask = attempt.call_nested if what == "call" else attempt.run_nested
        try:
            value, failed = await ask(*args), False
        except BaseException as error:  # noqa: BLE001 - the step decides what it means
            value, failed = flatten(error, dumps), True
        self._answer(worker, ticket, value, failed=failed)

    def _answer(self, worker: WorkerHandle, ticket: int, value: Any, *, failed: bool) -> None:
        if worker.is_gone:
            return
        try:
            parcel = pack(value, dumps, inline=worker.takes_no_files)
            descriptor = parcel.write()
        except Exception as error:  # noqa: BLE001 - pickling calls the user's code
            parcel, failed = pack(flatten(error, dumps), dumps, inline=worker.takes_no_files), True
            descriptor = parcel.write()
        worker.control.send(wire.Answer(ticket, parcel.packet, failed), descriptor)

    def withdrawn(self, worker: WorkerHandle, ticket: int) -> None:
        """A call does not want it any more."""
        for early in worker.ahead.values():
            early.asked.pop(ticket, None)
        task = self._tasks.get((worker, ticket))
        if task is not None:
            task.cancel()

    def forget(self, worker: WorkerHandle) -> None:
        """A worker is gone, and nobody waits for what it has asked for."""
        for (asker, _), task in list(self._tasks.items()):
            if asker is worker:
                task.cancel()


def _ended() -> RuntimeError:
    return RuntimeError("the step that asks for this has ended")


def _stopped(call: Call) -> StepCancelled:
    return StepCancelled(f"step {call.name!r} was told to stop", step=call.name)
