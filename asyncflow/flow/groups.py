"""Groups of a project: which operations, on which aggregates, with which directives."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from asyncflow.errors import text_of
from asyncflow.flow.aggregates import Aggregate, aggregator, get_aggregate_id
from asyncflow.flow.conditions import IgnoreConditions
from asyncflow.flow.directives import Directives, add_up, evaluate
from asyncflow.flow.errors import DirectivesError, FlowProjectDefinitionError
from asyncflow.flow.judging import Judge
from asyncflow.flow.registry import GroupEntry, Operation, Registry

__all__ = ["FlowGroup", "make_groups"]


class FlowGroup:
    """A group of a project, or the one that every operation is by itself.

    Attributes:
        name: its name.
        operations: by name, in the order in which they were declared.
        operation_names: these names.
        submit_options, run_options: as given to ``make_group``.
        aggregator: how jobs are put together for it.
    """

    def __init__(
        self,
        name: str,
        operations: Mapping[str, Operation],
        directives: Mapping[str, Directives],
        aggregator: aggregator,
        *,
        submit_options: str = "",
        run_options: str = "",
    ) -> None:
        self.name = name
        self.operations = dict(operations)
        self.operation_names = tuple(operations)
        self.operation_directives = dict(directives)
        self.aggregator = aggregator
        self.submit_options = submit_options
        self.run_options = run_options

    def __repr__(self) -> str:
        return f"<group {self.name!r} of {', '.join(self.operations) or 'nothing'}>"

    def __iter__(self) -> Iterator[str]:
        return iter(self.operations)

    def __contains__(self, operation: object) -> bool:
        return operation in self.operations

    @property
    def is_singleton(self) -> bool:
        """Whether it stands for one operation by itself."""
        return list(self.operations) == [self.name]

    def isdisjoint(self, other: FlowGroup) -> bool:
        """Whether they share no operation."""
        return self.operations.keys().isdisjoint(other.operations)

    def eligible(
        self,
        jobs: Aggregate,
        judge: Judge,
        ignore: IgnoreConditions = IgnoreConditions.NONE,
    ) -> bool:
        """Whether at least one of its operations is."""
        for operation in self.operations.values():
            if judge.eligible(operation, jobs, ignore):
                return True
        return False

    def complete(self, jobs: Aggregate, judge: Judge) -> bool:
        """Whether all of its operations are."""
        for operation in self.operations.values():  # noqa: SIM110 - all() takes twice as long
            if not judge.complete(operation, jobs):
                return False
        return True

    def directives_of(self, operation: str, jobs: Sequence[Any]) -> dict[str, Any]:
        """The directives of one operation in this group, for these jobs.

        Raises:
            DirectivesError: a function among them raised, or gave what cannot be.
        """
        whose = f"operation {operation!r}"
        if not self.is_singleton:
            whose += f" in group {self.name!r}"
        try:
            return evaluate(self.operation_directives[operation], jobs, whose)
        except DirectivesError as error:
            if jobs:
                error.add_note(f"for {get_aggregate_id(jobs)}")
            raise

    def directives(self, jobs: Sequence[Any]) -> dict[str, Any]:
        """The directives of the whole group for these jobs.

        Raises:
            DirectivesError: as :meth:`directives_of`; or two operations disagree in one.
        """
        return self.added_up({name: self.directives_of(name, jobs) for name in self.operations})

    def added_up(self, of_operations: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
        """The same from the directives of its operations, which are given.

        Raises:
            DirectivesError: two operations disagree in one.
        """
        if self.is_singleton:
            return of_operations[self.name]
        return add_up(of_operations, f"group {self.name!r}")

    def has_constant_directives(self) -> bool:
        """Whether they are the same for all jobs."""
        return not any(
            callable(value)
            for directives in self.operation_directives.values()
            for value in directives.values()
        )

    def check(self) -> None:
        """Refuse directives that cannot be, as far as they are known without jobs.

        Raises:
            DirectivesError: as :meth:`directives`.
        """
        if self.operations and self.has_constant_directives():
            self.directives(())


def make_groups(registry: Registry) -> dict[str, FlowGroup]:
    """All groups of a project class: one for each operation, then those that were made.

    Raises:
        DirectivesError: the operations of a group disagree.
    """
    operations = registry.all_operations()
    groups = {
        name: FlowGroup(name, {name: op}, {name: op.directives}, op.aggregator)
        for name, op in operations.items()
    }
    for entry in registry.all_groups().values():
        groups[entry.name] = _made(entry, operations)
    for group in groups.values():
        group.check()
    return groups


def _made(entry: GroupEntry, operations: Mapping[str, Operation]) -> FlowGroup:
    members = {name: op for name, op in operations.items() if entry.name in op.groups}
    return FlowGroup(
        entry.name,
        members,
        {name: op.group_directives.get(entry.name, op.directives) for name, op in members.items()},
        entry.group_aggregator or aggregator.groupsof(1),
        submit_options=entry.submit_options,
        run_options=entry.run_options,
    )


def aggregates_by_id(
    groups: Iterable[FlowGroup], jobs: Callable[[], Iterable[Any]]
) -> dict[aggregator, dict[str, Aggregate]]:
    """What the aggregators of some groups make of the jobs, each asked once.

    Raises:
        FlowProjectDefinitionError: an aggregator raised.
    """
    listed: list[Any] | None = None
    found: dict[aggregator, dict[str, Aggregate]] = {}
    singles: dict[str, Aggregate] | None = None
    for group in groups:
        if group.aggregator in found:
            continue
        if listed is None:
            listed = list(jobs())
        if group.aggregator.is_single:
            if singles is None:
                singles = {job.id: (job,) for job in listed}
            found[group.aggregator] = singles
        else:
            found[group.aggregator] = _aggregates_of(group, listed)
    return found


def _aggregates_of(group: FlowGroup, jobs: Sequence[Any]) -> dict[str, Aggregate]:
    try:
        return {get_aggregate_id(made): made for made in group.aggregator.aggregates(jobs)}
    except Exception as error:
        raise FlowProjectDefinitionError(
            f"the aggregator of {group.name!r} raised {text_of(error)}; its functions take jobs, "
            "and all jobs have what it sorts or groups them by, or a default"
        ) from error
