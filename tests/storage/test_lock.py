"""The run lock: one holder, named, freed by any death."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from asyncflow import RunLocked
from asyncflow.storage.fs import RealDirectory
from asyncflow.storage.layout import open_run
from asyncflow.storage.lock import RunLock, holder_of

HOLDER = """
import sys, time
from asyncflow.storage.layout import open_run
from asyncflow.storage.lock import RunLock
lock = RunLock(open_run(sys.argv[1], "nightly", create=True), "nightly")
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def holder(directory: Path, program: str = HOLDER) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the run until its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


@pytest.fixture
def run_directory(tmp_path: Path) -> Iterator[RealDirectory]:
    with open_run(tmp_path, "nightly", create=True) as directory:
        yield directory


def test_a_second_one_is_told_who_holds_it(tmp_path: Path, run_directory: RealDirectory) -> None:
    with holder(tmp_path) as other, pytest.raises(RunLocked) as refused:
        RunLock(run_directory, "nightly")
    assert refused.value.pid == other.pid
    assert refused.value.host == os.uname().nodename
    assert f"held by process {other.pid}" in str(refused.value)
    assert refused.value.since in str(refused.value)


def test_a_second_one_in_the_same_process_is_refused(run_directory: RealDirectory) -> None:
    lock = RunLock(run_directory, "nightly")
    with pytest.raises(RunLocked) as refused:
        RunLock(run_directory, "nightly")
    assert refused.value.pid == os.getpid()
    lock.release()
    RunLock(run_directory, "nightly").release()


def test_kill_frees_it(tmp_path: Path, run_directory: RealDirectory) -> None:
    with holder(tmp_path) as other:
        other.send_signal(signal.SIGKILL)
        other.wait()
        RunLock(run_directory, "nightly").release()


def test_a_stopped_holder_keeps_it(tmp_path: Path, run_directory: RealDirectory) -> None:
    with holder(tmp_path) as other:
        other.send_signal(signal.SIGSTOP)
        with pytest.raises(RunLocked):
            RunLock(run_directory, "nightly")


def test_started_programs_do_not_keep_it(run_directory: RealDirectory) -> None:
    lock = RunLock(run_directory, "nightly")
    child = subprocess.Popen(
        [sys.executable, "-c", "import sys; sys.stdin.read()"],
        stdin=subprocess.PIPE,
        close_fds=False,
    )
    try:
        lock.release()
        RunLock(run_directory, "nightly").release()
    finally:
        child.communicate()


FORKING = """
import os, sys, time
from asyncflow.storage.layout import open_run
from asyncflow.storage.lock import RunLock
lock = RunLock(open_run(sys.argv[1], "nightly", create=True), "nightly")
reading, writing = os.pipe()
if not os.fork():
    os.write(writing, b"x")
    time.sleep(60)
os.read(reading, 1)
print("held", flush=True)
sys.stdin.read()
"""


def test_a_forked_child_of_a_dead_holder_does_not_keep_it(
    tmp_path: Path, run_directory: RealDirectory
) -> None:
    import psutil

    with holder(tmp_path, FORKING) as other:
        children = psutil.Process(other.pid).children()
        assert len(children) == 1
        other.kill()
        other.wait()
        try:
            assert children[0].is_running()
            RunLock(run_directory, "nightly").release()
        finally:
            children[0].kill()
            psutil.wait_procs(children, timeout=5)


def test_who_only_looks_is_told_who_holds_it(tmp_path: Path, run_directory: RealDirectory) -> None:
    assert holder_of(run_directory) is None
    with holder(tmp_path) as other:
        found = holder_of(run_directory)
        assert found is not None
        assert found.pid == other.pid
    assert holder_of(run_directory) is None


def test_who_looks_does_not_keep_who_starts_from_it(run_directory: RealDirectory) -> None:
    import fcntl

    RunLock(run_directory, "nightly").release()
    looking = run_directory.open("lock", os.O_RDONLY)
    fcntl.flock(looking, fcntl.LOCK_SH)
    began = time.monotonic()

    def stop_looking(*_: object) -> None:
        fcntl.flock(looking, fcntl.LOCK_UN)

    previous = signal.signal(signal.SIGALRM, stop_looking)
    signal.setitimer(signal.ITIMER_REAL, 0.02)
    try:
        RunLock(run_directory, "nightly").release()
    finally:
        signal.signal(signal.SIGALRM, previous)
        os.close(looking)
    assert time.monotonic() >= began


def test_a_name_left_by_a_dead_holder_is_not_believed(
    tmp_path: Path, run_directory: RealDirectory
) -> None:
    with holder(tmp_path) as other:
        pass
    assert str(other.pid) in (tmp_path / "runs" / "nightly" / "lock").read_text()
    RunLock(run_directory, "nightly").release()


def test_a_removed_lock_file_does_not_count(tmp_path: Path, run_directory: RealDirectory) -> None:
    path = tmp_path / "runs" / "nightly" / "lock"
    first = RunLock(run_directory, "nightly")
    path.unlink()
    second = RunLock(run_directory, "nightly")
    assert path.exists()
    second.release()
    first.release()
