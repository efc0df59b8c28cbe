"""Running a project: what is executed, when, and what is told of it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from asyncflow import Runtime
from asyncflow.flow import (
    FlowProject,
    IgnoreConditions,
    UserConditionError,
    UserOperationError,
    aggregator,
)
from tests.flow.notes import note, noted

MakeSpace = Callable[..., str]


async def test_an_operation_runs_as_soon_as_its_conditions_allow(
    Project: type[FlowProject], data_space: MakeSpace
) -> None:
    @Project.post.true("one")
    @Project.operation
    def op1(job: Any) -> None:
        job.document.one = True

    @Project.pre.after(op1)
    @Project.post.isfile("two")
    @Project.operation
    async def op2(job: Any) -> None:
        Path(job.fn("two")).touch()

    project = Project(data_space(3))
    result = await project.run()
    assert result is not None
    assert result.success
    assert all(job.isfile("two") for job in project)
    assert project.completed_operations(next(iter(project))) == ["op1", "op2"]


async def test_a_second_run_has_nothing_to_do(
    Project: type[FlowProject], data_space: MakeSpace
) -> None:
    path = data_space(2)

    @Project.post.true("done")
    @Project.operation
    def op(job: Any) -> None:
        note(path, job.id)
        job.document.done = True

    await Project(path).run()
    await Project(path).run()
    assert len(noted(path)) == 2


async def test_without_postconditions_an_operation_is_executed_once_in_a_run(
    Project: type[FlowProject], data_space: MakeSpace
) -> None:
    path = data_space(2)

    @Project.operation
    def op(job: Any) -> None:
        note(path, job.id)

    await Project(path).run()
    assert len(noted(path)) == 2
    await Project(path).run(num_passes=3)
    assert len(noted(path)) == 8


async def test_no_job_waits_for_another(Project: type[FlowProject], data_space: MakeSpace) -> None:
    """The first job ends only once the second has gone through both stages."""
    released = asyncio.Event()

    @Project.post.true("one")
    @Project.operation
    async def op1(job: Any) -> None:
        if job.sp.i == 0:
            await released.wait()
        job.document.one = True

    @Project.pre.after(op1)
    @Project.post.true("two")
    @Project.operation
    async def op2(job: Any) -> None:
        job.document.two = True
        if job.sp.i == 1:
            released.set()

    async with asyncio.timeout(20):
        result = await Project(data_space(2)).run()
    assert result is not None
    assert result.success


async def test_coroutine_operations_run_side_by_side(
    Project: type[FlowProject], data_space: MakeSpace
) -> None:
    barrier = asyncio.Barrier(500)

    @Project.operation
    async def meet(job: Any) -> None:
        async with asyncio.timeout(60):
            await barrier.wait()

    assert await Project(data_space(500)).run()


@pytest.mark.parametrize("np, most", [(None, 1), (2, 2)])
async def test_other_operations_run_one_at_a_time_unless_more_are_asked_for(
    np: int | None, most: int, Project: type[FlowProject], data_space: MakeSpace
) -> None:
    path = data_space(4)

    @Project.operation
    def op(job: Any) -> None:
        note(path, "+")
        note(path, "-")

    await Project(path).run(np=np)
    under_way = highest = 0
    for line in noted(path):
        under_way += 1 if line == "+" else -1
        highest = max(highest, under_way)
    assert 1 <= highest <= most


async def test_conditions_are_asked_once_for_each_state_and_once_before_the_start(
    Project: type[FlowProject], data_space: MakeSpace
) -> None:
    path = data_space(1)

    def ready(job: Any) -> bool:
        note(path, "pre")
        return True

    def done(job: Any) -> bool:
        note(path, "post")
        return bool(job.document.get("done"))

    @Project.pre(ready)
    @Project.post(done)
    @Project.operation
    def op(job: Any) -> None:
        job.document.done = True

    @Project.pre.after(op)
    @Project.pre(ready)
    @Project.operation
    def other(job: Any) -> None: ...

    await Project(path).run()
    # pre: found eligible, before op, before other, and once in between for other.
    # post: found eligible, before op, once after it (for both), before other.
    assert noted(path).count("pre") <= 4
    assert noted(path).count("post") == 4


async def test_a_condition_that_turned_false_before_the_start_is_seen(
    Project: type[FlowProject], data_space: MakeSpace
) -> None:
    path = data_space(1)

    def first_time_only(job: Any) -> bool:
        note(path, "asked")
        return len(noted(path)) == 1

    @Project.pre(first_time_only)
    @Project.operation
    def op(job: Any) -> None:
        note(path, "executed")

    result = await Project(path).run()
    assert result is not None
    assert result.success
    assert "executed" not in noted(path)


async def test_conditions_may_look_at_other_jobs(
    Project: type[FlowProject], data_space: MakeSpace
) -> None:
    path = data_space(3)

    @Project.post.true("done")
    @Project.operation
    async def op(job: Any) -> None:
        job.document.done = True

    @Project.pre(lambda job: all(other.document.get("done") for other in job.project))
    @Project.post.true("summed")
    @Project.operation
    async def sums(job: Any) -> None:
        job.document.summed = True

    project = Project(path)
    await project.run()
    assert all(job.document.summed for job in project)


async def test_an_aggregate_is_executed_once_its_jobs_are_done(
    Project: type[FlowProject], data_space: MakeSpace
) -> None:
    @Project.post.true("squared")
    @Project.operation
    def square(job: Any) -> None:
        job.document.squared = job.sp.i**2 or 0.5

    @Project.pre.after(square)
    @Project.post(lambda *jobs: jobs[0].project.document.get("sum") is not None)
    @Project.operation(aggregator=aggregator(sort_by="i"))
    def total(*jobs: Any) -> None:
        jobs[0].project.document.sum = sum(job.document.squared for job in jobs)

    project = Project(data_space(4))
    await project.run()
    assert project.document["sum"] == 14.5


async def test_the_first_failure_ends_a_run_and_names_operation_and_job(
    Project: type[FlowProject], data_space: MakeSpace
) -> None:
    path = data_space(3)

    @Project.operation
    def op(job: Any) -> None:
        note(path, job.id)
        raise RuntimeError("no paper")

    with pytest.raises(
        UserOperationError, match=r"'op' failed on .* RuntimeError: no paper"
    ) as told:
        await Project(path).run()
    assert isinstance(told.value.__cause__, RuntimeError)
    assert told.value.operation == "op"
    assert told.value.result is not None
    assert len(noted(path)) == 1


@pytest.mark.parametrize("is_coroutine", [True, False])
async def test_an_operation_that_quits_has_failed_and_the_program_goes_on(
    is_coroutine: bool, Project: type[FlowProject], data_space: MakeSpace
) -> None:
    def op(job: Any) -> None:
        sys.exit("no paper")

    async def coroutine(job: Any) -> None:
        sys.exit("no paper")

    Project.operation("op")(coroutine if is_coroutine else op)
    with pytest.raises(UserOperationError, match=r"'op' failed on .* SystemExit: no paper"):
        await Project(data_space(1)).run()


async def test_a_condition_that_quits_is_told_with_its_name(
    Project: type[FlowProject], data_space: MakeSpace
) -> None:
    def is_ready(job: Any) -> bool:
        sys.exit(0)

    @Project.pre(is_ready)
    @Project.operation
    def op(job: Any) -> None: ...

    with pytest.raises(UserConditionError, match=r"is_ready.* raised SystemExit"):
        await Project(data_space(1)).run()


async def test_keep_going_executes_what_does_not_need_what_failed(
    Project: type[FlowProject], data_space: MakeSpace
) -> None:
    path = data_space(3)

    @Project.post.true("done")
    @Project.operation
    def op(job: Any) -> None:
        if job.sp.i == 0:
            raise RuntimeError("no paper")
        job.document.done = True

    @Project.pre.after(op)
    @Project.operation
    def other(job: Any) -> None:
        note(path, job.id)

    with pytest.raises(UserOperationError, match="no paper"):
        await Project(path).run(keep_going=True)
    assert len(noted(path)) == 2


async def test_a_condition_that_raises_is_told_with_its_name(
    Project: type[FlowProject], data_space: MakeSpace
) -> None:
    def broken(job: Any) -> bool:
        raise KeyError("temperature")

    @Project.pre(broken)
    @Project.operation
    def op(job: Any) -> None: ...

    with pytest.raises(UserConditionError, match=r"broken.*operation 'op' raised KeyError"):
        await Project(data_space(1)).run()


async def test_a_condition_without_a_name_is_told_with_its_line(
    Project: type[FlowProject], data_space: MakeSpace
) -> None:
    @Project.pre(lambda job: job.sp.temperature > 0)
    @Project.operation
    def op(job: Any) -> None: ...

    with pytest.raises(UserConditionError, match=r"<lambda> in line \d+ of test_run\.py"):
        await Project(data_space(1)).run()


async def test_jobs_and_names_are_selected(
    Project: type[FlowProject], data_space: MakeSpace
) -> None:
    path = data_space(3)

    @Project.operation
    def op1(job: Any) -> None:
        note(path, f"op1 {job.sp.i}")

    @Project.operation
    def op2(job: Any) -> None:
        note(path, f"op2 {job.sp.i}")

    project = Project(path)
    await project.run([job for job in project if job.sp.i > 0], names=["op[2-9]"])
    assert sorted(noted(path)) == ["op2 1", "op2 2"]


@pytest.mark.parametrize(
    "options, told",
    [
        ({"names": ["nope"]}, "no operation or group 'nope'; there are: op, ex"),
        ({"names": ["op", "ex"]}, "included twice"),
        ({"names": "op"}, "a list of names"),
        ({"names": ["("]}, "no regular expression"),
        ({"np": 0}, "np takes"),
        ({"order": "alphabetic"}, "order is one of"),
        ({"timeout": -1}, "seconds above 0"),
        ({"jobs": ["id"]}, "jobs takes jobs"),
    ],
)
async def test_wrong_arguments_are_refused_before_anything_starts(
    options: dict[str, Any], told: str, Project: type[FlowProject], data_space: MakeSpace
) -> None:
    ex = Project.make_group("ex")

    @ex
    @Project.operation
    def op(job: Any) -> None:
        raise AssertionError("it must not start")

    with pytest.raises(ValueError, match=told):
        await Project(data_space(1)).run(**options)


async def test_num_limits_how_many_are_executed(
    Project: type[FlowProject], data_space: MakeSpace
) -> None:
    path = data_space(5)

    @Project.operation
    def op(job: Any) -> None:
        note(path, job.id)

    await Project(path).run(num=2)
    assert len(noted(path)) == 2


async def test_conditions_can_be_ignored(Project: type[FlowProject], data_space: MakeSpace) -> None:
    path = data_space(1)

    @Project.pre.never
    @Project.post(lambda job: True)
    @Project.operation
    def op(job: Any) -> None:
        note(path, "executed")

    project = Project(path)
    for ignored, expected in (("NONE", 0), ("PRE", 0), ("POST", 0), ("ALL", 1)):
        await project.run(ignore_conditions=IgnoreConditions[ignored])
        assert len(noted(path)) == expected


async def test_pretending_prints_commands_and_leaves_no_trace(
    Project: type[FlowProject], data_space: MakeSpace, capsys: pytest.CaptureFixture[str]
) -> None:
    path = data_space(2)

    @Project.post.true("done")
    @Project.operation
    def op(job: Any) -> None:
        job.document.done = True

    before = sorted(Path(path).rglob("*"))
    project = Project(path, entrypoint="project.py")
    assert await project.run(pretend=True) is None
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("project.py ")[1] for line in lines] == [f"exec op {j.id}" for j in project]
    assert sorted(Path(path).rglob("*")) == before


async def test_hooks_are_called_in_order_with_name_and_jobs(
    Project: type[FlowProject], data_space: MakeSpace
) -> None:
    path = data_space(1)

    def hook(text: str) -> Callable[..., None]:
        return lambda name, *rest: note(path, f"{text} {name} {len(rest)}")

    hooks = Project.operation_hooks

    @hooks.on_start(hook("start"))
    @hooks.on_success(hook("success"))
    @hooks.on_exception(hook("exception"))
    @hooks.on_exit(hook("exit"))
    @Project.operation
    def op(job: Any) -> None:
        note(path, "body")
        if job.document.get("fail"):
            raise RuntimeError("as told")

    project = Project(path)
    for trigger in ("start", "success", "exception", "exit"):
        getattr(project.project_hooks, f"on_{trigger}").append(hook(f"project {trigger}"))
    await project.run()
    assert noted(path) == [
        "project start op 1",
        "start op 1",
        "body",
        "project success op 1",
        "success op 1",
        "project exit op 1",
        "exit op 1",
    ]
    Path(path, "notes").unlink()
    next(iter(project)).document.fail = True
    with pytest.raises(UserOperationError):
        await project.run()
    assert noted(path)[3:5] == ["project exception op 2", "exception op 2"]


async def test_a_run_shares_the_ambient_runtime(
    Project: type[FlowProject], data_space: MakeSpace
) -> None:
    @Project.operation
    async def op(job: Any) -> None: ...

    project = Project(data_space(1))
    async with Runtime() as runtime:
        result = await project.run()
        assert result is not None
        assert any(event for event in [result.run_id] if event)
        assert runtime.runs() == []


def test_run_sync_is_the_blocking_twin(Project: type[FlowProject], data_space: MakeSpace) -> None:
    @Project.operation
    def op(job: Any) -> None: ...

    result = Project(data_space(2)).run_sync()
    assert result is not None
    assert result.success


async def test_run_sync_refuses_inside_an_event_loop(
    Project: type[FlowProject], data_space: MakeSpace
) -> None:
    @Project.operation
    def op(job: Any) -> None: ...

    with pytest.raises(RuntimeError, match="await"):
        Project(data_space(1)).run_sync()


async def test_cancelling_a_run_cancels_its_operations(
    Project: type[FlowProject], data_space: MakeSpace
) -> None:
    started, ended = asyncio.Event(), asyncio.Event()

    @Project.operation
    async def op(job: Any) -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    running = asyncio.create_task(Project(data_space(1)).run())
    await started.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert ended.is_set()
