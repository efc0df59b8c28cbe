"""One run of a project: a step that asks for operations as their conditions come true."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import anyio.to_thread
import msgspec

from asyncflow.context import StepContext
from asyncflow.flow.agenda import Agenda, Entry, Order
from asyncflow.flow.aggregates import Aggregate, get_aggregate_id
from asyncflow.flow.commands import CommandTask, exec_command, run_group_command
from asyncflow.flow.conditions import IgnoreConditions
from asyncflow.flow.directives import requirements_of
from asyncflow.flow.errors import UserOperationError
from asyncflow.flow.groups import FlowGroup
from asyncflow.flow.judging import Judge
from asyncflow.flow.registry import Operation, ProjectHooks
from asyncflow.flow.selecting import Selection
from asyncflow.flow.working import CoroutineTask, Member, Task, TaskOnLoop, member_of, stand_in
from asyncflow.step import Step

__all__ = ["Session", "Settings"]

_AT_ONCE = 1000  # coroutine operations
_JUDGED_AT_ONCE = 200


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


class Session:
    """Runs a selection of groups on their aggregates, each as soon as its conditions allow."""

    def __init__(self, selection: Selection, settings: Settings) -> None:
        self._settings = settings
        self._agenda = Agenda(settings.order, settings.num, settings.num_passes)
        self._judge = Judge()
        self._steps: dict[Any, Step[..., Any]] = {}
        self._under_way: dict[asyncio.Task[None], Entry] = {}
        self._over: deque[asyncio.Task[None]] = deque()
        self._something_ended = asyncio.Event()
        self._workers_busy = 0
        # Told to the judge before it judges next, for it works in a thread.
        self._changed: list[Any] = []
        self._rounds: dict[tuple[str, str], int] = {}
        self.failures: list[UserOperationError] = []
        self.executed = 0
        for group, aggregate_id, jobs in selection:
            self._agenda.add(group, aggregate_id, jobs, _runs_on_loop(group))

    @property
    def cut_short(self) -> bool:
        """Whether eligible operations were left because of ``num``."""
        return self._agenda.cut_short

    async def conduct(self, context: StepContext) -> int:
        """Execute all there is to execute; returns how many operations were executed.

        Raises:
            UserOperationError, UserConditionError: the first failure, once all others ended.
        """
        try:
            while not self._is_to_stop():
                await self._judge_some()
                self._start_some(context)
                if self._under_way:
                    await self._wait_for_end()
                elif self._agenda.idle and not self._agenda.look_once_more():
                    break
        finally:
            await self._cancel_all()
        if self.failures:
            raise self._failure()
        return self.executed

    def _is_to_stop(self) -> bool:
        return bool(self.failures) and not self._settings.keep_going

    def _failure(self) -> UserOperationError:
        first, *others = self.failures
        for other in others[:20]:
            first.add_note(f"also: {other}")
        if len(others) > 20:
            first.add_note(f"and {len(others) - 20} more")
        return first

    # -- conditions ----------------------------------------------------------------------

    async def _judge_some(self) -> None:
        entries = self._agenda.to_judge(_JUDGED_AT_ONCE)
        if not entries:
            return
        if all(_asks_nothing(entry.group) for entry in entries):
            verdicts = [True] * len(entries)
        else:
            self._judge.changed(self._changed)
            self._changed.clear()
            # Conditions are the project's own code and read files: not on the event loop.
            verdicts = await anyio.to_thread.run_sync(self._verdicts, entries)
        for entry, eligible in zip(entries, verdicts, strict=True):
            self._agenda.judged(entry, eligible)

    def _verdicts(self, entries: Iterable[Entry]) -> list[bool]:
        ignore = self._settings.ignore
        return [
            any(
                self._judge.eligible(entry.group.operations[name], entry.jobs, ignore)
                for name in self._agenda.allowed(entry)
            )
            for entry in entries
        ]

    # -- execution -----------------------------------------------------------------------

    def _start_some(self, context: StepContext) -> None:
        while len(self._under_way) < _AT_ONCE and (entry := self._agenda.take(True)):
            self._start(context, entry)
        while self._workers_busy < (self._settings.np or 1) and (entry := self._agenda.take(False)):
            self._workers_busy += 1
            self._start(context, entry)

    def _start(self, context: StepContext, entry: Entry) -> None:
        task = asyncio.ensure_future(self._perform(context, entry))
        self._under_way[task] = entry
        task.add_done_callback(self._note_end)

    def _note_end(self, task: asyncio.Task[None]) -> None:
        self._over.append(task)
        self._something_ended.set()

    async def _wait_for_end(self) -> None:
        await self._something_ended.wait()
        self._something_ended.clear()
        while self._over:
            task = self._over.popleft()
            entry = self._under_way.pop(task)
            if not entry.is_concurrent:
                self._workers_busy -= 1
            task.result()
        if self._is_to_stop():
            await self._cancel_all()

    async def _cancel_all(self) -> None:
        for task in self._under_way:
            task.cancel()
        if self._under_way:
            await asyncio.wait(self._under_way)
        self._under_way.clear()
        self._over.clear()

    async def _perform(self, context: StepContext, entry: Entry) -> None:
        settings = self._settings
        try:
            step = self._step_for(entry)
            given = (
                tuple(job.id for job in entry.jobs)
                if isinstance(step.func, Task) and not isinstance(step.func, TaskOnLoop)
                else entry.jobs
            )
            executed = await context.call(
                step,
                given,
                self._agenda.allowed(entry),
                int(settings.ignore),
                key=self._key(entry),
            )
        except Exception as error:  # noqa: BLE001 - a failure is told at the end
            self._changed.extend(entry.jobs)
            self._agenda.failed(entry)
            self.failures.append(_told(entry, error))
            return
        self._changed.extend(entry.jobs)
        self._agenda.ended(entry, executed)
        self.executed += len(executed)

    def _key(self, entry: Entry) -> str:
        """Tells calls apart: an entry may be executed again, or found not eligible."""
        place = entry.group.name, entry.aggregate_id
        again = self._rounds[place] = self._rounds.get(place, 0) + 1
        return entry.aggregate_id if again == 1 else f"{entry.aggregate_id}#{again}"

    # -- steps ---------------------------------------------------------------------------

    def _step_for(self, entry: Entry) -> Step[..., Any]:
        """The step that runs this group with these directives; most entries share one."""
        group = entry.group
        of_members = {name: group.directives_of(name, entry.jobs) for name in group.operations}
        total = group.directives(entry.jobs)
        key = group.name, repr(sorted(total.items())), _threads_of(of_members)
        step = self._steps.get(key)
        if step is None:
            step = self._steps[key] = self._make_step(group, of_members, total)
        return step

    def _make_step(
        self,
        group: FlowGroup,
        of_members: Mapping[str, Mapping[str, Any]],
        total: Mapping[str, Any],
    ) -> Step[..., Any]:
        settings = self._settings
        members = [
            member_of(operation, settings.hooks, of_members[name]["omp_num_threads"])
            for name, operation in group.operations.items()
        ]
        on_loop = _runs_on_loop(group)
        func: Any
        if on_loop:
            func = TaskOnLoop(settings.path, members)
        elif (command := self._command_for(group, members, total)) is not None:
            func = command
        elif any(member.is_coroutine for member in members):
            func = CoroutineTask(settings.path, members)
        else:
            func = Task(settings.path, members)
        # With an explicit number of workers, those that say nothing about CPUs ask for none.
        says_np = any(
            {"np", "nranks", "omp_num_threads"} & group.operation_directives[name].keys()
            for name in group.operations
        )
        counts = says_np or (not on_loop and settings.np is None)
        return Step(
            func,
            name=group.name,
            resources=requirements_of(total, counts_cpus=counts),
            timeout=self._timeout(total),
            lane="inline" if on_loop or isinstance(func, CommandTask) else "process",
        )

    def _timeout(self, total: Mapping[str, Any]) -> float | None:
        walltime = None if total["walltime"] is None else total["walltime"] * 3600
        given = [s for s in (walltime, self._settings.timeout_seconds) if s is not None]
        return min(given, default=None)

    def _command_for(
        self, group: FlowGroup, members: list[Member], total: Mapping[str, Any]
    ) -> CommandTask | None:
        """What runs it as a shell command, where that is what was asked for."""
        operation = None if len(members) > 1 else next(iter(group.operations.values()))
        if operation is not None and operation.cmd:
            return CommandTask(members[0], operation.func, _directory_of(operation))
        if not (total["executable"] or group.run_options):
            return None
        entrypoint, options = self._settings.entrypoint, group.run_options
        name = group.name if operation is None else operation.name
        make: Callable[..., str] = run_group_command if operation is None else exec_command
        return CommandTask(
            stand_in(name) if operation is None else members[0],
            lambda *jobs: make(
                entrypoint, name, get_aggregate_id(jobs), total["executable"], options
            ),
            lambda _: None,
        )


def _threads_of(of_members: Mapping[str, Mapping[str, Any]]) -> tuple[int, ...]:
    return tuple(values["omp_num_threads"] for values in of_members.values())


def _runs_on_loop(group: FlowGroup) -> bool:
    """Whether all of it are coroutine functions that need no directory of their own."""
    return bool(group.operations) and all(
        operation.is_coroutine and not operation.with_job and not operation.cmd
        for operation in group.operations.values()
    )


def _asks_nothing(group: FlowGroup) -> bool:
    return not any(op.pre or op.post for op in group.operations.values())


def _directory_of(operation: Operation) -> Callable[[Aggregate], str | None]:
    return lambda jobs: os.fspath(jobs[0].path) if operation.with_job else None


def _told(entry: Entry, error: Exception) -> UserOperationError:
    if isinstance(error, UserOperationError):
        return error
    failed = UserOperationError(
        f"{entry.group.name!r} failed on {entry.aggregate_id}: {type(error).__name__}: {error}",
        operation=entry.group.name,
        aggregate_id=entry.aggregate_id,
    )
    failed.__cause__ = error
    return failed
