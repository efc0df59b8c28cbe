"""The leak check and the choice of loops, tried on small suites of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent

LEAKY = """
import asyncio, os, subprocess, sys, threading
import psutil
import pytest

kept = []

@pytest.mark.both_loops
async def test_forgets_a_task():
    kept.append(asyncio.create_task(asyncio.Event().wait(), name="forgotten-task"))

def test_forgets_a_thread():
    threading.Thread(target=threading.Event().wait, name="forgotten-thread", daemon=True).start()

def test_forgets_a_descriptor(tmp_path):
    os.open(tmp_path / "forgotten-file", os.O_CREAT | os.O_RDWR)

def test_forgets_a_process():
    kept.append(subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"]))

def test_finds_nothing_of_the_others():
    assert not psutil.pid_exists(kept[-1].pid)
"""

EXCUSED = """
import asyncio, os, threading
import pytest

kept = []

@pytest.mark.allow_leak("tasks", reason="the loop's end is the subject")
async def test_may_leave_a_task():
    kept.append(asyncio.create_task(asyncio.Event().wait()))

@pytest.mark.allow_leak("threads", reason="an abandoned thread is the subject")
def test_may_leave_a_thread():
    threading.Thread(target=threading.Event().wait, daemon=True).start()

@pytest.mark.allow_leak("threads", reason="an abandoned thread is the subject")
def test_may_not_leave_another_kind():
    os.pipe()

@pytest.mark.allow_leak("sockets", reason="no such kind")
def test_names_a_wrong_kind():
    pass

@pytest.mark.allow_leak("threads")
def test_gives_no_reason():
    pass
"""

TIDY = """
import asyncio, multiprocessing, socket, subprocess, sys, threading
import pytest

@pytest.mark.both_loops
async def test_leaves_a_task_that_is_already_ending():
    asyncio.create_task(asyncio.Event().wait()).cancel()

@pytest.mark.both_loops
async def test_uses_sockets_threads_and_a_process_of_the_loop():
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    async with server:
        host, port = server.sockets[0].getsockname()
        reader, writer = await asyncio.open_connection(host, port)
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()
    assert await asyncio.to_thread(lambda: 1) == 1
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", "")
    assert await process.wait() == 0

@pytest.fixture
async def background():
    task = asyncio.create_task(asyncio.Event().wait())
    yield task
    task.cancel()

async def test_leaves_a_task_to_its_fixture(background):
    assert not background.done()

def test_leaves_a_thread_that_is_already_ending():
    threading.Timer(0.05, lambda: None).start()

def test_leaves_a_socket_in_a_cycle():
    left, right = socket.socketpair()
    left.close()
    right.close()
    cycle = [left, right]
    cycle.append(cycle)

def test_leaves_the_tracker_of_multiprocessing_to_the_interpreter():
    process = multiprocessing.get_context("spawn").Process(target=print)
    process.start()
    process.join()
    process.close()
"""

LOOPS = """
import asyncio
import pytest

async def test_plain():
    assert isinstance(asyncio.get_running_loop(), asyncio.BaseEventLoop)

@pytest.mark.both_loops
async def test_marked(request):
    loop = asyncio.get_running_loop()
    assert type(loop).__module__.startswith("uvloop") == request.node.name.endswith("[uvloop]")
"""

NEEDS_WORKFLOWS = """
def test_reads_a_workflow(shared_workflows):
    raise AssertionError("never reached")
"""

needs_proc = pytest.mark.skipif(
    not Path("/proc/self/fd").is_dir(), reason="descriptors are counted on Linux only"
)


@pytest.fixture
def run_suite(pytester: pytest.Pytester) -> _RunSuite:
    """Runs a suite in a process of its own, under this project's conftest and options."""
    return _RunSuite(pytester)


class _RunSuite:
    def __init__(self, pytester: pytest.Pytester) -> None:
        self.pytester = pytester

    def __call__(self, suite: str, *, before_conftest: str = "") -> pytest.RunResult:
        conftest = (TESTS / "conftest.py").read_text(encoding="utf-8")
        future = "from __future__ import annotations\n"
        self.pytester.makeconftest(conftest.replace(future, future + before_conftest))
        self.pytester.makepyprojecttoml(
            (TESTS.parent / "pyproject.toml").read_text(encoding="utf-8")
        )
        self.pytester.makepyfile(test_suite=suite)
        return self.pytester.runpytest_subprocess("-v", "--numprocesses=0", "test_suite.py")


@needs_proc
def test_each_kind_of_leak_fails_its_test_and_is_named(
    run_suite: _RunSuite, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("uvloop")
    monkeypatch.setenv("LEAK_GRACE_SECONDS", "0.5")
    result = run_suite(LEAKY)
    result.assert_outcomes(passed=6, errors=5)
    output = result.stdout.str()
    assert output.count("the test left tasks behind: <Task pending name='forgotten-task'") >= 2
    assert "the test left threads behind: forgotten-thread" in output
    assert "the test left descriptors behind: " in output
    assert "forgotten-file" in output
    assert "the test left processes behind: " in output
    assert "signal.pause()" in output


@needs_proc
def test_an_excuse_covers_one_kind_and_needs_a_reason(run_suite: _RunSuite) -> None:
    result = run_suite(EXCUSED)
    result.assert_outcomes(passed=3, errors=3)
    output = result.stdout.str()
    assert "the test left descriptors behind: " in output
    assert "the test left threads" not in output
    assert output.count("\nallow_leak needs one of tasks, threads, descriptors, processes") == 2


def test_what_ends_by_itself_is_no_leak(run_suite: _RunSuite) -> None:
    pytest.importorskip("uvloop")
    run_suite(TIDY).assert_outcomes(passed=8)


def test_a_marked_test_runs_on_both_loops(run_suite: _RunSuite) -> None:
    pytest.importorskip("uvloop")
    result = run_suite(LOOPS)
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(["*::test_plain PASSED*", "*::test_marked?uvloop? PASSED*"])


def test_a_marked_test_skips_uvloop_where_it_is_absent(run_suite: _RunSuite) -> None:
    result = run_suite(LOOPS, before_conftest="import sys\nsys.modules['uvloop'] = None\n")
    result.assert_outcomes(passed=2, skipped=1)
    result.stdout.fnmatch_lines(["*uvloop is not installed*"])


def test_tests_of_recorded_workflows_say_why_they_skip(run_suite: _RunSuite) -> None:
    result = run_suite(NEEDS_WORKFLOWS)
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["*the recorded workflows are not here*"])
