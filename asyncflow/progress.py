"""How a run is shown to people: a live display on a terminal, plain lines elsewhere.

The event loop only takes a snapshot ten times a second. Drawing has a thread of its own: a
terminal that stands still (Ctrl-S, a slow line, a full pipe) must not hold the run up.
"""

from __future__ import annotations

import asyncio
import logging
import math
import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, TextIO

import msgspec

from asyncflow.engine.bus import Subscription
from asyncflow.events import (
    Event,
    Gap,
    NodeFinished,
    NodeRetrying,
    RunStarted,
    Warned,
)
from asyncflow.run import Run, RunningNode, RunSnapshot
from asyncflow.states import NodeState, RunState

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live
    from rich.table import Table
    from rich.text import Text

__all__ = ["show_progress", "shown"]

_LOGGER = logging.getLogger("asyncflow")

_REFRESH_SECONDS = 0.1
_MOST_ROWS = 10
# What runs for less is gone before it is read, and would make the rows flicker.
_ROW_SECONDS = 0.3
_RATE_WINDOW_SECONDS = 5.0
# Above this a run is shown by snapshots alone: events cost it as much as its steps do.
_MOST_NODES_WITH_NEWS = 200
_MOST_NODES_WITH_ALL_NEWS = 20
_MOST_LINES_KEPT = 500
_QUIET_SECONDS = {False: 30.0, True: 5.0}

_FAILED = (NodeState.FAILED, NodeState.TIMED_OUT, NodeState.ABANDONED)
_STYLES = {
    NodeState.RETRYING: "yellow",
    NodeState.FAILED: "red",
    NodeState.TIMED_OUT: "red",
    NodeState.ABANDONED: "red",
    NodeState.UPSTREAM_FAILED: "red",
    NodeState.CANCELLED: "yellow",
    NodeState.SKIPPED: "dim",
}

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
        drawing = _Drawing(painter)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(_tell_news(run.events(), painter, drawing, total))
                drawing.offer(run.snapshot(limit=_MOST_ROWS))
                while not await _is_over_within(run, _REFRESH_SECONDS):
                    drawing.offer(run.snapshot(limit=_MOST_ROWS))
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


async def _tell_news(
    events: Subscription, painter: _Painter, drawing: _Drawing, total: int
) -> None:
    """Pass on what deserves a line; of a large run only what it says before its first step."""
    try:
        async for event in events:
            news = _news_of(event)
            if news is not None and (news.matters or painter.wants_all_news):
                drawing.tell(news)
            if total > _MOST_NODES_WITH_NEWS and not isinstance(event, RunStarted | Warned | Gap):
                break
    finally:
        await events.aclose()


@contextmanager
def _painter(console: Console | None, total: int) -> Iterator[_Painter]:
    """The painter that suits the stream."""
    stream = sys.stderr if console is None else console.file
    is_terminal = stream.isatty() if console is None else console.is_terminal
    if is_terminal and _terminal.acquire(blocking=False):
        try:
            yield _LivePainter(console, wants_all_news=total <= _MOST_NODES_WITH_ALL_NEWS)
        finally:
            _terminal.release()
    else:
        yield _LinePainter(None if console is None else stream, total)


# -- words -------------------------------------------------------------------------------


def shown(text: str, *, lines: bool = False) -> str:
    r"""Text from outside made safe for a terminal: what does not print is spelt out.

    Args:
        text: an error's message, a step's report, anything.
        lines: keep line breaks and tabs as they are.

    Example:
        >>> print(shown("\x1b[31mred"))
        \x1b[31mred
    """
    if text.isprintable():
        return text
    kept = "\n\t" if lines else ""
    return "".join(
        char if char.isprintable() or char in kept else char.encode("unicode_escape").decode()
        for char in text
    )


class _News(msgspec.Struct, frozen=True):
    """One line about what happened; ``matters`` if it went wrong."""

    mark: str
    style: str
    text: str
    matters: bool = True


def _news_of(event: Event) -> _News | None:
    match event:
        case NodeFinished():
            return _finish_news(event)
        case NodeRetrying():
            failed = f"{event.node} failed at attempt {event.attempt}"
            again = f"is tried again in {_duration(event.delay_seconds)}"
            return _News("↻", "yellow", f"{failed} and {again}: {event.error}")
        case Warned():
            return _News("!", "yellow", f"warning: {event.message}")
        case _:
            return None


def _finish_news(event: NodeFinished) -> _News | None:
    took = _duration(event.duration_seconds)
    tries = f", attempt {event.attempt}" if event.attempt > 1 else ""
    state = str(event.state).replace("_", " ")
    match event.state:
        case NodeState.SUCCEEDED:
            return _News("✓", "green", f"{event.node} succeeded in {took}{tries}", matters=False)
        case NodeState.SKIPPED:
            return _News("–", "dim", f"{event.node} was skipped", matters=False)
        case NodeState.FAILED | NodeState.TIMED_OUT | NodeState.ABANDONED:
            said = f": {event.error}" if event.error else ""
            return _News("✗", "red", f"{event.node} {state} after {took}{tries}{said}")
        case NodeState.CANCELLED if event.attempt:
            return _News("✗", "yellow", f"{event.node} was cancelled after {took}")
        case _:
            # Thousands may be held back at once; the counts say so.
            return None


def _duration(seconds: float) -> str:
    if seconds < 0.1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _percent(snapshot: RunSnapshot) -> str:
    return f"{100 * snapshot.done // max(1, snapshot.total)} %"


def _counts(snapshot: RunSnapshot) -> Iterator[tuple[NodeState, str]]:
    for state in (NodeState.RUNNING, *_STYLES):
        if count := snapshot.counts.get(state, 0):
            yield state, f"{count:,} {str(state).replace('_', ' ')}"


class _Pace:
    """How many nodes end per second, over the last few seconds."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque([(0.0, 0)])

    def see(self, snapshot: RunSnapshot) -> None:
        now = snapshot.elapsed_seconds
        self._seen.append((now, snapshot.done))
        while len(self._seen) > 2 and self._seen[1][0] <= now - _RATE_WINDOW_SECONDS:
            self._seen.popleft()

    def __str__(self) -> str:
        (began, before), (now, done) = self._seen[0], self._seen[-1]
        if now <= began or done <= before:
            return ""
        rate = (done - before) / (now - began)
        return f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.1f}/s"


# -- drawing -----------------------------------------------------------------------------


class _Painter(Protocol):
    """Puts snapshots and news before somebody's eyes; used by one thread."""

    wants_all_news: bool

    def open(self) -> None: ...

    def paint(self, snapshot: RunSnapshot, news: list[_News]) -> None: ...

    def close(self) -> None: ...


class _Drawing:
    """A thread that paints the latest snapshot; what it is too slow for is left out.

    ``ended`` is set once it draws no more.
    """

    def __init__(self, painter: _Painter) -> None:
        self.ended = asyncio.Event()
        self._painter = painter
        self._loop = asyncio.get_running_loop()
        self._news: deque[_News] = deque(maxlen=_MOST_LINES_KEPT)
        self._latest: RunSnapshot | None = None
        self._arrived = threading.Event()
        self._closing = False
        # A daemon: a terminal that stands still for good must not keep the program alive.
        threading.Thread(target=self._work, name="asyncflow-progress", daemon=True).start()

    def offer(self, snapshot: RunSnapshot) -> None:
        """Have a snapshot painted, unless a later one comes first."""
        self._latest = snapshot
        self._arrived.set()

    def tell(self, news: _News) -> None:
        """Have a line painted with the next snapshot."""
        self._news.append(news)

    def close(self) -> None:
        """Paint what is left, and end."""
        self._closing = True
        self._arrived.set()

    def _work(self) -> None:
        try:
            self._paint_all()
        except Exception as error:
            # A closed terminal, most likely; the run matters more than its picture.
            _LOGGER.warning("the progress display ended early: %r", error, exc_info=True)
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


class _LinePainter:
    """Plain lines: what happened in a small run, how far it is in a large or slow one."""

    wants_all_news = True

    def __init__(self, stream: TextIO | Any | None, total: int) -> None:
        self._stream = stream
        self._pace = _Pace()
        self._quiet_seconds = _QUIET_SECONDS[total > _MOST_NODES_WITH_NEWS]
        self._last_line_seconds: float | None = None

    def open(self) -> None:
        """Nothing to prepare."""

    def close(self) -> None:
        """Nothing to put back."""

    def paint(self, snapshot: RunSnapshot, news: list[_News]) -> None:
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
        return snapshot.state is RunState.RUNNING and silent >= self._quiet_seconds

    def _how_far(self, snapshot: RunSnapshot) -> str:
        parts = [f"{snapshot.done:,} of {snapshot.total:,} done ({_percent(snapshot)})"]
        parts += [str(self._pace)] if str(self._pace) else []
        parts += [count for _, count in _counts(snapshot)]
        if snapshot.running:
            longest = snapshot.running[0]
            parts.append(f"longest: {longest.name} for {_duration(longest.elapsed_seconds)}")
        return ", ".join(parts)

    def _write(self, snapshot: RunSnapshot, lines: list[str]) -> None:
        stream = sys.stderr if self._stream is None else self._stream
        stamp = f"[{snapshot.elapsed_seconds:7.1f} s]"
        stream.write("".join(f"{stamp} {line}\n" for line in lines))
        stream.flush()


class _LivePainter:
    """A bar, counts, and a row for each of the longest running steps."""

    _SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"

    def __init__(self, console: Console | None, *, wants_all_news: bool) -> None:
        self.wants_all_news = wants_all_news
        self._console = console
        self._pace = _Pace()
        self._live: Live | None = None
        self._widest_name = 1

    def open(self) -> None:
        from rich.console import Console
        from rich.live import Live

        own = self._console is None
        # Markup off: what steps print while the display stands would else be read as such.
        console = self._console or Console(stderr=True, markup=False, emoji=False, highlight=False)
        self._live = Live(
            console=console,
            auto_refresh=False,
            # Only what goes to the terminal anyway may be moved above the display.
            redirect_stdout=own and sys.stdout.isatty(),
            redirect_stderr=own,
        )
        self._live.start()

    def close(self) -> None:
        if self._live is not None:
            self._live.stop()

    def paint(self, snapshot: RunSnapshot, news: list[_News]) -> None:
        from rich.console import Group
        from rich.text import Text

        assert self._live is not None
        self._pace.see(snapshot)
        for item in news:
            line = Text.assemble((item.mark, item.style), " ", shown(item.text))
            self._live.console.print(line, soft_wrap=True)
        lines = [self._bar(snapshot), self._state(snapshot)]
        if snapshot.state is RunState.RUNNING:
            lines.append(self._rows(snapshot))
        self._live.update(Group(*filter(None, lines)), refresh=True)

    def _bar(self, snapshot: RunSnapshot) -> Table:
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        style = _bar_style(snapshot)
        bar = ProgressBar(
            snapshot.total or 1, snapshot.done, 30, complete_style=style, finished_style=style
        )
        line = Table.grid(padding=(0, 2))
        done = f"{snapshot.done:{len(f'{snapshot.total:,}')},}"
        line.add_row(
            Text(shown(snapshot.pipeline_name), "bold", overflow="ellipsis", no_wrap=True),
            bar,
            Text(f"{done}/{snapshot.total:,}", no_wrap=True),
            Text(_percent(snapshot), "cyan", no_wrap=True),
            Text(_duration(snapshot.elapsed_seconds), "dim", no_wrap=True),
            Text(str(self._pace), "dim", no_wrap=True),
        )
        return line

    def _state(self, snapshot: RunSnapshot) -> Text | None:
        from rich.text import Text

        counts = [(words, _STYLES.get(state, "")) for state, words in _counts(snapshot)]
        if snapshot.state is not RunState.RUNNING:
            counts = [part for part in counts if not part[0].endswith("running")]
        elif snapshot.stopping is not None:
            counts.append((f"stopping: {shown(snapshot.stopping)}", "yellow"))
        if not counts:
            return None
        line = Text("  ", no_wrap=True, overflow="ellipsis")
        for number, (words, style) in enumerate(counts):
            line.append(" · " if number else "", "dim").append(words, style)
        return line

    def _rows(self, snapshot: RunSnapshot) -> Table | None:
        from rich.table import Table
        from rich.text import Text

        assert self._live is not None
        room = max(1, self._live.console.height - 5)
        running = [node for node in snapshot.running if node.elapsed_seconds >= _ROW_SECONDS][
            : min(room, _MOST_ROWS)
        ]
        if not running:
            return None
        names = [_name(node) for node in running]
        # It only grows: columns that move with every name that comes and goes are no table.
        self._widest_name = max(self._widest_name, *(min(name.cell_len, 40) for name in names))
        table = Table.grid(padding=(0, 1))
        table.add_column(no_wrap=True)
        table.add_column(no_wrap=True, overflow="ellipsis", width=self._widest_name)
        table.add_column(no_wrap=True, justify="right")
        table.add_column(no_wrap=True, overflow="ellipsis")
        for node, name in zip(running, names, strict=True):
            spin = self._SPINNER[int(node.elapsed_seconds * 10) % len(self._SPINNER)]
            took = Text(_duration(node.elapsed_seconds), "dim")
            table.add_row(Text(f" {spin}", "cyan"), name, took, _report(node))
        left_out = snapshot.counts.get(NodeState.RUNNING, 0) - len(running)
        if left_out > 0:
            table.add_row("", Text(f"… and {left_out:,} more", "dim"))
        return table


def _bar_style(snapshot: RunSnapshot) -> str:
    if any(snapshot.counts.get(state) for state in _FAILED):
        return "red"
    if snapshot.stopping is not None or snapshot.state is RunState.CANCELLED:
        return "yellow"
    return "green" if snapshot.state is RunState.SUCCEEDED else "cyan"


def _name(node: RunningNode) -> Text:
    from rich.text import Text

    group = "" if node.unit == node.name else f"{shown(node.unit)} › "
    attempt = f" (attempt {node.attempt})" if node.attempt > 1 else ""
    return Text.assemble((group, "dim"), shown(node.name), (attempt, "yellow"))


def _report(node: RunningNode) -> Table | None:
    """What the step said of its own progress."""
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    if node.progress is None:
        return None
    done, total, message = node.progress
    line = Table.grid(padding=(0, 1))
    words = _amount(done)
    cells: list[Any] = []
    if total is not None:
        words = f"{words}/{_amount(total)}"
        if (share := _share(done, total)) is not None:
            cells.append(ProgressBar(1.0, share, 12))
    cells.append(Text(words, "cyan", no_wrap=True))
    if message is not None:
        cells.append(Text(shown(str(message)), "dim", no_wrap=True, overflow="ellipsis"))
    line.add_row(*cells)
    return line


def _amount(value: Any) -> str:
    """A number as people write it; steps report what they like, so also anything else."""
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.6g}" if isinstance(value, float) else shown(str(value))


def _share(done: Any, total: Any) -> float | None:
    if not (isinstance(done, int | float) and isinstance(total, int | float)):
        return None
    share = done / total if total > 0 else math.nan
    return min(max(share, 0.0), 1.0) if math.isfinite(share) else None
