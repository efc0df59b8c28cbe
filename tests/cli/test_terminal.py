"""On a terminal a run is shown live."""

from __future__ import annotations

import os
import re
import subprocess

import pytest

from tests.cli.commanding import PATIENCE_SECONDS, Commands

pty = pytest.importorskip("pty", reason="this platform has no pseudo-terminals")

WAITING = """
import asyncio
from pathlib import Path
from asyncflow import Pipeline, StepContext, step

@step(execution_group="prep")
async def load(context: StepContext) -> int:
    print("[/markup] printed by the step")
    context.report(3, 10, "of [bold]\\x1b[5mmany")
    while not Path("go").exists():
        await asyncio.sleep(0.01)
    return 1

@step(execution_group="prep")
async def clean(load: int) -> int:
    return load

pipeline = Pipeline("waiting", steps=[load, clean])
"""
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Screen:
    """The terminal a command draws on."""

    def __init__(self) -> None:
        self.master, self.slave = pty.openpty()
        self.seen = ""

    def wait_for(self, words: str) -> None:
        """Read until the words stand on the screen; to the end for words that never come."""
        while words not in self.text:
            try:
                self.seen += os.read(self.master, 65_536).decode(errors="replace")
            except OSError:  # the last process with this terminal has ended
                return

    @property
    def text(self) -> str:
        return CONTROL.sub("", self.seen)

    def close(self) -> None:
        os.close(self.master)


def shown_on(screen: Screen, commands: Commands, *arguments: str) -> subprocess.Popen[str]:
    commands.write("flow.py", WAITING)
    process = commands.start("run", "flow.py", *arguments, stdout=screen.slave, stderr=screen.slave)
    os.close(screen.slave)
    return process


def test_the_display_is_drawn_while_it_runs_and_ends_with_the_summary(commands: Commands) -> None:
    screen = Screen()
    process = shown_on(screen, commands)
    screen.wait_for("prep › load")
    screen.wait_for(r"3/10 of [bold]\x1b[5mmany")
    commands.write("go", "")
    screen.wait_for("the end of it all")
    screen.close()
    assert process.wait(PATIENCE_SECONDS) == 0
    assert "[/markup] printed by the step\r\n" in screen.text
    assert "✓ load succeeded in" in screen.text
    assert "2/2  100 %" in screen.text
    assert screen.text.index("2/2") < screen.text.index("waiting: succeeded in")
    assert screen.seen.rindex("\x1b[?25h") > screen.seen.rindex("\x1b[?25l"), "no cursor is left"


def test_events_on_a_terminal_are_not_mixed_with_a_display(commands: Commands) -> None:
    screen = Screen()
    commands.write("go", "")
    process = shown_on(screen, commands, "--events", "jsonl")
    screen.wait_for("the end of it all")
    screen.close()
    assert process.wait(PATIENCE_SECONDS) == 0
    assert '"kind":"RunFinished"' in screen.seen
    assert "\x1b[?25l" not in screen.seen
