"""Operations that are shell commands."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from asyncflow import Runtime, StepTimeout
from asyncflow.flow import FlowProject, UserOperationError
from asyncflow.flow.command_line import ended_by_signals
from asyncflow.flow.commands import show_output
from tests.flow.notes import noted
from tests.flow.scripts import ROOT, Script

MakeSpace = Callable[..., str]


async def test_a_command_runs_and_its_output_is_shown(
    Project: type[FlowProject], data_space: MakeSpace, capsys: pytest.CaptureFixture[str]
) -> None:
    @Project.operation(cmd=True)
    def op(job: Any) -> str:
        return f"echo hello {job.sp.i}"

    await Project(data_space(2)).run()
    assert sorted(capsys.readouterr().out.splitlines()) == ["hello 0", "hello 1"]


async def test_a_character_that_comes_in_two_parts_is_shown_whole(
    capsys: pytest.CaptureFixture[str],
) -> None:
    output, last = asyncio.StreamReader(), deque[str]()
    process: Any = SimpleNamespace(stdout=output)
    showing = asyncio.ensure_future(show_output(process, last))
    both = "naïve".encode()
    output.feed_data(both[:3])
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert capsys.readouterr().out == "na"
    output.feed_data(both[3:])
    output.feed_eof()
    await showing
    assert (capsys.readouterr().out, list(last)) == ("ïve", ["naïve"])


async def test_with_job_runs_it_in_the_jobs_directory(
    Project: type[FlowProject], data_space: MakeSpace
) -> None:
    @Project.operation(cmd=True, with_job=True)
    def op(job: Any) -> str:
        return "pwd > where"

    before = os.getcwd()
    project = Project(data_space(2))
    await project.run()
    for job in project:
        assert Path(job.fn("where")).read_text().strip() == os.path.realpath(job.path)
    assert os.getcwd() == before


async def test_a_command_that_fails_is_told_with_its_last_words(
    Project: type[FlowProject], data_space: MakeSpace
) -> None:
    @Project.operation(cmd=True)
    def op(job: Any) -> str:
        return "echo out of ink >&2; exit 3"

    with pytest.raises(UserOperationError, match="returned non-zero exit status 3") as told:
        await Project(data_space(1)).run()
    cause = told.value.__cause__
    assert isinstance(cause, subprocess.CalledProcessError)
    assert "out of ink" in cause.__notes__[0]


async def test_what_is_no_command_is_refused(
    Project: type[FlowProject], data_space: MakeSpace
) -> None:
    @Project.operation(cmd=True)
    def op(job: Any) -> Any:
        return None

    with pytest.raises(UserOperationError, match="gives the text of a shell command, got None"):
        await Project(data_space(1)).run()


PATIENCE_SECONDS = 30.0


def is_running(pid: int) -> bool:
    """Whether it lives; one that was killed may wait for whoever adopted it to take note."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def has_ended(pid: int) -> None:
    """Wait for the end of a process that was killed, which takes a moment."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while is_running(pid):  # noqa: ASYNC110 - nothing tells of another's child
            await asyncio.sleep(0.005)


def test_a_second_signal_does_not_disturb_what_ends_by_the_first() -> None:
    ended = []

    def stopped() -> None:
        with ended_by_signals():
            try:
                signal.raise_signal(signal.SIGTERM)
            finally:
                signal.raise_signal(signal.SIGTERM)
                signal.raise_signal(signal.SIGHUP)
                ended.append("all")

    with pytest.raises(KeyboardInterrupt, match="SIGTERM"):
        stopped()
    assert ended == ["all"]
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


async def test_a_timeout_kills_a_command_with_all_it_started(
    Project: type[FlowProject], data_space: MakeSpace
) -> None:
    path = data_space(1)

    @Project.operation(cmd=True)
    def op(job: Any) -> str:
        return f"sleep 100 & echo $! > {path}/notes; wait"

    seconds = 0.25
    while not noted(path):  # until there is time enough for a busy machine to begin
        seconds *= 2
        with pytest.raises(UserOperationError) as told:
            await Project(path).run(timeout=seconds)
        assert isinstance(told.value.__cause__, StepTimeout)
    (child,) = noted(path)
    await has_ended(int(child))


async def test_walltime_is_a_timeout_too(Project: type[FlowProject], data_space: MakeSpace) -> None:
    @Project.operation(cmd=True, directives={"walltime": 0.5 / 3600})
    def op(job: Any) -> str:
        return "sleep 100"

    with pytest.raises(UserOperationError, match="StepTimeout"):
        await Project(data_space(1)).run()


async def test_cancelling_a_run_kills_its_commands(
    Project: type[FlowProject], data_space: MakeSpace
) -> None:
    path = data_space(1)

    @Project.operation(cmd=True)
    def op(job: Any) -> str:
        return f"echo $$ > {path}/notes; echo > {path}/started; sleep 100"

    os.mkfifo(f"{path}/started")
    running = asyncio.create_task(Project(path).run())
    await asyncio.to_thread(Path(path, "started").read_text)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await has_ended(int(noted(path)[0]))


SLEEPING = """
    from asyncflow.flow import FlowProject

    class Project(FlowProject):
        pass

    @Project.operation(cmd=True)
    def op(job):
        return "sleep 100 & echo $!; wait"

    if __name__ == "__main__":
        Project().main()
"""


@pytest.mark.parametrize(
    ("number", "code", "told"),
    [
        (signal.SIGINT, 130, "interrupted; "),
        (signal.SIGTERM, 143, "stopped by SIGTERM; "),
        (signal.SIGHUP, 129, "stopped by SIGHUP; "),
        (signal.SIGKILL, -9, ""),
    ],
)
async def test_commands_end_with_the_script_however_that_ends(
    number: int, code: int, told: str, data_space: MakeSpace
) -> None:
    path = Path(data_space(1))
    script = Script(path, SLEEPING)
    running = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        # A shell that runs the tests in the background has SIGINT ignored, and children inherit it.
        "import runpy, signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler);"
        "del sys.argv[0]; runpy.run_path(sys.argv[0], run_name='__main__')",
        str(script.path),
        "run",
        cwd=path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert running.stdout is not None
    async with asyncio.timeout(PATIENCE_SECONDS):
        child = int(await running.stdout.readline())  # shown as it comes
    running.send_signal(number)
    _, said = await running.communicate()
    assert running.returncode == code, said
    assert said.decode().startswith(told)
    await has_ended(child)


async def test_devices_and_threads_are_told_to_a_command(
    Project: type[FlowProject], data_space: MakeSpace, capsys: pytest.CaptureFixture[str]
) -> None:
    @Project.operation(cmd=True, directives={"ngpu": 2, "omp_num_threads": 2})
    def op(job: Any) -> str:
        return "echo $CUDA_VISIBLE_DEVICES / $OMP_NUM_THREADS"

    async with Runtime(max_gpus=2, max_cpus=2):
        await Project(data_space(1)).run()
    devices, threads = capsys.readouterr().out.strip().split(" / ")
    assert len(devices.split(",")) == 2
    assert threads == "2"


@pytest.mark.parametrize(
    ("run_options", "directives"),
    [("--debug", None), ("", {"executable": f"{sys.executable} -X utf8"})],
    ids=["run options", "an executable"],
)
def test_each_operation_of_such_a_group_is_executed_once_in_a_process_of_its_own(
    run_options: str, directives: dict[str, str] | None, data_space: MakeSpace
) -> None:
    path = data_space(2)
    script = Script(
        Path(path),
        f"""
        import os
        from asyncflow.flow import FlowProject

        class Project(FlowProject):
            pass

        ex = Project.make_group("ex", run_options={run_options!r})

        def noted(name, *jobs):
            with open({path + "/notes"!r}, "a") as notes:
                notes.write(f"{{name}} {{os.getpid()}}\\n")

        @ex(directives={directives!r})
        @Project.operation_hooks.on_start(lambda name, job: noted("hook"))
        @Project.post.true("one")
        @Project.operation
        def op1(job):
            noted("op1")
            job.document.one = True

        @ex
        @Project.pre.after(op1)
        @Project.post.true("two")
        @Project.operation(with_job=True)
        def op2(job):
            noted("op2")
            job.document.two = True

        @ex
        @Project.pre.never
        @Project.operation
        def op3(job):
            noted("op3")

        if __name__ == "__main__":
            Project().main()
        """,
    )
    answer = script("run", "-o", "ex")
    assert answer.code == 0, answer
    names, pids = zip(*(line.split() for line in noted(path)), strict=True)
    assert list(names) == ["hook", "op1", "op2"] * 2
    assert len(set(pids)) == 5  # the hooks are called here


async def test_operations_with_ranks_are_started_by_mpiexec(
    Project: type[FlowProject],
    data_space: MakeSpace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = data_space(1)
    launcher = tmp_path / "bin" / "mpiexec"
    launcher.parent.mkdir()
    launcher.write_text(f'#!/bin/sh\nprintf "%s\\n" "$*" >> {path}/notes\n')
    launcher.chmod(0o755)
    monkeypatch.setenv("PATH", str(launcher.parent), prepend=os.pathsep)
    ex = Project.make_group("ex")

    @ex
    @Project.operation(directives={"nranks": 2})
    def op1(job: Any) -> None: ...

    @ex
    @Project.operation(cmd=True, directives={"nranks": 3})
    def op2(job: Any) -> str:
        return "./simulate input"

    @ex
    @Project.operation(cmd=True)
    def op3(job: Any) -> str:
        return f"echo alone >> {path}/notes"

    project = Project(path, entrypoint="project.py")
    (job,) = project
    expected = [
        f"-n 2 {sys.executable} project.py exec op1 {job.id}",
        "-n 3 ./simulate input",
        "alone",
    ]
    await project.run(names=["ex"])
    assert noted(path) == expected
    await project.run()
    assert noted(path) == expected * 2


async def test_run_options_are_added_to_the_commands(
    Project: type[FlowProject], data_space: MakeSpace, tmp_path: Path
) -> None:
    script = tmp_path / "stand_in.py"
    script.write_text(
        "import pathlib, sys\n"
        f"with pathlib.Path({str(tmp_path / 'notes')!r}).open('a') as notes:\n"
        "    notes.write(' '.join(sys.argv[1:]) + '\\n')\n"
    )
    ex = Project.make_group("ex", run_options="--debug")

    @ex
    @Project.operation
    def op1(job: Any) -> None: ...

    @ex
    @Project.operation
    def op2(job: Any) -> None: ...

    project = Project(data_space(1), entrypoint=str(script))
    (job,) = project
    await project.run(names=["ex"])
    assert noted(str(tmp_path)) == [f"exec {op} {job.id} --debug" for op in ("op1", "op2")]
