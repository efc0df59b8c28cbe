"""Pre- and postconditions: what they are made of, and the decorators that attach them."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterable, Sequence
from enum import IntFlag
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from asyncflow.flow.errors import FlowProjectDefinitionError

if TYPE_CHECKING:
    from asyncflow.flow.registry import Operation, Registry

__all__ = ["All", "Condition", "ConditionRegister", "IgnoreConditions", "Not", "Predicate"]

F = TypeVar("F", bound=Callable[..., Any])
Ask = Callable[["Predicate"], bool]


class IgnoreConditions(IntFlag):
    """Which conditions count for nothing when it is asked whether an operation is eligible."""

    NONE = 0
    PRE = 1
    POST = 2
    ALL = 3

    def __str__(self) -> str:
        return str(self.name).lower()


class Predicate(msgspec.Struct, frozen=True):
    """A function of the jobs; two with one ``identity`` give one answer for the same jobs."""

    func: Callable[..., Any]
    identity: Hashable
    label: str

    def holds(self, ask: Ask) -> bool:
        return ask(self)


class Not(msgspec.Struct, frozen=True):
    """True where another condition is not."""

    condition: Condition

    def holds(self, ask: Ask) -> bool:
        return not self.condition.holds(ask)


class All(msgspec.Struct, frozen=True):
    """The conditions of other operations, all of them; read anew, for more may be attached."""

    operations: tuple[Operation, ...]
    kind: str

    def parts(self) -> list[Condition]:
        """What has to hold."""
        return [part for operation in self.operations for part in getattr(operation, self.kind)]

    def holds(self, ask: Ask) -> bool:
        return all(part.holds(ask) for part in self.parts())


Condition = Predicate | Not | All


def flat(conditions: Iterable[Condition]) -> tuple[Condition, ...]:
    """The same conditions without a reference to operations, to be sent to a worker."""
    found: list[Condition] = []
    for condition in conditions:
        if isinstance(condition, All):
            found.extend(flat(condition.parts()))
        elif isinstance(condition, Not) and isinstance(condition.condition, All):
            inner = flat(condition.condition.parts())
            found.append(Not(Predicate(_AllOf(inner), ("all", inner), "all")))
        else:
            found.append(condition)
    return tuple(found)


class _AllOf:
    """Several conditions as one function of the jobs."""

    def __init__(self, conditions: Sequence[Condition]) -> None:
        self._conditions = conditions

    def __call__(self, *jobs: Any) -> bool:
        return all(
            part.holds(lambda predicate: bool(predicate.func(*jobs))) for part in self._conditions
        )


def predicate_of(condition: Any) -> Condition:
    """A condition as given to a decorator: a function, or one made by ``isfile`` and its like."""
    if isinstance(condition, Predicate | Not | All):
        return condition
    if not callable(condition):
        raise FlowProjectDefinitionError(
            f"a condition is a function of the jobs, got {condition!r}"
        )
    return Predicate(condition, ("function", condition), _called(condition))


def _called(condition: Callable[..., Any]) -> str:
    """What to call a condition: a project may have many lambdas."""
    name = str(getattr(condition, "__qualname__", type(condition).__name__))
    code = getattr(condition, "__code__", None)
    if code is None or not name.endswith("<lambda>"):
        return name
    return f"<lambda> in line {code.co_firstlineno} of {os.path.basename(code.co_filename)}"


def _is_file(filename: str) -> Predicate:
    def is_file(*jobs: Any) -> bool:
        return all(job.isfile(filename) for job in jobs)

    return Predicate(is_file, ("isfile", filename), f"isfile({filename!r})")


def _is_true(key: str) -> Predicate:
    def is_true(*jobs: Any) -> bool:
        return all(job.document.get(key, False) for job in jobs)

    return Predicate(is_true, ("true", key), f"true({key!r})")


def _is_false(key: str) -> Predicate:
    def is_false(*jobs: Any) -> bool:
        return not any(job.document.get(key, False) for job in jobs)

    return Predicate(is_false, ("false", key), f"false({key!r})")


def _never(*_: Any) -> bool:
    return False


class ConditionRegister:
    """What ``Project.pre`` and ``Project.post`` are: decorators that attach a condition.

    They stand above ``@Project.operation``; the topmost is asked first.

    Args:
        registry: of the project class.
        kind: ``"pre"`` or ``"post"``.
    """

    def __init__(self, registry: Registry, kind: str) -> None:
        self._registry = registry
        self._kind = kind

    def __call__(self, condition: Callable[..., Any]) -> Callable[[F], F]:
        """Attach a function of the jobs that gives true or false.

        Raises:
            FlowProjectDefinitionError: it is an operation, or there is none below.
        """
        if self._registry.find(condition) is not None:
            raise FlowProjectDefinitionError(
                f"operation {_name(condition)!r} cannot be used as a condition; "
                f"{self._kind}.after(…) makes one of it"
                if self._kind == "pre"
                else f"operation {_name(condition)!r} cannot be used as a condition"
            )
        return self._attaching(predicate_of(condition))

    def isfile(self, filename: str) -> Callable[[F], F]:
        """True where every job has the file."""
        return self._attaching(_is_file(filename))

    def true(self, key: str) -> Callable[[F], F]:
        """True where the key of every job's document is there and true."""
        return self._attaching(_is_true(key))

    def false(self, key: str) -> Callable[[F], F]:
        """True where the key of every job's document is missing or false."""
        return self._attaching(_is_false(key))

    def not_(self, condition: Callable[..., Any]) -> Callable[[F], F]:
        """True where the function is not."""
        return self._attaching(Not(predicate_of(condition)))

    def never(self, func: F) -> F:
        """Never true; used without a call: ``@Project.pre.never``."""
        return self._attaching(Predicate(_never, ("never",), "never"))(func)

    def copy_from(self, *others: Callable[..., Any]) -> Callable[[F], F]:
        """All conditions of this kind that other operations have.

        Raises:
            FlowProjectDefinitionError: one of them is no operation.
        """
        return self._attaching(All(self._operations(others, "copy_from"), self._kind))

    def _operations(
        self, functions: Iterable[Callable[..., Any]], what: str
    ) -> tuple[Operation, ...]:
        found = []
        for function in functions:
            operation = self._registry.find(function)
            if operation is None:
                raise FlowProjectDefinitionError(
                    f"{self._kind}.{what}() takes operations, got {function!r}; decorate it with "
                    "@Project.operation"
                )
            found.append(operation)
        return tuple(found)

    def _attaching(self, condition: Condition) -> Callable[[F], F]:
        def attach(func: F) -> F:
            operation = self._registry.find(func)
            if operation is None:
                raise FlowProjectDefinitionError(
                    f"{_name(func)!r} is no operation of {self._registry.owner!r}; conditions "
                    "stand above @Project.operation"
                )
            getattr(operation, self._kind).insert(0, condition)
            return func

        return attach


class PreconditionRegister(ConditionRegister):
    """``Project.pre``."""

    def after(self, *operations: Callable[..., Any]) -> Callable[[F], F]:
        """True once all postconditions of other operations hold.

        Raises:
            FlowProjectDefinitionError: one of them is no operation.
        """
        return self._attaching(All(self._operations(operations, "after"), "post"))


def _name(func: Any) -> str:
    return str(getattr(func, "__name__", func))
