"""``asyncflow run`` leaves pictures of what it did, or says why it cannot."""

from __future__ import annotations

from pathlib import Path

from tests.cli.commanding import Commands
from tests.picturing import Picture

SHOP = """
from asyncflow import Pipeline, step

@step
async def prices() -> list[float]:
    return [0.5]

@step
async def total(prices: list[float]) -> float:
    return sum(prices)

pipeline = Pipeline("shop", steps=[prices, total])

@step
async def breaks(prices: list[float]) -> None:
    raise ValueError(prices)

broken = Pipeline("broken", steps=[prices, breaks])

@step
async def removes(folder: str) -> None:
    import shutil
    shutil.rmtree(folder)

tidy = Pipeline("tidy", steps=[removes])
"""


def read(path: Path) -> Picture:
    return Picture(path.read_text(encoding="utf-8"))


def test_a_run_leaves_a_coloured_graph_and_a_chart(commands: Commands) -> None:
    commands.write("shop.py", SHOP)
    ended = commands.run(
        "run", "shop.py:pipeline", "--run-id", "r1", "--svg", "graph.svg", "--gantt", "when.svg"
    )
    assert ended.returncode == 0
    graph, chart = read(commands.folder / "graph.svg"), read(commands.folder / "when.svg")
    assert set(graph.boxes()) == set(chart.boxes()) == {"prices", "total"}
    assert {"2 steps, run r1 succeeded", "succeeded 2"} < set(graph.words)
    assert any(words.startswith("run r1 succeeded in ") for words in chart.words)


def test_a_run_that_fails_leaves_them_too(commands: Commands) -> None:
    commands.write("shop.py", SHOP)
    ended = commands.run("run", "shop.py:broken", "--svg", "graph.svg", "--gantt", "when.svg")
    assert ended.returncode == 1
    assert "failed 1" in read(commands.folder / "graph.svg").words
    assert "failed 1" in read(commands.folder / "when.svg").words


def test_a_place_that_cannot_be_written_is_refused_before_anything_runs(
    commands: Commands,
) -> None:
    commands.write("shop.py", SHOP)
    ended = commands.run("run", "shop.py:pipeline", "--svg", "nowhere/graph.svg")
    assert ended.returncode == 2
    assert ended.stderr == "error: --svg: there is no folder 'nowhere'; make it first\n"
    (commands.folder / "taken").mkdir()
    ended = commands.run("run", "shop.py:pipeline", "--gantt", "taken")
    assert ended.returncode == 2
    assert ended.stderr == "error: --gantt: 'taken' is a folder; name a file\n"


def test_a_place_that_is_gone_when_the_run_is_over_is_a_warning_and_a_failure(
    commands: Commands,
) -> None:
    commands.write("shop.py", SHOP)
    (commands.folder / "out").mkdir()
    ended = commands.run(
        "run", "shop.py:tidy", "--input", "folder=out", "--svg", "out/g.svg", "--gantt", "w.svg"
    )
    assert ended.returncode == 1
    assert "tidy: succeeded" in ended.stdout
    assert "warning: out/g.svg could not be written: No such file or directory" in ended.stderr
    assert (commands.folder / "w.svg").exists()


def test_a_pipeline_is_drawn_as_svg(commands: Commands) -> None:
    commands.write("shop.py", SHOP)
    ended = commands.run("graph", "shop.py:pipeline", "--format", "svg")
    assert ended.returncode == 0
    assert set(Picture(ended.stdout).boxes()) == {"prices", "total"}
