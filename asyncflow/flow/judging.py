"""Who is eligible and who is complete: conditions asked once for each state of their jobs."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from asyncflow.errors import text_of
from asyncflow.flow.aggregates import Aggregate, get_aggregate_id
from asyncflow.flow.conditions import Ask, Condition, IgnoreConditions, Predicate
from asyncflow.flow.errors import UserConditionError

if TYPE_CHECKING:
    from asyncflow.flow.registry import Operation

__all__ = ["Judge", "asking", "is_eligible", "met"]


class Judge:
    """Remembers the answers of conditions until the state of their jobs changes.

    A condition that several operations share (``pre.after``, ``isfile``, one function used
    twice) is asked once for an aggregate.
    """

    def __init__(self) -> None:
        self._answers: dict[str, dict[Hashable, bool]] = {}
        self._of_job: dict[str, set[str]] = {}

    def changed(self, jobs: Iterable[Any]) -> None:
        """Forget what was answered for these jobs, alone or among others."""
        for job in jobs:
            for aggregate_id in self._of_job.pop(job.id, ()):
                self._answers.pop(aggregate_id, None)

    def eligible(
        self,
        operation: Operation,
        jobs: Aggregate,
        ignore: IgnoreConditions = IgnoreConditions.NONE,
    ) -> bool:
        """Whether all preconditions hold and some postcondition does not, or there is none.

        Raises:
            UserConditionError: a condition raised.
        """
        if not operation.pre and not operation.post:
            return True
        ask = self._asking(operation.name, jobs)
        return is_eligible(operation.pre, operation.post, ask, ignore)

    def complete(self, operation: Operation, jobs: Aggregate) -> bool:
        """Whether all postconditions hold; never without any.

        Raises:
            UserConditionError: a condition raised.
        """
        return bool(operation.post) and met(operation.post, self._asking(operation.name, jobs))

    def _asking(self, operation: str, jobs: Aggregate) -> Ask:
        aggregate_id = get_aggregate_id(jobs)
        answers = self._answers.get(aggregate_id)
        if answers is None:
            answers = self._answers[aggregate_id] = {}
            for job in jobs:
                self._of_job.setdefault(job.id, set()).add(aggregate_id)
        afresh = asking(operation, jobs)

        def ask(predicate: Predicate) -> bool:
            answer = answers.get(predicate.identity)
            if answer is None:
                answer = answers[predicate.identity] = afresh(predicate)
            return answer

        return ask


def asking(operation: str, jobs: Sequence[Any]) -> Ask:
    """Asks conditions about these jobs, each time anew.

    Raises (when asked):
        UserConditionError: the condition raised.
    """

    def ask(predicate: Predicate) -> bool:
        try:
            return bool(predicate.func(*jobs))
        except Exception as error:
            raise UserConditionError(
                f"condition {predicate.label!r} of operation {operation!r} raised "
                f"{text_of(error)} for {get_aggregate_id(jobs)}; a condition gives true or false"
            ) from error

    return ask


def met(conditions: Iterable[Condition], ask: Ask) -> bool:
    """Whether all of them hold."""
    return all(condition.holds(ask) for condition in conditions)


def is_eligible(
    pre: Sequence[Condition],
    post: Sequence[Condition],
    ask: Ask,
    ignore: IgnoreConditions = IgnoreConditions.NONE,
) -> bool:
    """The rule itself: what is before is met, and what comes after is not met yet."""
    if not ignore & IgnoreConditions.PRE and not met(pre, ask):
        return False
    return not post or bool(ignore & IgnoreConditions.POST) or not met(post, ask)
