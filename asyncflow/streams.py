"""A map over a stream: any iterable or async iterable in, results out, in bounded memory."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import sys
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
)
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from functools import partial
from typing import Any, Literal, TypeVar, overload

import msgspec

from asyncflow.engine.surroundings import clock_of, surroundings_of
from asyncflow.errors import StepCancelled, StepTimeout, text_of
from asyncflow.lanes.inline import InlineLane
from asyncflow.lanes.lane import Call, Lane
from asyncflow.quantities import at_least_one
from asyncflow.retry import Retry
from asyncflow.runtime import Runtime, ambient_runtime
from asyncflow.step import Step, seconds_of

__all__ = ["stream_map"]

T = TypeVar("T")
R = TypeVar("R")
OnError = Literal["raise", "yield"]
Source = Iterable[T] | AsyncIterable[T]

# The loop goes round at least this often, first steps of what was started included.
_TURN_SECONDS = 0.002
_SMALLEST_BATCH, _LARGEST_BATCH = 8, 2048
_GRACE_SECONDS = 2.0
_MAX_ABANDONED = 32
_LOGGER = logging.getLogger("asyncflow")


@overload
def stream_map(
    fn: Callable[[T], Awaitable[R]],
    source: Source[T],
    *,
    concurrency: int,
    ordered: Literal[True] = True,
    on_error: Literal["raise"] = "raise",
    retry: int | Retry = 0,
    timeout: float | timedelta | None = None,
    runtime: Runtime | None = None,
) -> AsyncGenerator[R, None]: ...
@overload
def stream_map(
    fn: Callable[[T], Awaitable[R]],
    source: Source[T],
    *,
    concurrency: int,
    ordered: Literal[False],
    on_error: Literal["raise"] = "raise",
    retry: int | Retry = 0,
    timeout: float | timedelta | None = None,
    runtime: Runtime | None = None,
) -> AsyncGenerator[tuple[T, R], None]: ...
@overload
def stream_map(
    fn: Callable[[T], Awaitable[R]],
    source: Source[T],
    *,
    concurrency: int,
    ordered: bool = True,
    on_error: Literal["yield"],
    retry: int | Retry = 0,
    timeout: float | timedelta | None = None,
    runtime: Runtime | None = None,
) -> AsyncGenerator[tuple[T, R | Exception], None]: ...
@overload
def stream_map(
    fn: Callable[[T], R],
    source: Source[T],
    *,
    concurrency: int,
    ordered: Literal[True] = True,
    on_error: Literal["raise"] = "raise",
    retry: int | Retry = 0,
    timeout: float | timedelta | None = None,
    runtime: Runtime | None = None,
) -> AsyncGenerator[R, None]: ...
@overload
def stream_map(
    fn: Callable[[T], R],
    source: Source[T],
    *,
    concurrency: int,
    ordered: Literal[False],
    on_error: Literal["raise"] = "raise",
    retry: int | Retry = 0,
    timeout: float | timedelta | None = None,
    runtime: Runtime | None = None,
) -> AsyncGenerator[tuple[T, R], None]: ...
@overload
def stream_map(
    fn: Callable[[T], R],
    source: Source[T],
    *,
    concurrency: int,
    ordered: bool = True,
    on_error: Literal["yield"],
    retry: int | Retry = 0,
    timeout: float | timedelta | None = None,
    runtime: Runtime | None = None,
) -> AsyncGenerator[tuple[T, R | Exception], None]: ...
@overload
def stream_map(
    fn: Callable[[T], Any],
    source: Source[T],
    *,
    concurrency: int,
    ordered: bool = True,
    on_error: OnError = "raise",
    retry: int | Retry = 0,
    timeout: float | timedelta | None = None,
    runtime: Runtime | None = None,
) -> AsyncGenerator[Any, None]: ...
def stream_map(
    fn: Callable[[Any], Any],
    source: Source[Any],
    *,
    concurrency: int,
    ordered: bool = True,
    on_error: OnError = "raise",
    retry: int | Retry = 0,
    timeout: float | timedelta | None = None,
    runtime: Runtime | None = None,
) -> AsyncGenerator[Any, None]:
    """Call ``fn`` on every item of a stream, several at a time, and yield what comes of it.

    Ordered and with ``on_error="raise"`` it yields values; otherwise ``(item, value)``, with
    the exception in the value's place where a call failed and ``on_error="yield"``. It begins
    when it is first iterated. Leave it by ``async with contextlib.aclosing(...)``, and calls in
    progress are cancelled and over when the block is left, however that happens.

    Memory is bounded: an item is taken from the source only when its call can start, at most
    ``concurrency`` calls are in progress, and at most so many items (twice as many if ordered)
    are in progress or done and not yet yielded.

    Args:
        fn: called with one item: a function, a coroutine function or a :class:`Step`, of which
            the lane, retry and timeout count and nothing else. Coroutine functions run in tasks
            of their own, other functions in threads; each call has its own copy of the context
            variables of the first iteration.
        source: an iterable, read on the event loop, or an async iterable, read in a task of its
            own and closed (``aclose``) at the end.
        concurrency: how many calls at once; in threads no more than the runtime's
            ``max_threads``. A call that waits to be tried again counts.
        ordered: yield in the order of the source, else as calls end.
        on_error: ``"raise"``: the first error stops the source, cancels what is in progress,
            waits for it and is raised. ``"yield"``: an :class:`Exception` takes the value's
            place; other errors (KeyboardInterrupt, SystemExit) are raised.
        retry: more tries for an item: a number or a :class:`Retry`. 0 leaves it to the step;
            ``Retry(0)`` says never.
        timeout: seconds (or a timedelta) that one try may take; None leaves it to the step.
        runtime: whose ``max_threads`` and ``grace_seconds`` hold; None takes the ambient one,
            else 2 s of grace and as many threads as ``concurrency``.

    Raises:
        TypeError, ValueError, GraphError: an argument makes no sense; at once.
        RuntimeError: the runtime is not open in this event loop.
        StepTimeout: a try took longer than ``timeout``; or more than 32 that ignored their
            cancel are still running, also with ``on_error="yield"``.
        StepCancelled: somebody else cancelled the task of a call.
        Exception: what ``fn`` or the source raised. The source's comes after the results of
            the items before it.

    Example:
        >>> import asyncio
        >>> async def double(number: int) -> int:
        ...     await asyncio.sleep(0)
        ...     return 2 * number
        >>> async def main() -> list[int]:
        ...     return [value async for value in stream_map(double, range(4), concurrency=2)]
        >>> asyncio.run(main())
        [0, 2, 4, 6]
    """
    if not isinstance(source, AsyncIterable | Iterable):
        raise TypeError(
            "stream_map takes an iterable or an async iterable as its source, got "
            f"{type(source).__name__}{_advice(source)}"
        )
    if on_error not in ("raise", "yield"):
        raise ValueError(f"on_error is 'raise' or 'yield', not {on_error!r}")
    step = _step_of(fn)
    work = _Work(
        step=step,
        concurrency=at_least_one("concurrency", concurrency),
        ordered=bool(ordered),
        raises=on_error == "raise",
        retry=step.retry if retry == 0 and not isinstance(retry, Retry) else Retry.of(retry),
        timeout_seconds=step.timeout if timeout is None else _timeout_of(timeout),
    )
    return _results(work, source, runtime)


def _advice(source: object) -> str:
    return "; call it" if callable(source) else ""


def _step_of(fn: Any) -> Step[..., Any]:
    if not callable(fn):
        raise TypeError(f"stream_map takes a function of one item, got {fn!r}")
    step = fn if isinstance(fn, Step) else Step(fn, name=_name_of(fn))
    if step.is_generator:
        raise TypeError(
            f"stream_map cannot call {step.name!r}: it is a generator function; let it return "
            "what it makes of one item"
        )
    wants = next((p.name for p in step.parameters if p.wants_context and not p.has_default), None)
    if wants is not None:
        raise TypeError(
            f"stream_map calls {step.name!r} with the item alone and has nothing for its "
            f"parameter {wants!r}; use the map of the StepContext, or give it a default"
        )
    return step


def _name_of(fn: Any) -> str:
    while isinstance(fn, partial):
        fn = fn.func
    name = getattr(fn, "__name__", "")
    return name if name.isidentifier() else "lambda" if name else type(fn).__name__


def _timeout_of(timeout: float | timedelta) -> float | None:
    try:
        return seconds_of(timeout)
    except ValueError as error:
        raise ValueError(f"timeout {error}") from None


class _Work(msgspec.Struct, frozen=True):
    """What is to be done with each item."""

    step: Step[..., Any]
    concurrency: int
    ordered: bool
    raises: bool
    retry: Retry
    timeout_seconds: float | None


class _Attempt(Call, eq=False):
    """One try of one item; ``place`` is the item's among those taken, from 0.

    ``waiting``: its back-off is not over. ``timer`` is that of its timeout, grace or back-off.
    """

    place: int = 0
    number: int = 1
    timer: asyncio.TimerHandle | None = None
    waiting: bool = False
    timed_out: bool = False
    abandoned: bool = False


async def _results(
    work: _Work, source: Source[Any], runtime: Runtime | None
) -> AsyncGenerator[Any, None]:
    stream = _Stream(work, source, runtime)
    finished, clock = stream.finished, stream.clock
    only_values = work.ordered and work.raises
    until = clock() + _TURN_SECONDS
    try:
        stream.begin()
        while True:
            if clock() >= until:
                # A consumer that never waits would keep the loop for as long as results last.
                await asyncio.sleep(0)
                until = clock() + _TURN_SECONDS
            attempt = finished.pop(stream.yielded, None)
            if attempt is not None:
                stream.yielded += 1
                stream.wake_reader()
                value = attempt.value if attempt.error is None else attempt.error
                yield value if only_values else (attempt.args[0], value)
            elif stream.is_over():
                break
            else:
                await stream.change()
                until = clock() + _TURN_SECONDS
    finally:
        await stream.close()
    stream.raise_failure()


class _Stream:
    """One iteration: a task reads the source and starts calls, the consumer takes results.

    Attributes:
        finished: what has ended and is not yet yielded, by the place at which it will be.
        yielded: how many results were.
        clock: seconds on the loop's clock.
    """

    def __init__(self, work: _Work, source: Source[Any], runtime: Runtime | None) -> None:
        if runtime is not None and not runtime.is_usable_here():
            raise RuntimeError(
                "stream_map was given a Runtime that is not open in this event loop; enter it "
                "here: 'async with Runtime() as runtime'"
            )
        runtime = runtime or ambient_runtime()
        self._loop = asyncio.get_running_loop()
        self.clock = clock_of(self._loop)
        self._work = work
        self._source = source
        self._context = contextvars.copy_context()
        self._grace_seconds = _GRACE_SECONDS if runtime is None else runtime._grace_seconds
        surroundings = surroundings_of(self._loop)
        threads = work.concurrency if runtime is None else runtime.max_threads
        self._lanes = surroundings.lanes(self._loop, self.clock, max_threads=threads)
        self._random = surroundings.random() if work.retry.retries else None
        self._choose_lane(threads)
        self._window = self._most_in_flight * (2 if work.ordered else 1)
        self._in_flight: set[_Attempt] = set()
        self._abandoned: set[_Attempt] = set()
        self.finished: dict[int, _Attempt] = {}
        self._taken = self._ended = self.yielded = 0
        self._failure: BaseException | None = None
        self._exhausted = self._stopping = self._asking_source = False
        self._reader: asyncio.Task[BaseException | None] | None = None
        self._room: asyncio.Future[None] | None = None
        self._change: asyncio.Future[None] | None = None

    def _choose_lane(self, threads: int) -> None:
        step = self._work.step
        inline = self._lanes["inline"]
        assert isinstance(inline, InlineLane)
        self._most_in_flight = self._work.concurrency
        self._first_steps = _FirstSteps(self._loop, inline)
        self._lane: Lane = inline
        if step.is_coroutine:
            self._start = inline.start_coroutine
        elif step.lane == "inline":
            self._start = inline.start
        else:
            self._lane = self._lanes["thread"]
            self._start = self._lane.start
            self._most_in_flight = min(self._most_in_flight, threads)
        self._is_watched = self._lane is inline and not inline.starts_eagerly

    # -- the consumer's side -------------------------------------------------------------

    def begin(self) -> None:
        """Start to read the source."""
        self._reader = self._loop.create_task(self._read(), name="asyncflow stream_map")
        # Not in the task itself: one that is cancelled before its first step runs no code.
        self._reader.add_done_callback(self._reader_ended)

    def is_over(self) -> bool:
        """Whether nothing more can come of it."""
        return self._failure is not None or (self._exhausted and self.yielded == self._taken)

    def raise_failure(self) -> None:
        """Raise what ended the stream, if that was an error."""
        failure, self._failure = self._failure, None
        if failure is not None:
            try:
                raise failure
            finally:
                # Its traceback would keep this frame, and the frame would keep it.
                del failure

    async def change(self) -> None:
        """Wait until the next result is there, or the stream's state has changed."""
        self._change = self._loop.create_future()
        try:
            await self._change
        finally:
            self._change = None

    def _wake_consumer(self) -> None:
        if self._change is not None and not self._change.done():
            self._change.set_result(None)

    async def close(self) -> None:
        """Cancel what is in progress, and wait for it as long as its grace lasts."""
        self._stop()
        try:
            if not self._is_quiet():
                await self._wait_until_quiet()
        finally:
            for lane in self._lanes.values():
                lane.close()

    def _is_quiet(self) -> bool:
        return not self._in_flight and (self._exhausted or self._reader is None)

    async def _wait_until_quiet(self) -> None:
        """Wait, however often this task is cancelled meanwhile."""
        timer = self._loop.call_later(self._grace_seconds, self._give_up)
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

    def _stop(self) -> None:
        """Take nothing more from the source and cancel the calls in progress."""
        if self._stopping:
            return
        self._stopping = True
        if self._asking_source and self._reader is not None:
            self._reader.cancel()
        else:
            self.wake_reader()
        for attempt in tuple(self._in_flight):
            self._cancel(attempt)

    def _cancel(self, attempt: _Attempt) -> None:
        if attempt.timed_out:
            return  # it has been cancelled already
        _drop_timer(attempt)
        if attempt.waiting:
            self._in_flight.discard(attempt)
        else:
            attempt.cancel_requested = True
            self._lane.cancel(attempt)

    def _give_up(self) -> None:
        """Go on without what has ignored its cancel until now."""
        for attempt in tuple(self._in_flight):
            _drop_timer(attempt)
            self._abandon(attempt)
        if not self._exhausted and self._reader is not None:
            _LOGGER.warning("stream_map: its source ignored its cancel and was abandoned")
            self._reader.remove_done_callback(self._reader_ended)
            self._reader.cancel()
            self._exhausted = True
        self._wake_consumer()

    # -- the reader ----------------------------------------------------------------------

    async def _read(self) -> BaseException | None:
        """Read the source to its end or until told to stop; gives what it raised.

        Not let out of the task: there KeyboardInterrupt and SystemExit would end the loop.
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
        resting = _Rest(self)
        for item in items:
            self._take(item)
            if resting.is_due():
                await resting.rest()
            if self._stopping:
                return

    async def _read_async(self, items: AsyncIterator[Any]) -> None:
        resting = _Rest(self)
        try:
            while not self._stopping:
                self._asking_source = True
                try:
                    item = await anext(items)
                except StopAsyncIteration:
                    return
                finally:
                    self._asking_source = False
                # The source may have caught the cancel that was meant to stop it.
                if not self._stopping:
                    self._take(item)
                    if resting.is_due():
                        await resting.rest()
        finally:
            if (aclose := getattr(items, "aclose", None)) is not None:
                await aclose()

    def _reader_ended(self, reader: asyncio.Task[BaseException | None]) -> None:
        self._exhausted = True
        error = asyncio.CancelledError() if reader.cancelled() else reader.result()
        if error is not None:
            self._judge_source(error)
        self._wake_consumer()

    def _judge_source(self, error: BaseException) -> None:
        if not self._stopping:
            if isinstance(error, asyncio.CancelledError):
                error = _cancelled("stream_map: the task that reads its source was cancelled")
            self._source_error = error
        elif not isinstance(error, asyncio.CancelledError):
            _LOGGER.warning("stream_map: its source raised while it was closed", exc_info=error)
