"""What can never run here is refused before anything is executed."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from asyncflow import CapacityError, Runtime
from asyncflow.flow import FlowProject, UserOperationError, aggregator
from tests.flow.notes import note, noted
from tests.flow.scripts import Script

MakeSpace = Callable[..., str]


def preparing(project: type[FlowProject], path: str) -> Callable[..., Any]:
    """An operation that any machine can run, noted in the project's notes."""

    def prepare(job: Any) -> None:
        note(path, "prepare")
        job.document.prepared = True

    return project.post.true("prepared")(project.operation(prepare))


def training(project: type[FlowProject], path: str, **directives: Any) -> Callable[..., Any]:
    """An operation with these directives."""

    def train(job: Any) -> None:
        note(path, "train")
        job.document.trained = True

    return project.post.true("trained")(project.operation(directives=directives)(train))


async def run(project: FlowProject, max_gpus: int = 0, **options: Any) -> None:
    async with Runtime(max_cpus=2, max_memory="4Gi", max_gpus=max_gpus, oversized="error"):
        await project.run(**options)


@pytest.mark.parametrize(
    ("directives", "told"),
    [
        ({"ngpu": 2}, "2 GPUs asked for, but of 1 only 1 will do"),
        ({"np": 3}, "3 CPUs asked for, but there are 2"),
        ({"memory": "5g"}, "5 GiB of memory asked for, but there are 4 GiB"),
        ({"ngpu": lambda job: 2 * job.sp.i}, "2 GPUs asked for"),
    ],
)
async def test_more_than_there_is_is_refused_before_anything_is_executed(
    directives: dict[str, Any], told: str, Project: type[FlowProject], data_space: MakeSpace
) -> None:
    path = data_space(2)
    prepare = preparing(Project, path)
    Project.pre.after(prepare)(training(Project, path, **directives))
    with pytest.raises(CapacityError, match=f"^operation 'train' cannot run here: .*{told}"):
        await run(Project(path), max_gpus=1)
    assert noted(path) == []


async def test_the_operation_of_a_group_is_named(
    Project: type[FlowProject], data_space: MakeSpace
) -> None:
    path = data_space(1)
    ex = Project.make_group("ex")
    ex(preparing(Project, path))
    ex(training(Project, path), directives={"ngpu": 1})
    with pytest.raises(CapacityError, match="operation 'train' in group 'ex' cannot run here"):
        await run(Project(path), names=["ex"])
    await run(Project(path))
    assert sorted(noted(path)) == ["prepare", "train"]


def another_is_selected(project: FlowProject) -> dict[str, Any]:
    return {"names": ["prepare"]}


def it_is_complete(project: FlowProject) -> dict[str, Any]:
    for job in project:
        job.document.trained = True
    return {}


def its_jobs_are_not_selected(project: FlowProject) -> dict[str, Any]:
    return {"jobs": []}


@pytest.mark.parametrize("spared", [another_is_selected, it_is_complete, its_jobs_are_not_selected])
async def test_what_is_not_going_to_be_executed_is_not_refused(
    spared: Callable[[FlowProject], dict[str, Any]],
    Project: type[FlowProject],
    data_space: MakeSpace,
) -> None:
    path = data_space(2)
    preparing(Project, path)
    training(Project, path, ngpu=1)
    project = Project(path)
    await run(project, **spared(project))
    assert "train" not in noted(path)


async def test_what_waits_for_what_will_not_be_executed_is_not_refused(
    Project: type[FlowProject], data_space: MakeSpace
) -> None:
    path = data_space(1)
    prepare = preparing(Project, path)
    Project.pre(lambda job: job.sp.i > 0)(prepare)
    Project.pre.after(prepare)(training(Project, path, ngpu=1))
    await run(Project(path))
    assert noted(path) == []


async def test_a_directive_that_is_known_only_later_is_refused_then(
    Project: type[FlowProject], data_space: MakeSpace
) -> None:
    path = data_space(1)
    prepare = preparing(Project, path)
    train = training(Project, path, ngpu=lambda job: int(job.document["prepared"]))
    Project.pre.after(prepare)(train)
    with pytest.raises(UserOperationError, match="1 GPU asked for"):
        await run(Project(path))
    assert noted(path) == ["prepare"]


@pytest.mark.parametrize("options", [{"keep_going": True}, {"num": 1}])
async def test_keep_going_and_num_run_what_can_run(
    options: dict[str, Any], Project: type[FlowProject], data_space: MakeSpace
) -> None:
    path = data_space(1)
    preparing(Project, path)
    training(Project, path, ngpu=1)
    try:
        await run(Project(path), **options)
    except UserOperationError as error:
        assert "'train' failed" in str(error)  # noqa: PT017 - with num it is not reached
    assert noted(path) == ["prepare"]


async def test_a_function_among_directives_is_asked_once_before_the_run(
    Project: type[FlowProject], data_space: MakeSpace
) -> None:
    path = data_space(3)
    asked: list[str] = []

    def gpus(job: Any) -> int:
        asked.append(job.id)
        return 9

    training(Project, path, ngpu=gpus)
    with pytest.raises(CapacityError):
        await run(Project(path))
    assert len(asked) == len(set(asked)) == 3


async def test_what_an_aggregate_asks_for_is_refused_too(
    Project: type[FlowProject], data_space: MakeSpace
) -> None:
    @Project.operation(aggregator=aggregator(), directives={"np": lambda *jobs: len(jobs)})
    def add_up(*jobs: Any) -> None: ...

    with pytest.raises(CapacityError, match="operation 'add_up' cannot run here: 3 CPUs"):
        await run(Project(data_space(3)))


async def test_what_is_cut_down_is_told_once(
    Project: type[FlowProject], data_space: MakeSpace, caplog: pytest.LogCaptureFixture
) -> None:
    path = data_space(3)
    training(Project, path, np=lambda job: 3 + job.sp.i)
    async with Runtime(max_cpus=2):
        await Project(path).run()
    (told,) = caplog.messages
    assert re.match("operation 'train': [345] CPUs asked for, but there are 2 CPUs.", told)
    assert len(noted(path)) == 3


def test_a_script_ends_with_2_and_says_what_can_be_done(data_space: MakeSpace) -> None:
    script = Script(
        Path(data_space(1)),
        """
        from asyncflow.flow import FlowProject

        class Project(FlowProject):
            pass

        @Project.operation(directives={"ngpu": 999})
        def train(job): ...

        Project().main()
        """,
    )
    answer = script("run")
    assert answer.code == 2, answer
    assert answer.err.startswith("error: operation 'train' cannot run here: 999 GPUs asked for")
    assert "--keep-going" in answer.err
