"""What modules print and log is kept, each module's apart, and still goes where it always went."""

from __future__ import annotations

import io
import logging
import os
import sys
from pathlib import Path

import pytest

from asyncflow.orchestrator.logs import LogPlan, backups_of, file_name_of, keeping, kept, module_of
from tests.orchestrator.projects import Project

TALKING = """
import logging
import sys

log = logging.getLogger(__name__)

def run(context):
    name = context.module_name
    print(name, "printed")
    print(name, "complained", file=sys.stderr)
    context.logger.info("%s informed", name)
    context.logger.debug("%s debugged", name)
    log.warning("%s warned", name)
    context.execute_tasks([lambda n=n: print(name, "task", n) for n in range(3)])
    sys.stdout.write("no newline")

async def coroutine(context):
    print("on the loop")
"""


def pipeline(worker_type: str, logging: str = "{}") -> str:
    return f"""
pipeline:
  name: talk
  execution: {{worker_type: {worker_type}, logging: {logging}}}
  modules:
    - {{name: one, script: "m.py:run"}}
    - {{name: two, script: "m.py:run"}}
    - {{name: three, script: "m.py:coroutine"}}
"""


def log_of(project: Project, module: str) -> str:
    return project.read(f".checkpoints/runs/talk/logs/{module}.log")


def test_each_module_has_a_log_of_its_own(
    project: Project, worker_type: str, capsys: pytest.CaptureFixture[str]
) -> None:
    project.write("m.py", TALKING)
    project.execute(pipeline(worker_type))
    for name, other in (("one", "two"), ("two", "one")):
        said = log_of(project, name)
        for words in ("printed", "complained", "informed", "warned", "task 0", "task 1", "task 2"):
            assert f"{name} {words}" in said
        assert said.endswith("no newline\n")
        assert f"INFO asyncflow.step.talk.{name}: {name} informed" in said
        assert "debugged" not in said
        assert other not in said
    assert log_of(project, "three") == "on the loop\n"
    if worker_type == "thread":
        shown = capsys.readouterr()
        # Those of several threads may well stand on one line there, as ever.
        assert shown.out.count("printed") == shown.err.count("complained") == 2


def test_the_level_is_that_of_the_file(project: Project, worker_type: str) -> None:
    project.write("m.py", TALKING)
    project.execute(pipeline(worker_type, "{level: DEBUG}"))
    assert "one debugged" in log_of(project, "one")
    project.execute(pipeline(worker_type, "{level: ERROR}"), overrides={"pipeline.name": "quiet"})
    said = project.read(".checkpoints/runs/quiet/logs/one.log")
    assert "one printed" in said
    assert "warned" not in said


def streams_and_loggers() -> tuple[object, ...]:
    root = logging.getLogger()
    levels = root.level, logging.getLogger("asyncflow.step").level
    return sys.stdout, sys.stderr, list(root.handlers), levels


def test_streams_and_loggers_are_as_before_when_a_run_is_over(project: Project) -> None:
    project.write("m.py", TALKING)
    before = streams_and_loggers()
    project.execute(pipeline("thread"))
    assert streams_and_loggers() == before


def test_of_several_runs_each_keeps_what_its_own_level_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    before = streams_and_loggers()
    quiet = LogPlan(str(tmp_path / "quiet"), level="ERROR")
    loud = LogPlan(str(tmp_path / "loud"), level="DEBUG")
    log = logging.getLogger("somebody.else")
    with keeping(quiet):
        with keeping(loud), kept(loud, "m"):
            log.debug("debugged")
        with kept(quiet, "m"):
            log.debug("debugged")
            log.error("failed")
    assert "debugged" in (tmp_path / "loud" / "m.log").read_text()
    assert "debugged" not in (tmp_path / "quiet" / "m.log").read_text()
    assert "failed" in (tmp_path / "quiet" / "m.log").read_text()
    assert streams_and_loggers() == before


def test_without_checkpoints_nothing_is_kept(project: Project) -> None:
    project.write("m.py", TALKING)
    project.execute(pipeline("thread"), overrides={"checkpoint": {"enabled": False}})
    assert not (project.folder / ".checkpoints").exists()


def test_a_log_that_is_full_is_set_aside(tmp_path: Path) -> None:
    plan = LogPlan(str(tmp_path), size_bytes=100, backups=2)
    with keeping(plan), kept(plan, "m"):
        for number in range(60):
            print(f"line {number:03}")
    log = tmp_path / "m.log"
    parts = [*backups_of(log), log]
    assert [part.name for part in parts] == ["m.log.2", "m.log.1", "m.log"]
    assert all(part.stat().st_size <= 100 for part in parts)
    said = "".join(part.read_text() for part in parts)
    assert said == "".join(f"line {number:03}\n" for number in range(33, 60))


def test_without_backups_a_full_log_begins_anew(tmp_path: Path) -> None:
    plan = LogPlan(str(tmp_path), size_bytes=20, backups=0)
    with keeping(plan), kept(plan, "m"):
        print("a" * 15)
        print("b" * 15)
    assert (tmp_path / "m.log").read_text() == "b" * 15 + "\n"
    assert [path.name for path in tmp_path.iterdir()] == ["m.log"]


def test_logs_are_private_and_their_names_stay_in_their_folder(tmp_path: Path) -> None:
    plan = LogPlan(str(tmp_path / "logs"))
    for module in ("plain", "..", "a b", "\u00e9", "x" * 300, "-rf", ".hidden"):
        with keeping(plan), kept(plan, module):
            print("said")
    found = sorted(path.name for path in (tmp_path / "logs").iterdir())
    assert len(found) == 7
    assert "plain.log" in found
    assert not any(name.startswith((".", "-")) or "/" in name for name in found)
    assert [module_of(Path(file_name_of(name))) for name in ("..", "a b", "\u00e9", "-rf")] == [
        *("..", "a b", "\u00e9", "-rf")
    ]
    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "logs").iterdir()}
    assert modes == {0o600}
    assert os.stat(tmp_path / "logs").st_mode & 0o777 == 0o700


def test_a_line_without_an_end_is_written_in_pieces(tmp_path: Path) -> None:
    plan = LogPlan(str(tmp_path))
    with keeping(plan), kept(plan, "m"):
        sys.stdout.write("x" * 70_000)
        assert (tmp_path / "m.log").stat().st_size == 70_001
    assert (tmp_path / "m.log").stat().st_size == 70_001


def test_a_log_that_cannot_be_written_is_told_of_once_and_harms_nobody(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("precious")
    plan = LogPlan(str(tmp_path / "logs"))
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "m.log").symlink_to(elsewhere)
    with keeping(plan), kept(plan, "m"):
        print("one")
        print("two")
    assert elsewhere.read_text() == "precious"
    assert [record.getMessage().partition(": ")[0] for record in caplog.records] == [
        "the log of module 'm' is not written any more"
    ]


def test_a_display_that_takes_the_streams_meanwhile_keeps_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    plan = LogPlan(str(tmp_path))
    display = io.StringIO()
    with keeping(plan):
        with kept(plan, "m"):
            print("before")
        sys.stdout = display
        with kept(plan, "m"):
            print("after")
        sys.stdout = display
    assert sys.stdout is display
    assert display.getvalue() == "after\n"
    assert (tmp_path / "m.log").read_text() == "before\nafter\n"


def test_loggers_of_a_program_that_has_set_up_logging_are_left_alone(tmp_path: Path) -> None:
    root = logging.getLogger()
    shown = logging.StreamHandler(io.StringIO())
    root.addHandler(shown)
    level = root.level
    try:
        with keeping(LogPlan(str(tmp_path), level="DEBUG")):
            assert root.level == level
    finally:
        root.removeHandler(shown)
