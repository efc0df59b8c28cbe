"""Workers that end before they are up: no call has harmed them, and none is blamed."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from asyncflow import Pipeline, WorkerDied, step
from asyncflow.lanes.process import links
from asyncflow.lanes.process.spawning import spawn


async def test_a_worker_that_dies_before_it_is_up_harms_no_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spawned: list[int] = []

    def spawn_and_kill(*arguments: Any) -> Any:
        link = spawn(*arguments)
        spawned.append(link.process.pid)
        if len(spawned) <= 3:
            os.kill(link.process.pid, signal.SIGKILL)
        return link

    monkeypatch.setattr(links, "spawn", spawn_and_kill)
    result = await Pipeline("p", steps=[step(os.getpid, name="x", lane="process")]).run()
    assert result["x"] == spawned[3]
    assert result.step_results["x"].attempts == 1


async def test_where_no_worker_is_ever_up_the_call_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def spawn_and_kill(*arguments: Any) -> Any:
        link = spawn(*arguments)
        os.kill(link.process.pid, signal.SIGKILL)
        return link

    monkeypatch.setattr(links, "spawn", spawn_and_kill)
    result = await Pipeline("p", steps=[step(os.getpid, name="x", lane="process")]).run()
    assert isinstance(result.step_results["x"].error, WorkerDied)


async def test_what_keeps_every_worker_from_loading_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "msgspec.py").write_text("raise RuntimeError('not the library of that name')")
    monkeypatch.syspath_prepend(str(tmp_path))
    spawned: list[int] = []

    def spawn_and_count(*arguments: Any) -> Any:
        link = spawn(*arguments)
        spawned.append(link.process.pid)
        return link

    monkeypatch.setattr(links, "spawn", spawn_and_count)
    result = await Pipeline("p", steps=[step(os.getpid, name="x", lane="process")]).run()
    error = result.step_results["x"].error
    assert isinstance(error, WorkerDied)
    assert "was to run step 'x' exited with code 1 while it loaded" in str(error)
    assert "not the library of that name" in "".join(error.__notes__)
    assert len(spawned) == 3
