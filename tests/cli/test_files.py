"""Pipelines in files, from the command line: run, validate, plan, graph, schema, init, logs."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from tests.cli.commanding import Commands

MODULES = """
import sys

def load(context):
    print("loading", context.params.get("what"))
    return [1, 2, 3]

def total(context):
    if context.params.get("fails"):
        raise ValueError("no sum today")
    return sum(context.get_result("load"))
"""

PIPELINE = """
pipeline:
  name: sums
  modules:
    - name: load
      script: "code.py:load"
      params: {what: numbers}
    - name: total
      script: "code.py:total"
      depends_on: [load]
"""


@pytest.fixture
def files(commands: Commands) -> Commands:
    commands.write("code.py", MODULES)
    commands.write("pipeline.yaml", PIPELINE)
    return commands


def test_init_writes_a_project_whose_run_succeeds_at_once(commands: Commands) -> None:
    made = commands.run("init", "words")
    assert made.returncode == 0
    assert "run it: asyncflow run words/pipeline.yaml" in made.stdout
    ran = commands.run("run", "words/pipeline.yaml")
    assert (ran.returncode, "words: succeeded" in ran.stdout) == (0, True)
    assert "9 words, the longest is 'quick'" in ran.stdout
    assert commands.run("validate", "words/pipeline.yaml").returncode == 0
    again = commands.run("init", "words")
    assert again.returncode == 2
    assert "words/pipeline.yaml is there already" in again.stderr


def test_a_file_runs_and_tells_how_it_ended(files: Commands) -> None:
    ran = files.here("run", "pipeline.yaml", "--quiet")
    assert ran.exit_code == 0, ran.output
    failed = files.here("run", "pipeline.yaml", "--set", "modules.total.params.fails=true")
    assert failed.exit_code == 1
    assert "total: failed at attempt 2: ValueError: no sum today" in failed.output


def test_overlays_and_settings(files: Commands) -> None:
    files.write("over.yaml", "pipeline:\n  modules: [{name: load, params: {what: words}}]\n")
    ran = files.run("run", "pipeline.yaml", "-f", "over.yaml", "--set", "execution.mode=sequential")
    assert ran.returncode == 0
    assert "loading words" in ran.stdout
    wrong = files.here("run", "pipeline.yaml", "--set", "execution.mode=both")
    assert wrong.exit_code == 2
    assert "is 'parallel' or 'sequential', not the text 'both'" in wrong.output
    assert files.here("run", "pipeline.yaml", "--set", "x").exit_code == 2
    twice = files.here("run", "pipeline.yaml", "--set", "name=a", "--set", "name=b")
    assert "--set name=… is given twice" in twice.output


def test_options_that_stand_for_settings(files: Commands) -> None:
    refused = files.here(
        "run", "pipeline.yaml", "--max-gpus", "0", "--set", "modules.load.resources.gpus=1"
    )
    assert (refused.exit_code, "there are no GPUs" in refused.output) == (2, True)
    assert files.here("run", "pipeline.yaml", "--max-cpus", "lots").exit_code == 2
    ran = files.here(
        "run", "pipeline.yaml", "--max-cpus", "1", "--max-gpus", "a100,t4",
        "--failure-policy", "collect_all",
    )  # fmt: skip
    assert ran.exit_code == 0


def test_a_run_can_be_recorded_elsewhere_and_resumed_from_there(files: Commands) -> None:
    ran = files.here("run", "pipeline.yaml", "--checkpoint", "elsewhere", "--quiet")
    assert ran.exit_code == 0
    assert (files.folder / "elsewhere" / "runs" / "sums" / "journal").is_file()
    assert not (files.folder / ".checkpoints").exists()
    again = files.here("resume", "sums", "pipeline.yaml", "--directory", "elsewhere")
    assert (again.exit_code, "2 succeeded" in again.output) == (0, True)
    assert "loading" not in again.output


def test_options_that_do_not_go_with_their_target(files: Commands) -> None:
    files.write("shop.py", "from asyncflow import Pipeline\npipeline = Pipeline('p')\n")
    for option in (["-f", "x.yaml"], ["--set", "a=1"]):
        wrong = files.here("run", "shop.py", *option)
        assert wrong.exit_code == 2
        assert "is for pipelines in a .yaml, .toml or .json file" in wrong.output
    inputs = files.here("run", "pipeline.yaml", "--input", "a=1")
    assert (inputs.exit_code, "--set modules.NAME.params.KEY=" in inputs.output) == (2, True)


def test_validate_tells_every_fault_and_imports_nothing(files: Commands) -> None:
    files.write("code.py", "raise RuntimeError('imported')\ndef load(context): ...\n")
    wrong = files.here("validate", "pipeline.yaml")
    assert wrong.exit_code == 2
    assert (
        "error: pipeline.yaml:9:15: $.pipeline.modules[1].script: code.py has no 'total'"
        in wrong.output
    )
    fine = files.here("validate", "pipeline.yaml", "--set", "modules.total.script=code.py:load")
    assert fine.exit_code == 0
    assert fine.output == "pipeline.yaml: 2 modules, no faults\n"
    assert files.here("validate", "code.py").exit_code == 2
    elsewhere = files.here(
        "validate", "pipeline.yaml", "--set", "modules.total.script=null",
        "--set", "modules.total.path=not_here:A", "--set", "modules.load.script=code.py:load",
    )  # fmt: skip
    assert elsewhere.exit_code == 0
    assert "warning: override modules.total.path: module 'not_here'" in elsewhere.output


def test_plan_and_graph_import_nothing(files: Commands) -> None:
    files.write("code.py", "raise RuntimeError('imported')\n")
    plan = files.here("plan", "pipeline.yaml")
    assert (plan.exit_code, "total" in plan.output) == (0, True)
    drawn = files.here("graph", "pipeline.yaml", "--format", "mermaid")
    assert (drawn.exit_code, "n0 --> n1" in drawn.output) == (0, True)
    refused = files.here(
        "plan", "pipeline.yaml", "--max-gpus", "1", "--set", "modules.load.resources.gpus=2"
    )
    assert (refused.exit_code, "problem:" in refused.output) == (2, True)


def test_the_schema_is_json(commands: Commands) -> None:
    printed = commands.here("schema")
    assert printed.exit_code == 0
    assert json.loads(printed.output)["title"] == "asyncflow pipeline"


def test_logs_by_run_id_folder_and_file(files: Commands) -> None:
    files.here("run", "pipeline.yaml", "--quiet")
    for run in ("sums", ".checkpoints/runs/sums", "pipeline.yaml"):
        assert files.here("logs", run).output == "load: loading numbers\n"
    assert files.here("logs", "sums", "load").output == "loading numbers\n"
    kept = files.here("logs", "sums", "--directory", str(Path(".checkpoints").absolute()))
    assert kept.output == "load: loading numbers\n"
    wrong = files.here("logs", "sumz")
    assert (wrong.exit_code, "did you mean 'sums'" in wrong.output) == (2, True)
    wrong = files.here("logs", "unlike")
    assert "'asyncflow runs --directory .checkpoints' lists those" in wrong.output
    wrong = files.here("logs", "sums", "unlike")
    assert "there are those of 'load'" in wrong.output
    wrong = files.here("logs", "sums", "laod")
    assert (wrong.exit_code, "did you mean 'load'" in wrong.output) == (2, True)
    files.write("unkept.yaml", f"{PIPELINE}  checkpoint: {{enabled: false}}\n")
    wrong = files.here("logs", "unkept.yaml")
    assert (wrong.exit_code, "keep no logs" in wrong.output) == (2, True)


def test_names_that_are_no_names_of_folders(files: Commands) -> None:
    named = ["--set", 'name="my sums: 1"', "--quiet"]
    assert files.here("run", "pipeline.yaml", *named).exit_code == 0
    assert files.here("logs", "my sums: 1").output == "load: loading numbers\n"
    assert files.here("run", "pipeline.yaml", *named).exit_code == 0
    assert files.here("logs", "my sums: 1").output == "load: loading numbers\n"


def test_what_a_module_prints_cannot_play_with_the_terminal(files: Commands) -> None:
    files.write("code.py", MODULES + "\n\ndef evil(context): print('\\x1b[31mred')\n")
    files.here("run", "pipeline.yaml", "--quiet", "--set", "modules.load.script=code.py:evil")
    shown = files.here("logs", "sums", "load").output
    assert "\x1b" not in shown
    assert "red" in shown


def test_following_goes_on_with_what_is_written(files: Commands) -> None:
    logs = files.folder / ".checkpoints" / "runs" / "r" / "logs"
    logs.mkdir(parents=True)
    log = logs / "m.log"
    log.write_text("first\n")
    following = files.start("logs", "r", "m", "--follow")
    assert following.stdout is not None
    assert following.stdout.readline() == "first\n"
    with log.open("a") as file:
        file.write("second\n")
    assert following.stdout.readline() == "second\n"
    os.replace(log, logs / "m.log.1")
    log.write_text("third\n")
    assert following.stdout.readline() == "third\n"
    following.send_signal(signal.SIGINT)
    _, said = following.communicate(timeout=20)
    assert (following.returncode, said) == (130, "interrupted\n")
