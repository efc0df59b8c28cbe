"""A thread of its own for drawing: a terminal that stands still must not hold a run up.

Terminals stand still for many reasons: Ctrl-S, a slow line, a pipe that nobody empties.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from typing import Protocol

from asyncflow.progress.words import News
from asyncflow.run import RunSnapshot

__all__ = ["Drawing", "Painter"]

_LOGGER = logging.getLogger("asyncflow")
_MOST_LINES_KEPT = 500


class Painter(Protocol):
    """Puts snapshots and news before somebody's eyes; used by one thread."""

    wants_all_news: bool

    def open(self) -> None: ...

    def paint(self, snapshot: RunSnapshot, news: list[News]) -> None: ...

    def close(self) -> None: ...


class Drawing:
    """A thread that paints the latest snapshot; what it is too slow for is left out.

    ``ended`` is set once it draws no more.
    """

    def __init__(self, painter: Painter) -> None:
        self.ended = asyncio.Event()
        self._painter = painter
        self._loop = asyncio.get_running_loop()
        self._news: deque[News] = deque(maxlen=_MOST_LINES_KEPT)
        self._latest: RunSnapshot | None = None
        self._arrived = threading.Event()
        self._closing = False
        # A daemon: a terminal that stands still for good must not keep the program alive.
        threading.Thread(target=self._work, name="asyncflow-progress", daemon=True).start()

    def offer(self, snapshot: RunSnapshot) -> None:
        """Have a snapshot painted, unless a later one comes first."""
        self._latest = snapshot
        self._arrived.set()

    def tell(self, news: News) -> None:
        """Have a line painted with the next snapshot."""
        self._news.append(news)

    def close(self) -> None:
        """Paint what is left, and end."""
        self._closing = True
        self._arrived.set()

    def _work(self) -> None:
        try:
            self._paint_all()
        except OSError as error:
            _LOGGER.warning("the progress display ended, its terminal is gone: %s", error)
        except Exception:
            # The run matters more than its picture.
            _LOGGER.exception("the progress display ended, the run goes on without it")
        finally:
            self._say_ended()

    def _paint_all(self) -> None:
        self._painter.open()
        try:
            closing = False
            while not closing:
                self._arrived.wait()
                self._arrived.clear()
                closing = self._closing
                news = [self._news.popleft() for _ in range(len(self._news))]
                if self._latest is not None:
                    self._painter.paint(self._latest, news)
        finally:
            self._painter.close()

    def _say_ended(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self.ended.set)
        except RuntimeError:
            # The loop was closed while the terminal stood still; nobody waits any more.
            if not self._loop.is_closed():
                raise
