"""Hosts that are killed at any moment: nothing acknowledged is lost, and nothing runs twice."""

from __future__ import annotations

import shutil
from itertools import count
from pathlib import Path
from random import Random

import pytest

from asyncflow.storage.faultpoints import POINTS
from tests.killing import LANES, kill_and_resume

SMALL = "montage-2mass-005d.json"
# Points that a run without large values, without a torn tail, comes by.
COMMON = [point for point in POINTS if "blob" not in point and point not in ("after-truncate",)]


@pytest.mark.parametrize("lane", LANES)
def test_a_host_killed_in_its_groups(lane: str, shared_workflows: Path, tmp_path: Path) -> None:
    random = Random(lane)
    delays = [random.uniform(0, 0.3) for _ in range(2)]
    story = kill_and_resume(
        shared_workflows / SMALL, lane, tmp_path, delays=delays, seconds=0.005, grouped=True
    )
    assert not story.faults, (delays, story.faults)


@pytest.mark.parametrize("lane", LANES)
def test_a_host_killed_at_any_moment(lane: str, shared_workflows: Path, tmp_path: Path) -> None:
    random = Random(lane)
    delays = [random.uniform(0, 0.4) for _ in range(2)]
    story = kill_and_resume(shared_workflows / SMALL, lane, tmp_path, delays=delays, seconds=0.005)
    assert not story.faults, (delays, story.faults)


@pytest.mark.parametrize("point", COMMON)
def test_a_host_killed_at_a_fault_point(point: str, shared_workflows: Path, tmp_path: Path) -> None:
    story = kill_and_resume(
        shared_workflows / SMALL,
        "inline",
        tmp_path,
        faults=[point],
        durability="power" if "sync" in point else "process",
    )
    assert story.kills == 1
    assert not story.faults, story.faults


@pytest.mark.slow
@pytest.mark.parametrize("durability", ["process", "power"])
@pytest.mark.parametrize("point", COMMON)
@pytest.mark.parametrize("count", [2, 3])
def test_a_host_killed_at_a_fault_point_later_on(
    point: str, durability: str, count: int, shared_workflows: Path, tmp_path: Path
) -> None:
    graph = shared_workflows / SMALL
    faults = [f"{point}:{count}", f"{point}:{count + 1}"]
    story = kill_and_resume(graph, "inline", tmp_path, faults=faults, durability=durability)
    assert not story.faults, story.faults


def inject(call: str, tmp_path: Path) -> list[str]:
    """The command that has a system call on the journal go wrong.

    It has to see every thread: the journal has one of its own.
    """
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed")
    journal = tmp_path / "kept" / "runs" / "killed" / "journal"
    name = call.partition(":")[0]
    return [strace, "-f", "-o", "/dev/null", "-P", str(journal), "-e", f"trace={name}",
            "-e", f"inject={call}"]  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("call", ["write", "fsync"])
def test_a_host_killed_in_every_one_of_its_writes_and_syncs(
    call: str, shared_workflows: Path, tmp_path: Path
) -> None:
    """The N-th of a journal kills the host, for N = 1, 2, … until one gets through."""
    for number in count(1):
        directory = tmp_path / str(number)
        directory.mkdir()
        story = kill_and_resume(
            shared_workflows / SMALL,
            "inline",
            directory,
            durability="power",
            under=inject(f"{call}:signal=SIGKILL:when={number}", directory),
        )
        assert not story.faults, (number, story.faults)
        if not story.kills:
            break
    assert number > 5
