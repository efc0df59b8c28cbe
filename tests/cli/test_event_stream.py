"""``--events jsonl``: standard output is events and nothing else, whoever reads it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from asyncflow.cli.event_stream import json_line
from asyncflow.events import AnyEvent, NodeFinished, NodeProgress
from asyncflow.states import NodeState
from tests.cli.commanding import Commands

CHATTY = """
import asyncio, os, subprocess, sys
from pathlib import Path
from asyncflow import Pipeline, step

print("loading")

@step
def talks() -> int:
    print("from print")
    os.write(1, b"from a raw write\\n")
    subprocess.run([sys.executable, "-c", "print('from a child')"], check=True)
    return 1

@step
async def ends(talks: int) -> None: ...

pipeline = Pipeline("chatty", steps=[talks, ends])

@step
async def waits() -> None:
    while not Path("go").exists():
        await asyncio.sleep(0.01)

patient = Pipeline("patient", steps=[waits])

@step
async def one() -> int:
    return 1

def many():
    wide = Pipeline("many")
    for number in range(3000):
        wide.add_step(one, name=f"one_{number}")
    return wide
"""
COMMON: dict[str, Any] = {"sequence": 1, "run_id": "r", "wall_time": 1.0, "monotonic_seconds": 2.0}


def test_every_line_is_an_event_and_all_else_goes_to_stderr(commands: Commands) -> None:
    commands.write("flow.py", CHATTY)
    ended = commands.run("run", "flow.py:pipeline", "--events", "jsonl")
    assert ended.returncode == 0
    events = [msgspec.json.decode(line, type=AnyEvent) for line in ended.stdout.splitlines()]
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert [(event.kind, event.node) for event in events] == [
        ("RunStarted", ""),
        ("UnitStarted", "talks"),
        ("NodeStarted", "talks"),
        ("NodeFinished", "talks"),
        ("UnitFinished", "talks"),
        ("UnitStarted", "ends"),
        ("NodeStarted", "ends"),
        ("NodeFinished", "ends"),
        ("UnitFinished", "ends"),
        ("RunFinished", ""),
    ]
    for words in ["loading", "from print", "from a raw write", "from a child", "chatty: succeeded"]:
        assert words in ended.stderr


def test_a_wide_run_loses_no_event(commands: Commands) -> None:
    commands.write("flow.py", CHATTY)
    ended = commands.run("run", "flow.py:many", "--events", "jsonl", "--quiet")
    lines = ended.stdout.splitlines()
    assert ended.returncode == 0
    assert len(lines) == 4 * 3000 + 2
    assert json.loads(lines[-1])["kind"] == "RunFinished"


def test_a_reader_that_leaves_does_not_end_the_run(commands: Commands) -> None:
    commands.write("flow.py", CHATTY)
    reader, writer = os.pipe()
    process = commands.start("run", "flow.py:patient", "--events", "jsonl", stdout=writer)
    os.close(writer)
    assert b'"RunStarted"' in os.read(reader, 10_000)
    os.close(reader)
    commands.write("go", "")
    _, err = process.communicate()
    assert process.returncode == 0
    assert "patient: succeeded" in err
    assert "warning: the events could not be written to their end: [Errno 32]" in err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
def test_events_that_cannot_be_written_make_the_command_fail(commands: Commands) -> None:
    commands.write("flow.py", CHATTY)
    full = os.open("/dev/full", os.O_WRONLY)
    process = commands.start("run", "flow.py:pipeline", "--events", "jsonl", stdout=full)
    os.close(full)
    _, err = process.communicate()
    assert process.returncode == 1
    assert "chatty: succeeded" in err
    assert "warning: the events could not be written to their end: [Errno 28]" in err


def test_an_error_that_is_no_unicode_is_written_all_the_same() -> None:
    event = NodeFinished(
        node="read", state=NodeState.FAILED, duration_seconds=0.5, error="no \udcff", **COMMON
    )
    line = json_line(event)
    assert line.endswith(b"}\n")
    assert json.loads(line) == {
        **json.loads(json_line(_without_error(event))),
        "error": "no \udcff",
    }


def _without_error(event: NodeFinished) -> NodeFinished:
    return msgspec.structs.replace(event, error="")


class Odd:
    """A number of another kind, as numpy has them."""

    def __float__(self) -> float:
        return 2.5


@pytest.mark.parametrize("reported, written", [(Odd(), 2.5), (range(3), "range(0, 3)")])
def test_a_report_of_another_kind_is_a_number_or_text(reported: Any, written: object) -> None:
    line = json_line(NodeProgress(node="train", done=reported, **COMMON))
    assert json.loads(line)["done"] == written
