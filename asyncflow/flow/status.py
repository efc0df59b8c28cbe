"""What is done and what is to be done: collected in one pass over the jobs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from asyncflow.flow.aggregates import Aggregate
from asyncflow.flow.circles import Circles
from asyncflow.flow.conditions import IgnoreConditions
from asyncflow.flow.groups import FlowGroup
from asyncflow.flow.judging import Judge
from asyncflow.flow.slurm import JobState

if TYPE_CHECKING:
    from asyncflow.flow.project import FlowProject

__all__ = ["AggregateStatus", "GroupStatus", "ProjectStatus", "StatusView", "collect"]


class StatusView(msgspec.Struct, frozen=True):
    """What of a status is shown, and how.

    Args:
        as_json: everything, as JSON.
        detailed: a row for each job or aggregate.
        all_operations: also those that are neither eligible nor submitted.
        only_incomplete: leave out what is complete.
        expand: labels and operations in tables of their own.
        overview_max_lines: so many labels at most.
        parameters: state point keys to show, ``doc.`` before those of the document; empty for
            all that vary.
        output_format: ``"terminal"``, ``"markdown"`` or ``"html"``.
    """

    as_json: bool = False
    detailed: bool = False
    all_operations: bool = False
    only_incomplete: bool = False
    expand: bool = False
    overview_max_lines: int | None = None
    parameters: tuple[str, ...] | None = None
    output_format: str = "terminal"


class GroupStatus(msgspec.Struct, frozen=True, gc=False):
    """One group on one aggregate; ``scheduler_status`` is what the scheduler says of it."""

    eligible: bool
    completed: bool
    scheduler_status: str

    @property
    def is_active(self) -> bool:
        """Whether there is anything to say of it: it may run, or is submitted."""
        return self.eligible or self.scheduler_status != JobState.UNKNOWN


class AggregateStatus(msgspec.Struct, frozen=True, gc=False):
    """One job, or several that an operation gets together."""

    aggregate_id: str
    job_ids: tuple[str, ...]
    labels: tuple[str, ...]
    groups: dict[str, GroupStatus]
    parameters: dict[str, Any] = {}


class ProjectStatus(msgspec.Struct, frozen=True):
    """All of it."""

    project: str
    path: str
    jobs: int
    labels: dict[str, int]
    eligible: dict[str, int]
    aggregates: list[AggregateStatus]


def collect(
    project: FlowProject,
    jobs: Iterable[Any] | None,
    groups: Sequence[FlowGroup],
    submitted: Mapping[str, str],
    view: StatusView,
) -> ProjectStatus:
    """Ask every condition and label once.

    Args:
        project: whose.
        jobs: jobs or aggregates; None for all.
        groups: those to tell about.
        submitted: what the scheduler says, by the id of a submission.
        view: which parameters are wanted.

    Raises:
        UserConditionError: a condition or a label raised.
    """
    from asyncflow.flow.submission import submission_id

    judge = Judge()
    found: dict[str, AggregateStatus] = {}
    single: dict[str, Any] = {}
    selection = project.all_pairs(jobs, groups)
    for group, aggregate_id, members in selection:
        status = found.get(aggregate_id)
        if status is None:
            labels = tuple(project.labels(members[0])) if len(members) == 1 else ()
            status = found[aggregate_id] = AggregateStatus(
                aggregate_id, tuple(job.id for job in members), labels, {}
            )
            if len(members) == 1:
                single[aggregate_id] = members[0]
        status.groups[group.name] = GroupStatus(
            eligible=group.eligible(members, judge),
            completed=group.complete(members, judge),
            scheduler_status=submitted.get(
                submission_id(project, group.name, aggregate_id), JobState.UNKNOWN
            )
            if submitted
            else JobState.UNKNOWN,
        )
    Circles(groups).warn(selection, judge)
    rows = list(found.values())
    if view.parameters is not None:
        rows = _with_parameters(rows, single, view.parameters)
    return ProjectStatus(
        project=type(project).__name__,
        path=project.path,
        jobs=len(single),
        labels=dict(Counter(label for row in rows for label in row.labels).most_common()),
        eligible=_eligible(rows),
        aggregates=rows,
    )


def _eligible(rows: Iterable[AggregateStatus]) -> dict[str, int]:
    return dict(
        Counter(name for row in rows for name, group in row.groups.items() if group.eligible)
    )


def _with_parameters(
    rows: list[AggregateStatus], jobs: Mapping[str, Any], keys: Sequence[str]
) -> list[AggregateStatus]:
    wanted = list(keys) or _varying(jobs)
    return [
        msgspec.structs.replace(
            row,
            parameters={key: _parameter(jobs[row.aggregate_id], key) for key in wanted}
            if row.aggregate_id in jobs
            else {},
        )
        for row in rows
    ]


def _varying(jobs: Mapping[str, Any]) -> list[str]:
    seen: dict[str, set[str]] = {}
    for job in jobs.values():
        for key, value in job.cached_statepoint.items():
            seen.setdefault(key, set()).add(repr(value))
    return [key for key, values in seen.items() if len(values) > 1]


def _parameter(job: Any, key: str) -> Any:
    where, name = job.cached_statepoint, key.removeprefix("sp.")
    if key.startswith("doc."):
        where, name = job.document, key.removeprefix("doc.")
    for part in name.split("."):
        if not isinstance(where, Mapping) or part not in where:
            return None
        where = where[part]
    return where


def job_status(project: FlowProject, members: Aggregate) -> dict[str, Any]:
    """One aggregate as plain values: what ``get_job_status`` gives."""
    judge = Judge()
    return {
        "job_id": members[0].id,
        "labels": project.labels(members[0]),
        "operations": {
            name: {
                "eligible": judge.eligible(operation, members, IgnoreConditions.NONE),
                "completed": judge.complete(operation, members),
            }
            for name, operation in project.operations.items()
        },
    }
