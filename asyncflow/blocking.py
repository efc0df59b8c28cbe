"""The blocking twins of coroutine functions."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

__all__ = ["run_blocking"]

T = TypeVar("T")
# How long tasks that the program left behind may take to end before the loop closes.
_LEFTOVER_SECONDS = 1.0


def run_blocking(make: Callable[[], Coroutine[Any, Any, T]], what: str) -> T:
    """Run a coroutine to the end on an event loop of its own.

    Unlike ``asyncio.run`` this installs no signal handler, and it returns although a step
    that was abandoned refuses to end. Ctrl-C cancels the coroutine, waits for its clean-up
    and raises KeyboardInterrupt; a second Ctrl-C ends the wait.

    Raises:
        RuntimeError: an event loop is running in this thread.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        pass
    else:
        raise RuntimeError(
            f"{what} was called inside a running event loop; await its twin instead: "
            f"await {what.removesuffix('()').removesuffix('_sync')}(…)"
        )
    loop = asyncio.new_event_loop()
    try:
        asyncio.set_event_loop(loop)
        return _drive(loop, loop.create_task(make()))
    finally:
        try:
            if _end_leftovers(loop):
                loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            asyncio.set_event_loop(None)
            loop.close()


def _drive(loop: asyncio.AbstractEventLoop, task: asyncio.Task[T]) -> T:
    try:
        return loop.run_until_complete(task)
    except KeyboardInterrupt:
        if not task.done():
            task.cancel()
            with suppress(KeyboardInterrupt):
                loop.run_until_complete(asyncio.wait([task]))
        raise


def _end_leftovers(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether nothing is left, whose generators could not be closed while it runs."""
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    if tasks:
        loop.run_until_complete(asyncio.wait(tasks, timeout=_LEFTOVER_SECONDS))
    return all(task.done() for task in tasks)
