"""What runs operations: in a worker process, or on the event loop for coroutines."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import msgspec
import signac

from asyncflow.flow.conditions import Condition
from asyncflow.flow.judging import FAILURES, asking, is_eligible

if TYPE_CHECKING:
    from asyncflow.flow.registry import Operation, ProjectHooks

__all__ = [
    "CoroutineTask",
    "Errand",
    "ErrandFailed",
    "Member",
    "Report",
    "Task",
    "TaskOnLoop",
    "member_of",
    "next_of",
]


class Member(msgspec.Struct, frozen=True):
    """One operation as a worker needs it: nothing of it leads back to the project class."""

    name: str
    func: Callable[..., Any]
    is_coroutine: bool
    cmd: bool
    with_job: bool
    omp_num_threads: int
    pre: tuple[Condition, ...]
    post: tuple[Condition, ...]
    on_start: tuple[Callable[..., Any], ...]
    on_success: tuple[Callable[..., Any], ...]
    on_exception: tuple[Callable[..., Any], ...]
    on_exit: tuple[Callable[..., Any], ...]

    @property
    def stands_alone(self) -> bool:
        """Whether nothing is done around it, and nothing with what it gives."""
        around = self.on_start or self.on_success or self.on_exception or self.on_exit
        return not (around or self.cmd or self.with_job or self.omp_num_threads)


def member_of(operation: Operation, hooks: ProjectHooks, omp_num_threads: int) -> Member:
    """An operation with all functions that are called around it.

    The order is that of signac-flow: the project's before the operation's own.
    """
    pre, post = operation.conditions()
    around = {
        trigger: (*hooks.of(trigger), *of_operation)
        for trigger, of_operation in operation.hooks.items()
    }
    return Member(
        operation.name,
        operation.func,
        operation.is_coroutine,
        operation.cmd,
        operation.with_job,
        omp_num_threads,
        pre,
        post,
        around["on_start"],
        around["on_success"],
        around["on_exception"],
        around["on_exit"],
    )


@lru_cache(maxsize=8)
def _project(path: str) -> Any:
    return signac.Project(path)


class Errand(msgspec.Struct, frozen=True):
    """A group to be executed on one aggregate.

    Args:
        group: its name.
        jobs: the jobs, or their ids where a worker opens them.
        allowed: the operations of the group that may be executed, each at most once.
    """

    group: str
    jobs: tuple[Any, ...]
    allowed: tuple[str, ...]


class Report(msgspec.Struct, frozen=True):
    """What was executed for each errand, by name, and how long all of it took."""

    executed: list[tuple[str, ...]]
    seconds: float


class ErrandFailed(Exception):
    """One of several errands failed, as ``__cause__`` says; those before it are done."""

    def __init__(self, executed: list[tuple[str, ...]]) -> None:
        super().__init__(executed)
        self.executed = executed


class Task:
    """Does errands one after the other: in each, what is eligible, in order.

    It is the function of a step in the process lane. Conditions are asked right before each
    operation, whatever was found earlier.

    Args:
        path: of the project.
        groups: by name, the operations of each group, in order.
    """

    def __init__(self, path: str, groups: Mapping[str, Sequence[Member]]) -> None:
        self._path = path
        self._groups = dict(groups)

    def __call__(self, errands: tuple[Errand, ...], ignore: int) -> Report:
        """Do all errands.

        Raises:
            Exception, SystemExit: whatever an operation raised, if there was one errand.
            ErrandFailed: an operation raised, and there were several.
        """
        began, executed = time.perf_counter(), list[tuple[str, ...]]()
        for errand in errands:
            try:
                executed.append(self._execute(errand, ignore))
            except FAILURES as error:
                if len(errands) == 1:
                    raise
                raise ErrandFailed(executed) from error
        return Report(executed, time.perf_counter() - began)

    def _execute(self, errand: Errand, ignore: int) -> tuple[str, ...]:
        jobs = self._open(errand.jobs)
        members, done = self._groups[errand.group], list[str]()
        while (member := next_of(members, errand, jobs, done, ignore)) is not None:
            if member.stands_alone:
                member.func(*jobs)
            else:
                self._perform(member, jobs)
            done.append(member.name)
        return tuple(done)

    def _perform(self, member: Member, jobs: tuple[Any, ...]) -> None:
        with _around(member, jobs):
            value = member.func(*jobs)
            if member.cmd:
                _shell(value)

    def _open(self, job_ids: Sequence[str]) -> tuple[Any, ...]:
        project = _project(self._path)
        return tuple(project.open_job(id=job_id) for job_id in job_ids)


def next_of(
    members: Sequence[Member], errand: Errand, jobs: Sequence[Any], done: Sequence[str], ignore: int
) -> Member | None:
    """The next member that is to be executed for an errand; None if that is all.

    Raises:
        UserConditionError: a condition raised.
    """
    for member in members:
        if member.name not in errand.allowed or member.name in done:
            continue
        if not member.pre and not member.post:
            return member
        if is_eligible(member.pre, member.post, asking(member.name, jobs), ignore):
            return member
    return None


class CoroutineTask(Task):
    """The same for groups with coroutine functions, on the worker's own event loop."""

    async def __call__(  # type: ignore[override]
        self, errands: tuple[Errand, ...], ignore: int
    ) -> Report:
        began, executed = time.perf_counter(), list[tuple[str, ...]]()
        for errand in errands:
            try:
                executed.append(await self._execute_all(errand, ignore))
            except FAILURES as error:
                if len(errands) == 1:
                    raise
                raise ErrandFailed(executed) from error
        return Report(executed, time.perf_counter() - began)

    async def _execute_all(self, errand: Errand, ignore: int) -> tuple[str, ...]:
        jobs = self._open(errand.jobs)
        members, done = self._groups[errand.group], list[str]()
        while (member := next_of(members, errand, jobs, done, ignore)) is not None:
            if member.stands_alone:
                await _awaited(member.func(*jobs))
            else:
                with _around(member, jobs):
                    value = await _awaited(member.func(*jobs))
                    if member.cmd:
                        _shell(value)
            done.append(member.name)
        return tuple(done)


class TaskOnLoop(CoroutineTask):
    """The same for a group of coroutine functions only, on the caller's event loop."""

    def _open(self, jobs: Sequence[Any]) -> tuple[Any, ...]:
        return tuple(jobs)


async def _awaited(value: Any) -> Any:
    """What a function gave, or what the coroutine that it gave gives."""
    return await value if isinstance(value, Awaitable) else value


def _shell(command: str) -> None:
    """Run a command of a group in its worker, whose process group it dies with."""
    subprocess.run(command, shell=True, check=True, stdin=subprocess.DEVNULL)


@contextmanager
def _around(member: Member, jobs: Sequence[Any]) -> Iterator[None]:
    """Hooks, directory and environment of one operation."""
    directory = jobs[0] if member.with_job else nullcontext()
    with hooked(member, jobs), _threads(member.omp_num_threads), directory:
        yield


@contextmanager
def hooked(member: Member, jobs: Sequence[Any]) -> Iterator[None]:
    """Call the hooks of an operation around a block."""
    name = member.name
    for hook in member.on_start:
        hook(name, *jobs)
    try:
        yield
    except FAILURES as error:
        for hook in member.on_exception:
            hook(name, error, *jobs)
        raise
    else:
        for hook in member.on_success:
            hook(name, *jobs)
    finally:
        for hook in member.on_exit:
            hook(name, *jobs)


def threads_environment(omp_num_threads: int) -> Mapping[str, str]:
    """The variables that tell libraries how many threads to start; none for 0."""
    return {"OMP_NUM_THREADS": str(omp_num_threads)} if omp_num_threads else {}


@contextmanager
def _threads(omp_num_threads: int) -> Iterator[None]:
    wanted = threads_environment(omp_num_threads)
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
