"""A step that hangs, played: its thread waits, and the clock runs on."""

from __future__ import annotations

import threading
from typing import Self

from asyncflow.testing.threads import ThreadsAtWork, Ticket

__all__ = ["Gate"]

_PATIENCE_SECONDS = 60.0


class Gate:
    """Where steps in threads wait until the test lets them go on.

    A thread that waits here does not hold the virtual clock, so timeouts go off meanwhile. A
    context manager: leaving it opens the gate, so that no thread outlives its test.

    Example:
        >>> from asyncflow import Pipeline, step
        >>> from asyncflow.testing import VirtualRuntime
        >>> with Gate() as gate:
        ...     hang = step(gate.wait, name="hang", lane="thread", timeout=10)
        ...     result = VirtualRuntime().run(Pipeline("stuck", steps=[hang]))
        >>> result.step_results["hang"].status
        <NodeState.ABANDONED: 'abandoned'>
    """

    def __init__(self) -> None:
        self._opened = threading.Event()
        self._lock = threading.Lock()
        self._waiting: list[Ticket] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.open()

    def wait(self) -> None:
        """Called by a step in a thread; returns at once when the gate is open.

        Raises:
            TimeoutError: nobody opened it for a minute of real time.
        """
        with self._lock:
            if self._opened.is_set():
                return
            ticket = ThreadsAtWork.current()
            if ticket is not None:
                self._waiting.append(ticket)
                ticket.pause()
        if not self._opened.wait(_PATIENCE_SECONDS):
            raise TimeoutError("the gate was not opened for a minute; use it in a with block")

    def open(self) -> None:
        """Let all through, now and later."""
        with self._lock:
            for ticket in self._waiting:
                # Before they come to their senses: the clock must not jump until they end.
                ticket.resume()
            self._waiting.clear()
            self._opened.set()
