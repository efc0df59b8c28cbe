"""A map over a stream: any iterable or async iterable in, results out, in bounded memory."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable
from datetime import timedelta
from functools import partial
from typing import Any, Literal, TypeVar, overload

from asyncflow.ambient import calling_attempt
from asyncflow.engine.item_limits import ItemKeys, ItemLimits
from asyncflow.engine.items import Bounds, Work
from asyncflow.engine.limited import leases_above
from asyncflow.engine.streaming import Source, stream
from asyncflow.limits import Limits, keys_of, limits_of
from asyncflow.quantities import at_least_one, seconds_of
from asyncflow.retry import Retry
from asyncflow.runtime import Runtime, ambient_runtime
from asyncflow.step import Step

__all__ = ["stream_map"]

T = TypeVar("T")
R = TypeVar("R")
OnError = Literal["raise", "yield"]


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
    limits: Limits | Callable[[T], Limits | None] = (),
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
    limits: Limits | Callable[[T], Limits | None] = (),
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
    limits: Limits | Callable[[T], Limits | None] = (),
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
    limits: Limits | Callable[[T], Limits | None] = (),
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
    limits: Limits | Callable[[T], Limits | None] = (),
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
    limits: Limits | Callable[[T], Limits | None] = (),
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
    limits: Limits | Callable[[T], Limits | None] = (),
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
    limits: Limits | Callable[[Any], Limits | None] = (),
    runtime: Runtime | None = None,
) -> AsyncGenerator[Any, None]:
    """Call ``fn`` on every item of a stream, several at a time, and yield what comes of it.

    Ordered and with ``on_error="raise"`` it yields values; otherwise ``(item, value)``, with
    the exception in the value's place where a call failed and ``on_error="yield"``. Nothing
    happens before it is iterated. Leave it by ``async with contextlib.aclosing(…)``: then calls
    in progress are cancelled and over when the block is left, however that happens.

    Memory is bounded. An item is taken from the source only when its call can start; at most
    ``concurrency`` calls are in progress; and at most so many items (twice as many if ordered)
    have been taken and not yet yielded.

    Args:
        fn: called with one item: a function, a coroutine function, or a :class:`Step`, of which
            lane, retry and timeout count and nothing else. Coroutine functions run each in a
            task of its own, other functions in threads; every call has its own copy of the
            context in which the iteration began.
        source: an iterable, read on the event loop; or an async iterable, read in a task of
            its own and closed (``aclose``) at the end.
        concurrency: how many calls at once; in threads never more than the runtime's
            ``max_threads``, in processes (a step with ``lane="process"``) never more than 32. A
            call that waits for its next try counts.
        ordered: yield in the order of the source, else as calls end.
        on_error: ``"raise"``: the first error stops the source, cancels what is in progress,
            waits for it and is raised. ``"yield"``: every :class:`Exception` of a call takes
            the place of its value; KeyboardInterrupt and SystemExit are still raised.
        retry: more tries for an item: a number or a :class:`Retry`. 0 leaves it to the step;
            ``Retry(0)`` means none.
        timeout: seconds (or a timedelta) for one try; None leaves it to the step.
        limits: the named keys that each call takes, of those that the runtime defines: keys,
            weights by key, or a function of the item that returns such (see :func:`step`).
            ``()`` leaves it to the step. A call that waits for its keys counts among
            ``concurrency``; each try takes them anew.
        runtime: whose ``max_threads``, ``grace_seconds`` and limits hold. None takes the ambient
            one; without any, threads are as many as ``concurrency``, the grace is 2 s, and
            there are no limits to name.

    Raises:
        TypeError, ValueError, GraphError: an argument makes no sense; raised at once.
        RuntimeError: the runtime is not open in this event loop, or there is none and limits are
            named.
        CapacityError: ``limits`` names a key that is not defined, or more of it than there is; of
            a function, the item's call fails with it.
        StepTimeout: a try took longer than ``timeout``; also with ``on_error="yield"`` when
            more than 32 tries that ignored their cancel are still running.
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
            f"{type(source).__name__}{'; call it' if callable(source) else ''}"
        )
    if on_error not in ("raise", "yield"):
        raise ValueError(f"on_error is 'raise' or 'yield', not {on_error!r}")
    step = _step_of(fn)
    work = Work(
        step=step,
        concurrency=at_least_one("concurrency", concurrency),
        ordered=bool(ordered),
        raises=on_error == "raise",
        retry=step.retry if retry == 0 and not isinstance(retry, Retry) else Retry.of(retry),
        timeout_seconds=step.timeout if timeout is None else _timeout_of(timeout),
        keys=_keys_of(step, limits),
    )
    return stream(work, source, partial(_bounds, runtime, work))


def _step_of(fn: Any) -> Step[..., Any]:
    if not callable(fn):
        raise TypeError(f"stream_map takes a function of one item, got {fn!r}")
    step = fn if isinstance(fn, Step) else Step(fn, name=_name_of(fn))
    if step.is_generator:
        raise TypeError(
            f"stream_map cannot call {step.name!r}: it is a generator function; let it return "
            "all that it makes of one item"
        )
    unfilled = [p.name for p in step.parameters if p.wants_context and not p.has_default]
    if unfilled:
        raise TypeError(
            f"stream_map calls {step.name!r} with an item and nothing else, so nothing fills its "
            f"parameter {unfilled[0]!r}; use the map() of a StepContext, or give it a default"
        )
    return step


def _name_of(fn: Any) -> str:
    while isinstance(fn, partial):
        fn = fn.func
    return getattr(fn, "__name__", "") or type(fn).__name__


def _timeout_of(timeout: float | timedelta) -> float | None:
    try:
        return seconds_of(timeout)
    except ValueError as error:
        raise ValueError(f"stream_map: timeout: {error}") from error


def _keys_of(step: Step[..., Any], limits: Any) -> ItemKeys:
    """What each item takes: as was said, or as the step says."""
    try:
        given = limits_of(limits)
    except (TypeError, ValueError) as error:
        raise type(error)(f"stream_map: limits: {error}") from error
    if given is not None:
        return given if callable(given) else keys_of(given)
    if not callable(step.limits):
        return step.static_keys
    first = next((p.name for p in step.parameters if not p.is_variadic), None)
    for parameter in step.limits_parameters:
        if parameter.name != first and not parameter.has_default:
            raise TypeError(
                f"stream_map calls {step.name!r} with an item and nothing else, so nothing fills "
                f"the parameter {parameter.name!r} of its limits; pass limits= a function of "
                "the item"
            )
    takes_item = any(parameter.name == first for parameter in step.limits_parameters)
    work_out = step.limits
    return lambda item: work_out(**{str(first): item} if takes_item else {})


def _bounds(runtime: Runtime | None, work: Work) -> Bounds:
    """Of the runtime given, else the ambient one; in the loop in which the iteration begins."""
    if runtime is not None and not runtime.is_usable_here():
        raise RuntimeError(
            "stream_map was given a Runtime that is not open in this event loop; enter it in this "
            "loop: 'async with Runtime() as runtime'"
        )
    runtime = runtime or ambient_runtime()
    if runtime is not None:
        return Bounds(runtime.max_threads, runtime._grace_seconds, _limits_in(runtime, work))
    if work.keys:
        raise RuntimeError(
            f"stream_map({work.step.name}) names limits, and there is no Runtime here that defines "
            "any; iterate within 'async with Runtime(limits=…)', or pass runtime="
        )
    return Bounds()


def _limits_in(runtime: Runtime, work: Work) -> ItemLimits | None:
    if not work.keys:
        return None
    scheduler = runtime._scheduler
    assert scheduler is not None
    above = leases_above(calling_attempt(scheduler))
    return ItemLimits(scheduler, work.step.name, work.keys, above)
