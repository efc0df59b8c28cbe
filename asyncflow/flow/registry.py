"""What a project class is told by its decorators: operations, groups, hooks, labels."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any, TypeVar, overload

from asyncflow.flow.aggregates import aggregator
from asyncflow.flow.conditions import Condition, flat
from asyncflow.flow.directives import Directives, check_directives
from asyncflow.flow.errors import FlowProjectDefinitionError

__all__ = ["GroupEntry", "Operation", "OperationRegister", "Registry"]

F = TypeVar("F", bound=Callable[..., Any])

_TRIGGERS = ("on_start", "on_success", "on_exception", "on_exit")
# A name stands in the names of nodes and of a scheduler's jobs.
_NAME = re.compile(r"[^\W\d]\w*(?:[-.]\w+)*")


class Operation:
    """One operation of a project class.

    Attributes:
        name: its name.
        func: the function of the jobs, as it was decorated.
        cmd: whether the function gives a shell command to be run.
        with_job: whether it runs in the directory of its job.
        aggregator: how jobs are put together for it.
        directives: its own, used where it runs by itself.
        pre, post: its conditions, topmost first.
        group_directives: by group, those that replace its own there.
        hooks: by trigger, functions called around it.
    """

    def __init__(
        self,
        name: str,
        func: Callable[..., Any],
        *,
        cmd: bool,
        with_job: bool,
        aggregator: aggregator,
        directives: Directives,
    ) -> None:
        self.name = name
        self.func = func
        self.cmd = cmd
        self.with_job = with_job
        self.aggregator = aggregator
        self.directives = directives
        self.pre: list[Condition] = []
        self.post: list[Condition] = []
        self.groups: set[str] = set()
        self.group_directives: dict[str, Directives] = {}
        self.hooks: dict[str, list[Callable[..., Any]]] = {trigger: [] for trigger in _TRIGGERS}
        self.is_coroutine = inspect.iscoroutinefunction(func)

    def __repr__(self) -> str:
        return f"<operation {self.name!r}>"

    def __call__(self, *jobs: Any) -> Any:
        """Call the function itself, as if it were not decorated."""
        return self.func(*jobs)

    def conditions(self) -> tuple[tuple[Condition, ...], tuple[Condition, ...]]:
        """Pre- and postconditions in a form that can be sent to a worker."""
        return flat(self.pre), flat(self.post)


class Registry:
    """What one class has declared itself; what it inherits is in its bases' registries."""

    def __init__(self, owner: type[Any]) -> None:
        self._owner = owner
        self.operations: dict[str, Operation] = {}
        self.groups: dict[str, GroupEntry] = {}
        self.labels: dict[str, Callable[..., Any]] = {}

    @property
    def owner(self) -> str:
        """The name of the class."""
        return self._owner.__name__

    def lineage(self) -> Iterator[Registry]:
        """The registries of the class and its bases, the most distant first."""
        for cls in reversed(self._owner.__mro__):
            registry = cls.__dict__.get("_registry")
            if isinstance(registry, Registry):
                yield registry

    def find(self, func: Any) -> Operation | None:
        """The operation that this function is, None if it is none."""
        for registry in self.lineage():
            for operation in registry.operations.values():
                if operation.func is func:
                    return operation
        return None

    def all_operations(self) -> dict[str, Operation]:
        return {
            name: operation
            for registry in self.lineage()
            for name, operation in registry.operations.items()
        }

    def all_groups(self) -> dict[str, GroupEntry]:
        return {
            name: entry for registry in self.lineage() for name, entry in registry.groups.items()
        }

    def all_labels(self) -> dict[str, Callable[..., Any]]:
        return {
            name: label for registry in self.lineage() for name, label in registry.labels.items()
        }

    def check_free(self, name: Any, what: str) -> str:
        """A name for an operation or a group, which share one namespace.

        Raises:
            FlowProjectDefinitionError: it is taken, or is not one.
        """
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise FlowProjectDefinitionError(
                f"{self.owner}: {name!r} cannot name {what}; use letters, digits, '_', and '-' or "
                "'.' inside"
            )
        if name in self.all_operations():
            raise FlowProjectDefinitionError(
                f"{self.owner}: an operation named {name!r} is there already; give this {what} "
                "another name"
            )
        if name in self.all_groups():
            raise FlowProjectDefinitionError(
                f"{self.owner}: a group named {name!r} is there already; give this {what} another "
                "name"
            )
        return name


class OperationRegister:
    """What ``Project.operation`` is: the decorator that makes operations of functions."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    @overload
    def __call__(
        self,
        func: F,
        name: str | None = None,
        *,
        cmd: bool = False,
        with_job: bool = False,
        directives: Directives | None = None,
        aggregator: aggregator | None = None,
    ) -> F: ...
    @overload
    def __call__(
        self,
        func: str | None = None,
        name: str | None = None,
        *,
        cmd: bool = False,
        with_job: bool = False,
        directives: Directives | None = None,
        aggregator: aggregator | None = None,
    ) -> Callable[[F], F]: ...
    def __call__(
        self,
        func: Any = None,
        name: str | None = None,
        *,
        cmd: bool = False,
        with_job: bool = False,
        directives: Directives | None = None,
        aggregator: aggregator | None = None,
    ) -> Any:
        """Make an operation of a function of the jobs; works bare, with a name, with options.

        Args:
            func: the function or coroutine function; or the operation's name.
            name: of the operation; left out, that of the function.
            cmd: the function returns a shell command, which is run.
            with_job: run in the directory of the job.
            directives: what it asks for: ``np``, ``ngpu``, ``memory`` (GB), ``walltime``
                (hours), ``omp_num_threads``, ``nranks``, ``executable``, or your own.
            aggregator: how jobs are put together; left out, each is by itself.

        Raises:
            FlowProjectDefinitionError: the name is taken, the function is an operation
                already or none at all, or the options do not go together.
            DirectivesError: a directive is wrong.
        """
        if func is None or isinstance(func, str):
            given = func if name is None else name
            return lambda function: self(
                function,
                given,
                cmd=cmd,
                with_job=with_job,
                directives=directives,
                aggregator=aggregator,
            )
        self._add(func, name, cmd, with_job, directives, aggregator)
        return func

    def _add(
        self,
        func: Any,
        name: str | None,
        cmd: bool,
        with_job: bool,
        directives: Directives | None,
        jobs: aggregator | None,
    ) -> None:
        registry = self._registry
        if not callable(func):
            raise FlowProjectDefinitionError(
                f"{registry.owner}: an operation is a function, got {func!r}"
            )
        if inspect.isgeneratorfunction(func) or inspect.isasyncgenfunction(func):
            raise FlowProjectDefinitionError(
                f"{registry.owner}: operation {func.__name__!r} is a generator, which would do "
                "nothing; write a function"
            )
        if registry.find(func) is not None:
            raise FlowProjectDefinitionError(
                f"{registry.owner}: {func.__name__!r} is an operation already"
            )
        name = registry.check_free(func.__name__ if name is None else name, "operation")
        jobs = aggregator.groupsof(1) if jobs is None else jobs
        _check_aggregator(jobs, f"{registry.owner}: operation {name!r}")
        if with_job and not jobs.is_single:
            raise FlowProjectDefinitionError(
                f"{registry.owner}: operation {name!r} has with_job and an aggregator; there is "
                "no one job whose directory it could run in"
            )
        registry.operations[name] = Operation(
            name,
            func,
            cmd=cmd,
            with_job=with_job,
            aggregator=jobs,
            directives=check_directives(directives, f"operation {name!r}"),
        )


def _check_aggregator(found: Any, whose: str) -> None:
    if not isinstance(found, aggregator):
        raise FlowProjectDefinitionError(
            f"{whose}: aggregator= takes aggregator(), aggregator.groupby(…) or "
            f"aggregator.groupsof(…), got {found!r}"
        )


class GroupEntry:
    """What ``Project.make_group`` gives: the decorator that puts operations into the group."""

    def __init__(
        self,
        name: str,
        registry: Registry,
        submit_options: str,
        run_options: str,
        group_aggregator: aggregator | None,
    ) -> None:
        if group_aggregator is not None:
            _check_aggregator(group_aggregator, f"{registry.owner}: group {name!r}")
        self.name = name
        self.submit_options = submit_options
        self.run_options = run_options
        self.group_aggregator = group_aggregator
        self._registry = registry

    def __repr__(self) -> str:
        return f"<group {self.name!r}>"

    @overload
    def __call__(self, func: F, /, *, directives: Directives | None = None) -> F: ...
    @overload
    def __call__(
        self, func: None = None, /, *, directives: Directives | None = None
    ) -> Callable[[F], F]: ...
    def __call__(self, func: Any = None, /, *, directives: Directives | None = None) -> Any:
        """Put an operation into the group; stands above ``@Project.operation``.

        Args:
            func: the operation's function.
            directives: replace the operation's own in this group; ``{}`` means all defaults,
                left out its own stay.

        Raises:
            FlowProjectDefinitionError: it is no operation, or is in the group already.
            DirectivesError: a directive is wrong.
        """
        if func is None:
            return lambda function: self(function, directives=directives)
        operation = self._registry.find(func)
        if operation is None:
            raise FlowProjectDefinitionError(
                f"group {self.name!r}: {getattr(func, '__name__', func)!r} is no operation of "
                f"{self._registry.owner}; the group stands above @{self._registry.owner}.operation"
            )
        if self.name in operation.groups:
            raise FlowProjectDefinitionError(
                f"operation {operation.name!r} is in group {self.name!r} already"
            )
        operation.groups.add(self.name)
        if directives is not None:
            operation.group_directives[self.name] = check_directives(
                directives, f"operation {operation.name!r} in group {self.name!r}"
            )
        return func


class HookRegister:
    """What ``Project.operation_hooks`` is: decorators that have functions called around an
    operation, with its name and its jobs."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def on_start(self, hook: Callable[..., Any]) -> Callable[[F], F]:
        """Call it before the operation, as ``hook(name, *jobs)``."""
        return self._adding("on_start", hook)

    def on_success(self, hook: Callable[..., Any]) -> Callable[[F], F]:
        """Call it after the operation, if it raised nothing."""
        return self._adding("on_success", hook)

    def on_exception(self, hook: Callable[..., Any]) -> Callable[[F], F]:
        """Call it after the operation raised, as ``hook(name, error, *jobs)``."""
        return self._adding("on_exception", hook)

    def on_exit(self, hook: Callable[..., Any]) -> Callable[[F], F]:
        """Call it after the operation, whatever came of it."""
        return self._adding("on_exit", hook)

    def _adding(self, trigger: str, hook: Callable[..., Any]) -> Callable[[F], F]:
        if not callable(hook):
            raise FlowProjectDefinitionError(f"{trigger} takes a function, got {hook!r}")

        def add(func: F) -> F:
            operation = self._registry.find(func)
            if operation is None:
                raise FlowProjectDefinitionError(
                    f"{getattr(func, '__name__', func)!r} is no operation of "
                    f"{self._registry.owner}; hooks stand above @Project.operation"
                )
            operation.hooks[trigger].append(hook)
            return func

        return add


class ProjectHooks:
    """What ``project.project_hooks`` is: lists of functions called around every operation.

    ``project.project_hooks.on_start.append(hook)`` adds one.
    """

    def __init__(self) -> None:
        self.on_start: list[Callable[..., Any]] = []
        self.on_success: list[Callable[..., Any]] = []
        self.on_exception: list[Callable[..., Any]] = []
        self.on_exit: list[Callable[..., Any]] = []

    def of(self, trigger: str) -> list[Callable[..., Any]]:
        found: list[Callable[..., Any]] = getattr(self, trigger)
        return found
