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

__all__ = ["FAILURES", "Judge", "asking", "is_eligible", "met"]

FAILURES = (Exception, SystemExit)
"""What the project's own functions may raise; one that quits has failed, and the run has not."""

_PRE, _POST = int(IgnoreConditions.PRE), int(IgnoreConditions.POST)


class Judge:
    """Remembers the answers of conditions until the state of their jobs changes.

    A condition that several operations share (``pre.after``, ``isfile``, one function used
    twice) is asked once for an aggregate.
    """

    def __init__(self) -> None:
        self._answers: dict[str, _Answers] = {}
        # Whoever asks goes through the operations of one aggregate after the other.
        self._latest = _Answers(())
        self._of_job: dict[str, set[str]] = {}

    def changed(self, jobs: Iterable[Any]) -> None:
        """Forget what was answered for these jobs, alone or among others."""
        self._latest = _Answers(())
        for job in jobs:
            for aggregate_id in self._of_job.pop(job.id, ()):
                self._answers.pop(aggregate_id, None)

    def eligible(
        self,
        operation: Operation,
        jobs: Aggregate,
        ignore: int = IgnoreConditions.NONE,
    ) -> bool:
        """Whether all preconditions hold and some postcondition does not, or there is none.

        Raises:
            UserConditionError: a condition raised.
        """
        if not operation.pre and not operation.post:
            return True
        ask = self._asking(operation.name, jobs)
        return is_eligible(operation.pre, operation.post, ask, int(ignore))

    def complete(self, operation: Operation, jobs: Aggregate) -> bool:
        """Whether all postconditions hold; never without any.

        Raises:
            UserConditionError: a condition raised.
        """
        return bool(operation.post) and met(operation.post, self._asking(operation.name, jobs))

    def holds(self, condition: Condition, operation: Operation, jobs: Aggregate) -> bool:
        """Whether one condition of an operation holds.

        Raises:
            UserConditionError: it raised.
        """
        return condition.holds(self._asking(operation.name, jobs))

    def _asking(self, operation: str, jobs: Aggregate) -> Ask:
        if jobs is not self._latest.jobs:
            self._latest = self._answers_about(jobs)
        self._latest.operation = operation
        return self._latest

    def _answers_about(self, jobs: Aggregate) -> _Answers:
        aggregate_id = get_aggregate_id(jobs)
        answers = self._answers.get(aggregate_id)
        if answers is None:
            answers = self._answers[aggregate_id] = _Answers(jobs)
            for job in jobs:
                self._of_job.setdefault(job.id, set()).add(aggregate_id)
        return answers


class _Answers:
    """What conditions said of some jobs; asks those that were not asked yet.

    Attributes:
        operation: whose condition it is, for what is said of one that raises.
    """

    __slots__ = ("_known", "jobs", "operation")

    def __init__(self, jobs: Aggregate) -> None:
        self.jobs = jobs
        self._known: dict[Hashable, bool] = {}
        self.operation = ""

    def __call__(self, predicate: Predicate) -> bool:
        answer = self._known.get(predicate.identity)
        if answer is None:
            answer = _ask(predicate, self.operation, self.jobs)
            self._known[predicate.identity] = answer
        return answer


def asking(operation: str, jobs: Sequence[Any]) -> Ask:
    """Asks conditions about these jobs, each time anew.

    Raises (when asked):
        UserConditionError: the condition raised.
    """
    return lambda predicate: _ask(predicate, operation, jobs)


def _ask(predicate: Predicate, operation: str, jobs: Sequence[Any]) -> bool:
    try:
        return bool(predicate.func(*jobs))
    except FAILURES as error:
        raise UserConditionError(
            f"condition {predicate.label!r} of operation {operation!r} raised "
            f"{text_of(error)} for {get_aggregate_id(jobs)}; a condition gives true or false"
        ) from error


def met(conditions: Iterable[Condition], ask: Ask) -> bool:
    """Whether all of them hold."""
    for condition in conditions:  # noqa: SIM110 - all() takes twice as long
        if not condition.holds(ask):
            return False
    return True


def is_eligible(
    pre: Sequence[Condition],
    post: Sequence[Condition],
    ask: Ask,
    ignore: int = 0,
) -> bool:
    """The rule itself: what is before is met, and what comes after is not met yet.

    Args:
        ignore: a value of :class:`IgnoreConditions` as a plain number, which is much faster.
    """
    if not ignore & _PRE and not met(pre, ask):
        return False
    return not post or bool(ignore & _POST) or not met(post, ask)
