"""From groups and their directives to the steps that execute them."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any, NamedTuple

import msgspec

from asyncflow.flow.agenda import Entry, Order
from asyncflow.flow.aggregates import Aggregate, get_aggregate_id
from asyncflow.flow.commands import Command, CommandTask, exec_command
from asyncflow.flow.conditions import IgnoreConditions
from asyncflow.flow.directives import requirements_of
from asyncflow.flow.groups import FlowGroup
from asyncflow.flow.registry import Operation, ProjectHooks
from asyncflow.flow.working import CoroutineTask, Member, Task, TaskOnLoop, member_of
from asyncflow.lanes.process.guardian import Guardian
from asyncflow.resources import ResourceRequirements
from asyncflow.step import Step

__all__ = ["BatchPace", "Settings", "StepMaker", "runs_on_loop"]

# Beside other workers a batch is short: what is in it waits for what is slow in it.
_BATCH_SECONDS, _LONE_BATCH_SECONDS = 0.005, 0.02
_LARGEST_BATCH = 256
_GROWTH = 4


class Settings(msgspec.Struct, frozen=True):
    """How a project is run.

    Args:
        path, entrypoint: of the project, and of the script that defines it.
        hooks: of the project.
        np: how many operations that are no coroutines may run at once; None for one.
        num: how many groups and operations may be executed in all.
        num_passes: how often each may be executed on an aggregate; None for any number.
        order: among those that may run.
        ignore: conditions that count for nothing.
        timeout_seconds: for each operation.
        keep_going: go on after a failure.
    """

    path: str
    entrypoint: str
    hooks: ProjectHooks
    np: int | None = None
    num: int | None = None
    num_passes: int | None = 1
    order: Order = None
    ignore: IgnoreConditions = IgnoreConditions.NONE
    timeout_seconds: float | None = None
    keep_going: bool = False


class _Kind(NamedTuple):
    """What decides about the step of a group for some jobs."""

    of_members: Mapping[str, Mapping[str, Any]]
    total: Mapping[str, Any]
    says_np: bool


class StepMaker:
    """The steps of a session, each made once.

    Groups of plain functions that ask for the same are a *crew*: one function in the workers
    serves all of them, and several of their entries may go to a worker at once.
    """

    def __init__(self, groups: Iterable[FlowGroup], settings: Settings) -> None:
        self._settings = settings
        self._guardian = Guardian()
        self._steps: dict[Hashable, tuple[Step[..., Any], bool]] = {}
        self._crews: dict[str, Hashable] = {}
        self._members_of_crew: dict[Hashable, dict[str, list[Member]]] = {}
        self._tasks: dict[Hashable, Task] = {}
        self._cpus_of_crew: dict[Hashable, float] = {}
        for group in groups:
            if group.operations and group.has_constant_directives():
                self._enlist(group)

    def crew_of(self, entry: Entry) -> Hashable:
        """The crew of an entry's group; one of its own where it goes alone."""
        return self._crews.get(entry.group.name, entry)

    def cpus_of_workers(self) -> float | None:
        """What plain functions hold, those of the first crew; None where there are none."""
        return next(iter(self._cpus_of_crew.values()), None)

    def requirements(self, group: FlowGroup, jobs: Aggregate) -> dict[str, ResourceRequirements]:
        """What each operation of a group asks of the machine, for these jobs.

        Raises:
            DirectivesError: as :meth:`FlowGroup.directives`.
        """
        kind = self._kind(group, jobs)
        return {
            name: self._requirements(group, kind._replace(total=values))
            for name, values in kind.of_members.items()
        }

    def step_for(self, entry: Entry) -> tuple[Step[..., Any], bool]:
        """The step for an entry, and whether it is given ids of jobs instead of jobs."""
        group = entry.group
        key: Hashable = group.name
        if not group.has_constant_directives():
            kind = self._kind(group, entry.jobs)
            key = group.name, repr(sorted(kind.total.items())), repr(kind.of_members)
        found = self._steps.get(key)
        if found is None:
            found = self._steps[key] = self._make(group, self._kind(group, entry.jobs))
        return found

    def _enlist(self, group: FlowGroup) -> None:
        kind = self._kind(group, ())
        if (
            runs_on_loop(group)
            or self._is_command(group, kind.total)
            or any(operation.is_coroutine for operation in group.operations.values())
            or self._timeout(kind.total) is not None
            or kind.total["ngpu"]
        ):
            return
        requirements = self._requirements(group, kind)
        crew = self._crews[group.name] = repr(requirements)
        self._cpus_of_crew[crew] = (requirements.cpu_millis or 0) / 1000
        self._members_of_crew.setdefault(crew, {})[group.name] = self._members(group, kind)

    def _kind(self, group: FlowGroup, jobs: Aggregate) -> _Kind:
        says_np = any(
            not {"np", "nranks", "omp_num_threads"}.isdisjoint(directives)
            for directives in group.operation_directives.values()
        )
        of_members = {name: group.directives_of(name, jobs) for name in group.operations}
        return _Kind(of_members, group.added_up(of_members), says_np)

    def _members(self, group: FlowGroup, kind: _Kind) -> list[Member]:
        hooks = self._settings.hooks
        return [
            member_of(operation, hooks, kind.of_members[name]["omp_num_threads"])
            for name, operation in group.operations.items()
        ]

    def _requirements(self, group: FlowGroup, kind: _Kind) -> ResourceRequirements:
        # With an explicit number of workers, those that say nothing about CPUs ask for none.
        counts = kind.says_np or (not runs_on_loop(group) and self._settings.np is None)
        return requirements_of(kind.total, counts_cpus=counts)

    def _timeout(self, total: Mapping[str, Any]) -> float | None:
        walltime = None if total["walltime"] is None else total["walltime"] * 3600
        given = [s for s in (walltime, self._settings.timeout_seconds) if s is not None]
        return min(given, default=None)

    def _make(self, group: FlowGroup, kind: _Kind) -> tuple[Step[..., Any], bool]:
        func = self._function(group, kind)
        on_loop = isinstance(func, TaskOnLoop | CommandTask)
        requirements = self._requirements(group, kind)
        step: Step[..., Any] = Step(
            func,
            name=group.name,
            resources=None if on_loop and _asks_for_nothing(requirements) else requirements,
            timeout=self._timeout(kind.total),
            lane="inline" if on_loop else "process",
        )
        return step, not on_loop

    def _function(self, group: FlowGroup, kind: _Kind) -> Callable[..., Any]:
        path, members = self._settings.path, self._members(group, kind)
        if runs_on_loop(group):
            return TaskOnLoop(path, {group.name: members})
        if self._is_command(group, kind.total):
            return self._commands(group, members, kind)
        if any(member.is_coroutine for member in members):
            return CoroutineTask(path, {group.name: members})
        crew = self._crews.get(group.name)
        if crew is None:
            return Task(path, {group.name: members})
        if crew not in self._tasks:
            self._tasks[crew] = Task(path, self._members_of_crew[crew])
        return self._tasks[crew]

    def _is_command(self, group: FlowGroup, total: Mapping[str, Any]) -> bool:
        if total["executable"] or total["nranks"] or group.run_options:
            return True
        return [operation.cmd for operation in group.operations.values()] == [True]

    def _commands(self, group: FlowGroup, members: list[Member], kind: _Kind) -> CommandTask:
        entrypoint, options = self._settings.entrypoint, group.run_options

        def command_for(member: Member) -> Command:
            operation, name = group.operations[member.name], member.name
            ranks = kind.of_members[name]["nranks"]
            if operation.cmd:
                return Command(member, operation.func, _directory_of(operation), ranks)
            return Command(
                member,
                lambda *jobs: exec_command(
                    entrypoint, name, get_aggregate_id(jobs), kind.total["executable"], options
                ),
                lambda _: None,
                ranks,
            )

        return CommandTask([command_for(member) for member in members], self._guardian)

    def close(self) -> None:
        """Nothing runs any more."""
        self._guardian.close()


class BatchPace:
    """How many entries of a crew go to a worker at once: more while they take no time.

    Args:
        is_alone: whether there is one worker, and all others wait for it in any case.
    """

    def __init__(self, is_alone: bool) -> None:
        self._seconds = _LONE_BATCH_SECONDS if is_alone else _BATCH_SECONDS
        self._sizes: dict[Hashable, int] = {}
        self._alone: set[Hashable] = set()

    def size(self, crew: Hashable) -> int:
        """At most so many; 1 until it is known how long they take."""
        return 1 if crew in self._alone or isinstance(crew, Entry) else self._sizes.get(crew, 1)

    def took(self, crew: Hashable, count: int, seconds: float) -> None:
        """So many took so long in a worker."""
        fitting = int(self._seconds / max(seconds / count, 1e-6))
        self._sizes[crew] = max(1, min(fitting, _GROWTH * self.size(crew), _LARGEST_BATCH))

    def one_by_one(self, crew: Hashable) -> None:
        """From now on each goes alone."""
        self._alone.add(crew)


def runs_on_loop(group: FlowGroup) -> bool:
    """Whether all of it are coroutine functions that need no directory of their own."""
    return bool(group.operations) and all(
        operation.is_coroutine and not operation.with_job and not operation.cmd
        for operation in group.operations.values()
    )


def _asks_for_nothing(requirements: ResourceRequirements) -> bool:
    return not (requirements.cpu_millis or requirements.memory_bytes or requirements.gpu)


def _directory_of(operation: Operation) -> Callable[[Aggregate], str | None]:
    return lambda jobs: os.fspath(jobs[0].path) if operation.with_job else None
