"""The words and numbers that displays have in common."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import msgspec

from asyncflow.events import Event, NodeFinished, NodeRetrying, RunStarted, Warned
from asyncflow.run import RunSnapshot
from asyncflow.states import NodeState

__all__ = ["STYLES", "News", "Pace", "counts", "duration", "news_of", "percent", "shown"]

_RATE_WINDOW_SECONDS = 5.0

# The states that counts mention beside "running", and their colours.
STYLES = {
    NodeState.RETRYING: "yellow",
    NodeState.FAILED: "red",
    NodeState.TIMED_OUT: "red",
    NodeState.ABANDONED: "red",
    NodeState.UPSTREAM_FAILED: "red",
    NodeState.CANCELLED: "yellow",
    NodeState.SKIPPED: "dim",
}


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


class News(msgspec.Struct, frozen=True):
    """One line about what happened; ``matters`` if it went wrong."""

    mark: str
    style: str
    text: str
    matters: bool = True


def news_of(event: Event) -> News | None:
    """What deserves a line of its own."""
    match event:
        case NodeFinished():
            return _finish_news(event)
        case NodeRetrying():
            failed = f"{event.node} failed at attempt {event.attempt}"
            again = f"is tried again in {duration(event.delay_seconds)}"
            text = f"{failed} and {again}: {event.error}"
            return News("↻", "yellow", text, matters=False)
        case RunStarted() if event.resumed:
            done = "1 step was" if event.resumed == 1 else f"{event.resumed:,} steps were"
            return News("✓", "dim", f"{done} done in an earlier life of the run", matters=False)
        case Warned():
            return News("!", "yellow", f"warning: {event.message}")
        case _:
            return None


def _finish_news(event: NodeFinished) -> News | None:
    took = duration(event.duration_seconds)
    tries = f", attempt {event.attempt}" if event.attempt > 1 else ""
    state = str(event.state).replace("_", " ")
    match event.state:
        case NodeState.SUCCEEDED if event.cached:
            return News("✓", "green", f"{event.node} was found in the cache", matters=False)
        case NodeState.SUCCEEDED:
            return News("✓", "green", f"{event.node} succeeded in {took}{tries}", matters=False)
        case NodeState.SKIPPED:
            return News("–", "dim", f"{event.node} was skipped", matters=False)
        case NodeState.FAILED | NodeState.TIMED_OUT | NodeState.ABANDONED:
            said = f": {event.error}" if event.error else ""
            return News("✗", "red", f"{event.node} {state} after {took}{tries}{said}")
        case NodeState.CANCELLED if event.attempt:
            return News("✗", "yellow", f"{event.node} was cancelled after {took}")
        case _:
            # Thousands may be held back at once; the counts say so.
            return None


def duration(seconds: float) -> str:
    """``45 ms``, ``3.1 s``, ``2:05``, ``1:02:05``."""
    if seconds < 0.1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def percent(snapshot: RunSnapshot) -> str:
    """How much is done, never rounded up."""
    return f"{100 * snapshot.done // max(1, snapshot.total)} %"


def counts(snapshot: RunSnapshot) -> Iterator[tuple[NodeState, str]]:
    """The states worth a word, such as ``3 retrying``."""
    for state in (NodeState.RUNNING, *STYLES):
        if count := snapshot.counts.get(state, 0):
            yield state, f"{count:,} {str(state).replace('_', ' ')}"


class Pace:
    """How many nodes end per second, over the last few seconds."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque([(0.0, 0)])

    def see(self, snapshot: RunSnapshot) -> None:
        """Take in how many are done by now."""
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
