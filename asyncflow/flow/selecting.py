"""Which groups and which jobs a request means."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from asyncflow.flow.aggregates import Aggregate, aggregator, get_aggregate_id
from asyncflow.flow.groups import FlowGroup, aggregates_by_id

__all__ = ["Selection", "aggregate_named", "disjoint", "matching", "pairs_of"]

Selection = list[tuple[FlowGroup, str, Aggregate]]
"""Groups with the ids and the jobs of the aggregates they are to run on."""

Found = Mapping[aggregator, Mapping[str, Aggregate]]


def matching(groups: Mapping[str, FlowGroup], names: Iterable[str]) -> list[FlowGroup]:
    """The groups whose whole names match regular expressions.

    Raises:
        ValueError: an expression matches nothing, or is none.
    """
    if isinstance(names, str):
        raise ValueError(f"names takes a list of names, got the text {names!r}")
    found: dict[str, FlowGroup] = {}
    for name in names:
        chosen = [group for key, group in groups.items() if _matches(name, key)]
        if not chosen:
            known = ", ".join(groups) or "none"
            raise ValueError(f"there is no operation or group {name!r}; there are: {known}")
        found.update({group.name: group for group in chosen})
    return list(found.values())


def _matches(pattern: str, name: str) -> bool:
    try:
        return re.fullmatch(pattern, name) is not None
    except re.error as error:
        raise ValueError(f"{pattern!r} is no regular expression: {error}") from error


def disjoint(groups: list[FlowGroup]) -> list[FlowGroup]:
    """The groups themselves.

    Raises:
        ValueError: two of them share an operation.
    """
    seen: set[str] = set()
    for group in groups:
        if not seen.isdisjoint(group.operations):
            raise ValueError(
                "Cannot specify groups or operations that will be included twice when using the "
                "-o/--operation option."
            )
        seen.update(group.operations)
    return groups


def pairs_of(
    groups: Iterable[FlowGroup],
    jobs: Iterable[Any] | None,
    all_jobs: Callable[[], Iterable[Any]],
) -> Selection:
    """Each group with each of its aggregates, by job and then by group.

    Args:
        groups: those without operations are left out.
        jobs: jobs or aggregates; None for all.
        all_jobs: gives every job of the project.

    Raises:
        ValueError: ``jobs`` holds something else.
    """
    chosen = [group for group in groups if group.operations]
    wanted = None if jobs is None else [_aggregate(given) for given in jobs]
    found: Found
    if wanted is not None and all(group.aggregator.is_single for group in chosen):
        singles = {members[0].id: members for members in wanted if len(members) == 1}
        found = {group.aggregator: singles for group in chosen}
    else:
        found = aggregates_by_id(chosen, all_jobs)
        if wanted is not None:
            found = _only(found, {get_aggregate_id(members) for members in wanted})
    return _by_job(chosen, found)


def _aggregate(given: Any) -> Aggregate:
    jobs = given if isinstance(given, tuple | list) else (given,)
    for job in jobs:
        if not hasattr(job, "id") or not hasattr(job, "path"):
            raise ValueError(f"jobs takes jobs or tuples of jobs, got {given!r}")
    return tuple(jobs)


def _only(found: Found, ids: set[str]) -> Found:
    return {
        key: {each: jobs for each, jobs in aggregates.items() if each in ids}
        for key, aggregates in found.items()
    }


def _by_job(groups: Sequence[FlowGroup], found: Found) -> Selection:
    if len({id(found[group.aggregator]) for group in groups}) == 1:
        shared = found[groups[0].aggregator]
        return [(group, each, jobs) for each, jobs in shared.items() for group in groups]
    return [
        (group, each, jobs) for group in groups for each, jobs in found[group.aggregator].items()
    ]


def aggregate_named(project: Any, groups: Iterable[FlowGroup], aggregate_id: str) -> Aggregate:
    """The jobs of an id, or of the beginning of a job's id.

    Raises:
        LookupError: there is none, or several begin with it.
    """
    if aggregate_id.startswith("agg-"):
        for aggregates in aggregates_by_id(groups, project.__iter__).values():
            if aggregate_id in aggregates:
                return aggregates[aggregate_id]
        raise LookupError(f"there is no aggregate {aggregate_id!r} in {project.path}")
    try:
        return (project.open_job(id=aggregate_id),)
    except KeyError:
        raise LookupError(f"there is no job {aggregate_id!r} in {project.path}") from None
