"""``asyncflow cache`` and ``asyncflow runs prune`` keep the directory small, and nothing else."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from asyncflow import Pipeline, step
from asyncflow.graph.node import MISSING
from asyncflow.storage.cache import CacheStore
from asyncflow.storage.codecs import Codecs
from asyncflow.storage.digests import hashed
from asyncflow.storage.fs import open_root
from asyncflow.storage.journal import read_memory
from asyncflow.storage.layout import open_run
from asyncflow.storage.lock import RunLock
from tests.cli.commanding import Commands

DAY_SECONDS = 86_400


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    return tmp_path / "kept"


def fill(kept: Path, count: int) -> CacheStore:
    store = CacheStore(kept, Codecs())
    for number in range(count):
        store.save(hashed(b"%d" % number), "x" * 1000, MISSING)
    return store


# -- the cache -------------------------------------------------------------------------


def test_stats_count_what_is_cached(commands: Commands, kept: Path) -> None:
    assert (
        commands.here("cache", "stats", "--directory", str(kept)).output == "0 entries, 0 bytes\n"
    )
    fill(kept, 3)
    ended = commands.here("cache", "stats", "--directory", str(kept))
    assert ended.exit_code == 0
    assert ended.output.startswith("3 entries, ")
    assert "last used between 20" in ended.output
    found = json.loads(commands.here("cache", "stats", "--directory", str(kept), "--json").output)
    assert (found["entries"], found["total_bytes"] > 3000) == (3, True)


def test_prune_leaves_what_fits(commands: Commands, kept: Path) -> None:
    store = fill(kept, 5)
    each = store.statistics().total_bytes // 5
    ended = commands.here("cache", "prune", "--max-bytes", str(2 * each), "--directory", str(kept))
    assert ended.exit_code == 0
    assert ended.output.startswith("removed 3 entries, ")
    assert store.statistics().entries == 2
    pruned = commands.here("cache", "prune", "--max-bytes", "0", "--directory", str(kept), "--json")
    assert json.loads(pruned.output)["removed"] == 2
    assert store.statistics().entries == 0


@pytest.mark.parametrize("wrong", ["much", "-1", "10 parrots"])
def test_a_wrong_size_is_a_sentence(commands: Commands, kept: Path, wrong: str) -> None:
    ended = commands.here("cache", "prune", f"--max-bytes={wrong}", "--directory", str(kept))
    assert ended.exit_code == 2
    assert "--max-bytes" in ended.output
    assert "Traceback" not in ended.output


def test_a_directory_that_is_none_is_a_sentence(commands: Commands, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    ended = commands.here("cache", "stats", "--directory", str(tmp_path / "file"))
    assert ended.exit_code == 2
    assert "error: " in ended.output


# -- runs ------------------------------------------------------------------------------


@step
def good() -> str:
    return "x" * 1000


def record(kept: Path, run_id: str, *, days_old: float = 0, finished: bool = True) -> Path:
    """The directory of a run that was recorded so long ago."""
    Pipeline("p", steps=[good]).run_sync(checkpoint=str(kept), run_id=run_id)
    folder = kept / "runs" / run_id
    journal = folder / "journal"
    if not finished:
        _cut_the_end_off(journal)
    then = time.time() - days_old * DAY_SECONDS
    os.utime(journal, (then, then))
    return folder


def _cut_the_end_off(journal: Path) -> None:
    """What a host that dies leaves: no record of the end of the run."""
    whole = journal.read_bytes()
    for length in range(len(whole), 0, -1):
        journal.write_bytes(whole[:length])
        with open_root(journal.parent, create=False) as run:
            sight = read_memory(run)
        if sight.damage is None and sight.memory.finished is None:
            return
    raise AssertionError("no such cut")


def prune(commands: Commands, kept: Path, *options: str) -> Any:
    return commands.here("runs", "prune", "--older-than", "30d", "--directory", str(kept), *options)


def test_runs_that_are_finished_and_old_are_removed(commands: Commands, kept: Path) -> None:
    old, young = record(kept, "old", days_old=31), record(kept, "young", days_old=29)
    ended = prune(commands, kept)
    assert ended.exit_code == 0
    assert "removed old, " in ended.output
    assert "removed 1 run, " in ended.output
    assert not old.exists()
    assert young.exists()


def test_options_before_prune_count_too(
    commands: Commands, kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    here, old = (
        record(tmp_path / ".asyncflow", "here", days_old=31),
        record(kept, "old", days_old=31),
    )
    ended = commands.here(
        "runs", "--directory", str(kept), "--json", "prune", "--older-than", "30d"
    )
    assert [run["run_id"] for run in json.loads(ended.output)] == ["old"]
    assert not old.exists()
    assert here.exists()


def test_a_dry_run_removes_nothing(commands: Commands, kept: Path) -> None:
    old = record(kept, "old", days_old=31)
    before = sorted(old.rglob("*"))
    ended = prune(commands, kept, "--dry-run")
    assert "would remove old" in ended.output
    assert sorted(old.rglob("*")) == before


def test_a_run_that_is_not_finished_stays_unless_asked_for(commands: Commands, kept: Path) -> None:
    old = record(kept, "old", days_old=31, finished=False)
    ended = prune(commands, kept)
    assert ended.exit_code == 1
    assert "left old" in ended.output
    assert "--unfinished" in ended.output
    assert old.exists()
    assert prune(commands, kept, "--unfinished").exit_code == 0
    assert not old.exists()


def test_a_run_that_is_damaged_stays_unless_asked_for(commands: Commands, kept: Path) -> None:
    old = record(kept, "old", days_old=31)
    journal = old / "journal"
    content = bytearray(journal.read_bytes())
    content[60] ^= 1
    journal.write_bytes(content)
    os.utime(journal, (1000, 1000))
    assert "left old" in prune(commands, kept).output
    assert old.exists()
    assert prune(commands, kept, "--unfinished").exit_code == 0
    assert not old.exists()


@pytest.mark.parametrize("options", [[], ["--unfinished"], ["--dry-run"]])
def test_a_run_that_is_held_is_never_removed(
    commands: Commands, kept: Path, options: list[str]
) -> None:
    old = record(kept, "old", days_old=31)
    with open_run(kept, "old") as run:
        lock = RunLock(run, "old")
        try:
            ended = prune(commands, kept, *options)
        finally:
            lock.release()
    assert ended.exit_code == 1
    assert f"{os.getpid()}" in ended.output
    assert (old / "journal").exists()


def test_links_are_removed_and_never_followed(
    commands: Commands, kept: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "sentinel").write_text("untouched")
    old = record(kept, "old", days_old=31)
    (old / "blobs").mkdir(exist_ok=True)
    (old / "blobs" / "large").write_bytes(bytes(1000))
    (old / "blobs" / "planted").symlink_to(outside)
    (kept / "runs" / "planted").symlink_to(outside)
    assert prune(commands, kept, "--unfinished").exit_code == 0
    assert not old.exists()
    assert (outside / "sentinel").read_text() == "untouched"
    assert (kept / "runs" / "planted").is_symlink()


def test_where_nothing_was_recorded_nothing_is_removed(commands: Commands, kept: Path) -> None:
    assert prune(commands, kept).output == "removed 0 runs, 0 bytes\n"


def test_runs_can_be_told_as_json(commands: Commands, kept: Path) -> None:
    record(kept, "old", days_old=31)
    (found,) = json.loads(prune(commands, kept, "--json").output)
    assert (found["run_id"], found["removed"], found["why_not"]) == ("old", True, "")


@pytest.mark.parametrize("wrong", ["old", "30", "-1d", "30 parrots"])
def test_a_wrong_age_is_a_sentence(commands: Commands, kept: Path, wrong: str) -> None:
    ended = commands.here("runs", "prune", f"--older-than={wrong}", "--directory", str(kept))
    assert ended.exit_code == 2
    assert "30d" in ended.output
