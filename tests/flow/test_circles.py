"""Operations that wait for each other, and what is said of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from asyncflow.flow import FlowProject, FlowProjectDefinitionError, IgnoreConditions, aggregator
from asyncflow.flow.status import StatusView
from asyncflow.flow.submission import SubmitOptions
from tests.flow.scripts import Script

MakeSpace = Callable[..., str]


def in_a_circle(project: type[FlowProject], *names: str, jobs: Any = None) -> None:
    """Operations that write what completes them, each after the next, the last after the first."""

    def completing(name: str) -> Callable[..., None]:
        def operation(*members: Any) -> None:
            for job in members:
                job.document[name] = True

        return project.post.true(name)(project.operation(name, aggregator=jobs)(operation))

    functions = [completing(name) for name in names]
    for one, other in zip(functions, [*functions[1:], functions[0]], strict=True):
        project.pre.after(other)(one)


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["a"], "'a' runs after itself, so it never starts on 2 jobs"),
        (
            ["a", "b"],
            "'a' runs after 'b' and 'b' runs after 'a', so neither starts on 2 jobs unless "
            "something else completes one of them",
        ),
        (
            ["a", "b", "c"],
            "'a' runs after 'b', 'b' runs after 'c' and 'c' runs after 'a', so none of them "
            "starts on 2 jobs unless something else completes one of them",
        ),
    ],
)
async def test_a_circle_in_which_nothing_can_start_is_told_once(
    names: list[str],
    told: str,
    Project: type[FlowProject],
    data_space: MakeSpace,
    caplog: pytest.LogCaptureFixture,
) -> None:
    in_a_circle(Project, *names)
    await Project(data_space(2)).run()
    assert caplog.messages == [told]


def pretending(project: FlowProject) -> None:
    project.run_sync(pretend=True)


def submitting(project: FlowProject) -> None:
    project.submit(options=SubmitOptions(pretend=True))


def showing(project: FlowProject) -> None:
    project.print_status(view=StatusView(as_json=True))


@pytest.mark.parametrize("ask", [pretending, submitting, showing])
def test_whoever_asks_what_there_is_to_do_is_told_too(
    ask: Callable[[FlowProject], None],
    Project: type[FlowProject],
    data_space: MakeSpace,
    caplog: pytest.LogCaptureFixture,
) -> None:
    in_a_circle(Project, "a", "b")
    ask(Project(data_space(1)))
    assert len(caplog.messages) == 1


async def test_a_circle_turns_where_something_else_completed_one_of_it(
    Project: type[FlowProject], data_space: MakeSpace, caplog: pytest.LogCaptureFixture
) -> None:
    in_a_circle(Project, "a", "b")
    project = Project(data_space(2))
    first, second = project
    first.document.b = True
    await project.run()
    assert first.document.a
    assert caplog.messages[0].count("on 1 job ") == 1
    second.document.a = True
    caplog.clear()
    await project.run()
    assert second.document.b
    assert not caplog.messages


async def test_an_operation_without_postconditions_holds_up_nobody(
    Project: type[FlowProject], data_space: MakeSpace, caplog: pytest.LogCaptureFixture
) -> None:
    @Project.operation
    def a(job: Any) -> None: ...

    @Project.pre.after(a)
    @Project.post.true("done")
    @Project.operation
    def b(job: Any) -> None:
        job.document.done = True

    Project.pre.after(b)(a)
    project = Project(data_space(1))
    result = await project.run()
    assert result is not None
    assert {name.split("/")[-1].split("[")[0] for name in result.step_results} >= {"a", "b"}
    assert not caplog.messages


async def test_a_circle_is_seen_through_copied_conditions_and_base_classes(
    Project: type[FlowProject], data_space: MakeSpace, caplog: pytest.LogCaptureFixture
) -> None:
    @Project.post.never
    @Project.operation
    def a(job: Any) -> None: ...

    class Derived(Project):  # type: ignore[misc, valid-type]
        pass

    @Derived.pre.copy_from(a)  # type: ignore[untyped-decorator]
    @Derived.post.never  # type: ignore[untyped-decorator]
    @Derived.operation  # type: ignore[untyped-decorator]
    def b(job: Any) -> None: ...

    Derived.pre.after(b)(a)
    await Derived(data_space(1)).run(names=["b"])
    assert caplog.messages == ["'b' runs after itself, so it never starts on 1 job"]


async def test_circles_of_aggregates_are_told_as_such(
    Project: type[FlowProject], data_space: MakeSpace, caplog: pytest.LogCaptureFixture
) -> None:
    in_a_circle(Project, "a", "b", jobs=aggregator.groupsof(2))
    await Project(data_space(4)).run()
    assert "on 2 aggregates " in caplog.messages[0]


async def test_ignored_preconditions_make_no_circle(
    Project: type[FlowProject], data_space: MakeSpace, caplog: pytest.LogCaptureFixture
) -> None:
    in_a_circle(Project, "a", "b")
    await Project(data_space(1)).run(ignore_conditions=IgnoreConditions.PRE)
    assert not caplog.messages


@pytest.mark.parametrize("kind", ["pre", "post"])
def test_operations_that_copy_their_conditions_from_each_other_are_refused(
    kind: str, Project: type[FlowProject], data_space: MakeSpace
) -> None:
    @Project.operation
    def a(job: Any) -> None: ...

    @Project.operation
    def b(job: Any) -> None: ...

    getattr(Project, kind).copy_from(a)(b)
    getattr(Project, kind).copy_from(b)(a)
    with pytest.raises(
        FlowProjectDefinitionError, match=f"'a' takes .* of 'b' and 'b' .* of 'a': {kind}.copy_from"
    ):
        Project(data_space())


def test_the_command_line_says_it_as_a_warning(data_space: MakeSpace) -> None:
    script = Script(
        Path(data_space(1)),
        """
        from asyncflow.flow import FlowProject

        class Project(FlowProject):
            pass

        @Project.post.never
        @Project.operation
        def a(job): ...

        Project.pre.after(a)(a)
        Project().main()
        """,
    )
    answer = script("run")
    assert answer.code == 0
    assert answer.err == "warning: 'a' runs after itself, so it never starts on 1 job\n"
