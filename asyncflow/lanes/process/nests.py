"""Nested work that calls in workers ask the host for."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any

from asyncflow.lanes.process import wire
from asyncflow.lanes.process.payload import discard, pack, unpack
from asyncflow.lanes.process.raised import flatten
from asyncflow.pickling.sending import dumps

if TYPE_CHECKING:
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
        call = worker.calls.get(frame.number)
        if call is None:
            discard(frame.args, worker.next_descriptor)
            error = RuntimeError("the step that asks for this has ended")
            self._answer(worker, frame.ticket, flatten(error, dumps), failed=True)
            return
        try:
            args = unpack(frame.args, worker.next_descriptor)
        except BaseException as error:  # noqa: BLE001 - unpickling calls the user's code
            self._answer(worker, frame.ticket, flatten(error, dumps), failed=True)
            return
        wanted: Any = call
        doing = wanted.call_nested(*args) if frame.what == "call" else wanted.run_nested(*args)
        # In the context of its own run, not in that of whatever frame was read before.
        context = getattr(call, "context", None) or contextvars.copy_context()
        task = self._loop.create_task(self._do(worker, frame.ticket, doing), context=context.copy())
        self._tasks[worker, frame.ticket] = task

    async def _do(self, worker: WorkerHandle, ticket: int, doing: Awaitable[Any]) -> None:
        try:
            value, failed = await doing, False
        except BaseException as error:  # noqa: BLE001 - the step decides what it means
            value, failed = flatten(error, dumps), True
        finally:
            self._tasks.pop((worker, ticket), None)
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
        task = self._tasks.get((worker, ticket))
        if task is not None:
            task.cancel()

    def forget(self, worker: WorkerHandle) -> None:
        """A worker is gone, and nobody waits for what it has asked for."""
        for (asker, _), task in list(self._tasks.items()):
            if asker is worker:
                task.cancel()
