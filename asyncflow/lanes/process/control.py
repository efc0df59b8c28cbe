"""What the context of a step needs of its attempt, in a worker: asked of the host."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from asyncflow.lanes.process import wire
from asyncflow.lanes.process.payload import discard, pack, unpack

if TYPE_CHECKING:
    from asyncflow.lanes.process.worker import Worker

__all__ = ["Asked", "RemoteControl"]


class Asked:
    """What the calls of a worker have asked the host for and not got yet.

    Sync steps wait in a loop of a thread of its own for it; coroutines in the worker's loop.
    """

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._tickets = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = threading.Lock()

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """A loop in a thread of its own, for sync steps that wait."""
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(
                    target=self._loop.run_forever, name="asyncflow-nests", daemon=True
                ).start()
            return self._loop

    async def ask(self, number: int, what: str, args: Any) -> Any:
        """Ask for something on behalf of a call, and give what comes of it.

        Raises:
            Exception: what came of it.
        """
        ticket = next(self._tickets)
        future = self._waiting[ticket] = asyncio.get_running_loop().create_future()
        try:
            parcel = pack(args, self._worker.dumps)
            frame = wire.Ask(number, ticket, what, parcel.packet)
            self._worker.tell(frame, parcel.write())
            return await future
        except asyncio.CancelledError:
            self._worker.tell(wire.Withdraw(number, ticket))
            raise
        finally:
            self._waiting.pop(ticket, None)

    def answer(self, frame: wire.Answer, channel: wire.Channel) -> None:
        """Hand over what came of something; on the thread that reads the channel."""
        future = self._waiting.get(frame.ticket)
        if future is None:
            discard(frame.value, channel.next_descriptor)
            return
        error: BaseException | None = None
        value: Any = None
        try:
            value = unpack(frame.value, channel.next_descriptor)
        except BaseException as raised:  # noqa: BLE001 - unpickling calls the user's code
            error = raised
        if frame.failed and error is None:
            from asyncflow.lanes.process.raised import rebuild

            error = rebuild(value, "of the host")
        future.get_loop().call_soon_threadsafe(_settle, future, value, error)


def _settle(future: asyncio.Future[Any], value: Any, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(value)
    else:
        future.set_exception(error)


class RemoteControl:
    """Stands for an attempt that the host knows.

    Args:
        number: of the call that it is about.
    """

    def __init__(self, worker: Worker, number: int) -> None:
        self._worker = worker
        self._number = number

    @property
    def cancel_requested(self) -> bool:
        return self._worker.is_cancelled(self._number)

    def report(self, done: float, total: float | None, message: str | None) -> None:
        """Tell the host how far the call is."""
        self._worker.tell(wire.Report(self._number, done, total, message))

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        return self._worker.asked.loop

    async def call_nested(
        self, step: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], key: Any
    ) -> Any:
        """Have the host run a step as a node below this one."""
        return await self._worker.asked.ask(self._number, "call", (step, args, kwargs, key))

    async def run_nested(self, pipeline: Any, inputs: Any, key: Any) -> Any:
        """Have the host run a pipeline below this one."""
        return await self._worker.asked.ask(self._number, "run", (pipeline, inputs, key))
