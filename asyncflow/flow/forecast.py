"""What a run is going to execute, as far as conditions tell before it begins."""

from __future__ import annotations

from functools import cached_property

from asyncflow.flow.aggregates import Aggregate, get_aggregate_id
from asyncflow.flow.conditions import All, Condition, IgnoreConditions
from asyncflow.flow.groups import FlowGroup
from asyncflow.flow.judging import Judge
from asyncflow.flow.registry import Operation
from asyncflow.flow.selecting import Selection

__all__ = ["Forecast"]


class Forecast:
    """Which operations will be eligible: now, or after others of the selection by ``pre.after``.

    Any other condition is taken to stay as it is.
    """

    def __init__(self, selection: Selection, judge: Judge, ignore: IgnoreConditions) -> None:
        self._judge = judge
        self._ignores_pre = bool(ignore & IgnoreConditions.PRE)
        self._ignores_post = bool(ignore & IgnoreConditions.POST)
        self._selection = selection

    @cached_property
    def _selected(self) -> set[tuple[str, str]]:
        """Operations with the ids of their aggregates."""
        return {
            (name, aggregate_id) for group, aggregate_id, _ in self._selection for name in group
        }

    def comes(self, group: FlowGroup, jobs: Aggregate) -> bool:
        """Whether at least one operation of a group will be executed on these jobs.

        Raises:
            UserConditionError: a condition raised.
        """
        return any(self._comes(operation, jobs) for operation in group.operations.values())

    def _comes(self, operation: Operation, jobs: Aggregate, above: tuple[str, ...] = ()) -> bool:
        if operation.name in above:
            return False  # a circle, in which nothing begins
        if not self._ignores_post and self._judge.complete(operation, jobs):
            return False
        above = (*above, operation.name)
        return self._ignores_pre or all(
            self._will_hold(condition, operation, jobs, above) for condition in operation.pre
        )

    def _will_hold(
        self, condition: Condition, operation: Operation, jobs: Aggregate, above: tuple[str, ...]
    ) -> bool:
        if not isinstance(condition, All) or condition.kind != "post":
            return self._judge.holds(condition, operation, jobs)
        aggregate_id = get_aggregate_id(jobs)
        return all(
            self._judge.holds(All((other,), "post"), operation, jobs)
            or ((other.name, aggregate_id) in self._selected and self._comes(other, jobs, above))
            for other in condition.operations
        )
