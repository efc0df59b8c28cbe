"""From a call to the frame that has a worker make it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

from asyncflow.lanes.flow import sending_to_workers
from asyncflow.lanes.process import wire
from asyncflow.lanes.process.functions import FunctionTable
from asyncflow.lanes.process.payload import Parcel, pack
from asyncflow.lanes.process.refusals import unsendable_arguments
from asyncflow.lanes.process.sender import Rights
from asyncflow.pickling.sending import dumps

if TYPE_CHECKING:
    from asyncflow.lanes.lane import Call
    from asyncflow.lanes.process.worker_handle import WorkerHandle

__all__ = ["Framer", "Letter", "if_not_written"]

_MOST_KNOWN = 500
# Written in a millisecond or two.
_LONG_BYTES = 4 << 20


class Letter(NamedTuple):
    """A frame with its number, and the descriptor that goes with it."""

    number: int
    frame: wire.Run
    descriptor: Rights


class Framer:
    """Numbers calls, and sends each worker each function once.

    What takes longer to write to memory than the loop should be held is written by a thread.

    Args:
        loop: the running event loop.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._writers: ThreadPoolExecutor | None = None
        self._functions = FunctionTable()
        self._last_number = 0
        self._chains = 0

    def renew_chain(self, worker: WorkerHandle) -> None:
        """What a worker is sent from now on is not what it was told to leave out."""
        self._chains += 1
        worker.chain, worker.chain_begins = self._chains, self._last_number + 1

    def letter(self, call: Call, worker: WorkerHandle) -> Letter:
        """The frame for a call.

        Raises:
            Exception: its function or its arguments cannot be pickled, or find no memory.
        """
        function = self._functions.find(call.func, getattr(call, "run", None))
        try:
            parcel = _packed(call, worker)
        except Exception as error:
            raise unsendable_arguments(call, error) from error
        descriptor = self._written(parcel) if parcel.parts else None
        new = []
        if function.number not in worker.known:
            if len(worker.known) >= _MOST_KNOWN:
                worker.known.clear()
                worker.work.send(wire.Forget(functions=True))
            worker.known.add(function.number)
            new = [wire.New(function.number, function.body)]
        self._last_number += 1
        number = self._last_number
        frame = wire.Run(
            number,
            function.number,
            parcel.packet,
            call.name,
            call.is_coroutine,
            new,
            call.flow,
            worker.chain,
        )
        return Letter(number, frame, descriptor)

    def _written(self, parcel: Parcel) -> Rights:
        if parcel.large_bytes < _LONG_BYTES:
            return parcel.write()
        if self._writers is None:
            self._writers = ThreadPoolExecutor(1, "asyncflow-memory")
        return self._loop.run_in_executor(self._writers, parcel.write)

    def close(self) -> None:
        """End the thread, once what it writes is written."""
        if self._writers is not None:
            self._writers.shutdown(cancel_futures=True)
            self._writers = None


def if_not_written(rights: Rights, then: Callable[[BaseException], None]) -> None:
    """Have something called with the error, if what belongs to a frame cannot be written."""

    def look(written: asyncio.Future[int | None]) -> None:
        error = asyncio.CancelledError() if written.cancelled() else written.exception()
        if error is not None:
            then(error)

    if isinstance(rights, asyncio.Future):
        rights.add_done_callback(look)


def _packed(call: Call, worker: WorkerHandle) -> Parcel:
    if not worker.reserved:
        return pack((call.args, call.kwargs), dumps, inline=worker.takes_no_files)
    with sending_to_workers():
        return pack((call.args, call.kwargs), dumps, inline=worker.takes_no_files)
