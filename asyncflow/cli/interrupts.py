"""Signals, and what they mean to the run that a command attends to.

Only the command line takes signals; as a library asyncflow leaves them to its host.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

from asyncflow.cli.endings import ExitCode, say
from asyncflow.run import Run
from asyncflow.states import NodeState, RunState

__all__ = ["Interrupts", "taking_signals"]

_STOPPING = ("SIGTERM", "SIGHUP")
_LAST_WORDS = b"\ninterrupted a third time: exiting at once\n"
_SHOW_CURSOR = b"\x1b[?25h"


class Interrupts:
    """What was received: Ctrl-C once drains the run, twice cancels it, a third time exits.

    ``stopped`` says whether a signal ended the run.
    """

    def __init__(self, run: Run, loop: asyncio.AbstractEventLoop) -> None:
        self.stopped = False
        self._run = run
        self._loop = loop
        self._pressed = 0

    def on_interrupt(self, number: int, frame: FrameType | None) -> None:
        """A handler of SIGINT; unlike a callback of the loop it is heard while a step blocks it."""
        self._pressed += 1
        if self._pressed > 2:
            _exit_at_once()
        self._loop.call_soon_threadsafe(self._drain if self._pressed == 1 else self._cancel)

    def on_stop(self, number: int, frame: FrameType | None) -> None:
        """A handler of signals that ask the program to end."""
        name = signal.Signals(number).name
        self._loop.call_soon_threadsafe(self._cancel, f"stopped by {name}")

    def _drain(self) -> None:
        if self._is_over():
            return
        running = self._run.snapshot(limit=0).counts.get(NodeState.RUNNING, 0)
        steps = "1 running step" if running == 1 else f"{running:,} running steps"
        self._run.drain_nowait("interrupted by Ctrl-C")
        say(f"interrupted: nothing new is started, {steps} may end; Ctrl-C again cancels")

    def _cancel(self, reason: str = "interrupted by a second Ctrl-C") -> None:
        if self._is_over():
            return
        self._run.cancel_nowait(reason)
        say(f"{reason}: cancelling what runs")

    def _is_over(self) -> bool:
        is_over = self._run.state is not RunState.RUNNING
        self.stopped = self.stopped or not is_over
        return is_over


def _exit_at_once() -> NoReturn:
    # A live display has hidden the cursor, and gets no chance to bring it back.
    os.write(2, (_SHOW_CURSOR if os.isatty(2) else b"") + _LAST_WORDS)
    os._exit(ExitCode.INTERRUPTED)


@contextmanager
def taking_signals(run: Run) -> Iterator[Interrupts]:
    """Let signals stop a run, and put their handlers back afterwards.

    A signal that is ignored stays so: that is how ``nohup`` and a shell's ``&`` work.
    """
    interrupts = Interrupts(run, asyncio.get_running_loop())
    before: dict[int, Any] = {}
    try:
        _take(before, signal.SIGINT, interrupts.on_interrupt)
        for name in _STOPPING:
            if hasattr(signal, name):
                _take(before, getattr(signal, name), interrupts.on_stop)
        yield interrupts
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _take(
    before: dict[int, Any], number: int, handler: Callable[[int, FrameType | None], None]
) -> None:
    if signal.getsignal(number) not in (signal.SIG_IGN, None):
        before[number] = signal.signal(number, handler)
