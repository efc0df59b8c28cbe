"""The first dialect: ``Pipeline`` and its steps."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Generator, Iterable, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Self

from asyncflow.blocking import run_blocking
from asyncflow.errors import GraphError
from asyncflow.graph.compile import Blueprint, building
from asyncflow.graph.graph import Graph
from asyncflow.graph.grouping import Group, StepGroup
from asyncflow.graph.node import Node
from asyncflow.graph.wiring import nearest
from asyncflow.pipeline.executor import ParallelExecutor
from asyncflow.result import PipelineResult
from asyncflow.run import Run, log_failure
from asyncflow.runtime import DEFAULT_THREADS, FailurePolicy, Runtime
from asyncflow.step import Inputs, Step, check_name, inputs_of, outputs_of, seconds_of

if TYPE_CHECKING:
    from asyncflow.graph.plan import Plan

__all__ = ["Pipeline"]

_LOGGER = logging.getLogger("asyncflow")
POLICIES = ("fail_fast", "collect_all")
_BUILD_SECONDS = 0.004


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
        self.failure_policy = _policy(failure_policy)
        self.inputs = _declared(inputs)
        self.outputs = None if outputs is None else _outputs(outputs)
        self.context = _by_name("Pipeline(context=…)", context)
        groups = _by_name("Pipeline(groups=…)", groups)
        self.groups = {label: _group(label, said) for label, said in groups.items()}
        self._nodes: list[Node] = []
        self._graph: Graph | None = None
        for given in _listed("Pipeline(steps=…)", steps):
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
    ) -> Self:
        """Place a step in the graph; the same step may stand under many names.

        Args:
            step: what to run.
            name: the node's name; left out, that of the step.
            params: values for parameters, by name.
            after: nodes (names or steps) that must be done first, whatever they return.
            inputs, outputs: the wiring of this node, instead of the step's own.

        Returns:
            The pipeline, so that calls can be chained.

        Raises:
            GraphError: an argument makes no sense. Faults that depend on other steps are
                found by :meth:`build`.
        """
        node_name = _step_name(step) if name is None else check_name(name, "step")
        given = _by_name(f"step {node_name!r}: params", params) if params is not None else None
        before = _after(node_name, after) if after else ()
        self._nodes.append(
            Node(
                node_name,
                step,
                given or None,
                before,
                None if inputs is None else _wiring(node_name, "inputs", inputs_of, inputs),
                None if outputs is None else _wiring(node_name, "outputs", outputs_of, outputs),
            )
        )
        self._graph = None
        return self

    # -- building ------------------------------------------------------------------------

    def build(self) -> Graph:
        """Check the whole pipeline and work out order and groups; done by ``run`` if needed.

        Raises:
            GraphError: the pipeline is wrong; ``problems`` has every fault found.
        """
        steps = self._building()
        while True:
            try:
                next(steps)
            except StopIteration as done:
                graph: Graph = done.value
                return graph

    async def build_async(self) -> Graph:
        """Like :meth:`build`, giving other tasks a turn every few milliseconds."""
        steps = self._building()
        loop = asyncio.get_running_loop()
        until = loop.time() + _BUILD_SECONDS
        while True:
            try:
                next(steps)
            except StopIteration as done:
                graph: Graph = done.value
                return graph
            if loop.time() >= until:
                await asyncio.sleep(0)
                until = loop.time() + _BUILD_SECONDS

    def _building(self) -> Generator[None, None, Graph]:
        if self._graph is not None:
            return self._graph
        if not self._nodes:
            raise GraphError(f"pipeline {self.name!r} has no steps; add one with add_step()")
        blueprint = Blueprint(
            self.name,
            tuple(self._nodes),
            inputs=self.inputs,
            outputs=self.outputs,
            context=self.context,
            groups=self.groups,
        )
        graph = yield from building(blueprint)
        log_advice(graph)
        if len(self._nodes) == len(graph):
            self._graph = graph
        return graph

    @property
    def step_groups(self) -> list[StepGroup]:
        """The execution groups of the built pipeline, in order."""
        return self.build().step_groups

    def plan(self, runtime: Runtime | None = None) -> Plan:
        """Units, lanes and resources in order, with warnings; with a runtime, also what it
        would clamp or refuse."""
        from asyncflow.graph.plan import make_plan

        graph = self.build()
        if runtime is None:
            return make_plan(graph)
        admission = runtime.check(graph)
        return make_plan(graph, refusals=admission.refusals, clamped=admission.clamped)

    def visualize(self, format: str = "text") -> str:
        """The graph as ``"text"``, ``"mermaid"`` or ``"dot"``.

        Raises:
            GraphError: there is no such format, or the pipeline is wrong.
        """
        from asyncflow.graph.drawing import draw

        return draw(self.build(), format)

    # -- running -------------------------------------------------------------------------

    async def run(
        self,
        inputs: Mapping[str, Any] | None = None,
        *,
        executor: ParallelExecutor | None = None,
        runtime: Runtime | None = None,
        run_id: str | None = None,
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
            executor: a limit for steps in worker lanes.
            runtime: whose capacity and lanes to use; left out, one of this call's own.
            run_id: a name for the run; left out, one that nobody has.
            failure_policy: instead of the pipeline's.
            timeout: seconds (or a timedelta) for the whole run.
            progress: show a live display on the terminal's error stream.

        Raises:
            GraphError: the pipeline or its inputs are wrong.
            CapacityError: a step asks for what can never be granted.
            RunTimeout: the run took longer than ``timeout``.
        """
        async with self.start(
            inputs,
            executor=executor,
            runtime=runtime,
            run_id=run_id,
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

    @asynccontextmanager
    async def start(
        self,
        inputs: Mapping[str, Any] | None = None,
        *,
        executor: ParallelExecutor | None = None,
        runtime: Runtime | None = None,
        run_id: str | None = None,
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
        policy = self.failure_policy if failure_policy is None else _policy(failure_policy)
        seconds = _run_seconds(timeout)
        _check_kinds(executor, runtime)
        given = _by_name("run(inputs=…)", inputs)
        graph = await self.build_async()
        outside = outside_values(graph, given)
        workers = None if executor is None else executor.max_workers
        owned = None
        if runtime is None:
            owned = runtime = Runtime(max_threads=max(DEFAULT_THREADS, workers or 1))
            await owned.__aenter__()
        try:
            run = runtime.launch(
                graph,
                outside,
                run_id=None if run_id is None else check_name(run_id, "run"),
                failure_policy=policy,
                timeout=seconds,
                max_workers=workers,
            )
            try:
                yield run
                await run.wait()
            except BaseException as error:
                run.cancel_nowait(_reason(error))
                await run.wait_shielded()
                raise
            finally:
                log_failure(run.result_now())
        finally:
            if owned is not None:
                await owned.aclose()


def _reason(error: BaseException) -> str:
    if isinstance(error, asyncio.CancelledError):
        return "the task that awaits the run was cancelled"
    return f"the block that started the run raised {type(error).__name__}"


def outside_values(graph: Graph, given: dict[str, Any]) -> dict[str, Any]:
    """What parameters find by name: run inputs over context, checked.

    Raises:
        GraphError: an input is missing, unknown, of the wrong type, or named as an asset.
    """
    problems = [
        *_missing_inputs(graph, given),
        *(problem for name in given for problem in _input_problems(graph, name, given[name])),
    ]
    if problems:
        raise GraphError([f"pipeline {graph.name!r}: {problem}" for problem in problems])
    return {**graph.context, **given}


def _missing_inputs(graph: Graph, given: Mapping[str, Any]) -> Iterable[str]:
    for name in graph.inputs or ():
        if name not in given:
            yield f"the run input {name!r} is missing; pass inputs={{{name!r}: …}}"
    if graph.inputs is not None:
        return
    for name, (has_default, index) in graph.outside.items():
        if not has_default and name not in given and name not in graph.context:
            hint = nearest(name, [*graph.assets, *graph.context, *given])
            yield (
                f"parameter {name!r} of step {graph.nodes[index].name!r} has no value: no asset, "
                f"params or context has that name; pass inputs={{{name!r}: …}}{hint}"
            )


def _input_problems(graph: Graph, name: str, value: Any) -> Iterable[str]:
    if graph.inputs is None:
        if name in graph.assets and name not in graph.outside:
            yield f"the run input {name!r} has the name of an asset; rename one"
        elif name not in graph.outside:
            hint = nearest(name, graph.outside, "leave it out, or add a parameter of that name")
            yield f"no step takes the run input {name!r}{hint}"
    elif name not in graph.inputs:
        hint = nearest(name, graph.inputs, "add it to the pipeline's inputs=, or leave it out")
        yield f"the run input {name!r} is not declared{hint}"
    else:
        wanted = graph.inputs[name]
        fits = isinstance(value, wanted) if isinstance(wanted, type) else True
        if not fits and not (wanted is float and isinstance(value, int)):
            yield (
                f"the run input {name!r} is of type {type(value).__name__}, declared as "
                f"{wanted.__name__}; pass one of that type, or declare another"
            )


def log_advice(graph: Graph) -> None:
    """What a build advises, once, for people who do not look at the plan."""
    for warning in graph.warnings:
        _LOGGER.warning("pipeline %r: %s", graph.name, warning)


def _policy(value: Any) -> FailurePolicy:
    if value not in POLICIES:
        raise GraphError(f"failure_policy is 'fail_fast' or 'collect_all', not {value!r}")
    policy: FailurePolicy = value
    return policy


def _declared(inputs: Any) -> dict[str, Any] | None:
    if inputs is None:
        return None
    if isinstance(inputs, Mapping):
        return {check_name(name, "input"): wanted for name, wanted in inputs.items()}
    if isinstance(inputs, str) or not isinstance(inputs, Iterable):
        raise GraphError(f"Pipeline(inputs=…) takes names or a mapping to types, got {inputs!r}")
    return {check_name(name, "input"): object for name in inputs}


def _by_name(where: str, given: Any) -> dict[str, Any]:
    """A mapping from names to values; None gives an empty one."""
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise GraphError(f"{where} takes a mapping, got {given!r}; write {{'name': value}}")
    for name in given:
        if not isinstance(name, str):
            raise GraphError(f"{where} has the key {name!r}, which is no name; write it as text")
    return dict(given)


def _listed(where: str, given: Any) -> Iterable[Any]:
    if isinstance(given, Iterable):
        return given
    raise GraphError(f"{where} takes a list of steps, got {given!r}; write [{given!r}]")


def _outputs(given: Any) -> tuple[str, ...] | None:
    try:
        return outputs_of(given)
    except (TypeError, ValueError) as error:
        raise GraphError(f"Pipeline(outputs=…) {error}") from error


def _check_kinds(executor: Any, runtime: Any) -> None:
    if not isinstance(executor, ParallelExecutor | None):
        raise GraphError(
            f"run(executor=…) takes a ParallelExecutor, got {executor!r}; write "
            "ParallelExecutor(max_workers=4)"
        )
    if not isinstance(runtime, Runtime | None):
        raise GraphError(
            f"run(runtime=…) takes a Runtime, got {runtime!r}; enter one with "
            "'async with Runtime() as runtime'"
        )


def _group(label: str, said: Any) -> Group:
    if not isinstance(said, Group):
        raise GraphError(
            f"groups[{label!r}] takes a Group, got {said!r}; write Group(lane='thread')"
        )
    return said


def _step_name(step: Any) -> str:
    if isinstance(step, Step):
        return step.name
    remedy = (
        "decorate the function with @step"
        if callable(step)
        else "pass the step itself, without calling it"
    )
    raise GraphError(f"add_step() takes a step, got {getattr(step, '__name__', step)!r}; {remedy}")


def _after(name: str, after: Any) -> tuple[str, ...]:
    if isinstance(after, str | Step):
        raise GraphError(
            f"step {name!r}: after takes a list of steps, got {after!r}; write [{after!r}]"
        )
    listed = _listed(f"step {name!r}: after", after)
    names = [before.name if isinstance(before, Step) else before for before in listed]
    for before in names:
        if not isinstance(before, str):
            raise GraphError(
                f"step {name!r}: after takes names or steps, got {before!r}; name the step"
            )
    return tuple(names)


def _wiring(name: str, option: str, convert: Any, value: Any) -> Any:
    try:
        return convert(value)
    except (TypeError, ValueError) as error:
        raise GraphError(f"step {name!r}: {option}: {error}") from error


def _run_seconds(timeout: Any) -> float | None:
    try:
        return seconds_of(timeout)
    except ValueError as error:
        raise GraphError(f"run(timeout=…) {error}") from error
