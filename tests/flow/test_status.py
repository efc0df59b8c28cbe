"""What a status says, and how."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from asyncflow.flow import (
    FlowProject,
    UserConditionError,
    aggregator,
    classlabel,
    label,
    staticlabel,
)
from asyncflow.flow.status import StatusView

MakeSpace = Callable[..., str]
Read = Callable[[], str]


@pytest.fixture
def read(capsys: pytest.CaptureFixture[str]) -> Read:
    return lambda: capsys.readouterr().out


def two_stages(Project: type[FlowProject]) -> None:
    @Project.label
    def big(job: Any) -> bool:
        return bool(job.sp.i > 0)

    @Project.post.true("one")
    @Project.operation
    def op1(job: Any) -> None: ...

    @Project.pre.after(op1)
    @Project.operation
    def op2(job: Any) -> None: ...


def test_labels_and_eligible_operations_are_counted(
    Project: type[FlowProject], data_space: MakeSpace, read: Read
) -> None:
    two_stages(Project)
    project = Project(data_space(4))
    next(iter(project)).document.one = True
    project.print_status(view=StatusView(as_json=True))
    status = json.loads(read())
    assert status["jobs"] == 4
    assert status["labels"] == {"big": 3}
    assert status["eligible"] == {"op1": 3, "op2": 1}


@pytest.mark.parametrize("output_format", ["terminal", "markdown", "html"])
def test_every_format_tells_jobs_operations_and_labels(
    output_format: str, Project: type[FlowProject], data_space: MakeSpace, read: Read
) -> None:
    two_stages(Project)
    project = Project(data_space(2))
    project.print_status(
        view=StatusView(output_format=output_format, detailed=True, all_operations=True)
    )
    text = read()
    for job in project:
        assert job.id in text
    for word in ("op1", "op2", "big", "eligible", "waits"):
        assert word in text


def test_html_is_a_page_of_its_own(
    Project: type[FlowProject], data_space: MakeSpace, read: Read
) -> None:
    two_stages(Project)
    Project(data_space(0)).print_status(view=StatusView(output_format="html"))
    page = read()
    assert page.startswith('<!DOCTYPE html>\n<html lang="en">\n<meta charset="utf-8">\n')
    assert "<h2>Eligible</h2>" in page
    assert page.endswith("</html>\n")


def test_what_is_complete_can_be_left_out(
    Project: type[FlowProject], data_space: MakeSpace, read: Read
) -> None:
    two_stages(Project)
    project = Project(data_space(2))
    done = next(iter(project))
    done.document.one = True
    view = StatusView(detailed=True, only_incomplete=True, output_format="markdown")
    project.print_status(view=view)
    assert f"| {done.id} | op1 |" not in read()


def test_parameters_are_shown_all_that_vary_or_those_named(
    Project: type[FlowProject], data_space: MakeSpace, read: Read
) -> None:
    two_stages(Project)
    project = Project(data_space(2))
    next(iter(project)).document.speed = 7
    view = StatusView(detailed=True, parameters=(), output_format="markdown")
    project.print_status(view=view)
    assert "| job | i | operation |" in read()
    view = StatusView(detailed=True, parameters=("doc.speed",), output_format="markdown")
    project.print_status(view=view)
    text = read()
    assert "| job | doc.speed | operation |" in text
    assert "| 7 |" in text


def test_text_from_outside_is_escaped(
    Project: type[FlowProject], data_space: MakeSpace, read: Read
) -> None:
    @Project.label
    def nasty(job: Any) -> str:
        return "<b>|[red]"

    @Project.operation
    def op(job: Any) -> None: ...

    project = Project(data_space(1))
    project.print_status(view=StatusView(output_format="html"))
    assert "&lt;b&gt;" in read()
    project.print_status(view=StatusView(output_format="markdown"))
    assert "<b>\\|[red]" in read()
    project.print_status()
    assert "[red]" in read()


def test_labels_may_be_methods_of_the_project(data_space: MakeSpace) -> None:
    class Project(FlowProject):
        limit = 1

        @label()
        def above(self, job: Any) -> bool:
            return bool(job.sp.i > self.limit)

        @classlabel("at least")
        def at_least(cls, job: Any) -> bool:  # noqa: N805
            return bool(job.sp.i >= cls.limit)

        @staticlabel()
        def named(job: Any) -> str:  # noqa: N805
            return f"i={job.sp.i}"

    project = Project(data_space(3))
    found = Counter(name for job in project for name in project.labels(job))
    assert found == {"above": 1, "at least": 2, "i=0": 1, "i=1": 1, "i=2": 1}


def test_a_label_that_raises_is_named(Project: type[FlowProject], data_space: MakeSpace) -> None:
    @Project.label
    def broken(job: Any) -> bool:
        raise KeyError("x")

    @Project.operation
    def op(job: Any) -> None: ...

    with pytest.raises(UserConditionError, match="label 'broken' raised KeyError"):
        Project(data_space(1)).print_status()


def test_aggregates_have_rows_of_their_own(
    Project: type[FlowProject], data_space: MakeSpace, read: Read
) -> None:
    @Project.operation(aggregator=aggregator())
    def total(*jobs: Any) -> None: ...

    project = Project(data_space(3))
    project.print_status(view=StatusView(as_json=True))
    (row,) = json.loads(read())["aggregates"]
    assert row["aggregate_id"].startswith("agg-")
    assert len(row["job_ids"]) == 3
    assert project.aggregate(row["aggregate_id"])


def test_every_condition_is_asked_once_for_each_job(
    Project: type[FlowProject], data_space: MakeSpace, read: Read
) -> None:
    """So the time a status takes grows with the number of jobs, and not faster."""
    asked: Counter[str] = Counter()

    def done(job: Any) -> bool:
        asked[job.id] += 1
        return False

    @Project.post(done)
    @Project.operation
    def op1(job: Any) -> None: ...

    @Project.pre.after(op1)
    @Project.pre.copy_from(op1)
    @Project.operation
    def op2(job: Any) -> None: ...

    for jobs in (2, 8):
        asked.clear()
        Project(data_space(jobs)).print_status()
        assert set(asked.values()) == {1}
        assert len(asked) == jobs


def test_the_status_of_one_job_as_values(Project: type[FlowProject], data_space: MakeSpace) -> None:
    two_stages(Project)
    project = Project(data_space(1))
    status = project.get_job_status(next(iter(project)))
    assert status["operations"]["op1"] == {"eligible": True, "completed": False}
    assert status["operations"]["op2"] == {"eligible": False, "completed": False}
