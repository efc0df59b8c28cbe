"""The first dialect: ``Pipeline`` and its steps."""

from __future__ import annotations

import copy
import os
from collections.abc import AsyncIterator, Generator, Iterable, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Self

from asyncflow.blocking import run_blocking
from asyncflow.errors import GraphError
from asyncflow.graph.compile import Blueprint, at_once, building
from asyncflow.graph.graph import Graph
from asyncflow.graph.grouping import Group, StepGroup
from asyncflow.graph.node import Node
from asyncflow.graph.scope import Scope, inlined, kept_of_scopes
from asyncflow.pipeline.arguments import (
    asset_name,
    by_asset,
    check_kinds,
    converted,
    declared_inputs,
    group_of,
    items_of,
    kept_outputs,
    name_of_step,
    names_before,
    nodes_of,
    policy_of,
    renamed,
    run_seconds,
    target_names,
    values_by_name,
)
from asyncflow.pipeline.building import in_slices, log_advice, part_of, with_replacements
from asyncflow.pipeline.executor import ParallelExecutor
from asyncflow.request import OnChange, OnExisting, recording_options
from asyncflow.result import PipelineResult
from asyncflow.run import Run
from asyncflow.runtime import (
    DEFAULT_THREADS,
    FailurePolicy,
    RunRequest,
    Runtime,
    ambient_runtime,
)
from asyncflow.single_runs import running_in
from asyncflow.step import Inputs, Step, check_name, inputs_of, outputs_of

if TYPE_CHECKING:
    from asyncflow.graph.plan import Plan

__all__ = ["Pipeline"]


class Pipeline:
    """A named graph of steps that can be run any number of times, also at once.

    Args:
        name: what the pipeline is called in events and messages.
        steps: steps to add, each under its own name.
        inputs: what a run must be given: names, or names with types. Without it, every
            parameter that nothing else fills is a required run input.
        outputs: the assets or nodes whose values the result keeps; other values are let go
            after their last consumer. None keeps all.
        context: values that parameters find by name.
        groups: what is said about execution groups as a whole.
        failure_policy: ``"fail_fast"`` (the first failure cancels what runs and waits) or
            ``"collect_all"`` (everything not below a failure still runs).

    Raises:
        GraphError: an argument makes no sense.

    Example:
        >>> @step(outputs=["numbers"])
        ... def load() -> list[int]:
        ...     return [1, 2, 3]
        >>> @step
        ... async def total(numbers: list[int]) -> int:
        ...     return sum(numbers)
        >>> Pipeline("sums", steps=[load, total]).run_sync()["total"]
        6
    """

    def __init__(
        self,
        name: str,
        steps: Iterable[Step[..., Any]] = (),
        *,
        inputs: Iterable[str] | Mapping[str, Any] | None = None,
        outputs: Iterable[str] | None = None,
        context: Mapping[str, Any] | None = None,
        groups: Mapping[str, Group] | None = None,
        failure_policy: FailurePolicy = "fail_fast",
    ) -> None:
        self.name = check_name(name, "pipeline")
        self.failure_policy = policy_of(failure_policy)
        self.inputs = declared_inputs(inputs)
        self.outputs = None if outputs is None else kept_outputs(outputs)
        self.context = values_by_name("Pipeline(context=…)", context)
        groups = values_by_name("Pipeline(groups=…)", groups)
        self.groups = {label: group_of(label, said) for label, said in groups.items()}
        self._nodes: list[Node] = []
        self._graph: Graph | None = None
        for given in items_of("Pipeline(steps=…)", steps):
            self.add_step(given)

    def __repr__(self) -> str:
        return f"<Pipeline {self.name!r} of {len(self._nodes)} steps>"

    @property
    def steps(self) -> tuple[Node, ...]:
        """The nodes in order of declaration; each has ``name`` and ``step``."""
        return tuple(self._nodes)

    def add_step(
        self,
        step: Step[..., Any],
        name: str | None = None,
        params: Mapping[str, Any] | None = None,
        after: Iterable[str | Step[..., Any]] = (),
        *,
        inputs: Inputs | None = None,
        outputs: Iterable[str] | None = None,
        map: str | None = None,
    ) -> Self:
        """Place a step in the graph; the same step may stand under many names.

        Args:
            step: what to run.
            name: the node's name; left out, that of the step.
            params: values for parameters, by name.
            after: nodes (names or steps) that must be done first, whatever they return.
            inputs, outputs: the wiring of this node, instead of the step's own.
            map: an asset, for each of whose elements (known only when the run gets there) the
                step runs once; it produces the list of what these give, in that order. What
                maps over that list again starts with each element, not with the whole list.

        Returns:
            The pipeline, so that calls can be chained.

        Raises:
            GraphError: an argument makes no sense. Faults that depend on other steps are
                found by :meth:`build`.
        """
        node_name = name_of_step(step) if name is None else check_name(name, "step")
        given = (
            values_by_name(f"step {node_name!r}: params", params) if params is not None else None
        )
        before = names_before(node_name, after) if after else ()
        self._nodes.append(
            Node(
                node_name,
                step,
                given or None,
                before,
                None if inputs is None else converted(node_name, "inputs", inputs_of, inputs),
                None if outputs is None else converted(node_name, "outputs", outputs_of, outputs),
                None if map is None else asset_name("map", map),
            )
        )
        self._graph = None
        return self

    def add_pipeline(
        self,
        sub: Pipeline,
        name: str,
        *,
        inputs: Mapping[str, str] | Iterable[str] | None = None,
        outputs: Mapping[str, str] | Iterable[str] | None = None,
        after: Iterable[str | Step[..., Any]] = (),
    ) -> Self:
        """Inline the steps of another pipeline; they are called ``name/step`` here.

        It is inlined as it is now: what is added to it later is not added here.

        Args:
            sub: the other pipeline; it may be inlined several times, under several names.
            name: the prefix of its steps, assets and groups.
            inputs: a run input or parameter of ``sub`` → an asset or a run input of this
                pipeline. What is left out has the same name here, if ``sub`` declares it as an
                input or declares no inputs at all.
            outputs: an asset of ``sub`` → what it is called here, instead of ``name/asset``.
            after: steps and inlined pipelines that must be done before any step of ``sub``.

        Returns:
            The pipeline, so that calls can be chained.

        Raises:
            GraphError: an argument makes no sense. Names that nothing answers to are found by
                :meth:`build`.

        Example:
            >>> @step
            ... async def double(number: int) -> int:
            ...     return 2 * number
            >>> twice = Pipeline("twice", steps=[double])
            >>> pipeline = Pipeline("four times").add_pipeline(twice, "first")
            >>> pipeline = pipeline.add_pipeline(twice, "then", inputs={"number": "first/double"})
            >>> pipeline.run_sync({"number": 5})["then/double"]
            20
        """
        nodes = nodes_of(sub, name)
        scope = Scope(
            name=name,
            pipeline=sub.name,
            inputs=renamed(name, "inputs", inputs),
            outputs=by_asset(nodes, renamed(name, "outputs", outputs)),
            declared=None if sub.inputs is None else dict(sub.inputs),
            context=dict(sub.context),
            keeps=sub.outputs,
            after=names_before(name, after, "pipeline"),
        )
        self._nodes.extend(inlined(nodes, scope))
        theirs = {f"{name}/{label}": said for label, said in sub.groups.items()}
        self.groups = {**theirs, **self.groups}
        self._graph = None
        return self

    def with_steps(self, replacements: Mapping[str | Step[..., Any], Any]) -> Pipeline:
        """A copy with other functions, for tests and notebooks.

        Args:
            replacements: node name (or the step of that name) → a function, which takes over the
                options of the step it replaces, or a step, which brings its own.

        Raises:
            GraphError: a name is unknown, or what stands for it is no function.
        """
        changed = copy.copy(self)
        changed._graph = None
        changed._nodes = with_replacements(self.name, self._nodes, replacements)
        return changed

    # -- building ------------------------------------------------------------------------

    def build(self) -> Graph:
        """Check the whole pipeline and work out order and groups; done by ``run`` if needed.

        Raises:
            GraphError: the pipeline is wrong; ``problems`` has every fault found.
        """
        return at_once(self._building())

    async def build_async(self) -> Graph:
        """Like :meth:`build`, giving other tasks a turn every few milliseconds."""
        return await in_slices(self._building())

    async def _graph_of(
        self, targets: Iterable[str | Step[..., Any]] | None, given: Mapping[str, Any]
    ) -> Graph:
        """The whole graph, or the part of it that has to run."""
        graph = await self.build_async()
        if targets is None and not given:
            return graph
        wanted = None if targets is None else target_names(targets)
        return await in_slices(building(part_of(self._blueprint(), graph, wanted, given)))

    def _building(self) -> Generator[None, None, Graph]:
        if self._graph is not None:
            return self._graph
        if not self._nodes:
            raise GraphError(f"pipeline {self.name!r} has no steps; add one with add_step()")
        graph = yield from building(self._blueprint())
        log_advice(graph)
        if len(self._nodes) == len(graph):
            self._graph = graph
        return graph

    def _blueprint(self) -> Blueprint:
        return Blueprint(
            self.name,
            tuple(self._nodes),
            inputs=self.inputs,
            outputs=kept_of_scopes(self._nodes) if self.outputs is None else self.outputs,
            context=self.context,
            groups=self.groups,
        )

    @property
    def step_groups(self) -> list[StepGroup]:
        """The execution groups of the built pipeline, in order."""
        return self.build().step_groups

    def plan(self, runtime: Runtime | None = None) -> Plan:
        """Units, lanes and resources in order, with warnings; with a runtime, also what it
        would clamp or refuse."""
        from asyncflow.viewing import plan_of

        return plan_of(self.build(), runtime)

    def visualize(self, format: str = "text", run: Run | PipelineResult | None = None) -> str:
        """The graph as ``"text"``, ``"mermaid"``, ``"dot"`` or ``"svg"``.

        Args:
            format: one of these.
            run: a run of this pipeline, or its result: the SVG shows the states of its steps.

        Raises:
            GraphError: there is no such format, the pipeline is wrong, or the run is of
                another one.
        """
        from asyncflow.viewing import picture_of

        return picture_of(self.build(), format, run)

    # -- running -------------------------------------------------------------------------

    async def run(
        self,
        inputs: Mapping[str, Any] | None = None,
        *,
        targets: Iterable[str | Step[..., Any]] | None = None,
        given: Mapping[str, Any] | None = None,
        services: Mapping[str, Any] | None = None,
        executor: ParallelExecutor | None = None,
        runtime: Runtime | None = None,
        run_id: str | None = None,
        on_existing: OnExisting = "resume",
        on_change: OnChange = "rerun",
        checkpoint: bool | str | os.PathLike[str] | None = None,
        failure_policy: FailurePolicy | None = None,
        timeout: float | timedelta | None = None,
        progress: bool = False,
    ) -> PipelineResult:
        """Run to the end on the caller's event loop.

        A step that fails does not raise: see ``result.success``, ``result[...]`` and
        ``result.raise_for_failure()``. Cancelling the task that awaits this cancels the run,
        waits for its clean-up, and re-raises.

        Args:
            inputs: values for run inputs, by name.
            targets: only these steps or assets, and what they need.
            given: values that stand in for assets; what produces them does not run, nor what
                only that needs.
            services: live objects (clients, pools) that parameters find by name; never
                recorded.
            executor: a limit for steps in worker lanes.
            runtime: whose capacity and lanes to use; left out, one of this call's own.
            run_id: a name for the run; left out, one that nobody has. A recorded run of that
                name goes on where it was.
            on_existing: what becomes of a recorded run of that name: ``"resume"``,
                ``"restart"`` (it is removed, and begins anew) or ``"fail"``.
            on_change: what becomes of steps that changed since they were recorded: ``"rerun"``
                runs them again with everything below them, ``"refuse"`` raises RunConflict.
            checkpoint: where to record the run: a directory, or True for the runtime's, else
                ``.asyncflow``; False for nowhere. Left out, it is recorded if the runtime has a
                directory.
            failure_policy: instead of the pipeline's.
            timeout: seconds (or a timedelta) for the whole run.
            progress: show a live display on the terminal's error stream.

        Raises:
            GraphError: the pipeline or its inputs are wrong.
            CapacityError: a step asks for what can never be granted.
            RunTimeout: the run took longer than ``timeout``.
            RunConflict: a recorded run of that name had other inputs, or may not be there.
            RunLocked: a run of that name is in progress elsewhere.
            JournalDamaged, StorageError: what is recorded cannot be read or kept.
        """
        async with self.start(
            inputs,
            targets=targets,
            given=given,
            services=services,
            executor=executor,
            runtime=runtime,
            run_id=run_id,
            on_existing=on_existing,
            on_change=on_change,
            checkpoint=checkpoint,
            failure_policy=failure_policy,
            timeout=timeout,
        ) as run:
            if progress:
                from asyncflow.progress import show_progress

                await show_progress(run)
            return await run.result()

    def run_sync(self, inputs: Mapping[str, Any] | None = None, **options: Any) -> PipelineResult:
        """The blocking twin of :meth:`run`, with the same arguments.

        Raises:
            RuntimeError: called while an event loop runs in this thread; await ``run`` there.
        """
        return run_blocking(lambda: self.run(inputs, **options), "pipeline.run_sync()")

    async def request(
        self,
        inputs: Mapping[str, Any] | None = None,
        *,
        targets: Iterable[str | Step[..., Any]] | None = None,
        given: Mapping[str, Any] | None = None,
        services: Mapping[str, Any] | None = None,
        executor: ParallelExecutor | None = None,
        run_id: str | None = None,
        on_existing: OnExisting = "resume",
        on_change: OnChange = "rerun",
        checkpoint: bool | str | os.PathLike[str] | None = None,
        failure_policy: FailurePolicy | None = None,
        timeout: float | timedelta | None = None,
    ) -> RunRequest:
        """Build, and check the arguments of a run: what a :class:`Runtime` is handed.

        Raises:
            GraphError: the pipeline or an argument is wrong.
        """
        policy = self.failure_policy if failure_policy is None else policy_of(failure_policy)
        seconds = run_seconds(timeout)
        values = values_by_name("run(given=…)", given)
        return RunRequest(
            graph=await self._graph_of(targets, values),
            inputs=values_by_name("run(inputs=…)", inputs),
            services=values_by_name("run(services=…)", services),
            given=values,
            run_id=None if run_id is None else check_name(run_id, "run"),
            **recording_options(checkpoint, on_existing, on_change),
            failure_policy=policy,
            timeout_seconds=seconds,
            max_workers=None if executor is None else executor.max_workers,
            backend="thread" if executor is None else executor.backend,
        )

    @asynccontextmanager
    async def start(
        self,
        inputs: Mapping[str, Any] | None = None,
        *,
        targets: Iterable[str | Step[..., Any]] | None = None,
        given: Mapping[str, Any] | None = None,
        services: Mapping[str, Any] | None = None,
        executor: ParallelExecutor | None = None,
        runtime: Runtime | None = None,
        run_id: str | None = None,
        on_existing: OnExisting = "resume",
        on_change: OnChange = "rerun",
        checkpoint: bool | str | os.PathLike[str] | None = None,
        failure_policy: FailurePolicy | None = None,
        timeout: float | timedelta | None = None,
    ) -> AsyncIterator[Run]:
        """Start a run and give its :class:`Run`; the arguments are those of :meth:`run`.

        Leaving normally waits for the end of the run, leaving by an exception cancels it.

        Example::

            async with pipeline.start(inputs={"url": url}) as run:
                async for event in run.events():
                    print(event.kind, event.node)
                result = await run.result()
        """
        check_kinds(executor, runtime)
        request = await self.request(
            inputs,
            targets=targets,
            given=given,
            services=services,
            executor=executor,
            run_id=run_id,
            on_existing=on_existing,
            on_change=on_change,
            checkpoint=checkpoint,
            failure_policy=failure_policy,
            timeout=timeout,
        )
        shared, workers = runtime or ambient_runtime(), request.max_workers or 1
        async with running_in(shared, lambda: _runtime_for(workers), request) as run:
            yield run


def _runtime_for(workers: int) -> Runtime:
    """A runtime with room for so many workers of either kind."""
    runtime = Runtime(max_threads=max(DEFAULT_THREADS, workers))
    runtime.max_processes = max(runtime.max_processes, workers)
    return runtime
