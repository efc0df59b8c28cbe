"""`FlowProject`: operations over the jobs of a signac project."""

from __future__ import annotations

import asyncio
import inspect
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import signac

from asyncflow.blocking import run_blocking
from asyncflow.flow.agenda import Order
from asyncflow.flow.aggregates import Aggregate, aggregator
from asyncflow.flow.circles import Circles, refuse_circles_of_copies
from asyncflow.flow.commands import exec_command
from asyncflow.flow.conditions import (
    ConditionRegister,
    IgnoreConditions,
    PreconditionRegister,
)
from asyncflow.flow.errors import FlowProjectDefinitionError, UserOperationError
from asyncflow.flow.groups import FlowGroup, make_groups
from asyncflow.flow.judging import Judge
from asyncflow.flow.labels import LabelRegister, Labels, labels_of
from asyncflow.flow.registry import (
    GroupEntry,
    HookRegister,
    Operation,
    OperationRegister,
    ProjectHooks,
    Registry,
)
from asyncflow.flow.selecting import Selection, aggregate_named, disjoint, matching, pairs_of
from asyncflow.flow.session import Session
from asyncflow.flow.steps import Settings
from asyncflow.flow.uncaught import told_in_a_line
from asyncflow.graph.compile import Blueprint, compile_graph
from asyncflow.graph.node import Node
from asyncflow.quantities import seconds_of
from asyncflow.request import RunRequest
from asyncflow.result import PipelineResult
from asyncflow.runtime import Runtime, ambient_runtime
from asyncflow.step import Step

if TYPE_CHECKING:
    from asyncflow.flow.status import StatusView
    from asyncflow.flow.submission import SubmitOptions

__all__ = ["FlowProject"]

F = TypeVar("F", bound=Callable[..., Any])
Jobs = Iterable[Any] | None

if sys.platform != "win32":
    import asyncflow.lanes.process.lane  # noqa: F401 - now, so that no run waits for it to load

_ORDERS = ("none", "by-job", "cyclic", "random")


class FlowProject(signac.Project):  # type: ignore[misc]  # signac has no types
    """A signac project with operations that run on its jobs; make a subclass of your own.

    Args:
        path: of the signac project; left out, the current directory.
        entrypoint: the script whose ``main()`` runs this project; left out, the one that
            defines the class.

    Raises:
        LookupError: there is no signac project there.
        DirectivesError: the operations of a group disagree in a directive.
        FlowProjectDefinitionError: operations copy their conditions from each other.

    Example::

        class Project(FlowProject):
            pass

        @Project.post.true("greeted")
        @Project.operation
        def greet(job):
            job.document.greeted = True

        if __name__ == "__main__":
            Project().main()
    """

    _registry: ClassVar[Registry]
    operation: ClassVar[OperationRegister]
    pre: ClassVar[PreconditionRegister]
    post: ClassVar[ConditionRegister]
    operation_hooks: ClassVar[HookRegister]
    label: ClassVar[LabelRegister]

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        _prepare(cls)

    def __init__(self, path: str | None = None, entrypoint: str | None = None) -> None:
        self._entrypoint = entrypoint or _script_of(type(self))
        with told_in_a_line(self._entrypoint):
            try:
                super().__init__(path)
            except LookupError:
                raise LookupError(_no_project_in(os.path.abspath(path or ""))) from None
            refuse_circles_of_copies(self._registry.all_operations())
            self._groups = make_groups(self._registry)
        self._labels = Labels(self._registry.all_labels() | labels_of(type(self)), self)
        self._hooks = ProjectHooks()

    @classmethod
    def make_group(
        cls,
        name: str,
        submit_options: str = "",
        run_options: str = "",
        group_aggregator: aggregator | None = None,
    ) -> GroupEntry:
        """A group of operations; what it gives is the decorator that puts operations into it.

        Args:
            name: shares one namespace with operations.
            submit_options: added to the ``run`` command of a submitted group.
            run_options: added to the ``exec`` command; with any, the group runs as a command
                in a process of its own.
            group_aggregator: how jobs are put together; left out, each is by itself.

        Raises:
            FlowProjectDefinitionError: the name is taken, or the aggregator is none.
        """
        name = cls._registry.check_free(name, "group")
        entry = GroupEntry(name, cls._registry, submit_options, run_options, group_aggregator)
        cls._registry.groups[name] = entry
        return entry

    @property
    def operations(self) -> dict[str, Operation]:
        """All operations by name."""
        return self._registry.all_operations()

    @property
    def groups(self) -> dict[str, FlowGroup]:
        """All groups by name: one for every operation, and those that were made."""
        return self._groups

    @property
    def project_hooks(self) -> ProjectHooks:
        """Functions that are called around every operation."""
        return self._hooks

    def labels(self, job: Any) -> list[str]:
        """The labels that apply to a job.

        Raises:
            UserConditionError: a label function raised.
        """
        return self._labels.of(job)

    @property
    def entrypoint(self) -> str:
        """The script that runs this project."""
        return self._entrypoint

    def completed_operations(self, job: Any) -> list[str]:
        """The operations whose postconditions all hold for a job."""
        judge = Judge()
        return [name for name, op in self.operations.items() if judge.complete(op, (job,))]

    # -- selecting -----------------------------------------------------------------------

    def selected_groups(self, names: Iterable[str] | None) -> list[FlowGroup]:
        """The groups whose names match, as regular expressions that match the whole name.

        Args:
            names: None for the groups of single operations.

        Raises:
            ValueError: a name matches nothing, or two groups share an operation.
        """
        if names is None:
            return [self._groups[name] for name in self.operations]
        return disjoint(matching(self._groups, names))

    def selection(self, jobs: Jobs = None, names: Iterable[str] | None = None) -> Selection:
        """Which groups are to be run on which aggregates, by job and then by group.

        Raises:
            ValueError: as :meth:`selected_groups`; or ``jobs`` holds no jobs.
        """
        return self.all_pairs(jobs, self.selected_groups(names))

    def all_pairs(self, jobs: Jobs, groups: Sequence[FlowGroup]) -> Selection:
        """Each of some groups with each of its aggregates of these jobs, None for all jobs."""
        return pairs_of(groups, jobs, self.__iter__)

    # -- running -------------------------------------------------------------------------

    async def run(
        self,
        jobs: Jobs = None,
        names: Iterable[str] | None = None,
        pretend: bool = False,
        np: int | None = None,
        timeout: float | None = None,
        num: int | None = None,
        num_passes: int | None = 1,
        progress: bool = False,
        order: Order = None,
        ignore_conditions: IgnoreConditions = IgnoreConditions.NONE,
        keep_going: bool = False,
        runtime: Runtime | None = None,
    ) -> PipelineResult | None:
        """Execute every operation that is eligible, and those that become so meanwhile.

        An operation starts as soon as its conditions allow: no job waits for another.
        Coroutine functions run on the caller's event loop side by side; others in worker
        processes.

        Args:
            jobs: jobs or aggregates (tuples of jobs); None for all.
            names: of operations and groups, as regular expressions; None for all operations.
            pretend: print the commands of what is eligible now, and do nothing.
            np: how many operations that are no coroutines may run at once; None for one,
                -1 for one for each CPU.
            timeout: seconds for each operation.
            num: how many groups and operations to execute at most; None or -1 for all.
            num_passes: how often one may be executed on the same aggregate; None or -1 for any
                number.
            progress: show a live display on the terminal's error stream.
            order: ``"none"`` (as they become eligible), ``"by-job"``, ``"cyclic"`` (by turns
                of the jobs), ``"random"``, or a function of an entry with ``name`` and ``jobs``
                whose values are sorted.
            ignore_conditions: which conditions count for nothing.
            keep_going: go on after a failure with what does not need what failed.
            runtime: whose capacity to use; left out, the ambient one or one of this call's own.

        Returns:
            The result, whose ``step_results`` has every operation; None when it was pretended.

        Raises:
            UserOperationError: an operation failed; ``result`` has what came of the others.
            UserConditionError: a condition raised.
            CapacityError: an operation asks for more than there is; nothing was executed.
            ValueError: an argument makes no sense.
        """
        settings = Settings(
            path=self.path,
            entrypoint=self._entrypoint,
            hooks=self._hooks,
            np=_workers(np),
            num=None if num is None or num < 0 else num,
            num_passes=None if num_passes is None or num_passes < 0 else num_passes,
            order=_checked_order(order),
            ignore=IgnoreConditions(ignore_conditions),
            timeout_seconds=seconds_of(timeout),
            keep_going=keep_going,
        )
        # Jobs are listed and looked at by the project's own code: not on the event loop.
        selection = await asyncio.to_thread(self.selection, jobs, names)
        if pretend:
            await asyncio.to_thread(self._pretend, selection, settings)
            return None
        return await self._run(Session(selection, settings), progress, runtime)

    def run_sync(self, jobs: Jobs = None, **options: Any) -> PipelineResult | None:
        """The blocking twin of :meth:`run`, with the same arguments.

        Raises:
            RuntimeError: called while an event loop runs in this thread; await ``run`` there.
        """
        return run_blocking(lambda: self.run(jobs, **options), "project.run_sync()")

    async def _run(
        self, session: Session, progress: bool, runtime: Runtime | None
    ) -> PipelineResult:
        name = type(self).__name__
        node = Node(name, Step(session.conduct, name=name))
        request = RunRequest(graph=compile_graph(Blueprint(name, (node,))))
        async with AsyncExitStack() as stack:
            runtime = runtime or ambient_runtime()
            if runtime is None:
                runtime = await stack.enter_async_context(Runtime())
            session.start_workers(runtime)
            await session.admit(runtime)
            run = await stack.enter_async_context(runtime.running(request))
            if progress:
                from asyncflow.progress import show_progress

                await show_progress(run)
            result = await run.result()
        error = result.step_results[name].error
        if isinstance(error, UserOperationError):
            error.result = result
        if error is not None:
            raise error
        return result

    def _pretend(self, selection: Selection, settings: Settings) -> None:
        judge = Judge()
        Circles(group for group, _, _ in selection).warn(selection, judge, settings.ignore)
        left = settings.num
        for group, aggregate_id, jobs in selection:
            for name, operation in group.operations.items():
                if left == 0:
                    return
                if judge.eligible(operation, jobs, settings.ignore):
                    executable = group.directives_of(name, jobs)["executable"]
                    print(exec_command(self._entrypoint, name, aggregate_id, executable))
            if left is not None:
                left -= 1

    # -- everything else the command line does ---------------------------------------------

    def aggregate(self, aggregate_id: str) -> Aggregate:
        """The jobs of an id, or of the beginning of one.

        Raises:
            LookupError: there is none, or several begin with it.
        """
        return aggregate_named(self, self._groups.values(), aggregate_id)

    def execute(self, name: str, ids: Iterable[str] | None = None) -> None:
        """Execute an operation, or all operations of a group in order, whatever the conditions.

        It runs right here, in this process: what ``exec`` does, which is a process of its own.

        Args:
            name: of an operation or a group.
            ids: of jobs or aggregates; None for all.

        Raises:
            ValueError: there is no such operation or group.
            LookupError: there is no such job.
            UserOperationError: an operation failed.
        """
        from asyncflow.flow.executing import execute

        if name not in self._groups:
            known = ", ".join(self._groups) or "none"
            raise ValueError(f"there is no operation or group {name!r}; there are: {known}")
        jobs = None if ids is None else [self.aggregate(each) for each in ids]
        for group, aggregate_id, members in self.all_pairs(jobs, [self._groups[name]]):
            execute(self, group, aggregate_id, members)

    def get_job_status(self, job: Any) -> dict[str, Any]:
        """Labels of a job, and which operations are eligible and complete for it."""
        from asyncflow.flow.status import job_status

        return job_status(self, (job,))

    def print_status(
        self,
        jobs: Jobs = None,
        names: Iterable[str] | None = None,
        view: StatusView | None = None,
        ignore_errors: bool = False,
    ) -> None:
        """Print what is done and what is to be done.

        Args:
            jobs: jobs or aggregates; None for all.
            names: of operations and groups; None for all of both.
            view: what to show.
            ignore_errors: go on when a scheduler does not answer.

        Raises:
            UserConditionError: a condition or a label raised.
            SubmitError: the scheduler did not answer.
        """
        from asyncflow.flow.rendering import render
        from asyncflow.flow.status import StatusView, collect
        from asyncflow.flow.submission import states_in_queue

        view = view or StatusView()
        submitted = states_in_queue(self, ignore_errors=ignore_errors)
        groups = list(self._groups.values()) if names is None else matching(self._groups, names)
        render(collect(self, jobs, groups, submitted, view), view)

    def submit(
        self,
        jobs: Jobs = None,
        names: Iterable[str] | None = None,
        num: int | None = None,
        options: SubmitOptions | None = None,
    ) -> int:
        """Submit what is eligible to SLURM, and what will be after it by ``pre.after``.

        Args:
            jobs, names, num: as for :meth:`run`.
            options: how.

        Returns:
            How many groups were submitted.

        Raises:
            NoSchedulerError, SubmitError: there is no scheduler, or it refused.
        """
        from asyncflow.flow.submission import SubmitOptions, submit

        return submit(self, self.selection(jobs, names), num, options or SubmitOptions())

    def main(self, arguments: Sequence[str] | None = None) -> None:
        """The command line of this project: ``run``, ``exec``, ``submit``, ``status``, ``next``.

        Args:
            arguments: left out, those of the process.

        Raises:
            SystemExit: always, with 0, or 1 for what failed, or 2 for what was asked wrongly.
        """
        from asyncflow.flow.command_line import main

        sys.exit(main(self, arguments))


def _prepare(cls: type[FlowProject]) -> None:
    """Give a class the decorators that fill its own registry."""
    registry = cls._registry = Registry(cls)
    cls.operation = OperationRegister(registry)
    cls.pre = PreconditionRegister(registry, "pre")
    cls.post = ConditionRegister(registry, "post")
    cls.operation_hooks = HookRegister(registry)
    cls.label = LabelRegister(registry)


_prepare(FlowProject)


def _script_of(cls: type[FlowProject]) -> str:
    try:
        return os.path.realpath(inspect.getfile(cls))
    except (TypeError, OSError):
        return os.path.realpath(sys.argv[0] or "project.py")


def _no_project_in(path: str) -> str:
    try:
        above = signac.get_project(path)
    except LookupError:
        return (
            f"there is no signac project in {path}; 'signac init' there makes one, or cd to that "
            "of your jobs"
        )
    return f"there is no signac project in {path}, but above it in {above.path}; cd there"


def _workers(np: int | None) -> int | None:
    if np is None or np > 0:
        return np
    if np == -1:
        from asyncflow.engine.hardware import probe

        return max(1, probe().cpu_millis // 1000)
    raise ValueError(f"np takes a number of workers, -1 for one for each CPU, or None; got {np!r}")


def _checked_order(order: Order) -> Order:
    if order is None or callable(order) or order in _ORDERS:
        return order
    raise ValueError(f"order is one of {', '.join(_ORDERS)} or a function, not {order!r}")


if not hasattr(FlowProject, "path"):  # pragma: no branch - signac 1 has other names
    raise FlowProjectDefinitionError("asyncflow.flow needs signac 2 or newer")
