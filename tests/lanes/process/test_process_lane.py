"""The process lane: as every lane, and its pool: grown when needed, bounded, mended."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import functools
import gc
import importlib
import os
import resource
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from asyncflow import WorkerDied
from asyncflow.lanes.lane import Lane, LaneStatistics
from asyncflow.lanes.process import links
from asyncflow.lanes.process.lane import ProcessLane
from asyncflow.lanes.worker_kind import PLAIN, WorkerKind
from tests.lanes.conformance import Held, LaneConformance, Reports, held_call, make_call

MOST_WORKERS = 3
PATIENCE_SECONDS = 30.0
LOOK_SECONDS = 0.002
FRUGAL = """
import gc

# In a worker only: not while this test's own process imports it.
if gc.get_threshold()[0] == 0:
    gc.set_threshold(5, 6, 7)

def asked():
    return gc.get_threshold()[0]
"""


def make_lane(**options: Any) -> ProcessLane:
    loop = asyncio.get_running_loop()
    return ProcessLane(loop, loop.time, **{"max_workers": MOST_WORKERS, **options})


@pytest.fixture
async def lane() -> AsyncIterator[ProcessLane]:
    made = make_lane()
    yield made
    made.close()


@pytest.fixture
def reports() -> Reports:
    return Reports()


def wait_for_file(begun: Path, gate: Path) -> None:
    """Say that it has begun, and wait until the gate is there."""
    begun.touch()
    until = time.monotonic() + PATIENCE_SECONDS
    while not gate.exists():
        assert time.monotonic() < until
        time.sleep(LOOK_SECONDS)


def collected_at() -> str:
    return f"{gc.isenabled()} {gc.get_threshold()}"


async def appears(path: Path) -> None:
    """Wait for a file that another process makes; nothing else tells of it."""
    while not os.path.exists(path):  # noqa: ASYNC110, ASYNC240
        await asyncio.sleep(LOOK_SECONDS)


def hold_a_process(folder: Path) -> Held:
    """A sync call cannot be cancelled: it ends when it is let go, told to stop or not."""
    number = len(list(folder.iterdir()))
    begun, gate = folder / f"begun-{number}", folder / f"gate-{number}"
    (folder / f"taken-{number}").touch()
    return Held(
        functools.partial(wait_for_file, begun, gate),
        False,
        functools.partial(appears, begun),
        gate.touch,
    )


@pytest.mark.both_loops
class TestProcessLane(LaneConformance):
    most_at_once = MOST_WORKERS
    shares_memory = False
    who: Callable[[], int] = staticmethod(os.getpid)

    @pytest.fixture
    async def lane(self) -> Lane:
        return make_lane()

    @pytest.fixture(autouse=True)
    def folder(self, tmp_path: Path) -> None:
        self._folder = tmp_path

    def hold(self, *, stubborn: bool = False) -> Held:
        return hold_a_process(self._folder)


# -- the pool ----------------------------------------------------------------------------


async def test_no_process_is_started_before_the_first_call(lane: ProcessLane) -> None:
    assert lane.has_room()
    assert lane.statistics().workers == 0
    assert not psutil.Process().children()


async def test_one_call_after_the_other_needs_one_worker(
    lane: ProcessLane, reports: Reports
) -> None:
    for count in range(1, 21):
        lane.start(make_call(os.getpid, reports))
        await reports.wait_for(count)
    assert len({call.value for call in reports.calls}) == 1
    assert reports.calls[0].value != os.getpid()
    assert reports.calls[0].worker.name == "process-1"


async def test_a_call_runs_in_a_worker_of_its_own_kind_only(
    lane: ProcessLane, reports: Reports
) -> None:
    kinds = [WorkerKind(("0", "3"), 2), WorkerKind(("1",), 1), WorkerKind(("0", "3"), 2)]
    for count, kind in enumerate(kinds, start=1):
        lane.start(make_call(seen_environment, reports, worker_kind=kind))
        await reports.wait_for(count)
    assert [call.value[1:] for call in reports.calls] == [("0,3", "2"), ("1", "1"), ("0,3", "2")]
    first, second, third = (call.value[0] for call in reports.calls)
    assert first == third != second


def seen_environment() -> tuple[int, str, str]:
    return os.getpid(), os.environ["CUDA_VISIBLE_DEVICES"], os.environ["OMP_NUM_THREADS"]


@pytest.mark.parametrize(("threads", "said"), [(0, "1"), (1, "1"), (3, "3")])
async def test_libraries_get_a_thread_for_each_cpu_that_is_held_and_one_at_least(
    threads: int, said: str, lane: ProcessLane, reports: Reports
) -> None:
    kind = WorkerKind(threads=threads)
    lane.start(make_call(seen_environment, reports, worker_kind=kind))
    await reports.wait_for(1)
    assert reports.calls[0].value[2] == said


async def test_workers_that_were_prepared_take_the_first_calls(
    lane: ProcessLane, reports: Reports
) -> None:
    lane.prepare(2)
    assert lane.statistics() == LaneStatistics(workers=2, busy=0, lost=0)
    lane.prepare(2)  # they are there
    pids = set(lane.pids())
    for _ in range(2):
        lane.start(make_call(os.getpid, reports))
    await reports.wait_for(2)
    assert {call.value for call in reports.calls} == pids


async def test_no_more_workers_are_prepared_than_the_lane_may_have(lane: ProcessLane) -> None:
    lane.prepare(MOST_WORKERS + 5)
    assert lane.statistics().workers == MOST_WORKERS


async def test_workers_are_prepared_as_far_as_the_system_gives_any(
    monkeypatch: pytest.MonkeyPatch, lane: ProcessLane, reports: Reports
) -> None:
    def none_left(*_: Any) -> Any:
        raise OSError(errno.EAGAIN, "no process")

    with monkeypatch.context() as full:
        full.setattr(links, "spawn", none_left)
        lane.prepare(1)
    assert lane.statistics().workers == 0
    lane.start(make_call(os.getpid, reports))
    await reports.wait_for(1)


async def test_a_worker_that_is_not_up_is_not_waited_for(lane: ProcessLane) -> None:
    lane.prepare(1)
    (worker,) = lane._idle[PLAIN]
    os.kill(worker.pid, signal.SIGSTOP)  # it will never be up
    await lane.finish()
    assert worker.is_gone


async def test_what_importing_left_in_a_worker_is_not_walked_over_again(
    lane: ProcessLane, reports: Reports
) -> None:
    lane.start(make_call(gc.get_freeze_count, reports))
    await reports.wait_for(1)
    assert reports.calls[0].value > 1_000


async def test_garbage_is_collected_in_a_worker_as_soon_as_the_function_is_loaded(
    lane: ProcessLane, reports: Reports
) -> None:
    lane.start(make_call(collected_at, reports))
    await reports.wait_for(1)
    assert reports.calls[0].value == collected_at()


async def test_thresholds_that_a_module_sets_while_it_is_loaded_stay(
    lane: ProcessLane, reports: Reports, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "frugal.py").write_text(FRUGAL)
    monkeypatch.syspath_prepend(tmp_path)
    lane.start(make_call(importlib.import_module("frugal").asked, reports))
    await reports.wait_for(1)
    assert reports.calls[0].value == 5


async def test_idle_workers_of_another_kind_make_room(reports: Reports) -> None:
    lane = make_lane(max_workers=1)
    for count, device in enumerate("012", start=1):
        assert lane.has_room()
        lane.start(make_call(os.getpid, reports, worker_kind=WorkerKind((device,))))
        await reports.wait_for(count)
    assert lane.statistics().workers == 1
    lane.close()


async def test_a_worker_is_replaced_after_so_many_calls(reports: Reports) -> None:
    lane = make_lane(max_units=2)
    for count in range(1, 5):
        lane.start(make_call(os.getpid, reports))
        await reports.wait_for(count)
    first, second, third, fourth = (call.value for call in reports.calls)
    assert first == second != third == fourth
    await lane.finish()
    assert not [child for child in psutil.Process().children() if child.name() != "sh"]
    lane.close()


async def test_a_worker_that_holds_much_memory_is_replaced(reports: Reports) -> None:
    lane = make_lane(max_resident_bytes=1)
    lane.start(make_call(time.sleep, reports, 0.02))
    await reports.wait_for(1)
    assert lane.statistics().workers == 0
    lane.close()


# -- deaths ------------------------------------------------------------------------------


def kill_myself(number: int) -> None:
    os.kill(os.getpid(), number)
    time.sleep(PATIENCE_SECONDS)


def crash() -> None:
    ctypes.string_at(0)


DEATHS = [
    (functools.partial(kill_myself, signal.SIGKILL), signal.SIGKILL, None, "no memory left"),
    (crash, signal.SIGSEGV, None, r"crashed \(SIGSEGV\)"),
    (os.abort, signal.SIGABRT, None, r"aborted \(SIGABRT\)"),
    (functools.partial(os._exit, 3), 0, 3, "exited with code 3"),
    (functools.partial(kill_myself, signal.SIGTERM), signal.SIGTERM, None, "ended by SIGTERM"),
]


@pytest.mark.parametrize("func, number, code, sentence", DEATHS)
async def test_each_way_to_die_is_told_apart(
    lane: ProcessLane,
    reports: Reports,
    func: Callable[[], None],
    number: int,
    code: int | None,
    sentence: str,
) -> None:
    lane.start(make_call(func, reports, name="fatal"))
    await reports.wait_for(1)
    error = reports.calls[0].error
    assert isinstance(error, WorkerDied)
    assert (error.step, error.signal, error.exit_code) == ("fatal", number, code)
    with pytest.raises(WorkerDied, match=sentence):
        raise error
    after = make_call(len, reports, "next")
    lane.start(after)
    await reports.wait_for(2)
    assert after.value == 4


async def test_a_crash_brings_its_traceback(lane: ProcessLane, reports: Reports) -> None:
    lane.start(make_call(crash, reports))
    await reports.wait_for(1)
    assert "in crash" in "\n".join(reports.calls[0].error.last_output)


async def test_a_death_leaves_other_calls_alone(
    lane: ProcessLane, reports: Reports, tmp_path: Path
) -> None:
    held = hold_a_process(tmp_path)
    innocent = held_call(held, reports)
    lane.start(innocent)
    await held.begun()
    lane.start(make_call(os._exit, reports, 1))
    await reports.wait_for(1)
    held.let_go()
    await reports.wait_for(2)
    assert innocent.error is None


def leave_a_child() -> int:
    import subprocess

    return subprocess.Popen(["sleep", "1000"]).pid


async def test_a_dead_worker_s_children_die_with_it(lane: ProcessLane, reports: Reports) -> None:
    lane.start(make_call(leave_a_child, reports))
    await reports.wait_for(1)
    child = psutil.Process(reports.calls[0].value)
    lane.start(make_call(os._exit, reports, 1))
    await reports.wait_for(2)
    psutil.wait_procs([child], timeout=PATIENCE_SECONDS)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


async def test_a_stubborn_call_is_killed(
    lane: ProcessLane, reports: Reports, tmp_path: Path
) -> None:
    held = hold_a_process(tmp_path)
    call = held_call(held, reports)
    lane.start(call)
    await held.begun()
    call.cancel_requested = True
    lane.cancel(call)
    assert lane.kill(call)
    await reports.wait_for(1)
    assert isinstance(call.error, asyncio.CancelledError)
    assert not lane.kill(call)


# -- large values ------------------------------------------------------------------------


def length_of(data: bytes, extra: int = 0) -> int:
    return len(data) + extra


async def test_what_is_large_is_written_beside_the_loop_and_keeps_its_place(
    reports: Reports,
) -> None:
    lane = make_lane(max_workers=1)
    large = bytes(32 << 20)
    first = make_call(length_of, reports, large)
    lane.start(first)
    lane.start(make_call(length_of, reports, b"behind", worker=first.worker))
    await reports.wait_for(2)
    assert [call.value for call in reports.calls] == [32 << 20, 6]
    lane.close()


async def test_a_lane_closes_while_something_large_is_written(reports: Reports) -> None:
    lane = make_lane(max_workers=1)
    lane.start(make_call(length_of, reports, bytes(64 << 20)))
    lane.close()
    await reports.wait_for(1)
    assert isinstance(reports.calls[0].error, asyncio.CancelledError)


async def test_no_memory_for_what_is_large_fails_the_call_and_no_more(
    reports: Reports, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    lane = make_lane(max_workers=1)
    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", refuse)
        lane.start(make_call(length_of, reports, bytes(32 << 20)))
        await reports.wait_for(1)
    assert isinstance(reports.calls[0].error, OSError)
    lane.start(make_call(length_of, reports, bytes(32 << 20), 1))
    await reports.wait_for(2)
    assert reports.calls[1].value == (32 << 20) + 1
    lane.close()


# -- starts that fail --------------------------------------------------------------------


async def test_a_worker_that_cannot_be_started_fails_the_call_and_no_more(
    lane: ProcessLane, reports: Reports, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(sys, "executable", "")
        lane.start(make_call(len, reports, "abc", name="late"))
        assert lane.reserve() is None
    await reports.wait_for(1)
    assert "step 'late' got no worker process: this program does not know" in str(
        reports.calls[0].error
    )
    lane.start(make_call(len, reports, "abc"))
    await reports.wait_for(2)
    assert reports.calls[1].value == 3


async def test_no_descriptors_left_is_an_error_and_leaves_none_open(
    lane: ProcessLane, reports: Reports
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = os.dup(0)
    resource.setrlimit(resource.RLIMIT_NOFILE, (taken + 3, hard))
    try:
        lane.start(make_call(len, reports, "abc"))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        os.close(taken)
    await reports.wait_for(1)
    assert "got no worker process" in str(reports.calls[0].error)


async def test_without_a_descriptor_for_its_process_a_death_shows_in_its_channel(
    lane: ProcessLane, reports: Reports, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "pidfd_open")
    lane.start(make_call(os._exit, reports, 5))
    await reports.wait_for(1)
    error = reports.calls[0].error
    assert isinstance(error, WorkerDied)
    assert error.exit_code == 5
