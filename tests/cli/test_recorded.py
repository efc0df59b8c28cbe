"""The commands for recorded runs: runs, show, resume, export."""

from __future__ import annotations

import json
import shlex
import signal
from pathlib import Path

import pytest

from tests.cli.commanding import Commands

PIPELINE = """
import asyncio, os
from asyncflow import Pipeline, step

@step(outputs=["number"])
async def load(start: int) -> int:
    with open("calls", "a") as calls:
        calls.write("load ")
    return start + 1

@step
async def use(number: int) -> int:
    if not os.path.exists("go"):
        raise ValueError("not <yet>")
    return 2 * number

@step
async def wait(number: int) -> int:
    print("waiting", flush=True)
    await asyncio.sleep(0 if os.path.exists("go") else 1000)
    return number

pipeline = Pipeline("numbers", steps=[load, use])
waiting = Pipeline("waiting", steps=[load, wait])
"""


@pytest.fixture
def recorded(commands: Commands) -> Commands:
    """A folder with a run that failed."""
    commands.write("counting.py", PIPELINE)
    done = commands.run(
        "run", "counting.py:pipeline", "--input", "start=1", "--run-id", "nightly",
        "--checkpoint", ".asyncflow", "--quiet",
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    return commands


def test_runs_are_listed(recorded: Commands) -> None:
    listed = recorded.run("runs")
    assert listed.returncode == 0
    assert listed.stdout.splitlines()[0].split() == [
        "RUN", "PIPELINE", "STATE", "STEPS", "STARTED", "(UTC)",
    ]  # fmt: skip
    assert listed.stdout.splitlines()[1].split()[:4] == ["nightly", "numbers", "failed", "1/2"]
    (told,) = json.loads(recorded.run("runs", "--json").stdout)
    assert told["state"] == "failed"


def test_where_nothing_is_recorded_that_is_said(commands: Commands) -> None:
    assert commands.run("runs").stdout == (
        "no runs are recorded in .asyncflow, which is not there; --directory names another\n"
    )
    missing = commands.run("show", "nightly")
    assert missing.returncode == 2
    assert "no run 'nightly' is recorded in .asyncflow" in missing.stderr
    assert list(commands.folder.iterdir()) == []


def test_a_run_is_shown(recorded: Commands) -> None:
    told = recorded.run("show", "nightly").stdout
    assert "nightly: numbers, failed" in told
    assert "life 1:" in told
    assert [line.split()[:4] for line in told.splitlines()[-2:]] == [
        ["load", "succeeded", "1", "inline"],
        ["use", "failed", "1", "inline"],
    ]
    assert "ValueError: not <yet>" in told


def test_a_run_is_resumed(recorded: Commands) -> None:
    recorded.write("go", "")
    resumed = recorded.run("resume", "nightly", "counting.py:pipeline", "--quiet")
    assert resumed.returncode == 0, resumed.stderr
    assert (recorded.folder / "calls").read_text() == "load "
    assert "nightly: numbers, succeeded" in recorded.run("show", "nightly").stdout


def test_a_recorded_run_that_failed_says_how_to_go_on_with_it(commands: Commands) -> None:
    commands.write("counting.py", PIPELINE)
    done = commands.here(
        "run", "counting.py:pipeline", "--input", "start=1", "--checkpoint", "my runs", "--quiet"
    )
    told = done.output.splitlines()[-1].partition("go on with it: ")[2]
    _, resume, run_id, *rest = shlex.split(told)
    assert (resume, rest) == ("resume", ["counting.py:pipeline", "--directory", "my runs"])
    assert (commands.folder / "my runs" / "runs" / run_id).is_dir()
    commands.write("go", "")
    assert commands.here("resume", run_id, *rest, "--quiet").exit_code == 0
    assert "go on with it" not in commands.here("run", "counting.py:pipeline").output


def test_a_secret_of_the_command_line_is_not_recorded_and_given_again(commands: Commands) -> None:
    commands.write(
        "login.py",
        "from asyncflow import Pipeline, Secret, step\n"
        "@step\n"
        "async def login(token: Secret[str], user: str) -> None:\n"
        "    raise ValueError(f'{token} is too short for {user}')\n"
        "pipeline = Pipeline('login', steps=[login])\n",
    )
    failed = commands.here(
        "run", "login.py", "--input", "token=hunter2", "--input", "user=ada", "--run-id", "r",
        "--checkpoint", ".asyncflow",
    )  # fmt: skip
    assert "ValueError: *** is too short for ada" in failed.output
    assert failed.output.endswith("go on with it: asyncflow resume r login.py --input token=…\n")
    journal = commands.folder / ".asyncflow" / "runs" / "r" / "journal"
    assert b"hunter2" not in journal.read_bytes()
    bare = commands.here("resume", "r", "login.py")
    assert (bare.exit_code, "give it again with --input" in bare.output) == (2, True)
    again = commands.here("resume", "r", "login.py", "--input", "token=hunter2")
    assert (again.exit_code, "attempt 2: ValueError: *** is too" in again.output) == (1, True)


def test_a_finished_run_is_begun_anew_with_restart(recorded: Commands) -> None:
    recorded.write("go", "")
    again = ["run", "counting.py:pipeline", "--run-id", "nightly", "--checkpoint", ".asyncflow"]
    assert recorded.here(*again, "--input", "start=1", "--quiet").exit_code == 0
    finished = recorded.run(*again, "--input", "start=1")
    assert "is finished; its result is given back as it was" in finished.stderr
    assert "(--restart runs it anew)" in finished.stderr
    other = recorded.here(*again, "--input", "start=2")
    assert (other.exit_code, "or --restart" in other.output) == (2, True)
    assert recorded.here(*again, "--input", "start=2", "--restart").exit_code == 0
    assert (recorded.folder / "calls").read_text() == "load load "
    nameless = recorded.here("run", "counting.py:pipeline", "--restart")
    assert (nameless.exit_code, "say which with --run-id" in nameless.output) == (2, True)


def test_resume_begins_no_run(recorded: Commands) -> None:
    missing = recorded.run("resume", "weekly", "counting.py:pipeline")
    assert missing.returncode == 2
    assert "no run 'weekly'" in missing.stderr
    assert not (recorded.folder / ".asyncflow" / "runs" / "weekly").exists()


def test_a_run_is_exported(recorded: Commands) -> None:
    told = json.loads(recorded.run("export", "nightly").stdout)
    assert [node["name"] for node in told["nodes"]] == ["load", "use"]
    assert [event["kind"] for event in told["events"]][0::9] == ["RunStarted", "RunFinished"]
    drawing = recorded.run("export", "nightly", "--format", "mermaid").stdout
    assert drawing.startswith("flowchart TD\n")
    assert "n0 --> n1" in drawing
    assert 'n1["use<br>failed"]' in drawing


def test_a_run_that_is_being_written_is_shown(recorded: Commands) -> None:
    running = recorded.start(
        "run", "counting.py:waiting", "--input", "start=1", "--run-id", "now",
        "--checkpoint", ".asyncflow", "--quiet",
    )  # fmt: skip
    assert running.stdout is not None
    try:
        assert "waiting" in running.stdout.readline()
        told = recorded.run("show", "now").stdout
        assert "now: waiting, running" in told
        assert f"held by process {running.pid}" in told
        assert f"held by process {running.pid}" in recorded.run("runs").stdout
        second = recorded.run("resume", "now", "counting.py:waiting")
        assert second.returncode == 2
        assert f"held by process {running.pid}" in second.stderr
        running.send_signal(signal.SIGKILL)
        running.wait()
        assert "now: waiting, interrupted" in recorded.run("show", "now").stdout
    finally:
        running.kill()
        running.communicate()


def test_a_damaged_run_is_shown_with_the_place(recorded: Commands) -> None:
    path = recorded.folder / ".asyncflow" / "runs" / "nightly" / "journal"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    for command in (["show", "nightly"], ["runs"]):
        told = recorded.run(*command)
        assert told.returncode == 0
        assert "damaged" in told.stdout
        assert "at offset" in told.stdout
    assert json.loads(recorded.run("export", "nightly").stdout)["damage"]
    assert recorded.run("export", "nightly", "--format", "mermaid").returncode == 0
    refused = recorded.run("resume", "nightly", "counting.py:pipeline")
    assert refused.returncode == 2
    assert "is damaged at offset" in refused.stderr


def test_a_run_that_cannot_be_recorded_has_an_exit_code_of_its_own(commands: Commands) -> None:
    limit = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))
"""
    commands.write("counting.py", PIPELINE + limit)
    commands.write("go", "")
    done = commands.run(
        "run", "counting.py:pipeline", "--input", "start=1", "--run-id", "nightly",
        "--checkpoint", ".asyncflow",
    )  # fmt: skip
    assert done.returncode == 3, (done.stdout, done.stderr)
    assert "File too large" in done.stdout + done.stderr
    commands.write("counting.py", PIPELINE)
    assert commands.run("resume", "nightly", "counting.py:pipeline", "--quiet").returncode == 0


def test_a_name_with_control_characters_does_not_reach_the_terminal(
    commands: Commands, tmp_path: Path
) -> None:
    commands.write(
        "odd.py",
        "from asyncflow import Pipeline, step\n"
        "@step\ndef odd():\n    raise ValueError('\\x1b[31mred\\x1b[0m')\n"
        "pipeline = Pipeline('odd', steps=[odd])\n",
    )
    commands.run("run", "odd.py", "--run-id", "odd", "--checkpoint", ".asyncflow", "--quiet")
    assert "\x1b" not in commands.run("show", "odd").stdout
