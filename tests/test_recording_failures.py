"""Disks that fail under a run that records: it says so, stops, and can be resumed."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from asyncflow import NodeState, Pipeline, RunState, Runtime, StorageError, step
from asyncflow.storage.fs import RealFile
from tests.recording import Host, until


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path / "kept")


def chain(host: Host, length: int = 6) -> Pipeline:
    """Steps one after the other; each adds one to what the last one gave."""

    def one(name: str) -> Any:
        @step(name=name)
        async def add(above: int) -> int:
            host.called(name)
            return above + 1

        return add

    pipeline = Pipeline("chain")
    for number in range(length):
        above = f"step{number - 1}" if number else "start"
        pipeline.add_step(one(f"step{number}"), inputs={"above": above}) if number else (
            pipeline.add_step(one("step0"), params={"above": 0})
        )
    return pipeline


@contextmanager
def failing(
    monkeypatch: pytest.MonkeyPatch, method: str, nth: int, error: int, *, forever: bool = True
) -> Iterator[list[int]]:
    """From its nth call on a method of files fails; gives a list with each of its calls."""
    real: Callable[..., Any] = getattr(RealFile, method)
    calls: list[int] = []

    def failing_call(self: RealFile, *args: Any) -> Any:
        calls.append(len(calls) + 1)
        if len(calls) == nth or (forever and len(calls) > nth):
            raise OSError(error, os.strerror(error))
        return real(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(RealFile, method, failing_call)
        yield calls


@pytest.mark.parametrize("nth", range(2, 8))
async def test_a_full_disk_ends_the_run_and_loses_nothing(
    nth: int, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    with failing(monkeypatch, "write", nth, errno.ENOSPC):
        result = await host.run(chain(host))
    assert result.state is RunState.FAILED
    assert "No space left on device" in result.reason
    assert "bytes were needed" in result.reason
    assert str(host.directory) in result.reason
    done = [name for name, found in result.step_results.items() if found.success]
    lost = [f for f in result.step_results.values() if f.status is NodeState.FAILED]
    assert all("its result could not be recorded" in str(found.error) for found in lost)
    assert len(lost) <= 1
    assert len(host.calls) == len(done) + len(lost)
    again = await host.run(chain(host))
    assert again["step5"] == 6
    assert not set(done).intersection(host.calls)


@pytest.mark.parametrize("nth", range(2, 6))
async def test_a_failed_sync_ends_the_run_and_is_never_tried_again(
    nth: int, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Runtime(directory=host.directory, durability="power") as runtime:
        with failing(monkeypatch, "sync", nth, errno.EIO, forever=False) as calls:
            result = await host.run(chain(host), runtime=runtime)
        assert result.state is RunState.FAILED
        assert "the state on disk is unknown after record" in result.reason
        assert len(calls) == nth
        done = [name for name, found in result.step_results.items() if found.success]
        again = await host.run(chain(host), runtime=runtime)
    assert again["step5"] == 6
    assert not set(done).intersection(host.calls)


async def test_a_large_value_that_does_not_fit_ends_the_run(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    @step
    async def large() -> bytes:
        host.called("large")
        return bytes(1 << 20)

    pipeline = Pipeline("large", steps=[large])
    real = RealFile.write

    def full(self: RealFile, part: Any) -> int:
        if len(part) > 1 << 19:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(self, part)

    with monkeypatch.context() as patch:
        patch.setattr(RealFile, "write", full)
        result = await host.run(pipeline)
    assert not result.success
    assert "1,048" in result.reason
    assert (await host.run(pipeline))["large"] == bytes(1 << 20)
    assert host.calls == {"large": 1}


async def test_short_writes_are_completed(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    real = RealFile.write
    with monkeypatch.context() as patch:
        patch.setattr(RealFile, "write", lambda self, part: real(self, part[:7]))
        assert (await host.run(chain(host)))["step5"] == 6
    again = await host.run(chain(host))
    assert again["step5"] == 6
    assert not host.calls


async def test_a_slow_sync_holds_nobody_but_who_depends_on_it(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, released = threading.Event(), threading.Event()
    real = RealFile.sync

    def slow(self: RealFile) -> None:
        entered.set()
        assert released.wait(20)
        real(self)

    first_ended, disk_is_slow = asyncio.Event(), asyncio.Event()

    @step(outputs=["first"])
    async def first() -> int:
        host.called("first")
        await disk_is_slow.wait()
        first_ended.set()
        return 1

    @step
    async def second(first: int) -> int:
        host.called("second")
        return first

    @step
    async def beside() -> int:
        await first_ended.wait()
        for _ in range(500):
            await asyncio.sleep(0)
        host.called("beside")
        return 1

    async with Runtime(directory=host.directory, durability="power") as runtime:
        pipeline = Pipeline("slow", steps=[first, second, beside])
        async with pipeline.start(runtime=runtime, run_id="nightly") as run:
            await until(lambda: host.calls["first"] == 1)
            with monkeypatch.context() as patch:
                patch.setattr(RealFile, "sync", slow)
                disk_is_slow.set()
                await first_ended.wait()
                await asyncio.to_thread(entered.wait, 20)
                for _ in range(1000):  # the loop goes round while the disk does not
                    await asyncio.sleep(0)
                assert host.calls == {"first": 1, "beside": 1}
                assert run.snapshot().done == 0
                released.set()
                result = await run.result()
    assert result["second"] == 1


async def test_a_disk_slower_than_the_steps_holds_them_back(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asyncflow.engine.scheduler._MOST_UNRECORDED", 20)
    entered, released = threading.Event(), threading.Event()
    real = RealFile.write

    def slow(self: RealFile, part: Any) -> int:
        entered.set()
        assert released.wait(20)
        return real(self, part)

    @step
    async def small() -> int:
        if not host.calls:
            patch.setattr(RealFile, "write", slow)
        host.called("small")
        return 1

    pipeline = Pipeline("many")
    for number in range(500):
        pipeline.add_step(small, name=f"small{number}")
    with monkeypatch.context() as patch:
        async with pipeline.start(run_id="nightly", checkpoint=host.directory) as run:
            assert await asyncio.to_thread(entered.wait, 20)
            for _ in range(1000):
                await asyncio.sleep(0)
            held_back = host.calls["small"]
            released.set()
            result = await run.result()
    assert 20 <= held_back < 100
    assert result.success
    assert host.calls["small"] == 500


async def test_a_directory_that_cannot_be_made_is_said_before_the_first_step(
    host: Host, tmp_path: Path
) -> None:
    (tmp_path / "kept").write_text("in the way")
    with pytest.raises(StorageError, match="cannot be made: what stands there is no directory"):
        await host.run(chain(host))
    assert not host.calls


async def test_a_read_only_disk_is_said_before_the_first_step(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with monkeypatch.context() as patch:
        patch.setattr(os, "mkdir", refuse)
        with pytest.raises(StorageError, match="Read-only file system"):
            await host.run(chain(host))
    assert not host.calls


async def test_no_descriptors_left_is_no_matter_once_the_run_goes_on(host: Host) -> None:
    @step(outputs=["taken"])
    async def take_all() -> int:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        used = max(int(name) for name in os.listdir("/proc/self/fd"))
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + 1, hard))
        taken = []
        try:
            while True:
                taken.append(os.dup(0))
        except OSError:
            host.called("none left")
        host.called("take_all")
        await go_on.wait()
        for descriptor in taken:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        return 1

    @step
    async def beside() -> int:
        await until(lambda: host.calls["take_all"] == 1)
        return 2

    go_on = asyncio.Event()
    pipeline = Pipeline("descriptors", steps=[take_all, beside])
    async with pipeline.start(run_id="nightly", checkpoint=host.directory) as run:
        async for event in run.events():
            if event.kind == "NodeFinished" and event.node == "beside":
                go_on.set()
                break
        result = await run.result()
    assert result.success, result.reason
    assert host.calls["none left"] == 1


async def test_a_run_that_fails_for_the_disk_is_logged(
    host: Host, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with failing(monkeypatch, "write", 3, errno.EIO):
        await host.run(chain(host))
    assert "could not be" in caplog.text
