"""Operations that wait for each other: a circle of `pre.after`.

Such a circle is no error: a postcondition may be met by other means, such as a file that somebody
put there, and then it turns. Where nobody did, nothing in it ever starts, and that is to be told.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter

from asyncflow.flow.aggregates import Aggregate
from asyncflow.flow.conditions import All, Condition, IgnoreConditions
from asyncflow.flow.errors import FlowProjectDefinitionError, UserConditionError
from asyncflow.flow.groups import FlowGroup
from asyncflow.flow.judging import Judge
from asyncflow.flow.registry import Operation
from asyncflow.flow.selecting import Selection

__all__ = ["Circles", "refuse_circles_of_copies"]

_LOGGER = logging.getLogger("asyncflow")

Circle = tuple[str, ...]
Follows = Mapping[str, Iterable[str]]
"""By name, the operations that one waits for."""


class Circles:
    """The circles that groups of operations take part in; false where there are none."""

    def __init__(self, groups: Iterable[FlowGroup]) -> None:
        found: dict[str, Operation] = {}
        waiting = [operation for group in groups for operation in group.operations.values()]
        for operation in waiting:
            if operation.name not in found:
                found[operation.name] = operation
                waiting.extend(_waited_for(operation.pre))
        self._follows = {
            name: [other.name for other in _waited_for(operation.pre)]
            for name, operation in found.items()
        }
        self._operations = found if any(_circles(self._follows)) else {}
        self._known: dict[frozenset[str], list[Circle]] = {}

    def __bool__(self) -> bool:
        return bool(self._operations)

    def warn(self, selection: Selection, judge: Judge, ignore: int = 0) -> None:
        """Log the circles in which nothing can start, with how many aggregates they hold up."""
        if not self or ignore & IgnoreConditions.PRE:
            return
        held: dict[Circle, set[str]] = {}
        for group, aggregate_id, jobs in selection:
            for circle in self._among(self._incomplete(jobs, judge)):
                if not group.operations.keys().isdisjoint(circle):
                    held.setdefault(circle, set()).add(aggregate_id)
        for circle, ids in held.items():
            _LOGGER.warning("%s", _sentence(circle, ids))

    def _incomplete(self, jobs: Aggregate, judge: Judge) -> frozenset[str]:
        return frozenset(
            name for name, op in self._operations.items() if not _may_be_complete(op, jobs, judge)
        )

    def _among(self, incomplete: frozenset[str]) -> list[Circle]:
        found = self._known.get(incomplete)
        if found is None:
            among = {name: self._follows[name] for name in self._follows if name in incomplete}
            found = self._known[incomplete] = list(_circles(among))
        return found


def _may_be_complete(operation: Operation, jobs: Aggregate, judge: Judge) -> bool:
    try:
        return judge.complete(operation, jobs)
    except UserConditionError:
        return True  # told to whoever needs the answer


def refuse_circles_of_copies(operations: Mapping[str, Operation]) -> None:
    """Refuse operations that copy their conditions from each other.

    Raises:
        FlowProjectDefinitionError: there are such.
    """
    for kind in ("pre", "post"):
        follows = {
            name: [
                other.name
                for condition in getattr(operation, kind)
                if isinstance(condition, All) and condition.kind == kind
                for other in condition.operations
            ]
            for name, operation in operations.items()
        }
        for circle in _circles(follows):
            words = _chain(circle, "takes the conditions of")
            raise FlowProjectDefinitionError(
                f"{words}: {kind}.copy_from goes in a circle, and nobody says what they are"
            )


def _waited_for(conditions: Iterable[Condition]) -> Iterator[Operation]:
    """The operations after which these preconditions have another one run.

    One without postconditions holds up nobody.
    """
    for condition in conditions:
        if not isinstance(condition, All):
            continue
        for operation in condition.operations:
            if condition.kind == "pre":
                yield from _waited_for(operation.pre)
            elif operation.post:
                yield operation


def _circles(follows: Follows) -> Iterator[Circle]:
    """Circles without a common operation."""
    left = dict(follows)
    while left:
        try:
            TopologicalSorter(_within(left)).prepare()
        except CycleError as error:
            circle = error.args[1][:0:-1]
            begin = circle.index(next(name for name in follows if name in circle))
            yield (*circle[begin:], *circle[:begin])
            for name in circle:
                del left[name]
        else:
            return


def _within(follows: Follows) -> Follows:
    return {name: [o for o in others if o in follows] for name, others in follows.items()}


def _sentence(circle: Circle, ids: Collection[str]) -> str:
    kind = "aggregate" if any(each.startswith("agg-") for each in ids) else "job"
    where = f"{len(ids)} {kind}{'' if len(ids) == 1 else 's'}"
    chain = _chain(circle, "runs after")
    if len(circle) == 1:
        return f"{chain}, so it never starts on {where}"
    nobody = "neither" if len(circle) == 2 else "none of them"
    return f"{chain}, so {nobody} starts on {where} unless something else completes one of them"


def _chain(circle: Circle, does: str) -> str:
    """``'a' runs after 'b', and 'b' after 'a'``."""
    links = [
        f"{one!r} {does} {'itself' if one == other else repr(other)}"
        for one, other in zip(circle, (*circle[1:], circle[0]), strict=True)
    ]
    return " and ".join([", ".join(links[:-1]), links[-1]] if len(links) > 1 else links)
