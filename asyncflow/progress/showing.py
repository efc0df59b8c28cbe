"""Showing a run: the event loop takes snapshots, a thread paints them."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from asyncflow.engine.bus import Subscription
from asyncflow.events import RunStarted, Warned
from asyncflow.progress.drawing import Drawing, Painter
from asyncflow.progress.lines import LinePainter
from asyncflow.progress.live import MOST_ROWS, LivePainter
from asyncflow.progress.words import news_of
from asyncflow.run import Run

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["show_progress"]

_REFRESH_SECONDS = 0.1
# Above this a run is shown by snapshots alone: events cost it as much as its steps do.
_MOST_NODES_WITH_NEWS = 200
# Above this a live display tells of failures only.
_MOST_NODES_WITH_ALL_NEWS = 20
_TERMS_WITHOUT_CURSOR = ("dumb", "unknown")

# One terminal carries one live display; a run that is shown meanwhile writes plain lines.
_terminal = threading.Lock()


async def show_progress(run: Run, console: Console | None = None) -> None:
    """Show a run until it is over; a display that breaks does not disturb the run.

    Args:
        run: what to show.
        console: a rich console to draw on; left out, the error stream: live on a terminal,
            plain lines elsewhere. On a console of your own, steps that print are not moved
            above the display.

    Example::

        async with pipeline.start() as run:
            await show_progress(run)
    """
    total = run.snapshot(limit=0).total
    with _painter(console, total) as painter:
        drawing = Drawing(painter)
        try:
            async with asyncio.TaskGroup() as tasks:
                # What earlier lives of the run went through was shown then.
                events = run.events(since=run.earlier_sequence)
                tasks.create_task(_tell_news(events, painter, drawing, total))
                drawing.offer(run.snapshot(limit=MOST_ROWS))
                while not await _is_over_within(run, _REFRESH_SECONDS):
                    drawing.offer(run.snapshot(limit=MOST_ROWS))
            drawing.offer(run.snapshot(limit=0))
        finally:
            drawing.close()
            await drawing.ended.wait()


async def _is_over_within(run: Run, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await run.wait()
    except TimeoutError:
        return False
    return True


async def _tell_news(events: Subscription, painter: Painter, drawing: Drawing, total: int) -> None:
    """Pass on what deserves a line; of a large run only what it says before its first step.

    A gap means that the run had begun before anybody listened.
    """
    try:
        async for event in events:
            news = news_of(event)
            if news is not None and (news.matters or painter.wants_all_news):
                drawing.tell(news)
            if total > _MOST_NODES_WITH_NEWS and not isinstance(event, RunStarted | Warned):
                break
    finally:
        await events.aclose()


@contextmanager
def _painter(console: Console | None, total: int) -> Iterator[Painter]:
    """The painter that suits the stream."""
    if _has_cursor(console) and _terminal.acquire(blocking=False):
        try:
            yield LivePainter(console, wants_all_news=total <= _MOST_NODES_WITH_ALL_NEWS)
        finally:
            _terminal.release()
    else:
        stream = None if console is None else console.file
        yield LinePainter(stream, large=total > _MOST_NODES_WITH_NEWS)


def _has_cursor(console: Console | None) -> bool:
    """Whether lines that were written can be drawn again."""
    if console is not None:
        return console.is_terminal and not console.is_dumb_terminal
    return sys.stderr.isatty() and os.environ.get("TERM") not in _TERMS_WITHOUT_CURSOR
