"""The end of a runtime: its runs drain, are cancelled, and its lanes are closed."""

from __future__ import annotations

import asyncio

from asyncflow.engine.scheduler import Scheduler
from asyncflow.run import Run
from asyncflow.states import RunState

__all__ = ["end_all"]


async def end_all(scheduler: Scheduler, drain_seconds: float) -> None:
    """Give the runs in progress time to end, cancel them, and close what they ran in.

    Being cancelled meanwhile cuts that time short; the runs are cancelled and waited for all
    the same.
    """
    cancelled: asyncio.CancelledError | None = None
    if drain_seconds > 0 and scheduler.runs:
        try:
            await _drain(scheduler, drain_seconds)
        except asyncio.CancelledError as error:
            cancelled = error
    records = list(scheduler.runs.values())
    for record in records:
        scheduler.stopping.stop(record, RunState.CANCELLED, "the runtime was closed")
    for record in records:
        try:
            await Run(scheduler, record).wait_shielded()
        except asyncio.CancelledError as error:
            cancelled = error
    # In a task of its own, which a cancel does not end halfway: threads and workers would stay.
    closing = asyncio.ensure_future(_close(scheduler))
    while not closing.done():
        try:
            await asyncio.shield(closing)
        except asyncio.CancelledError as error:
            cancelled = error
    closing.result()
    if cancelled is not None:
        raise cancelled


async def _close(scheduler: Scheduler) -> None:
    """Close what runs needed: threads, workers, whatever looks after devices."""
    await scheduler.losses.aclose()
    await scheduler.caching.aclose()
    scheduler.limited.close()
    for lane in scheduler.lanes.values():
        await lane.finish()
        lane.close()


async def _drain(scheduler: Scheduler, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            # Runs that are in progress may begin others, nested in them.
            while scheduler.runs:
                await Run(scheduler, next(iter(scheduler.runs.values()))).wait()
    except TimeoutError:
        return
