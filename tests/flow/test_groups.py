"""Groups: whose turn it is in them, what they ask for, and a small model of the rules."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncflow import Runtime
from asyncflow.flow import FlowProject, FlowProjectDefinitionError, IgnoreConditions, aggregator
from asyncflow.flow.conditions import Predicate
from asyncflow.flow.groups import FlowGroup
from asyncflow.flow.judging import Judge
from asyncflow.flow.registry import Operation
from tests.flow.notes import note, noted

MakeSpace = Callable[..., str]


class Job:
    id = "job"


def operation(name: str, pre: list[bool], post: list[bool]) -> Operation:
    made = Operation(
        name, print, cmd=False, with_job=False, aggregator=aggregator.groupsof(1), directives={}
    )
    for kind, answers in (("pre", pre), ("post", post)):
        for number, answer in enumerate(answers):
            condition = Predicate(lambda *_, answer=answer: answer, (name, kind, number), name)
            getattr(made, kind).append(condition)
    return made


truths = st.lists(st.booleans(), max_size=3)


@given(
    members=st.lists(st.tuples(truths, truths), min_size=1, max_size=4),
    ignore=st.sampled_from(list(IgnoreConditions)),
)
def test_a_group_is_eligible_if_any_is_and_complete_if_all_are(
    members: list[tuple[list[bool], list[bool]]], ignore: IgnoreConditions
) -> None:
    operations = {f"op{i}": operation(f"op{i}", *one) for i, one in enumerate(members)}
    group = FlowGroup("g", operations, {name: {} for name in operations}, aggregator.groupsof(1))

    def eligible(pre: list[bool], post: list[bool]) -> bool:
        before = bool(ignore & IgnoreConditions.PRE) or all(pre)
        after = bool(ignore & IgnoreConditions.POST) or not post or not all(post)
        return before and after

    jobs = (Job(),)
    expected = any(eligible(pre, post) for pre, post in members)
    assert group.eligible(jobs, Judge(), ignore) is expected
    complete = all(post and all(post) for _, post in members)
    assert group.complete(jobs, Judge()) is bool(complete)


async def test_a_group_runs_its_operations_one_after_the_other_as_they_become_eligible(
    Project: type[FlowProject], data_space: MakeSpace
) -> None:
    path = data_space(2)
    ex = Project.make_group("ex")

    @Project.post.true("one")
    @Project.operation
    def op1(job: Any) -> None:
        note(path, f"op1 {job.sp.i}")
        job.document.one = True

    @ex
    @Project.pre.after(op1)
    @Project.post.true("two")
    @Project.operation
    def op2(job: Any) -> None:
        note(path, f"op2 {job.sp.i}")
        job.document.two = True

    ex(op1)
    result = await Project(path).run(names=["ex"])
    assert result is not None
    assert sorted(noted(path)) == ["op1 0", "op1 1", "op2 0", "op2 1"]
    for index in range(2):
        assert noted(path).index(f"op1 {index}") < noted(path).index(f"op2 {index}")
    # One node for each job: the group is what is dispatched.
    assert len(result.step_results) == 1 + 2


async def test_a_group_of_coroutines_and_functions_runs_as_one(
    Project: type[FlowProject], data_space: MakeSpace
) -> None:
    path = data_space(1)
    ex = Project.make_group("ex")

    @ex
    @Project.operation
    async def op1(job: Any) -> None:
        note(path, "op1")

    @ex
    @Project.operation(cmd=True)
    def op2(job: Any) -> str:
        return f"echo op2 >> {path}/notes"

    @ex
    @Project.operation
    def op3(job: Any) -> None:
        note(path, "op3")

    await Project(path).run(names=["ex"])
    assert noted(path) == ["op1", "op2", "op3"]


async def test_an_operation_may_be_in_several_groups(
    Project: type[FlowProject], data_space: MakeSpace
) -> None:
    path = data_space(1)
    first, second = Project.make_group("first"), Project.make_group("second")

    @first
    @second
    @Project.operation
    def op(job: Any) -> None:
        note(path, "op")

    project = Project(path)
    await project.run(names=["first"])
    await project.run(names=["second"])
    assert noted(path) == ["op", "op"]
    with pytest.raises(ValueError, match="included twice"):
        await project.run(names=["first", "second"])


async def test_a_group_has_an_aggregator_of_its_own(
    Project: type[FlowProject], data_space: MakeSpace
) -> None:
    path = data_space(5)
    pairs = Project.make_group("pairs", group_aggregator=aggregator.groupsof(2, sort_by="i"))

    @pairs
    @Project.operation
    def op(*jobs: Any) -> None:
        note(path, ",".join(str(job.sp.i) for job in jobs))

    await Project(path).run(names=["pairs"])
    assert sorted(noted(path)) == ["0,1", "2,3", "4"]


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (aggregator.groupby("temperature"), "KeyError: 'temperature'"),
        (aggregator(sort_by="temperature"), "KeyError: 'temperature'"),
        (aggregator(lambda jobs: list(jobs)), "TypeError: 'Job' object is not iterable"),
        (aggregator(select=lambda job: job.sp.temperature), "AttributeError: 'temperature'"),
    ],
)
async def test_an_aggregator_that_raises_is_told_with_its_operation(
    wrong: aggregator, told: str, Project: type[FlowProject], data_space: MakeSpace
) -> None:
    @Project.operation(aggregator=wrong)
    def op(*jobs: Any) -> None: ...

    with pytest.raises(FlowProjectDefinitionError, match=f"aggregator of 'op' raised {told}"):
        await Project(data_space(2)).run()


async def test_an_empty_group_runs_nothing(
    Project: type[FlowProject], data_space: MakeSpace
) -> None:
    Project.make_group("empty")

    @Project.operation
    def op(job: Any) -> None:
        raise AssertionError("it is not in the group")

    result = await Project(data_space(1)).run(names=["empty"])
    assert result is not None
    assert result.success


@pytest.mark.parametrize("names, devices", [(["op1"], 1), (["ex"], 2)], ids=["alone", "in ex"])
async def test_a_groups_directives_hold_where_it_runs_through_the_group(
    names: list[str], devices: int, Project: type[FlowProject], data_space: MakeSpace
) -> None:
    path = data_space(1)
    ex = Project.make_group(name="ex")

    @ex(directives={"ngpu": 2})
    @Project.operation(directives={"ngpu": 1})
    def op1(job: Any) -> None:
        import os

        note(path, os.environ["CUDA_VISIBLE_DEVICES"])

    async with Runtime(max_gpus=2, max_cpus=2):
        await Project(path).run(names=names)
    (visible,) = noted(path)
    assert len(visible.split(",")) == devices


async def test_a_failing_operation_keeps_the_rest_of_its_group_from_running(
    Project: type[FlowProject], data_space: MakeSpace
) -> None:
    path = data_space(1)
    ex = Project.make_group("ex")

    @ex
    @Project.operation
    def op1(job: Any) -> None:
        raise RuntimeError("no paper")

    @ex
    @Project.operation
    def op2(job: Any) -> None:
        note(path, "op2")

    with pytest.raises(RuntimeError, match="'ex' failed"):
        await Project(path).run(names=["ex"])
    assert not Path(path, "notes").exists()
