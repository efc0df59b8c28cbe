"""Threads that work for a virtual loop: they hold its clock, and end in a set order.

A thread takes real time and no virtual time. The clock must not jump while one is at work, and
what it says must not come earlier or later because the machine is fast or slow. So what a thread
asks of the loop, and its end, are told only when the loop has nothing else to do, and those of
several threads in the order in which they began.
"""

from __future__ import annotations

import contextvars
from collections import deque
from collections.abc import Callable

__all__ = ["ThreadsAtWork", "Ticket"]

_CURRENT: contextvars.ContextVar[Ticket | None] = contextvars.ContextVar(
    "asyncflow_thread", default=None
)


class Ticket:
    """One piece of work in a thread."""

    __slots__ = ("_threads", "asked", "name", "news", "over", "paused")

    def __init__(self, threads: ThreadsAtWork, name: str) -> None:
        self._threads = threads
        self.name = name
        self.asked: deque[Callable[[], None]] = deque()
        self.over = False
        self.paused = False
        # To be told with the next word: when it was said is real time, not virtual time.
        self.news: Callable[[], None] | None = None

    def enter(self) -> None:
        """Say that the calling context works on this; see :func:`ThreadsAtWork.current`."""
        _CURRENT.set(self)

    def ask(self, tell: Callable[[], None]) -> None:
        """Have something called on the loop's thread when it is its turn; from any thread."""
        self.asked.append(tell)
        self._threads.wake()

    def end(self, tell: Callable[[], None]) -> None:
        """Like :meth:`ask`, and the work is done."""
        self.asked.append(tell)
        self.over = True
        self._threads.wake()

    def pause(self) -> None:
        """The thread waits for something that the loop will do; from any thread."""
        if self.news is not None:
            self.asked.append(self.news)
            self.news = None
        self.paused = True
        self._threads.wake()

    def resume(self) -> None:
        """What it waited for is there: it holds the clock again."""
        self.paused = False


class ThreadsAtWork:
    """All threads that work for one loop.

    Args:
        wake: has the loop look again; called from any thread.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self.wake = wake
        self._tickets: dict[Ticket, None] = {}

    @staticmethod
    def current() -> Ticket | None:
        """The work that the calling thread was begun for."""
        return _CURRENT.get()

    def begin(self, name: str) -> Ticket:
        """Count a thread; on the loop's thread."""
        ticket = Ticket(self, name)
        self._tickets[ticket] = None
        return ticket

    def drop(self, ticket: Ticket) -> None:
        """Forget work that did not come about."""
        self._tickets.pop(ticket, None)

    def next_word(self) -> Callable[[], None] | None:
        """Take what is to be told next; None while the thread whose turn it is works on."""
        for ticket in tuple(self._tickets):
            over = ticket.over  # looked at first: the last word is said before it is set
            if ticket.asked:
                return ticket.asked.popleft()
            if over:
                del self._tickets[ticket]
            elif not ticket.paused:
                return None
        return None

    def at_work(self) -> list[str]:
        """The names of those that hold the clock."""
        return [ticket.name for ticket in self._tickets if not ticket.paused]
