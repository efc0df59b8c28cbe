"""The live display: a bar, counts, and a row for each of the longest running steps."""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING, Any

from asyncflow.progress.words import STYLES, News, Pace, counts, duration, percent, shown
from asyncflow.run import RunningNode, RunSnapshot
from asyncflow.states import NodeState, RunState

if TYPE_CHECKING:
    from rich.console import Console
    from rich.live import Live
    from rich.table import Table
    from rich.text import Text

__all__ = ["LivePainter"]

MOST_ROWS = 10
_ROWS_FOR_THE_REST = 5
# On a narrower terminal there are words and numbers, and no bars.
_COLUMNS_FOR_BARS = 60
# What runs for less is gone before it is read, and would make the rows flicker.
_ROW_SECONDS = 0.3
_SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_FAILED = (NodeState.FAILED, NodeState.TIMED_OUT, NodeState.ABANDONED)


class LivePainter:
    """Draws on a terminal; imports rich in its own thread.

    Args:
        console: where to draw; None for the error stream.
        wants_all_news: whether successes and retries get a line above the display.
    """

    def __init__(self, console: Console | None, *, wants_all_news: bool) -> None:
        self.wants_all_news = wants_all_news
        self._console = console
        self._pace = Pace()
        self._live: Live | None = None
        self._widest_name = 18  # "… and 99,999 more"

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

    def paint(self, snapshot: RunSnapshot, news: list[News]) -> None:
        from rich.console import Group
        from rich.text import Text

        assert self._live is not None
        self._pace.see(snapshot)
        for item in news:
            line = Text.assemble((item.mark, item.style), " ", shown(item.text))
            self._live.console.print(line, soft_wrap=True)
        lines: list[Table | Text | None] = [self._bar(snapshot), self._state(snapshot)]
        if snapshot.state is RunState.RUNNING:
            lines.append(self._rows(snapshot))
        self._live.update(Group(*(line for line in lines if line is not None)), refresh=True)

    def _bar(self, snapshot: RunSnapshot) -> Table:
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        style = _bar_style(snapshot)
        bar = ProgressBar(
            snapshot.total or 1, snapshot.done, 30, complete_style=style, finished_style=style
        )
        done = f"{snapshot.done:{len(f'{snapshot.total:,}')},}"
        line = Table.grid(padding=(0, 2))
        line.add_column()  # what may be cut; the numbers may not
        cells: list[Any] = [
            Text(shown(snapshot.pipeline_name), "bold", overflow="ellipsis", no_wrap=True)
        ]
        if self._has_bars:
            line.add_column()
            cells.append(bar)
        for text, look in (
            (f"{done}/{snapshot.total:,}", ""),
            (percent(snapshot), "cyan"),
            (duration(snapshot.elapsed_seconds), "dim"),
            (str(self._pace), "dim"),
        ):
            line.add_column(no_wrap=True)
            cells.append(Text(text, look))
        line.add_row(*cells)
        return line

    @property
    def _has_bars(self) -> bool:
        assert self._live is not None
        return self._live.console.width >= _COLUMNS_FOR_BARS

    def _state(self, snapshot: RunSnapshot) -> Text | None:
        from rich.text import Text

        parts = [(words, STYLES.get(state, "")) for state, words in counts(snapshot)]
        if snapshot.state is RunState.RUNNING and snapshot.stopping is not None:
            parts.append((f"stopping: {shown(snapshot.stopping)}", "yellow"))
        if not parts:
            return None
        line = Text("  ", no_wrap=True, overflow="ellipsis")
        for number, (words, style) in enumerate(parts):
            line.append(" · " if number else "", "dim").append(words, style)
        return line

    def _rows(self, snapshot: RunSnapshot) -> Table | None:
        from rich.table import Table
        from rich.text import Text

        assert self._live is not None
        room = min(MOST_ROWS, max(1, self._live.console.height - _ROWS_FOR_THE_REST))
        running = [n for n in snapshot.running if n.elapsed_seconds >= _ROW_SECONDS][:room]
        if not running:
            return None
        names = [_name(node) for node in running]
        # It only grows: columns that move with every name that comes and goes are no table.
        self._widest_name = max(self._widest_name, *(min(name.cell_len, 40) for name in names))
        table = Table.grid(padding=(0, 1))
        table.add_column(no_wrap=True)
        table.add_column()  # names and reports may be cut: rich takes from columns that may wrap
        table.add_column(no_wrap=True, justify="right")
        table.add_column()
        for node, name in zip(running, names, strict=True):
            spin = _SPINNER[int(node.elapsed_seconds * 10) % len(_SPINNER)]
            took = Text(duration(node.elapsed_seconds), "dim")
            name.truncate(self._widest_name, overflow="ellipsis", pad=True)
            report = _report(node, with_bar=self._has_bars)
            table.add_row(Text(f" {spin}", "cyan"), name, took, report)
        left_out = snapshot.counts.get(NodeState.RUNNING, 0) - len(running)
        if left_out > 0:
            table.add_row("", Text(f"… and {left_out:,} more", "dim", no_wrap=True))
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
    named = Text.assemble((group, "dim"), shown(node.name), (attempt, "yellow"))
    named.no_wrap, named.overflow = True, "ellipsis"
    return named


def _report(node: RunningNode, *, with_bar: bool) -> Table | None:
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
        if with_bar and (share := _share(done, total)) is not None:
            line.add_column(no_wrap=True)
            cells.append(ProgressBar(1.0, share, 12))
    line.add_column(no_wrap=True)
    cells.append(Text(words, "cyan"))
    if message is not None:
        line.add_column()
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
