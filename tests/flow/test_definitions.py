"""What a project class may say, and the errors for what it may not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from asyncflow.flow import DirectivesError, FlowProject, FlowProjectDefinitionError, aggregator


def test_every_operation_is_its_own_group(
    Project: type[FlowProject], data_space: Callable[..., str]
) -> None:
    @Project.operation
    def op(job: Any) -> None: ...

    project = Project(data_space())
    assert list(project.operations) == ["op"]
    assert project.groups["op"].is_singleton
    assert list(project.groups["op"]) == ["op"]


def test_an_operation_stays_the_function_it_was(Project: type[FlowProject]) -> None:
    def op(job: Any) -> str:
        return f"called with {job}"

    assert Project.operation(op) is op
    assert Project.operation("named")(lambda job: job)("x") == "x"


def test_operations_take_a_name(Project: type[FlowProject], data_space: Callable[..., str]) -> None:
    @Project.operation("first")
    def one(job: Any) -> None: ...

    @Project.operation(name="second")
    def two(job: Any) -> None: ...

    assert list(Project(data_space()).operations) == ["first", "second"]


def test_operations_and_groups_are_inherited(
    Project: type[FlowProject], data_space: Callable[..., str]
) -> None:
    ex = Project.make_group("ex")

    @ex
    @Project.operation
    def op1(job: Any) -> None: ...

    class Derived(Project):  # type: ignore[misc, valid-type]
        pass

    @Derived.pre.after(op1)  # type: ignore[untyped-decorator]
    @Derived.operation  # type: ignore[untyped-decorator]
    def op2(job: Any) -> None: ...

    path = data_space()
    assert list(Derived(path).operations) == ["op1", "op2"]
    assert list(Derived(path).groups["ex"]) == ["op1"]
    assert list(Project(path).operations) == ["op1"]


def test_classes_side_by_side_share_nothing(data_space: Callable[..., str]) -> None:
    class One(FlowProject):
        pass

    class Two(FlowProject):
        pass

    @One.operation
    def op(job: Any) -> None: ...

    assert not Two(data_space()).operations


def duplicate_operation(Project: type[FlowProject]) -> None:
    Project.operation("op")(lambda job: None)
    Project.operation("op")(lambda job: None)


def same_function_twice(Project: type[FlowProject]) -> None:
    def op(job: Any) -> None: ...

    Project.operation(op)
    Project.operation("other")(op)


def group_named_as_an_operation(Project: type[FlowProject]) -> None:
    Project.operation("op")(lambda job: None)
    Project.make_group("op")


def operation_named_as_a_group(Project: type[FlowProject]) -> None:
    Project.make_group("op")
    Project.operation("op")(lambda job: None)


def repeated_group(Project: type[FlowProject]) -> None:
    Project.make_group("ex")
    Project.make_group("ex")


def wrong_name(Project: type[FlowProject]) -> None:
    Project.operation("a/b")(lambda job: None)


def condition_below_the_operation(Project: type[FlowProject]) -> None:
    @Project.operation
    @Project.pre(lambda job: True)
    def op(job: Any) -> None: ...


def group_below_the_operation(Project: type[FlowProject]) -> None:
    ex = Project.make_group("ex")

    @Project.operation
    @ex
    def op(job: Any) -> None: ...


def group_twice(Project: type[FlowProject]) -> None:
    ex = Project.make_group("ex")

    @ex
    @ex(directives={"np": 2})
    @Project.operation
    def op(job: Any) -> None: ...


def operation_as_condition(Project: type[FlowProject]) -> None:
    @Project.operation
    def op(job: Any) -> None: ...

    @Project.pre(op)
    @Project.operation
    def other(job: Any) -> None: ...


def after_what_is_no_operation(Project: type[FlowProject]) -> None:
    Project.pre.after(lambda job: True)


def copy_from_what_is_no_operation(Project: type[FlowProject]) -> None:
    Project.post.copy_from(print)


def condition_that_is_no_function(Project: type[FlowProject]) -> None:
    @Project.post("done")  # type: ignore[arg-type]
    @Project.operation
    def op(job: Any) -> None: ...


def with_job_and_an_aggregator(Project: type[FlowProject]) -> None:
    @Project.operation(with_job=True, aggregator=aggregator())
    def op(*jobs: Any) -> None: ...


def aggregator_that_was_not_called(Project: type[FlowProject]) -> None:
    Project.operation("op", aggregator=aggregator)(lambda *jobs: None)  # type: ignore[call-overload]


def group_with_what_is_no_aggregator(Project: type[FlowProject]) -> None:
    Project.make_group("ex", group_aggregator=3)  # type: ignore[arg-type]


def generator(Project: type[FlowProject]) -> None:
    @Project.operation
    def op(job: Any) -> Any:
        yield job


def hook_below_the_operation(Project: type[FlowProject]) -> None:
    @Project.operation
    @Project.operation_hooks.on_start(print)
    def op(job: Any) -> None: ...


def hook_that_is_no_function(Project: type[FlowProject]) -> None:
    Project.operation_hooks.on_exit("now")  # type: ignore[arg-type]


def repeated_label(Project: type[FlowProject]) -> None:
    Project.label("good")(lambda job: True)
    Project.label("good")(lambda job: True)


@pytest.mark.parametrize(
    "wrong, told",
    [
        (duplicate_operation, "an operation named 'op' is there already"),
        (same_function_twice, "'op' is an operation already"),
        (group_named_as_an_operation, "an operation named 'op' is there already"),
        (operation_named_as_a_group, "a group named 'op' is there already"),
        (repeated_group, "a group named 'ex' is there already"),
        (wrong_name, "'a/b' cannot name operation"),
        (condition_below_the_operation, "conditions stand above @Project.operation"),
        (group_below_the_operation, "the group stands above @Project.operation"),
        (group_twice, "'op' is in group 'ex' already"),
        (operation_as_condition, "pre.after"),
        (after_what_is_no_operation, r"pre.after\(\) takes operations"),
        (copy_from_what_is_no_operation, r"post.copy_from\(\) takes operations"),
        (condition_that_is_no_function, "a condition is a function of the jobs, got 'done'"),
        (with_job_and_an_aggregator, "no one job whose directory"),
        (aggregator_that_was_not_called, r"aggregator= takes aggregator\(\), .* got <class"),
        (group_with_what_is_no_aggregator, "group 'ex': aggregator= takes .* got 3"),
        (generator, "'op' is a generator"),
        (hook_below_the_operation, "hooks stand above @Project.operation"),
        (hook_that_is_no_function, "on_exit takes a function"),
        (repeated_label, "a label 'good' is there already"),
    ],
)
def test_a_wrong_definition_says_what_is_wrong(
    wrong: Callable[[type[FlowProject]], None], told: str, Project: type[FlowProject]
) -> None:
    with pytest.raises(FlowProjectDefinitionError, match=told):
        wrong(Project)


def test_a_wrong_directive_names_operation_and_group(Project: type[FlowProject]) -> None:
    ex = Project.make_group("ex")
    with pytest.raises(DirectivesError, match="operation 'op' in group 'ex': directive 'ngpu'"):

        @ex(directives={"ngpu": -1})
        @Project.operation
        def op(job: Any) -> None: ...


def test_a_group_whose_operations_disagree_is_refused_when_the_project_is_loaded(
    Project: type[FlowProject], data_space: Callable[..., str]
) -> None:
    ex = Project.make_group("ex")

    @ex
    @Project.operation(directives={"queue": "a"})
    def op1(job: Any) -> None: ...

    @ex
    @Project.operation(directives={"queue": "b"})
    def op2(job: Any) -> None: ...

    with pytest.raises(DirectivesError, match="group 'ex'"):
        Project(data_space())


@pytest.mark.parametrize(
    "of_group, expected",
    [(None, 1), ({}, 0), ({"ngpu": 2}, 2)],
    ids=["nothing said: its own", "an empty dict: defaults", "others"],
)
def test_directives_of_a_group_replace_the_operations_own(
    of_group: Any, expected: int, Project: type[FlowProject], data_space: Callable[..., str]
) -> None:
    ex = Project.make_group("ex")

    @ex(directives=of_group)
    @Project.operation(directives={"ngpu": 1})
    def op(job: Any) -> None: ...

    project = Project(data_space())
    job = next(iter(project))
    assert project.groups["op"].directives((job,))["ngpu"] == 1
    assert project.groups["ex"].directives((job,))["ngpu"] == expected


def test_a_directive_that_cannot_be_worked_out_names_the_job(
    Project: type[FlowProject], data_space: Callable[..., str]
) -> None:
    @Project.operation(directives={"np": lambda job: job.sp.cores})
    def op(job: Any) -> None: ...

    project = Project(data_space())
    job = next(iter(project))
    with pytest.raises(DirectivesError, match="'np' raised AttributeError") as told:
        project.groups["op"].directives((job,))
    assert told.value.__notes__ == [f"for {job.id}"]
