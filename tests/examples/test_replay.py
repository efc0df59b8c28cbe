"""The replay of recorded workflows: right values, right bounds, and a program that says so."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from examples.replay import (
    Lane,
    Task,
    Workflow,
    critical_path_seconds,
    digest,
    expected_digest,
    load_graph,
    lower_bound_seconds,
    pipeline_of,
    replay,
    value_of,
)

ROOT = Path(__file__).resolve().parents[2]
SMALL = "montage-2mass-005d.json"
DIAMOND = Workflow(
    "diamond",
    (
        Task("last", ("left", "right"), 1.0, 1, None),
        Task("left", ("first",), 5.0, 2, 1024),
        Task("right", ("first",), 2.0, 1, None),
        Task("first", (), 1.0, 1, None),
    ),
)


def _hash(*parts: bytes) -> bytes:
    return hashlib.blake2b(b"".join(parts), digest_size=16).digest()


def _stored(folder: Path, digests: dict[str, str] | None = None) -> Path:
    path = folder / "diamond.json"
    path.write_bytes(msgspec.json.encode(DIAMOND))
    if digests is not None:
        (folder / "digests.json").write_text(json.dumps(digests), encoding="utf-8")
    return path


def _replay_program(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "examples" / "replay.py"), *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


def _diamond_digest() -> str:
    first = value_of("first", [])
    left, right = value_of("left", [first]), value_of("right", [first])
    values = {"first": first, "left": left, "right": right}
    return digest({**values, "last": value_of("last", [left, right])})


def test_a_value_hashes_the_name_and_the_parents_values_in_order() -> None:
    assert value_of("a", []) == _hash(b"a")
    assert value_of("a", [b"1", b"2"]) == _hash(b"a|1|2")
    assert value_of("a", [b"2", b"1"]) != value_of("a", [b"1", b"2"])


def test_the_digest_is_that_of_the_sorted_lines() -> None:
    lines = f"a {b'x'.hex()}\nb {b'y'.hex()}"
    assert digest({"b": b"y", "a": b"x"}) == _hash(lines.encode()).hex()


@pytest.mark.parametrize("lane", ["inline", "thread"])
@pytest.mark.parametrize("resources", [True, False])
async def test_a_recorded_workflow_comes_out_right(
    shared_workflows: Path, lane: Lane, resources: bool
) -> None:
    path = shared_workflows / SMALL
    workflow = load_graph(path)
    result = await replay(pipeline_of(workflow, lane=lane, resources=resources), max_cpus=4)
    values = {task.id: result[task.id] for task in workflow.tasks}
    assert digest(values) == expected_digest(path)
    assert result.step_results[workflow.tasks[0].id].lane == lane


async def test_children_may_stand_before_their_parents() -> None:
    result = await replay(pipeline_of(DIAMOND), max_cpus=2)
    assert digest({task.id: result[task.id] for task in DIAMOND.tasks}) == _diamond_digest()


def test_tasks_ask_for_what_they_were_recorded_with() -> None:
    asked = {node.name: node.step.resources for node in pipeline_of(DIAMOND).steps}
    assert asked["left"] is not None
    assert (asked["left"].cpu_millis, asked["left"].memory_bytes) == (2000, 1024)
    assert asked["right"] is not None
    assert asked["right"].memory_bytes is None


def test_without_resources_tasks_ask_for_nothing() -> None:
    assert {node.step.resources for node in pipeline_of(DIAMOND, resources=False).steps} == {None}


@pytest.mark.parametrize(
    "name", [SMALL, "airrflow-nextflow.json", "epigenomics-ilmn-6seq-50k.json.gz"]
)
def test_the_critical_path_is_the_recorded_one(shared_workflows: Path, name: str) -> None:
    stored = (shared_workflows / name).read_bytes()
    plain: dict[str, Any] = json.loads(gzip.decompress(stored) if name.endswith("gz") else stored)
    tasks = load_graph(shared_workflows / name).tasks
    assert critical_path_seconds(tasks) == pytest.approx(plain["meta"]["critical_path_s"], abs=0.01)


@pytest.mark.parametrize(
    "cpus, bound",
    [
        (None, 7.0),  # first, left, last: nothing is asked for
        (100, 7.0),
        (2, 7.0),  # the work, 1 + 2 × 5 + 2 + 1, takes as long on two
        (1, 9.0),  # left asks for two CPUs and gets the one there is
    ],
)
def test_no_schedule_is_shorter_than_the_path_and_the_work(
    cpus: float | None, bound: float
) -> None:
    assert lower_bound_seconds(DIAMOND, cpus) == bound


def test_the_program_says_that_the_digest_is_as_expected(tmp_path: Path) -> None:
    path = _stored(tmp_path, {"diamond.json": _diamond_digest()})
    ended = _replay_program(str(path), "--lane", "thread", "--time-scale", "0.001")
    assert ended.returncode == 0, ended.stderr
    assert f"{_diamond_digest()} as expected" in ended.stdout
    assert "4 tasks, 4 edges" in ended.stdout
    assert "makespan" in ended.stdout
    assert "ratio" in ended.stdout


def test_the_program_fails_when_the_digest_is_another(tmp_path: Path) -> None:
    path = _stored(tmp_path, {"diamond.json": "0" * 32})
    ended = _replay_program(str(path), "--time-scale", "0", "--no-resources", "--max-cpus", "2")
    assert ended.returncode == 1
    assert f"{_diamond_digest()}, but {'0' * 32} is expected" in ended.stderr


def test_the_program_replays_the_workflow_that_comes_with_it() -> None:
    done = _replay_program(str(ROOT / "examples" / "workflow.json"), "--time-scale", "0")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("sky: 8 tasks, 13 edges, inline lane\n")


def test_the_program_says_what_it_cannot_read(tmp_path: Path) -> None:
    (tmp_path / "list.json").write_text("[]")
    for name, told in [("list.json", "Expected `object`"), ("none.json", "No such file")]:
        done = _replay_program(str(tmp_path / name))
        assert (done.returncode, done.stdout) == (2, "")
        assert f"{name} holds no workflow" in done.stderr
        assert told in done.stderr


def test_the_program_gives_the_digest_of_a_workflow_nobody_knows(tmp_path: Path) -> None:
    ended = _replay_program(str(_stored(tmp_path)), "--time-scale", "0")
    assert ended.returncode == 0, ended.stderr
    assert _diamond_digest() in ended.stdout


@pytest.mark.parametrize(
    "option, value", [("--time-scale", "-1"), ("--time-scale", "nan"), ("--max-cpus", "0")]
)
def test_the_program_refuses_numbers_that_make_no_sense(
    tmp_path: Path, option: str, value: str
) -> None:
    ended = _replay_program(str(_stored(tmp_path)), option, value)
    assert ended.returncode == 2
    assert option in ended.stderr
