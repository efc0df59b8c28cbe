"""A blocking parallel map for scripts and sync steps."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import math
import os
import threading
from collections.abc import Callable, Iterable
from typing import Any, Generic, Literal, TypeVar

from asyncflow.engine.attempt import Attempt, granted_lease
from asyncflow.lanes.lane import CURRENT
from asyncflow.pickling import here
from asyncflow.quantities import at_least_one

__all__ = ["parallel_map"]

T = TypeVar("T")
R = TypeVar("R")


def parallel_map(
    fn: Callable[[T], R],
    items: Iterable[T],
    max_workers: int | None = None,
    backend: Literal["thread", "process"] = "thread",
) -> list[R]:
    """Call ``fn`` on every item, several at a time, and give the results in input order.

    It blocks: for scripts and for sync steps, not for the event loop.

    Args:
        fn: called with one item; in a thread it sees the caller's context variables.
        items: read one by one, as workers come free.
        max_workers: how many calls run at once. None takes as many as the step holds CPUs;
            where it holds none, and outside of steps, one for each CPU in processes, and in
            threads four for each, at most 32.
        backend: ``"thread"``, or ``"process"`` for what keeps a CPU busy.

    Raises:
        ValueError: ``max_workers`` is below 1, or there is no such backend.
        TypeError: ``fn`` is a coroutine function, whose coroutines nobody would await.
        RuntimeError: called on the event loop, which it would hold.
        Exception: the first error of a call, after the others have been stopped: items
            that were not begun are not; those in progress are waited for in threads, and
            killed in processes.

    Example:
        >>> parallel_map(str.upper, ["a", "b"], max_workers=2)
        ['A', 'B']
    """
    if backend not in ("thread", "process"):
        raise ValueError(f"parallel_map has no backend {backend!r}; use 'thread' or 'process'")
    workers = _default_workers(backend) if max_workers is None else max_workers
    at_least_one("max_workers", workers)
    _refuse_coroutines(fn)
    _refuse_running_loop()
    if backend == "thread":
        return _Map(fn, items).run(workers)
    # Here, because few programs start processes.
    from asyncflow.pipeline.process_map import map_in_processes

    return map_in_processes(fn, items, workers)


def _refuse_coroutines(fn: Any) -> None:
    if inspect.iscoroutinefunction(getattr(fn, "func", fn)):
        raise TypeError(
            f"parallel_map calls plain functions, and {fn!r} is a coroutine function; use "
            "context.map(…) in a step, or stream_map(…)"
        )


def _default_workers(backend: str) -> int:
    call = CURRENT.get()
    leased = granted_lease(call).cpus if isinstance(call, Attempt) else here.leased_cpus
    if leased:
        return math.ceil(leased)
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return (cpus or 1) if backend == "process" else min(32, 4 * (cpus or 1))


def _refuse_running_loop() -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise RuntimeError(
        "parallel_map() blocks and would hold the event loop; use await context.map(…) in a step, "
        "stream_map(…) elsewhere, or make it a sync step"
    )


class _Map(Generic[T, R]):
    """One call of :func:`parallel_map`: its threads take items from one iterator."""

    def __init__(self, fn: Callable[[T], R], items: Iterable[T]) -> None:
        self._fn = fn
        self._items = enumerate(items)
        self._lock = threading.Lock()
        self._results: dict[int, R] = {}
        self._error: tuple[int, BaseException] | None = None

    def run(self, workers: int) -> list[R]:
        threads: list[threading.Thread] = []
        try:
            # One for each item at most, however many workers there may be.
            while len(threads) < workers and (taken := self._take()) is not None:
                context = contextvars.copy_context()
                thread = threading.Thread(
                    target=context.run,
                    args=(self._work, taken),
                    name=f"parallel_map-{len(threads) + 1}",
                )
                threads.append(thread)
                thread.start()
        except BaseException as error:
            self._stop(-1, error)
            raise
        finally:
            for thread in threads:
                if thread.ident is not None:  # the system may have refused the last one
                    thread.join()
        if self._error is not None:
            raise self._error[1]
        return [self._results[index] for index in sorted(self._results)]

    def _take(self) -> tuple[int, T] | None:
        with self._lock:
            return None if self._error is not None else next(self._items, None)

    def _work(self, first: tuple[int, T]) -> None:
        taken: tuple[int, T] | None = first
        index = -1
        try:
            while taken is not None:
                index, item = taken
                self._results[index] = self._fn(item)
                taken = self._take()
        except BaseException as error:  # noqa: BLE001 - raised in the caller's thread
            self._stop(index, error)

    def _stop(self, index: int, error: BaseException) -> None:
        with self._lock:
            if self._error is None or index < self._error[0]:
                self._error = (index, error)
