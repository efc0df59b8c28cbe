"""What every test runs under: a loop it can choose, a leak check, a hypothesis profile.

Async tests run on asyncio's own loop; ``@pytest.mark.both_loops`` adds a run on uvloop.
A test that leaves a task, a thread, a file descriptor or a child process behind fails and
names it, unless ``@pytest.mark.allow_leak("threads", reason="...")`` excuses that kind.
``HYPOTHESIS_PROFILE=nightly`` tries more examples; what is about to end gets
``LEAK_GRACE_SECONDS``, which only a test with a leak uses up.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import os
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import hypothesis
import psutil
import pytest
import pytest_asyncio

LEAK_KINDS = ("tasks", "threads", "descriptors", "processes")
LEAK_GRACE_SECONDS = float(os.environ.get("LEAK_GRACE_SECONDS", "10"))
LOOP_TURNS_OF_GRACE = 20
DESCRIPTOR_DIRECTORY = Path("/proc/self/fd")
# asyncio's default executor ends with its loop; pytest-timeout's timer outlives the test.
IGNORED_THREAD_PREFIXES = ("asyncio_", "pytest_timeout")
PENDING_TASKS = pytest.StashKey[list[str]]()

hypothesis.settings.register_profile(
    "ci",
    max_examples=60,
    deadline=None,
    derandomize=False,
    print_blob=True,
    # Like a deadline, it would judge how busy the machine is.
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.register_profile(
    "nightly", hypothesis.settings.get_profile("ci"), max_examples=2000
)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


@functools.cache
def _uvloop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    try:
        import uvloop
    except ImportError:
        return lambda: pytest.skip("uvloop is not installed")
    # The first loop of a process opens libuv's signal pipe for good: not that test's leak.
    uvloop.new_event_loop().close()
    return uvloop.new_event_loop


def pytest_asyncio_loop_factories(
    item: pytest.Item,
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The loops an async test runs on, one run each."""
    if item.get_closest_marker("both_loops") is None:
        return {"asyncio": asyncio.new_event_loop}
    return {"asyncio": asyncio.new_event_loop, "uvloop": _uvloop_factory()}


def _allowed_leaks(node: pytest.Item) -> set[str]:
    allowed: set[str] = set()
    for marker in node.iter_markers("allow_leak"):
        kinds = marker.args
        if not kinds or not set(kinds) <= set(LEAK_KINDS) or not marker.kwargs.get("reason"):
            pytest.fail(
                f"allow_leak needs one of {', '.join(LEAK_KINDS)} and a reason: "
                '@pytest.mark.allow_leak("threads", reason="...")',
                pytrace=False,
            )
        allowed.update(kinds)
    return allowed


def _open_descriptors() -> set[tuple[int, str]]:
    if not DESCRIPTOR_DIRECTORY.is_dir():
        return set()
    found = set()
    for number in os.listdir(DESCRIPTOR_DIRECTORY):
        try:
            target = os.readlink(DESCRIPTOR_DIRECTORY / number)
        except FileNotFoundError:  # the descriptor that listed the directory itself
            continue
        found.add((int(number), target))
    return found


def _resource_tracker() -> tuple[int | None, int | None]:
    """The process and descriptor that multiprocessing keeps from first use until exit."""
    module = sys.modules.get("multiprocessing.resource_tracker")
    tracker = getattr(module, "_resource_tracker", None)
    return getattr(tracker, "_pid", None), getattr(tracker, "_fd", None)


def _is_watched(thread: threading.Thread) -> bool:
    """Threads that another language started have a stand-in object that never ends."""
    return not isinstance(thread, threading._DummyThread) and not thread.name.startswith(
        IGNORED_THREAD_PREFIXES
    )


class _Census(NamedTuple):
    """What this process holds open at one moment."""

    threads: set[threading.Thread]
    descriptors: set[tuple[int, str]]
    processes: set[psutil.Process]

    @classmethod
    def take(cls) -> _Census:
        tracker_pid, tracker_descriptor = _resource_tracker()
        children = psutil.Process().children(recursive=True)
        return cls(
            threads={thread for thread in threading.enumerate() if _is_watched(thread)},
            descriptors={found for found in _open_descriptors() if found[0] != tracker_descriptor},
            processes={child for child in children if child.pid != tracker_pid},
        )

    def newer_than(self, before: _Census) -> _Census:
        return _Census(
            threads=self.threads - before.threads,
            descriptors=self.descriptors - before.descriptors,
            processes=self.processes - before.processes,
        )

    def wait_for_ends(self) -> None:
        """Give threads and processes that are already ending a moment to do so."""
        deadline = time.monotonic() + LEAK_GRACE_SECONDS
        for thread in self.threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        psutil.wait_procs(self.processes, timeout=max(0.0, deadline - time.monotonic()))

    def described(self) -> dict[str, list[str]]:
        return {
            "threads": [thread.name for thread in self.threads],
            "descriptors": [f"{number} -> {target}" for number, target in self.descriptors],
            "processes": [f"{child.pid} ({_command(child)})" for child in self.processes],
        }


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline()) or process.name()
    except psutil.NoSuchProcess:
        return "gone meanwhile"


def _left_open(before: _Census, allowed: set[str]) -> _Census:
    left = _Census.take().newer_than(before)
    if not any(left):
        return left
    # A reference cycle may still hold what the test has let go of.
    gc.collect()
    waited_for = left._replace(
        threads=set() if "threads" in allowed else left.threads,
        processes=set() if "processes" in allowed else left.processes,
    )
    waited_for.wait_for_ends()
    return _Census.take().newer_than(before)


def _kill(processes: set[psutil.Process]) -> None:
    """End what a test left running, so that it cannot disturb the next one."""
    for process in processes:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(processes, timeout=LEAK_GRACE_SECONDS)


@pytest.fixture(autouse=True)
def leaves_nothing_open(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves a task, thread, descriptor or child process behind.

    It is set up before the test's loop and torn down after it is closed, so the loop's own
    descriptors do not count.
    """
    allowed = _allowed_leaks(request.node)
    request.node.stash[PENDING_TASKS] = []
    before = _Census.take()
    yield
    left = _left_open(before, allowed)
    leaks = {"tasks": request.node.stash[PENDING_TASKS], **left.described()}
    _kill(left.processes)
    sentences = [
        f"the test left {kind} behind: {', '.join(sorted(names))}"
        for kind, names in leaks.items()
        if names and kind not in allowed
    ]
    if sentences:
        pytest.fail("\n".join(sentences), pytrace=False)


@pytest.fixture(autouse=True)
def watches_tasks(request: pytest.FixtureRequest, leaves_nothing_open: None) -> None:
    """Put the look at the loop's tasks between the test and the closing of its loop."""
    if pytest_asyncio.is_async_test(request.node):
        request.getfixturevalue("collects_pending_tasks")


@pytest_asyncio.fixture
async def collects_pending_tasks(request: pytest.FixtureRequest) -> AsyncIterator[None]:
    """Note the tasks that are still pending when the test and its own fixtures are done."""
    yield
    pending: set[asyncio.Task[object]] = set()
    for _ in range(LOOP_TURNS_OF_GRACE):
        pending = asyncio.all_tasks() - {asyncio.current_task()}
        if not pending:
            break
        await asyncio.sleep(0)
    request.node.stash[PENDING_TASKS].extend(repr(task) for task in pending)


@pytest.fixture
def shared_workflows() -> Path:
    """The folder of recorded workflow graphs, which stands beside the repository."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "workflows"
    if not folder.is_dir():
        pytest.skip("the recorded workflows are not here: no shared/workflows by the repository")
    return folder
