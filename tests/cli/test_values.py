"""Values that a command shows."""

from __future__ import annotations

import pytest

from asyncflow import Secret
from asyncflow.cli.values import lines_of_values
from tests.cli.commanding import Commands

FRUIT = """
from asyncflow import Pipeline, Secret, step

@step
async def prices() -> dict[str, float]:
    return {"pear": 0.5, "apple": 0.25}

@step
async def token() -> Secret:
    return Secret("s3cr3t")

@step
async def breaks() -> None:
    raise ValueError("no fruit left")

shop = Pipeline("shop", steps=[prices, token])
broken = Pipeline("broken", steps=[prices, breaks])
"""


@pytest.fixture(autouse=True)
def _eighty_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def line_of(value: object) -> str:
    (line,) = lines_of_values({"name": value})
    return line


def test_a_quiet_run_shows_values_and_nothing_else(commands: Commands) -> None:
    commands.write("fruit.py", FRUIT)
    ended = commands.here("run", "fruit.py:shop", "--quiet", "--values")
    assert ended.exit_code == 0
    assert ended.stdout == "  prices: {'pear': 0.5, 'apple': 0.25}\n  token: Secret('***')\n"


def test_values_are_shown_only_when_asked_for(commands: Commands) -> None:
    commands.write("fruit.py", FRUIT)
    assert "pear" not in commands.here("run", "fruit.py:shop").stdout


def test_of_a_run_that_failed_the_values_that_are_there_are_shown(commands: Commands) -> None:
    commands.write("fruit.py", FRUIT)
    ended = commands.here("run", "fruit.py:broken", "--values", "--failure-policy", "collect_all")
    assert ended.exit_code == 1
    assert "  prices: {'pear': 0.5, 'apple': 0.25}\n" in ended.stdout


def test_a_resumed_run_shows_what_was_recorded(commands: Commands) -> None:
    commands.write("fruit.py", FRUIT.replace("steps=[prices, token]", "steps=[prices]"))
    record = ("--checkpoint", ".asyncflow", "--run-id", "r", "--quiet")
    assert commands.here("run", "fruit.py:shop", *record).exit_code == 0
    ended = commands.here("resume", "r", "fruit.py:shop", "--quiet", "--values")
    assert ended.stdout == "  prices: {'pear': 0.5, 'apple': 0.25}\n"


@pytest.mark.parametrize(
    "value", ["x" * 1000, list(range(1000)), {str(i): i for i in range(1000)}, {"a": ["x"] * 100}]
)
def test_a_long_value_is_cut_to_the_width(value: object) -> None:
    line = line_of(value)
    assert len(line) <= 80
    assert "…" in line


def test_a_value_of_many_lines_and_what_a_terminal_would_obey_stay_in_one_line() -> None:
    class Table:
        def __repr__(self) -> str:
            return "a  b\n1  \x1b[31m2"

    assert line_of(Table()) == "  name: a b 1 \\x1b[31m2"


def test_a_value_whose_text_fails_is_shown_by_its_type() -> None:
    class Broken:
        def __repr__(self) -> str:
            raise LookupError

    assert line_of(Broken()).startswith("  name: <Broken instance at")


def test_a_secret_inside_a_value_stays_one() -> None:
    assert line_of({"key": [Secret("s3cr3t")]}) == "  name: {'key': [Secret('***')]}"


def test_of_many_values_some_are_shown() -> None:
    lines = list(lines_of_values({str(i): i for i in range(1060)}))
    assert lines[49:] == ["  49: 49", "  and 1,010 more"]
