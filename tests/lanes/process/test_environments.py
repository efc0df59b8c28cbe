"""Steps behind a command, in another Python, with other variables, in another folder."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import time
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

import asyncflow
from asyncflow import (
    Environment,
    GraphError,
    Group,
    Pipeline,
    PipelineResult,
    Runtime,
    Step,
    StepFailed,
    StepTimeout,
    WorkerDied,
    step,
)
from asyncflow.events import NodeProgress
from asyncflow.lanes.process.behind import launch
from asyncflow.lanes.worker_kind import WorkerKind
from tests.lanes.process import environments as there

ROOT = Path(__file__).resolve().parents[3]

pytestmark = pytest.mark.skipif(
    sys.platform == "win32" or shutil.which("sh") is None, reason="needs a POSIX shell"
)


def behind(*words: str, **fields: Any) -> Environment:
    return Environment(launch=words, **fields)


def noisy(script: str) -> Environment:
    """Behind a shell that does something first."""
    return behind("sh", "-c", f'{script}; exec "$@"', "sh")


def run(func: Callable[..., Any], environment: Environment, **options: Any) -> PipelineResult:
    inputs = options.pop("inputs", None)
    made: Step[..., Any] = step(func, name="x", environment=environment, **options)
    return Pipeline("p", steps=[made]).run_sync(inputs)


def value_of(func: Callable[..., Any], environment: Environment, **options: Any) -> Any:
    return run(func, environment, **options)["x"]


def error_of(func: Callable[..., Any], environment: Environment, **options: Any) -> BaseException:
    error = run(func, environment, **options).step_results["x"].error
    assert error is not None
    return error


# ------------------------------------------------------------------- where it runs


@pytest.mark.skipif(shutil.which("nice") is None, reason="there is no nice")
def test_a_step_runs_behind_a_command() -> None:
    assert value_of(there.niceness, behind("nice", "-n", "5")) == there.niceness() + 5


def test_it_has_its_variables_and_its_folder(tmp_path: Path) -> None:
    environment = Environment(env={"MODE": "slow"}, cwd=str(tmp_path))
    assert value_of(there.mode_and_devices, environment) == ["slow", ""]
    assert value_of(there.folder, environment) == str(tmp_path.resolve())


def test_variables_get_there_through_a_command_that_hands_none_on() -> None:
    environment = behind("env", "-i", env={"MODE": "slow"})
    assert value_of(there.mode_and_devices, environment) == ["slow", ""]


def test_what_the_command_prints_first_is_skipped() -> None:
    noise = "echo loading modules; echo more >&2; printf 'no end of line'"
    assert value_of(there.doubled, noisy(noise), inputs={"data": b"ab"}) == b"abab"


def test_much_noise_is_skipped_as_well() -> None:
    assert value_of(there.folder, noisy("seq 1 20000")) == os.getcwd()


@pytest.mark.parametrize("size", [1, 2**18, 3 * 2**20])
def test_values_of_any_size_go_there_and_back(size: int) -> None:
    data = os.urandom(size)
    assert value_of(there.doubled, Environment(), inputs={"data": data}) == data + data


def test_what_it_prints_is_captured(capfd: pytest.CaptureFixture[str]) -> None:
    result = run(there.chatter, noisy("echo noise"))
    assert result["x"] == "said"
    lines = result.step_results["x"].stdout.splitlines()
    assert lines == ["printed", "written", "no end of line"]
    assert "warned" in capfd.readouterr().err


def test_its_log_records_reach_our_loggers(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        run(there.shout, Environment())
    assert ("far", logging.WARNING, "hello from there") in caplog.record_tuples


async def test_a_coroutine_runs_on_a_loop_there_and_reports() -> None:
    slow = step(there.slowly, name="x", environment=Environment())
    async with Pipeline("p", steps=[slow]).start() as started:
        events = [event async for event in started.events()]
    assert (await started.result())["x"] != os.getpid()
    assert [event.done for event in events if isinstance(event, NodeProgress)] == [1]


def test_a_lambda_gets_there_too() -> None:
    assert value_of(lambda: 6 * 7, Environment()) == 42


def test_an_error_comes_back_as_it_is() -> None:
    error = error_of(there.fail, Environment(), inputs={"value": 5})
    assert isinstance(error, ValueError)
    assert str(error) == "cannot use 5"


@pytest.mark.parametrize("size", [1, 3 * 2**20])
def test_it_may_ask_for_nested_work(size: int) -> None:
    assert value_of(there.nests, Environment(), inputs={"data": bytes(size)})


async def test_steps_of_one_environment_share_a_worker_and_others_do_not() -> None:
    names = {"a": Environment(env={"MODE": "1"}), "b": Environment(env={"MODE": "1"})}
    names["c"] = Environment(env={"MODE": "2"})
    pids = {}
    async with Runtime(max_cpus=1) as runtime:
        for name, environment in names.items():
            alone = Pipeline("p", steps=[step(there.pid, name="x", environment=environment)])
            pids[name] = (await alone.run(runtime=runtime))["x"]
    assert pids["a"] == pids["b"] != pids["c"]


# ------------------------------------------------------------------- groups


def grouped(first: Environment | None, second: Environment | None, **said: Any) -> Pipeline:
    one = step(there.make_list, name="numbers", execution_group="g", environment=first)
    two = step(there.same_list, name="count", execution_group="g", environment=second)
    return Pipeline("p", steps=[one, two.with_options(inputs=["numbers"])], **said)


@pytest.mark.parametrize("of_the_group", [True, False])
def test_a_group_runs_in_one_worker_of_its_environment(of_the_group: bool) -> None:
    environment = noisy("echo noise")
    if of_the_group:
        pipeline = grouped(None, None, groups={"g": Group(environment=environment)})
    else:
        pipeline = grouped(environment, None)
    count, pid = pipeline.run_sync()["count"]
    assert count == 4
    assert pid != os.getpid()


def test_two_environments_in_a_group_are_a_build_error() -> None:
    pipeline = grouped(behind("nice"), Environment(cwd="/"))
    with pytest.raises(GraphError, match=r"'numbers' wants it in one environment \(nice\) and 'co"):
        pipeline.build()
    said = {"g": Group(environment=behind("env"))}
    with pytest.raises(GraphError, match=r"Group.* wants it in one environment"):
        grouped(behind("nice"), None, groups=said).build()


def test_members_may_name_the_same_environment() -> None:
    assert grouped(behind("env"), behind("env")).run_sync()["count"][0] == 4


@pytest.mark.parametrize("lane", ["inline", "thread"])
def test_an_environment_is_that_of_a_process(lane: Any) -> None:
    with pytest.raises(GraphError, match="an environment is that of a process"):
        step(there.pid, environment=Environment(), lane=lane)
    with pytest.raises(GraphError, match="an environment is that of a process"):
        Group(environment=Environment(), lane=lane)


@pytest.mark.parametrize("wrong", ["nice", {"lunch": ()}, {"launch": "nice"}])
def test_a_wrong_environment_is_refused_by_the_step_and_by_the_group(wrong: Any) -> None:
    with pytest.raises(GraphError, match="environment: "):
        step(there.pid, environment=wrong)
    with pytest.raises(GraphError, match=r"Group\(environment=…\): "):
        Group(environment=wrong)


def test_a_plan_shows_environments() -> None:
    plan = grouped(behind("nice", "-n", "5"), None).plan()
    assert plan.units[0].environment == "nice -n 5"
    assert "nice -n 5" in str(plan)
    assert "environment" not in str(Pipeline("p", steps=[step(there.pid)]).plan())


# ------------------------------------------------------------------- what goes wrong


def test_a_command_that_is_not_there_is_named() -> None:
    error = error_of(there.pid, behind("no-such-command", "-x"))
    assert isinstance(error, StepFailed)
    assert "got no worker process" in str(error)
    assert "this was run: no-such-command -x" in str(error)


def test_a_command_that_fails_is_told_with_what_it_printed() -> None:
    error = error_of(there.pid, behind("sh", "-c", "echo pulling; echo no image >&2; exit 3", "sh"))
    assert isinstance(error, StepFailed)
    text = str(error)
    assert "could not be started: it exited with code 3 before the worker was up" in text
    assert "this was run: sh -c" in text
    assert text.endswith("and it printed:\npulling\nno image")


def test_a_folder_that_is_not_there_is_named() -> None:
    error = error_of(there.pid, Environment(cwd="/no/such/folder"))
    assert "FileNotFoundError: [Errno 2] No such file or directory: '/no/such/folder'" in str(error)


def test_a_failed_launch_is_tried_again_if_the_step_wants_that(tmp_path: Path) -> None:
    flag = tmp_path / "second"
    script = f'[ -e {flag} ] || {{ touch {flag}; exit 9; }}; exec "$@"'
    result = run(there.folder, behind("sh", "-c", script, "sh"), retry=1)
    assert result["x"] == os.getcwd()
    assert result.step_results["x"].attempts == 2


def test_a_worker_that_dies_there_is_a_death_like_any() -> None:
    error = error_of(there.die, noisy("echo noise"))
    assert isinstance(error, WorkerDied)
    assert error.exit_code == 7


def test_a_step_there_that_takes_too_long_is_killed() -> None:
    error = error_of(there.hang, noisy("echo noise"), timeout=0.3)
    assert isinstance(error, StepTimeout)


async def test_a_step_may_close_all_it_finds() -> None:
    async with Runtime(max_cpus=1) as runtime:
        for func in (there.close_all, there.folder):
            alone = Pipeline("p", steps=[step(func, name="x", environment=Environment())])
            result = await alone.run(runtime=runtime)
            result.raise_for_failure()
    assert result["x"] == os.getcwd()


def test_a_worker_ends_at_the_end_of_its_input() -> None:
    launched = launch(WorkerKind(environment=noisy("echo noise")), "test", b"\0mark\0")
    until = time.monotonic() + 20
    frames: list[Any] = []
    while not frames and time.monotonic() < until:
        try:
            frames = launched.channel.receive() or []
        except BlockingIOError:
            time.sleep(0.01)
    assert frames
    assert launched.process.poll() is None
    launched.channel.end_sending()
    launched.process.wait(20)
    launched.channel.close()
    os.close(launched.stderr)


def can_make_namespaces() -> bool:
    """Whether a container can be played: other process numbers, a process group of its own."""
    if shutil.which("unshare") is None or shutil.which("setsid") is None:
        return False
    return subprocess.run([*CONTAINER, "true"], capture_output=True, check=False).returncode == 0


CONTAINER = ("unshare", "-Urpf", "--mount-proc", "setsid")


@pytest.mark.parametrize("how", ["sleep", "spin"])
def test_nothing_is_left_in_a_container_whose_client_was_killed(how: str) -> None:
    if not can_make_namespaces():
        pytest.skip("this system lets nobody make namespaces")
    marker = f"{os.getpid()}-{how}"
    environment = behind(*CONTAINER, env={"ASYNCFLOW_TEST": marker})
    error = error_of(there.be_busy, environment, inputs={"how": how}, timeout=1.0)
    assert isinstance(error, StepTimeout)
    until = time.monotonic() + 10
    while (left := processes_with(marker)) and time.monotonic() < until:
        time.sleep(0.02)
    assert not left


def processes_with(marker: str) -> list[int]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("ASYNCFLOW_TEST") == marker:
                found.append(process.pid)
        except (psutil.Error, OSError):
            continue  # another user's, or gone meanwhile
    return found


# ------------------------------------------------------------------- another Python


@pytest.fixture(scope="module")
def make_venv(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Makes virtual environments that find the modules of these folders."""

    def make(*folders: str) -> Path:
        place = tmp_path_factory.mktemp("venv")
        venv.create(place, with_pip=False, symlinks=True)
        (packages,) = place.glob("lib/python*/site-packages")
        (packages / "linked.pth").write_text("\n".join(folders), encoding="utf-8")
        return place

    return make


def installed_packages() -> list[str]:
    return [entry for entry in sys.path if "site-packages" in entry]


def test_a_step_runs_in_another_virtual_environment(make_venv: Callable[..., Path]) -> None:
    place = make_venv(*installed_packages(), str(ROOT))
    assert value_of(there.prefix, Environment(python=str(place / "bin" / "python"))) == str(place)


def test_what_is_missing_there_is_named(make_venv: Callable[..., Path]) -> None:
    place = make_venv()
    # In a program that has no code of its own beside what is installed.
    outside = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(place / "bin" / "python")],
        cwd=place,
        env={**os.environ, "PYTHONPATH": ""},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "ImportError: asyncflow is not installed there (Python 3." in outside.stdout, outside


PROGRAM = """
import sys
from asyncflow import Environment, Pipeline, step
sys.path[:] = [entry for entry in sys.path if "lib/python" in entry]
alone = Pipeline("p", steps=[step(print, name="x", environment=Environment(python=sys.argv[1]))])
print(alone.run_sync().step_results["x"].error)
"""


def test_another_version_of_asyncflow_is_refused(
    make_venv: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)  # it would lead to this version
    (tmp_path / "asyncflow").mkdir()
    (tmp_path / "asyncflow" / "__init__.py").write_text('__version__ = "0.0.7"\n')
    place = make_venv(str(tmp_path))
    error = error_of(there.prefix, Environment(python=str(place / "bin" / "python")))
    assert f"it has asyncflow 0.0.7, and here runs {asyncflow.__version__}" in str(error)


def test_another_version_of_python_is_refused(tmp_path: Path) -> None:
    fake = tmp_path / "python"
    fake.write_text(
        "#!/bin/sh\n"
        'for word in "$@"; do case $word in asyncflow-*\\ ) token=$word ;; esac; done\n'
        """printf '\\n%s{"python": "3.9.1", "asyncflow": "0.1.0", "fault": ""}\\n' "$token"\n"""
    )
    fake.chmod(0o755)
    error = error_of(there.prefix, Environment(python=str(fake)))
    assert "it has Python 3.9.1, and here runs 3." in str(error)
    assert str(error).endswith("and it printed nothing")
