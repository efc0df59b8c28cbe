"""One iteration of a stream map: a task reads the source and starts calls, results come out."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

from asyncflow.engine.items import Bounds, ItemCall, ItemCalls, Work
from asyncflow.engine.pace import Pace
from asyncflow.engine.surroundings import clock_of
from asyncflow.errors import StepCancelled

__all__ = ["Source", "stream"]

T = TypeVar("T")
Source = Iterable[T] | AsyncIterable[T]

_END = object()
_LOGGER = logging.getLogger("asyncflow")


async def stream(
    work: Work, source: Source[Any], bounds: Callable[[], Bounds]
) -> AsyncGenerator[Any, None]:
    """The results of a stream map; ``bounds`` is called when the iteration begins."""
    flow = _Flow(work, source, bounds())
    finished, pace = flow.finished, flow.pace
    only_values = work.ordered and work.raises
    try:
        flow.begin()
        while True:
            if pace.is_due():
                # A consumer that never waits would hold the loop for as long as results last.
                await asyncio.sleep(0)
                pace.begin_turn()
            call = finished.pop(flow.yielded, None)
            if call is not None:
                flow.yielded += 1
                if flow.room is not None:
                    flow.wake_reader()
                value = call.value if call.error is None else call.error
                yield value if only_values else (call.args[0], value)
            elif flow.is_over():
                break
            else:
                await flow.change()
                pace.begin_turn()
    finally:
        await flow.close()
    flow.raise_failure()


class _Flow:
    """What is between a source and its consumer: calls in progress, results not yet yielded.

    Attributes:
        finished: the calls whose results are there, by the place at which they are yielded.
        yielded: how many results were yielded.
        room: what the reader waits for, if it does: that another call may start.
        pace: when the consumer has to let the loop go round.
    """

    def __init__(self, work: Work, source: Source[Any], bounds: Bounds) -> None:
        self._loop = asyncio.get_running_loop()
        self._work = work
        self._source = source
        self._calls = ItemCalls(
            work, bounds, finish=self._finish, fail=self._fail, ended=self._wake_consumer
        )
        self.pace = Pace(self._loop, clock_of(self._loop))
        self._most_unyielded = self._calls.most * (2 if work.ordered else 1)
        self.finished: dict[int, ItemCall] = {}
        self._taken = self._ended = self.yielded = 0
        self._failure: BaseException | None = None
        self._source_error: BaseException | None = None
        self._stopping = self._asking_source = False
        self._reader: asyncio.Task[BaseException | None] | None = None
        self.room: asyncio.Future[None] | None = None
        self._change: asyncio.Future[None] | None = None

    # -- for the consumer ----------------------------------------------------------------

    def begin(self) -> None:
        """Start to read the source."""
        self._reader = self._loop.create_task(self._read(), name="asyncflow stream_map")
        # Not in the task itself: one that is cancelled before its first step runs no code.
        self._reader.add_done_callback(self._reader_ended)

    def is_over(self) -> bool:
        """Whether nothing more will come."""
        return self._failure is not None or (self._reader is None and self.yielded == self._taken)

    def raise_failure(self) -> None:
        """Raise what ended the stream, if it was an error."""
        failure = self._source_error if self._failure is None else self._failure
        self._failure = self._source_error = None
        if failure is not None:
            try:
                raise failure
            finally:
                del failure  # its traceback keeps this frame, which would keep it

    async def change(self) -> None:
        """Wait until the next result is there, or nothing more will come."""
        self._change = self._loop.create_future()
        try:
            await self._change
        finally:
            self._change = None

    def _wake_consumer(self) -> None:
        if self._change is not None and not self._change.done():
            self._change.set_result(None)

    # -- what becomes of calls -----------------------------------------------------------

    def _finish(self, call: ItemCall) -> None:
        place = call.place if self._work.ordered else self._ended
        self._ended += 1
        self.finished[place] = call
        if place == self.yielded:
            self._wake_consumer()
        if self.room is not None:
            self.wake_reader()

    def _fail(self, error: BaseException) -> None:
        self._failure = error
        self._stop()
        self._wake_consumer()

    # -- the end -------------------------------------------------------------------------

    def _stop(self) -> None:
        """Take nothing more from the source and cancel the calls in progress."""
        if self._stopping:
            return
        self._stopping = True
        if self._reader is not None and self._asking_source:
            self._reader.cancel()
        self._let_reader_go_on()
        self._calls.stop()

    async def close(self) -> None:
        """Cancel what is in progress, and wait for it as long as its grace lasts."""
        self._stop()
        try:
            if not self._is_quiet():
                await self._wait_until_quiet()
        finally:
            self._calls.close()

    def _is_quiet(self) -> bool:
        return self._reader is None and not self._calls.in_progress

    async def _wait_until_quiet(self) -> None:
        """Wait, however often this task is cancelled meanwhile."""
        timer = self._loop.call_later(self._calls.grace_seconds, self._give_up)
        cancelled: asyncio.CancelledError | None = None
        with _shield():
            while not self._is_quiet():
                try:
                    await self.change()
                except asyncio.CancelledError as error:
                    cancelled = error
        timer.cancel()
        if cancelled is not None:
            raise cancelled

    def _give_up(self) -> None:
        """Go on without what has ignored its cancel until now."""
        self._calls.give_up()
        if self._reader is not None:
            _LOGGER.warning(
                "the source of stream_map(%s) ignored its cancel and was abandoned",
                self._work.step.name,
            )
            self._reader.cancel()
            self._reader = None
        self._wake_consumer()

    # -- reading the source --------------------------------------------------------------

    async def _read(self) -> BaseException | None:
        """Read the source until its end or until told to stop; returns what it raised.

        Not let out of the task: KeyboardInterrupt and SystemExit would end the loop.
        """
        source, self._source = self._source, ()
        try:
            if isinstance(source, AsyncIterable):
                await self._read_async(aiter(source))
            else:
                await self._read_sync(source)
        except BaseException as error:  # noqa: BLE001
            return error
        return None

    async def _read_sync(self, items: Iterable[Any]) -> None:
        pace = self._calls.pace
        for item in items:
            self._take(item)
            if not self._has_room() or pace.is_due():
                await self._rest()
            if self._stopping:
                return

    async def _read_async(self, items: AsyncIterator[Any]) -> None:
        pace = self._calls.pace
        try:
            while (item := await self._ask(items)) is not _END:
                self._take(item)
                if not self._has_room() or pace.is_due():
                    await self._rest()
                if self._stopping:
                    return
        finally:
            aclose = getattr(items, "aclose", None)
            if aclose is not None:
                await aclose()

    async def _ask(self, items: AsyncIterator[Any]) -> Any:
        """The source's next item, or ``_END``."""
        self._asking_source = True
        try:
            item = await anext(items)
        except StopAsyncIteration:
            return _END
        finally:
            self._asking_source = False
        # A source may catch the cancel that was to stop it, and give an item all the same.
        return _END if self._stopping else item

    def _take(self, item: Any) -> None:
        place = self._taken
        self._taken = place + 1
        self._calls.start(item, place)

    def _has_room(self) -> bool:
        calls = self._calls
        return (
            len(calls.in_progress) < calls.most
            and self._taken - self.yielded < self._most_unyielded
        )

    async def _rest(self) -> None:
        """Let the loop go round, and wait until another call may start."""
        if self._has_room():
            await asyncio.sleep(0)
        while not self._has_room() and not self._stopping:
            self.room = self._loop.create_future()
            try:
                await self.room
            finally:
                self.room = None
        self._calls.pace.begin_turn()

    def wake_reader(self) -> None:
        """See that the reader goes on if there is room."""
        if self._has_room():
            self._let_reader_go_on()

    def _let_reader_go_on(self) -> None:
        if self.room is not None and not self.room.done():
            self.room.set_result(None)
            self.room = None

    def _reader_ended(self, reader: asyncio.Task[BaseException | None]) -> None:
        error = asyncio.CancelledError() if reader.cancelled() else reader.result()
        if self._stopping:
            self._mention(error)
        elif isinstance(error, asyncio.CancelledError):
            name = self._work.step.name
            self._source_error = StepCancelled(
                f"the task that reads the source of stream_map({name}) was cancelled, and not by "
                "who iterates over the stream",
                step=name,
            )
            self._source_error.__cause__ = error
        else:
            self._source_error = error
        if self._reader is reader:  # else it was given up
            self._reader = None
            self._wake_consumer()

    def _mention(self, error: BaseException | None) -> None:
        """Log what a source raised when it was stopped: there is nobody else to tell."""
        if error is not None and not isinstance(error, asyncio.CancelledError):
            _LOGGER.warning(
                "the source of stream_map(%s) raised when it was stopped",
                self._work.step.name,
                exc_info=error,
            )


def _shield() -> AbstractContextManager[Any]:
    """Holds off the cancel of an anyio scope, which would come again in every turn of the loop.

    Where nobody has imported anyio there is no such scope, and importing it takes long enough
    to be noticed.
    """
    anyio = sys.modules.get("anyio")
    return nullcontext() if anyio is None else anyio.CancelScope(shield=True)
