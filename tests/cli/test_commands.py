"""What the commands say, and the exit codes they end with."""

from __future__ import annotations

import asyncflow
from tests.cli.commanding import Commands

SHOP = """
import logging
from asyncflow import Pipeline, ResourceRequirements, step

@step
async def prices(day: str) -> dict[str, float]:
    print("asking for", day)
    return {"apple": 0.5}

@step(resources=ResourceRequirements(cpu=2))
async def total(prices: dict[str, float], factor: int = 1) -> float:
    return factor * sum(prices.values())

pipeline = Pipeline("shop", steps=[prices, total])

@step
async def breaks() -> None:
    logging.getLogger("shop").warning("about to break \\x1b[31m")
    raise ValueError("no [bold]fruit\\x1b[2J left")

@step
async def needs(breaks: None) -> None: ...

broken = Pipeline("broken", steps=[breaks, needs])

@step(resources={"gpu": 1})
async def train(context: "asyncflow.StepContext") -> None: ...

import asyncflow
greedy = Pipeline("greedy", steps=[train])

@step
async def lost(missing_asset: int, other: int) -> None: ...

wrong = Pipeline("wrong", steps=[lost], inputs=["day"])

@step(lane="inline")
async def slow() -> None:
    import asyncio
    await asyncio.Event().wait()

endless = Pipeline("endless", steps=[slow])
"""


def test_a_run_that_succeeds_ends_with_0_and_a_summary(commands: Commands) -> None:
    commands.write("shop.py", SHOP)
    ended = commands.run("run", "shop.py:pipeline", "--input", "day=monday", "--run-id", "r1")
    assert ended.returncode == 0
    printed, summary = ended.stdout.split("\n", 1)
    assert printed == "asking for monday"
    assert summary.startswith("shop: succeeded in ")
    lines = ended.stderr.splitlines()
    assert lines[0].endswith("] shop: 2 steps, run r1")
    assert [line.split("] ")[1].split(" in ")[0] for line in lines[1:]] == [
        "prices succeeded",
        "total succeeded",
    ]


def test_a_run_that_fails_ends_with_1_and_says_why_once(commands: Commands) -> None:
    commands.write("shop.py", SHOP)
    ended = commands.run("run", "shop.py:broken")
    assert ended.returncode == 1
    assert "broken: failed in" in ended.stdout
    assert r"breaks: failed at attempt 1: ValueError: no [bold]fruit\x1b[2J left" in ended.stdout
    assert r"] breaks failed after" in ended.stderr
    assert r"warning: about to break \x1b[31m" in ended.stderr
    assert "Traceback" not in ended.stdout + ended.stderr
    assert ended.stderr.endswith("--traceback shows where it was raised\n")
    assert "\x1b" not in ended.stdout + ended.stderr
    assert "broken: failed" not in ended.stderr


def test_tracebacks_are_shown_when_asked_for(commands: Commands) -> None:
    commands.write("shop.py", SHOP)
    failed = commands.here("run", "shop.py:broken", "--traceback")
    assert failed.exit_code == 1
    assert 'raise ValueError("no [bold]fruit' in failed.output
    assert "asyncflow/engine" not in failed.output
    wrong = commands.here("run", "shop.py:wrong", "--input", "day=1", "--traceback")
    assert wrong.exit_code == 2
    assert "Traceback (most recent call last)" in wrong.output


def test_a_wrong_pipeline_ends_with_2_and_a_sentence_for_each_fault(commands: Commands) -> None:
    commands.write("shop.py", SHOP)
    ended = commands.here("run", "shop.py:wrong", "--input", "day=1")
    assert ended.exit_code == 2
    lines = ended.stderr.splitlines()
    assert len(lines) == 2
    assert all(line.startswith("error: ") for line in lines)
    assert "'missing_asset'" in lines[0]
    assert "'other'" in lines[1]


def test_what_can_never_run_ends_with_2(commands: Commands) -> None:
    commands.write("shop.py", SHOP)
    refused = commands.here("run", "shop.py:greedy")
    assert refused.exit_code == 2
    assert refused.stderr.startswith("error: pipeline 'greedy' cannot run here: step 'train'")
    assert commands.here("run", "shop.py:greedy", "--max-gpus", "1", "--quiet").exit_code == 0
    assert commands.here("run", "shop.py:greedy", "--max-gpus", "nvidia-a100").exit_code == 0


def test_wrong_options_end_with_2_and_name_the_option(commands: Commands) -> None:
    commands.write("shop.py", SHOP)
    target = ["run", "shop.py:pipeline", "--input", "day=1"]
    for arguments, sentence in [
        ([*target, "--max-cpus", "much"], "error: --max-cpus: 'much' is not an amount of CPU"),
        ([*target, "--max-gpus", "-1"], "error: --max-gpus: "),
        ([*target, "--input", "day=2"], "error: --input day=… is given twice"),
        ([*target, "--timeout", "0"], "error: --timeout takes finite seconds above 0"),
        ([*target, "--run-id", "a/b"], "error: run name 'a/b' holds '/'"),
        ([*target, "--failure-policy", "hope"], "'hope' is not one of 'fail_fast', 'collect_all'"),
        ([*target, "--evnts", "jsonl"], "No such option"),
        (["run", "shop.py:pipelin"], "did you mean 'pipeline'?"),
        (["run"], "Missing argument 'TARGET'"),
        (["graph", "shop.py:pipeline", "--format", "pdf"], "'pdf' is not one of 'text'"),
    ]:
        ended = commands.here(*arguments)
        assert ended.exit_code == 2, arguments
        assert sentence in ended.stderr
        assert "Traceback" not in ended.output


def test_a_missing_input_is_named(commands: Commands) -> None:
    commands.write("shop.py", SHOP)
    ended = commands.here("run", "shop.py:pipeline", "--input", "dya=monday")
    assert ended.exit_code == 2
    assert "'day'" in ended.stderr
    assert "'dya'" in ended.stderr
    bare = commands.here("run", "shop.py:pipeline")
    assert bare.stderr.endswith("give it with --input day=…\n")


def test_a_run_that_takes_too_long_ends_with_1(commands: Commands) -> None:
    commands.write("shop.py", SHOP)
    ended = commands.here("run", "shop.py:endless", "--timeout", "0.05")
    assert ended.exit_code == 1
    assert "endless: cancelled in" in ended.stdout
    assert "reason: the run took longer than its timeout of 0.05 s" in ended.stdout


def test_a_quiet_run_speaks_of_failures_only(commands: Commands) -> None:
    commands.write("shop.py", SHOP)
    good = commands.here("run", "shop.py:pipeline", "--input", "day=1", "--quiet")
    assert good.output == "asking for 1\n"
    bad = commands.here("run", "shop.py:broken", "--quiet", "--failure-policy", "collect_all")
    assert bad.exit_code == 1
    assert "breaks: failed at attempt 1" in bad.stdout


def test_a_plan_shows_units_and_what_a_machine_would_refuse(commands: Commands) -> None:
    commands.write("shop.py", SHOP)
    plain = commands.here("plan", "shop.py:greedy")
    assert plain.exit_code == 0
    assert plain.stdout.startswith("greedy: 1 step in 1 unit, 1 level deep")
    assert commands.here("plan", "shop.py:greedy", "--max-gpus", "1").exit_code == 0
    refused = commands.here("plan", "shop.py:greedy", "--max-gpus", "0")
    assert refused.exit_code == 2
    assert "problem: 'train'" in refused.stdout
    clamped = commands.here("plan", "shop.py:pipeline", "--max-cpus", "1")
    assert clamped.exit_code == 0
    assert "warning: 'total'" in clamped.stdout


def test_a_graph_is_drawn_in_each_format(commands: Commands) -> None:
    commands.write("shop.py", SHOP)
    for form, beginning in [("text", "shop: 2 steps"), ("mermaid", "flowchart LR"), ("dot", "dig")]:
        drawn = commands.here("graph", "shop.py:pipeline", "--format", form)
        assert drawn.exit_code == 0
        assert drawn.stdout.startswith(beginning)
    assert commands.here("graph", "shop.py:pipeline").stdout.startswith("shop: 2 steps")


def test_the_version_is_that_of_the_package(commands: Commands) -> None:
    shown = commands.here("--version")
    assert (shown.exit_code, shown.stdout) == (0, f"asyncflow {asyncflow.__version__}\n")


def test_a_bare_command_shows_what_there_is(commands: Commands) -> None:
    shown = commands.here()
    assert {"run", "plan", "graph"} <= set(shown.output.split())


def test_a_program_that_logs_in_its_own_way_is_left_to_it(commands: Commands) -> None:
    commands.write(
        "shop.py", "import logging\nlogging.basicConfig(format='MINE %(message)s')" + SHOP
    )
    ended = commands.run("run", "shop.py:broken", "--quiet")
    assert "MINE about to break" in ended.stderr
    assert "warning: about to break" not in ended.stderr
