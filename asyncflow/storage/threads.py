"""A thread of its own for one file, with as little between it and the loop as there can be.

aiofiles asks an event loop to run a call in an executor; :class:`FileThread` answers for both.
The usual way round, through ``concurrent.futures``, takes half as long again for a small write.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any, Protocol, TypeVar

__all__ = ["FileThread", "Runs", "thread_for"]

T = TypeVar("T")
Job = tuple["asyncio.Future[Any]", Callable[..., Any], tuple[Any, ...]]


class Runs(Protocol):
    """What aiofiles asks of an event loop."""

    def run_in_executor(
        self, executor: Any, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        """Call a function in the thread, after all that was asked for before."""

    def close(self) -> None:
        """End the thread once it has done what it was asked for."""


class FileThread:
    """Calls functions in a thread, one after the other; the thread begins with the first.

    It does not keep the interpreter from exiting: what was not acknowledged may be lost then.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, name: str) -> None:
        self._loop = loop
        self._name = name
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._began = False

    def run_in_executor(
        self, executor: Any, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        future: asyncio.Future[T] = self._loop.create_future()
        if not self._began:
            self._began = True
            threading.Thread(target=self._work, name=self._name, daemon=True).start()
        self._jobs.put((future, func, args))
        return future

    def close(self) -> None:
        if self._began:
            self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            future, func, args = job
            try:
                result = func(*args)
            except BaseException as error:  # noqa: BLE001 - who asked is told
                self._tell(_fail, future, error)
            else:
                self._tell(_succeed, future, result)

    def _tell(self, settle: Callable[..., None], *args: Any) -> None:
        # A loop that was closed meanwhile has nobody left to tell.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(settle, *args)


def _succeed(future: asyncio.Future[T], result: T) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: asyncio.Future[Any], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)


class _PooledThread:
    """The same by way of the loop, for one that has to know of its threads."""

    def __init__(self, loop: asyncio.AbstractEventLoop, name: str) -> None:
        self._loop = loop
        self._pool = ThreadPoolExecutor(1, name)

    def run_in_executor(
        self, executor: Any, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        return self._loop.run_in_executor(self._pool, func, *args)

    def close(self) -> None:
        self._pool.shutdown(wait=False)


def thread_for(loop: asyncio.AbstractEventLoop, name: str) -> Runs:
    """A thread that answers to a loop; a virtual loop holds its clock while one is at work."""
    if hasattr(loop, "surroundings"):
        return _PooledThread(loop, name)
    return FileThread(loop, name)
