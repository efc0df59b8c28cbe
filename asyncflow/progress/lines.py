"""Plain lines, for streams that are no terminal."""

from __future__ import annotations

import sys
from typing import IO

from asyncflow.progress.words import News, Pace, counts, duration, percent, shown
from asyncflow.run import RunSnapshot
from asyncflow.states import RunState

__all__ = ["LinePainter"]

# A run that has had nothing to tell for so long says how far it is.
_SILENCE_SECONDS = 30.0
_SILENCE_OF_LARGE_RUNS_SECONDS = 5.0


class LinePainter:
    """What happened in a small run, how far it is in a large or slow one.

    Args:
        stream: where to write; None for what ``sys.stderr`` is at that moment.
        large: nobody tells it of single nodes.
    """

    wants_all_news = True

    def __init__(self, stream: IO[str] | None, *, large: bool) -> None:
        self._stream = stream
        self._pace = Pace()
        self._silence_seconds = _SILENCE_OF_LARGE_RUNS_SECONDS if large else _SILENCE_SECONDS
        self._last_line_seconds: float | None = None

    def open(self) -> None:
        """Nothing to prepare."""

    def close(self) -> None:
        """Nothing to put back."""

    def paint(self, snapshot: RunSnapshot, news: list[News]) -> None:
        self._pace.see(snapshot)
        lines = [shown(item.text) for item in news]
        if self._last_line_seconds is None:
            steps = f"{snapshot.total:,} step{'' if snapshot.total == 1 else 's'}"
            lines.insert(0, f"{snapshot.pipeline_name}: {steps}, run {snapshot.run_id}")
        elif not lines and self._is_due(snapshot):
            lines.append(self._how_far(snapshot))
        if lines:
            self._last_line_seconds = snapshot.elapsed_seconds
            self._write(snapshot, lines)

    def _is_due(self, snapshot: RunSnapshot) -> bool:
        silent = snapshot.elapsed_seconds - (self._last_line_seconds or 0.0)
        return snapshot.state is RunState.RUNNING and silent >= self._silence_seconds

    def _how_far(self, snapshot: RunSnapshot) -> str:
        parts = [f"{snapshot.done:,} of {snapshot.total:,} done ({percent(snapshot)})"]
        parts += [str(self._pace)] if str(self._pace) else []
        parts += [count for _, count in counts(snapshot)]
        if snapshot.running:
            longest = snapshot.running[0]
            parts.append(f"longest: {longest.name} for {duration(longest.elapsed_seconds)}")
        return ", ".join(parts)

    def _write(self, snapshot: RunSnapshot, lines: list[str]) -> None:
        stream = sys.stderr if self._stream is None else self._stream
        stamp = f"[{snapshot.elapsed_seconds:7.1f} s]"
        stream.write("".join(f"{stamp} {line}\n" for line in lines))
        stream.flush()
