"""The benchmarks run and judge rightly; what they measure is nobody's business here."""

from __future__ import annotations

import asyncio
import gc
import json
from pathlib import Path

import pytest

from asyncflow import step
from benchmarks.__main__ import MEASURES, main
from benchmarks.by_hand import by_hand
from benchmarks.fresh_process import output_of
from benchmarks.graphs import Deps, chain, fan_out, layers, pipeline_of, random_graph
from benchmarks.hold_up import CollectorPauses, watching
from benchmarks.report import Goal, Row, as_json, shown
from benchmarks.resident import ResidentBytes
from benchmarks.sampling import QUICK, Scale, compare


@step
async def add_up(*values: int) -> int:
    return 1 + sum(values)


@pytest.mark.timeout(180)  # some start a dozen interpreters
@pytest.mark.parametrize("name", MEASURES)
def test_a_measure_gives_rows_with_figures(name: str) -> None:
    rows = MEASURES[name](QUICK)
    assert rows
    for row in rows:
        assert row.measure
        assert isinstance(row.ours, float)


def test_the_program_prints_a_table_and_writes_its_rows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written = tmp_path / "rows.json"
    assert main(["--quick", "--only", "chain", "layers", "--json", str(written)]) == 0
    printed = capsys.readouterr().out
    assert "chain of 5k" in printed
    assert "too small to judge" in printed
    found = json.loads(written.read_text(encoding="utf-8"))
    assert [row["measure"][:8] for row in found["rows"]] == ["chain of", "100 × 10"]
    assert {row["met"] for row in found["rows"]} == {None}


def test_the_list_names_every_measure(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in listed] == list(MEASURES)
    assert not any("None" in line for line in listed)


def test_an_unknown_measure_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--only", "nonsense"])
    assert "nonsense" in capsys.readouterr().err


# -- both sides do the same work -------------------------------------------------------------


@pytest.mark.parametrize("deps", [fan_out(7), chain(9), layers(4, 5), random_graph(40)], ids=len)
async def test_by_hand_and_pipeline_compute_the_same(deps: Deps) -> None:
    expected = await by_hand(deps, add_up.func)
    result = await pipeline_of(deps, add_up).run()
    assert [result[f"n{number}"] for number in range(len(deps))] == expected


def test_the_shapes_are_as_large_as_the_rows_say() -> None:
    assert len(layers(100, 100)) == 10_000
    assert sum(len(parents) for parents in layers(100, 100)) == 29_700
    edges = sum(len(parents) for parents in random_graph(10_000))
    assert edges == pytest.approx(30_000, abs=10)
    assert len(chain(5_000)) == 5_000
    assert len(fan_out(10_000)) == 10_000


def test_both_sides_are_sampled_in_turn_and_medians_taken() -> None:
    calls: list[str] = []
    ours, theirs = iter([9.0, 1.0, 2.0]), iter([5.0, 6.0, 70.0])

    def sample(side: str) -> float:
        calls.append(side)
        return next(ours if side == "ours" else theirs)

    found = compare(Scale(samples=3), lambda: sample("ours"), lambda: sample("theirs"))
    assert found == (2.0, 6.0)
    assert calls == ["ours", "theirs"] * 3


# -- hold-up ---------------------------------------------------------------------------------


async def test_the_sibling_notes_every_turn_of_the_loop() -> None:
    held_seconds: list[float] = []
    with CollectorPauses() as pauses:
        async with watching(pauses, held_seconds):
            for _ in range(5):
                await asyncio.sleep(0)
    assert len(held_seconds) >= 5


def test_pauses_of_the_collector_are_heard_while_entered_only() -> None:
    with CollectorPauses() as pauses:
        gc.collect()
        heard = pauses.total_seconds
    gc.collect()
    assert heard > 0
    assert pauses.total_seconds == heard
    assert 0 < pauses.longest_seconds <= heard


# -- judging ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "row, met",
    [
        (Row("r", 0.8, 1.0, goal=Goal("ratio", 0.8)), True),
        (Row("r", 0.81, 1.0, goal=Goal("ratio", 0.8)), False),
        (Row("r", 0.12, 0.04, goal=Goal("extra", 0.1)), True),
        (Row("r", 0.15, 0.04, goal=Goal("extra", 0.1)), False),
        (Row("r", 599.0, unit="B", goal=Goal("limit", 600)), True),
        (Row("r", 601.0, unit="B", goal=Goal("limit", 600)), False),
        (Row("r", 1e9), None),
    ],
)
def test_a_row_is_held_against_its_goal(row: Row, met: bool | None) -> None:
    assert row.met is met
    assert as_json([row], quick=False)["rows"][0]["met"] is met
    assert as_json([row], quick=True)["rows"][0]["met"] is None


def test_a_goal_may_be_stricter_where_tasks_start_eagerly(monkeypatch: pytest.MonkeyPatch) -> None:
    goal = Goal("ratio", 0.8, 0.5)
    monkeypatch.setattr("benchmarks.report.EAGER_TASKS", False)
    assert goal.here == 0.8
    monkeypatch.setattr("benchmarks.report.EAGER_TASKS", True)
    assert goal.here == 0.5
    assert Goal("ratio", 0.8).here == 0.8


@pytest.mark.parametrize(
    "value, unit, words",
    [
        (1.234, "s", "1.23 s"),
        (0.0405, "s", "40.5 ms"),
        (0.000_012, "s", "12 µs"),
        (1234.4, "B", "1,234 B"),
        (-2.6, "B", "-3 B"),
    ],
)
def test_figures_are_shown_with_their_unit(value: float, unit: str, words: str) -> None:
    assert shown(value, unit) == words


def test_resident_bytes_are_spread_over_the_steps() -> None:
    found = ResidentBytes(steps=100, before=1_000, at_first_dispatch=51_000, after=61_000)
    assert (found.per_waiting_step, found.per_finished_step) == (500, 100)


def test_a_process_that_fails_says_why() -> None:
    with pytest.raises(RuntimeError, match="no_such_name"):
        output_of(["-c", "no_such_name"])
