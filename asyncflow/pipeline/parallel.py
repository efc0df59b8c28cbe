"""A blocking parallel map for scripts and sync steps."""

from __future__ import annotations

import contextvars
import os
import threading
from collections.abc import Callable, Iterable
from typing import Generic, Literal, TypeVar

from asyncflow.quantities import at_least_one

__all__ = ["parallel_map"]

T = TypeVar("T")
R = TypeVar("R")


def parallel_map(
    fn: Callable[[T], R],
    items: Iterable[T],
    max_workers: int | None = None,
    backend: Literal["thread"] = "thread",
) -> list[R]:
    """Call ``fn`` on every item, several at a time, and give the results in input order.

    It blocks: for scripts and for sync steps, not for the event loop.

    Args:
        fn: called with one item; sees the caller's context variables.
        items: read one by one, as workers come free.
        max_workers: how many calls run at once; None takes four for each CPU, at most 32.
        backend: ``"thread"``.

    Raises:
        ValueError: ``max_workers`` is below 1, or there is no such backend.
        Exception: the first error of a call, after the others have been stopped: items
            that were not begun are not, those in progress are waited for.

    Example:
        >>> parallel_map(str.upper, ["a", "b"], max_workers=2)
        ['A', 'B']
    """
    if backend != "thread":
        raise ValueError(f"parallel_map has no backend {backend!r}; use backend='thread'")
    workers = min(32, 4 * (os.cpu_count() or 1)) if max_workers is None else max_workers
    at_least_one("max_workers", workers)
    return _Map(fn, items).run(workers)


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
