"""The face of this dialect: a pipeline that is described in a file."""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
from collections.abc import AsyncIterator, Generator, Iterable, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from asyncflow.blocking import run_blocking
from asyncflow.errors import GraphError, StepFailed, text_of
from asyncflow.graph.graph import Graph
from asyncflow.graph.names import nearest
from asyncflow.orchestrator.compiling import (
    calls_to_look_at,
    calls_to_run,
    graph_of,
    load_runnables,
    log_plan_of,
    nested_depth_of,
)
from asyncflow.orchestrator.config import Loaded, Source, load_config
from asyncflow.orchestrator.environment import params_with_secrets
from asyncflow.orchestrator.knots import Problems
from asyncflow.orchestrator.logs import LOGS, LogPlan
from asyncflow.orchestrator.model import Checkpoint, Limits, PipelineConfig
from asyncflow.quantities import seconds_of
from asyncflow.request import FailurePolicy, RunRequest
from asyncflow.result import PipelineResult
from asyncflow.run import Run
from asyncflow.runtime import Runtime, ambient_runtime
from asyncflow.single_runs import running_in
from asyncflow.storage.layout import RUNS, folder_of

if TYPE_CHECKING:
    from asyncflow.graph.plan import Plan

__all__ = ["PipelineOrchestrator"]

_LOGGER = logging.getLogger("asyncflow")


class PipelineOrchestrator:
    """A pipeline of modules that a YAML, TOML or JSON file describes.

    The file is read and checked at once; module code is imported only when a run starts.

    Args:
        config_path: the file, or a mapping with the same keys.
        runtime: whose capacity and lanes to use; left out, the one entered around the caller,
            else one for each execution, with the ``max_cpus`` and ``max_gpus`` of the file.
        overlays: files that are laid over it, in this order: their values replace those of the
            file, modules are merged by name.
        overrides: single values by dotted key, such as ``{"execution.mode": "sequential"}``.

    Raises:
        ConfigError: something is wrong; ``problems`` has every fault, with file and line.

    Example:
        >>> orchestrator = PipelineOrchestrator({"pipeline": {
        ...     "name": "sums",
        ...     "modules": [{"name": "total", "path": "statistics:NormalDist"}],
        ... }})
        >>> orchestrator.config.modules[0].resources.cpus
        1
    """

    def __init__(
        self,
        config_path: Source,
        runtime: Runtime | None = None,
        overlays: Iterable[Source] = (),
        overrides: Mapping[str, Any] | None = None,
    ) -> None:
        self._loaded = load_config(config_path, overlays, overrides)
        self._runtime = runtime
        self._restarts = False
        self._run: Run | None = None
        self._results: dict[str, Any] = {}
        if self._checkpoint:
            # Now, so that the first module does not wait for what recording has to load.
            importlib.import_module("asyncflow.checkpoints")

    def __repr__(self) -> str:
        return f"<PipelineOrchestrator {self.name!r} of {len(self.config.modules)} modules>"

    @property
    def name(self) -> str:
        """The name of the pipeline."""
        return self.config.name

    @property
    def config(self) -> PipelineConfig:
        """What the file says, with overlays, overrides and defaults."""
        return self._loaded.config

    # -- looking at it -------------------------------------------------------------------

    def build(self) -> Graph:
        """The graph, without importing any module: what is a coroutine is read in the source."""
        from asyncflow.orchestrator.sources import coroutine_modules

        return graph_of(
            self._loaded, calls_to_look_at(self._loaded, coroutine_modules(self._loaded))
        )

    def plan(self, runtime: Runtime | None = None) -> Plan:
        """Units, lanes and resources in order; imports no module.

        Args:
            runtime: whose capacity to compare with; left out, what the file and the machine say.
        """
        from asyncflow.viewing import plan_of

        return plan_of(self.build(), runtime or self._runtime or self.make_runtime())

    def visualize(self, format: str = "text", run: Run | PipelineResult | None = None) -> str:
        """The modules as ``"text"``, ``"mermaid"``, ``"dot"`` or ``"svg"``; imports none.

        Args:
            format: one of these.
            run: a run of this pipeline, or its result: the SVG shows the states of its modules.

        Raises:
            GraphError: there is no such format, or the run is of another pipeline.
        """
        from asyncflow.viewing import picture_of

        return picture_of(self.build(), format, run)

    # -- running -------------------------------------------------------------------------

    async def execute(self, *, force_restart: bool = False) -> dict[str, Any]:
        """Run to the end on the caller's event loop, and give the result of every module.

        A module that failed does not raise: in the place of its result is the exception it
        raised; of those below it, a :class:`~asyncflow.DependencyError` that names it; of those
        that ``fail_fast`` stopped, a :class:`~asyncflow.StepCancelled`.

        Args:
            force_restart: run what an earlier execution has done again, too.

        Raises:
            ConfigError: what a module names is not there, or a variable of the environment.
            CapacityError: a module asks for GPUs that can never be granted.
            RunLocked: the pipeline is in progress elsewhere.
            StorageError: what is recorded cannot be read, or nothing more be recorded; what there
                is of results then is in :meth:`get_results`.
        """
        async with self.start(force_restart=force_restart) as run:
            result = await run.result()
        self._results = self._results_of(result)
        if result.recording_error is not None:
            raise result.recording_error
        return dict(self._results)

    def execute_sync(self, *, force_restart: bool = False) -> dict[str, Any]:
        """The blocking twin of :meth:`execute`.

        Raises:
            RuntimeError: called while an event loop runs in this thread; await ``execute`` there.
        """
        return run_blocking(
            lambda: self.execute(force_restart=force_restart), "orchestrator.execute_sync()"
        )

    def restart(self) -> Restart:
        """Have the next execution begin anew, whatever was recorded; awaited, it *is* the next.

        Example::

            orchestrator.restart()
            results = orchestrator.execute_sync()

            results = await orchestrator.restart()
        """
        self._restarts = True
        return Restart(self)

    def get_results(self) -> dict[str, Any]:
        """The results of the last execution by module, exceptions as values; empty before."""
        return dict(self._results)

    def get_module_result(self, module_name: str) -> Any:
        """The result of one module in the last execution, or its exception.

        Raises:
            KeyError: there is no module of that name, or nothing was executed yet.
        """
        if module_name in self._results:
            return self._results[module_name]
        names = [entry.name for entry in self.config.modules]
        if module_name in names:
            raise KeyError(
                f"module {module_name!r} has no result yet; execute() the pipeline first"
            )
        raise KeyError(
            f"pipeline {self.name!r} has no module {module_name!r}{nearest(module_name, names)}"
        )

    def cleanup(self) -> Cleanup:
        """Cancel an execution that is in progress, and let go of results.

        Awaited, it returns when nothing runs any more.
        """
        run, self._run = self._run, None
        if run is not None:
            run.cancel_nowait("the orchestrator was cleaned up")
        self._results = {}
        return Cleanup(run)

    @asynccontextmanager
    async def start(
        self,
        inputs: Mapping[str, Any] | None = None,
        *,
        runtime: Runtime | None = None,
        run_id: str | None = None,
        failure_policy: FailurePolicy | None = None,
        timeout: float | timedelta | None = None,
        force_restart: bool = False,
    ) -> AsyncIterator[Run]:
        """Start a run and give its :class:`~asyncflow.Run`, with events, snapshots and cancel.

        Leaving normally waits for the end of the run, leaving by an exception cancels it.

        Args:
            inputs: None; modules take parameters, and a file has no run inputs.
            runtime: instead of the orchestrator's.
            run_id: a name for the run; left out, that of the pipeline where it is recorded.
            failure_policy: instead of the file's.
            timeout: seconds (or a timedelta) for the whole run.
            force_restart: as for :meth:`execute`.

        Example::

            async with orchestrator.start() as run:
                async for event in run.events():
                    print(event.kind, event.node)
        """
        request = await self.request(
            inputs,
            run_id=run_id,
            failure_policy=failure_policy,
            timeout=timeout,
            force_restart=force_restart,
        )
        shared = runtime or self._runtime or ambient_runtime()
        if shared is not None:
            self._warn_of_limits()
        try:
            async with running_in(shared, self.make_runtime, request) as run:
                self._run = run
                yield run
        finally:
            self._run = None

    async def request(
        self,
        inputs: Mapping[str, Any] | None = None,
        *,
        run_id: str | None = None,
        failure_policy: FailurePolicy | None = None,
        timeout: float | timedelta | None = None,
        force_restart: bool = False,
    ) -> RunRequest:
        """Import the modules and read the environment: what a :class:`Runtime` is handed.

        Raises:
            ConfigError: what a module names is not there, or a variable of the environment.
        """
        if inputs:
            raise GraphError(
                f"pipeline {self.name!r} takes no run inputs; set parameters of its modules: "
                "overrides={'modules.NAME.params.KEY': value}"
            )
        problems = Problems()
        params = params_with_secrets(self._loaded, problems)
        problems.raise_if_any()
        logs = log_plan_of(self.config, self._logs_of(run_id))
        # In a thread: importing somebody's code may take seconds.
        graph = await asyncio.to_thread(self._prepared, params, logs)
        restarts, self._restarts = self._restarts or force_restart, False
        return RunRequest(
            graph=graph,
            run_id=run_id or (self.run_id if self._checkpoint else None),
            checkpoint=self._checkpoint,
            on_existing="restart" if restarts else "resume",
            failure_policy=failure_policy or self.config.execution.failure_policy,
            timeout_seconds=seconds_of(timeout),
            one_at_a_time=self.config.execution.mode == "sequential",
        )

    def _prepared(self, params: list[dict[str, Any]], logs: LogPlan) -> Graph:
        runnables = load_runnables(self._loaded)
        return graph_of(self._loaded, calls_to_run(self._loaded, params, runnables, logs))

    def _warn_of_limits(self) -> None:
        if self.config.resources != Limits():
            _LOGGER.warning(
                "pipeline %r: the limits of its file (max_cpus, max_gpus, max_memory) do not count "
                "in a runtime that is shared; give them to that runtime",
                self.name,
            )

    def make_runtime(self) -> Runtime:
        """A runtime with the limits of the file."""
        limits = self.config.resources
        return Runtime(
            max_cpus=limits.max_cpus,
            max_gpus=limits.max_gpus,
            max_memory=limits.max_memory,
            # A task at the deepest level may still ask for the results so far.
            max_nested_depth=nested_depth_of(self.config) + 1,
        )

    @property
    def loaded(self) -> Loaded:
        """The configuration with the places in which its values were written."""
        return self._loaded

    @property
    def run_id(self) -> str:
        """The id of recorded runs: the pipeline's name, so that the next one resumes."""
        return self.name

    @property
    def run_folder(self) -> Path | None:
        """Where a recorded run keeps what it has; None where nothing is recorded."""
        return self._folder_of(self.run_id)

    def _folder_of(self, run_id: str) -> Path | None:
        folder = self._checkpoint
        return Path(folder, RUNS, folder_of(run_id)) if folder else None

    def _logs_of(self, run_id: str | None) -> Path | None:
        folder = self._folder_of(run_id or self.run_id)
        return None if folder is None else folder / LOGS

    @property
    def _checkpoint(self) -> str | Literal[False] | None:
        """The folder that results are recorded in; False for none, None leaves it to a runtime.

        A file that does not speak of checkpoints has them beside it; a mapping has no place.
        """
        said = self.config.checkpoint
        if said is None and self._loaded.file is None:
            return None
        chosen = said or Checkpoint()
        return os.path.join(self._loaded.folder, chosen.directory) if chosen.enabled else False

    def _results_of(self, result: PipelineResult) -> dict[str, Any]:
        return {
            entry.name: _value_or_exception(result, entry.name) for entry in self.config.modules
        }


def _value_or_exception(result: PipelineResult, module: str) -> Any:
    outcome = result.step_results[module]
    if outcome.success:
        return outcome.output
    error = outcome.error
    if isinstance(error, Exception):
        return error
    # SystemExit and its like: who asks isinstance(result, Exception) would take it for a value.
    failed = StepFailed(
        f"module {module!r} raised {text_of(error)}", step=module, attempt=outcome.attempts
    )
    failed.__cause__ = error
    return failed


class Restart:
    """What :meth:`PipelineOrchestrator.restart` gives: nothing more to do, or to be awaited."""

    def __init__(self, orchestrator: PipelineOrchestrator) -> None:
        self._orchestrator = orchestrator

    def __await__(self) -> Generator[Any, None, dict[str, Any]]:
        return self._orchestrator.execute(force_restart=True).__await__()


class Cleanup:
    """What :meth:`PipelineOrchestrator.cleanup` gives: awaited, it waits for the run's end."""

    def __init__(self, run: Run | None) -> None:
        self._run = run

    def __await__(self) -> Generator[Any, None, None]:
        return self._wait().__await__()

    async def _wait(self) -> None:
        if self._run is not None:
            await self._run.wait()
