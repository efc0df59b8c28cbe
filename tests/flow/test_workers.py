"""Operations in worker processes: what stays with them, and what happens when they die."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from asyncflow import WorkerDied
from asyncflow.flow import FlowProject, UserOperationError
from tests.flow.notes import note, noted
from tests.flow.scripts import ROOT, Script

MakeSpace = Callable[..., str]


async def test_functions_run_in_another_process_and_coroutines_in_this_one(
    Project: type[FlowProject], data_space: MakeSpace
) -> None:
    path = data_space(1)

    @Project.operation
    def in_worker(job: Any) -> None:
        note(path, f"worker {os.getpid()}")

    @Project.operation
    async def on_loop(job: Any) -> None:
        note(path, f"loop {os.getpid()}")

    await Project(path).run()
    where = dict(line.split() for line in noted(path))
    assert where["loop"] == str(os.getpid())
    assert where["worker"] != str(os.getpid())


@pytest.mark.parametrize("is_coroutine", [False, True])
async def test_with_job_changes_the_directory_of_a_worker_only(
    is_coroutine: bool, Project: type[FlowProject], data_space: MakeSpace
) -> None:
    path = data_space(2)

    def op(job: Any) -> None:
        Path("here").write_text(os.getcwd())

    async def coroutine(job: Any) -> None:
        op(job)

    Project.operation("op", with_job=True)(coroutine if is_coroutine else op)

    @Project.pre.isfile("here")
    @Project.operation
    def after(job: Any) -> None:
        note(path, os.getcwd())

    before = os.getcwd()
    project = Project(path)
    await project.run()
    assert all(Path(job.fn("here")).read_text() == os.path.realpath(job.path) for job in project)
    assert os.getcwd() == before
    assert set(noted(path)) == {before}


async def test_an_operation_that_kills_its_process_fails_alone(
    Project: type[FlowProject], data_space: MakeSpace
) -> None:
    path = data_space(3)

    @Project.operation
    def op(job: Any) -> None:
        if job.sp.i == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        note(path, str(job.sp.i))

    with pytest.raises(UserOperationError, match="'op' failed") as told:
        await Project(path).run(keep_going=True)
    assert isinstance(told.value.__cause__, WorkerDied)
    assert sorted(noted(path)) == ["0", "2"]


async def test_threads_are_told_to_the_libraries_of_a_worker(
    Project: type[FlowProject], data_space: MakeSpace
) -> None:
    path = data_space(1)

    @Project.operation(directives={"omp_num_threads": 2, "np": 1})
    def op(job: Any) -> None:
        note(path, os.environ["OMP_NUM_THREADS"])

    await Project(path).run()
    assert noted(path) == ["2"]


@pytest.mark.parametrize("np", [None, 2])
async def test_operations_that_take_no_time_go_to_a_worker_together(
    np: int | None, Project: type[FlowProject], data_space: MakeSpace
) -> None:
    path = data_space(100)

    @Project.operation
    def op1(job: Any) -> None:
        note(path, f"op1 {job.sp.i}")

    @Project.operation
    def op2(job: Any) -> None:
        note(path, f"op2 {job.sp.i}")

    result = await Project(path).run(np=np)
    assert result is not None
    assert sorted(noted(path)) == sorted(f"op{op} {i}" for op in (1, 2) for i in range(100))
    # Fewer nodes than operations: each stands for all that went together.
    assert len(result.step_results) < 200


async def test_one_of_those_that_go_together_may_fail(
    Project: type[FlowProject], data_space: MakeSpace
) -> None:
    path = data_space(60)

    @Project.operation
    def op(job: Any) -> None:
        note(path, str(job.sp.i))
        if job.sp.i % 20 == 7:
            raise RuntimeError(f"no paper in {job.sp.i}")

    with pytest.raises(UserOperationError, match="RuntimeError: no paper in") as told:
        await Project(path).run(keep_going=True)
    assert sorted(noted(path), key=int) == [str(i) for i in range(60)]
    assert len(told.value.__notes__) == 2


async def test_one_of_those_that_go_together_may_quit(
    Project: type[FlowProject], data_space: MakeSpace
) -> None:
    path = data_space(60)

    @Project.operation
    def op(job: Any) -> None:
        note(path, str(job.sp.i))
        if job.sp.i == 7:
            sys.exit(0)

    with pytest.raises(UserOperationError, match=r"'op' failed on .*: SystemExit: 0"):
        await Project(path).run(keep_going=True)
    assert sorted(noted(path), key=int) == [str(i) for i in range(60)]


async def test_one_of_those_that_go_together_may_kill_its_process(
    Project: type[FlowProject], data_space: MakeSpace
) -> None:
    path = data_space(40)

    @Project.post.isfile("done")
    @Project.operation
    def op(job: Any) -> None:
        if job.sp.i == 25:
            os.kill(os.getpid(), signal.SIGKILL)
        note(path, str(job.sp.i))
        Path(job.fn("done")).touch()

    with pytest.raises(UserOperationError) as told:
        await Project(path).run(keep_going=True)
    assert isinstance(told.value.__cause__, WorkerDied)
    assert sorted(noted(path), key=int) == [str(i) for i in range(40) if i != 25]


STAGES = """
    import os
    from asyncflow.flow import FlowProject

    class Project(FlowProject):
        pass

    @Project.post.isfile("one")
    @Project.operation
    def op1(job):
        with open("log", "a") as log:
            log.write(f"op1 {job.sp.i}\\n")
        open(job.fn("one"), "w").close()

    @Project.pre.after(op1)
    @Project.post.isfile("two")
    @Project.operation
    def op2(job):
        if job.sp.i == 2 and not os.path.exists("second"):
            open("second", "w").close()
            os.kill(os.getppid(), 9)
            os.kill(os.getpid(), 9)
        with open("log", "a") as log:
            log.write(f"op2 {job.sp.i}\\n")
        open(job.fn("two"), "w").close()

    if __name__ == "__main__":
        Project().main()
"""


def test_a_run_whose_host_was_killed_goes_on_where_it_was(data_space: MakeSpace) -> None:
    script = Script(Path(data_space(5)), STAGES)
    command = [sys.executable, str(script.path), "run", "--order", "by-job"]
    variables = {**os.environ, "PYTHONPATH": str(ROOT)}
    killed = subprocess.run(command, cwd=script.directory, env=variables, check=False, timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert script.alone("run").code == 0
    log = (script.directory / "log").read_text().splitlines()
    assert sorted(log) == sorted(f"op{op} {i}" for op in (1, 2) for i in range(5))


async def test_a_full_workspace_fails_the_operation_and_the_next_run_does_it(
    Project: type[FlowProject], data_space: MakeSpace
) -> None:
    path = data_space(1)

    @Project.post.isfile("big")
    @Project.operation
    def op(job: Any) -> None:
        target = "/dev/full" if not Path(path, "freed").exists() else job.fn("big")
        with open(target, "w") as file:
            file.write("x" * 100)

    with pytest.raises(UserOperationError, match="No space left"):
        await Project(path).run()
    Path(path, "freed").touch()
    result = await Project(path).run()
    assert result is not None
    assert result.success
