"""Ctrl-C once drains, twice cancels, a third time exits; SIGTERM cancels."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from tests.cli.commanding import PATIENCE_SECONDS, Commands

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals are sent the POSIX way")

WAITING = """
import asyncio
from pathlib import Path
from asyncflow import Pipeline, step

@step
async def waits() -> None:
    print("started", flush=True)
    try:
        while not Path("go").exists():
            await asyncio.sleep(0.01)
        Path("finished").touch()
    finally:
        Path("cleaned").touch()

@step
async def follows(waits: None) -> None:
    Path("followed").touch()

pipeline = Pipeline("waiting", steps=[waits, follows])
"""
STUBBORN = """
import asyncio, threading
from asyncflow import Pipeline, step

@step(timeout=0.05)
def hangs() -> None:
    print("started", flush=True)
    threading.Event().wait()

thread = Pipeline("thread", steps=[hangs])

@step(timeout=0.05)
async def refuses() -> None:
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            continue

coroutine = Pipeline("coroutine", steps=[refuses])

@step
async def blocks() -> None:
    print("started", flush=True)
    while True:
        pass

loop = Pipeline("loop", steps=[blocks])
"""


def started(commands: Commands, *arguments: str) -> subprocess.Popen[str]:
    """A run whose step has begun."""
    process = commands.start("run", *arguments)
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    return process


def wait_for(process: subprocess.Popen[str], words: str) -> None:
    """Read the error stream up to a line with these words."""
    assert process.stderr is not None
    seen = []
    for line in process.stderr:
        seen.append(line)
        if words in line:
            return
    raise AssertionError(f"it ended without saying {words!r}: {seen}")


def end_of(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=PATIENCE_SECONDS)
    return process.returncode, out, err


@pytest.mark.parametrize("quiet", [(), ("--quiet",)], ids=["shown", "quiet"])
def test_once_lets_what_runs_end_and_starts_nothing_new(
    commands: Commands, quiet: tuple[str, ...]
) -> None:
    commands.write("flow.py", WAITING)
    process = started(commands, "flow.py", *quiet)
    process.send_signal(signal.SIGINT)
    wait_for(process, "interrupted: nothing new is started, 1 running step may end; Ctrl-C again")
    commands.write("go", "")
    code, out, _ = end_of(process)
    assert code == 130
    assert (commands.folder / "finished").exists()
    assert not (commands.folder / "followed").exists()
    assert "(1 succeeded, 1 cancelled)" in out
    assert "reason: interrupted by Ctrl-C" in out


def test_twice_cancels_and_waits_for_clean_up(commands: Commands) -> None:
    commands.write("flow.py", WAITING)
    process = started(commands, "flow.py")
    process.send_signal(signal.SIGINT)
    wait_for(process, "Ctrl-C again cancels")
    process.send_signal(signal.SIGINT)
    wait_for(process, "interrupted by a second Ctrl-C: cancelling what runs")
    code, out, _ = end_of(process)
    assert code == 130
    assert (commands.folder / "cleaned").exists()
    assert not (commands.folder / "finished").exists()
    assert "(2 cancelled)" in out


def test_a_third_time_exits_even_if_a_step_blocks_the_loop(commands: Commands) -> None:
    commands.write("flow.py", STUBBORN)
    process = started(commands, "flow.py:loop")
    # Signals that arrive together count as one, so it takes as many as it takes.
    while process.poll() is None:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(timeout=0.02)
        except subprocess.TimeoutExpired:
            continue
    code, _, err = end_of(process)
    assert code == 130
    assert "interrupted a third time: exiting at once" in err


def test_a_request_to_end_cancels_at_once(commands: Commands) -> None:
    commands.write("flow.py", WAITING)
    process = started(commands, "flow.py")
    process.send_signal(signal.SIGTERM)
    code, out, err = end_of(process)
    assert code == 130
    assert (commands.folder / "cleaned").exists()
    assert "stopped by SIGTERM: cancelling what runs" in err
    assert "reason: stopped by SIGTERM" in out


def test_ctrl_c_while_the_target_is_loaded_is_no_traceback(commands: Commands) -> None:
    commands.write(
        "flow.py", "import threading\nprint('started', flush=True)\nthreading.Event().wait()"
    )
    process = started(commands, "flow.py")
    process.send_signal(signal.SIGINT)
    assert end_of(process) == (130, "", "interrupted\n")


@pytest.mark.parametrize("name, step", [("thread", "hangs"), ("coroutine", "refuses")])
def test_a_step_that_ignores_its_cancel_does_not_keep_the_command(
    commands: Commands, name: str, step: str
) -> None:
    commands.write("flow.py", STUBBORN)
    ended = commands.run("run", f"flow.py:{name}")
    assert ended.returncode == 1
    assert f"{name}: failed in" in ended.stdout
    assert f"warning: left behind, still running: '{step}'" in ended.stderr
