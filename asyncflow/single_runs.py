"""Runs for which there may be no runtime yet: each then has one for itself."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from asyncflow.request import RunRequest
from asyncflow.run import Run
from asyncflow.runtime import Runtime

__all__ = ["running_in"]


@asynccontextmanager
async def running_in(
    runtime: Runtime | None, make_runtime: Callable[[], Runtime], request: RunRequest
) -> AsyncIterator[Run]:
    """A run for the length of a block, as :meth:`Runtime.running` gives it.

    Args:
        runtime: where it runs; None for a runtime of its own, which ends with it.
        make_runtime: makes that one.
        request: what to run.
    """
    if runtime is not None:
        async with runtime.running(request) as run:
            yield run
        return
    owned = make_runtime()
    owned.open()
    try:
        async with owned.running(request) as run:
            yield run
    finally:
        await owned.aclose()
