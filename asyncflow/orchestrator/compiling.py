"""From a configuration to the graph that the engine runs: one node for each module."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from asyncflow.functions import is_coroutine_function
from asyncflow.graph.compile import Blueprint, compile_graph
from asyncflow.graph.graph import Graph
from asyncflow.graph.node import Node
from asyncflow.orchestrator.calls import AsyncModuleCall, CallPlan, ModuleCall
from asyncflow.orchestrator.config import Loaded
from asyncflow.orchestrator.knots import Problems
from asyncflow.orchestrator.logs import LogPlan
from asyncflow.orchestrator.model import ModuleEntry, PipelineConfig, RetryPolicy
from asyncflow.orchestrator.places import Nest
from asyncflow.orchestrator.targets import (
    Runnable,
    Target,
    TargetError,
    Targets,
    load_target,
    version_of_imports,
)
from asyncflow.quantities import parse_bytes
from asyncflow.resources import GPUConfig, ResourceRequirements
from asyncflow.retry import Retry
from asyncflow.step import Step

__all__ = [
    "calls_to_look_at",
    "calls_to_run",
    "graph_of",
    "load_runnables",
    "log_plan_of",
    "nested_depth_of",
    "target_of",
]

DEFAULT_NESTED_DEPTH = 32


def graph_of(loaded: Loaded, calls: Sequence[ModuleCall]) -> Graph:
    """The graph of a pipeline, with one call for each module."""
    config = loaded.config
    nodes = (_node_of(config, *both) for both in zip(config.modules, calls, strict=True))
    # All are asked for: of a group in a worker no value would come back that only it consumes.
    names = tuple(entry.name for entry in config.modules)
    return compile_graph(Blueprint(config.name, tuple(nodes), outputs=names))


def calls_to_run(
    loaded: Loaded,
    params: Sequence[dict[str, Any]],
    runnables: Sequence[Runnable],
    logs: LogPlan,
) -> list[ModuleCall]:
    """What a run calls.

    Args:
        params: of each module, secrets included.
        runnables: what each module runs, imported.
        logs: where output is kept.
    """
    targets, version = _targets_of(loaded), version_of_imports()
    calls = []
    for entry, values, runnable in zip(loaded.config.modules, params, runnables, strict=True):
        plan = _plan_of(loaded, entry, targets, logs, version)
        kind = AsyncModuleCall if is_coroutine_function(runnable.function) else ModuleCall
        calls.append(kind(plan, values, runnable))
    return calls


def calls_to_look_at(loaded: Loaded, coroutines: Collection[str]) -> list[ModuleCall]:
    """The same for plans and pictures, with nothing imported.

    Args:
        coroutines: the modules that are known to be coroutines.
    """
    targets = _targets_of(loaded)
    calls = []
    for entry in loaded.config.modules:
        plan = _plan_of(loaded, entry, targets, LogPlan())
        kind = AsyncModuleCall if entry.name in coroutines else ModuleCall
        calls.append(kind(plan, entry.params))
    return calls


def _targets_of(loaded: Loaded) -> Targets:
    scripts = (entry for entry in loaded.config.modules if entry.script is not None)
    by_file = {target.module_name: target for target in (target_of(loaded, e) for e in scripts)}
    return Targets(str(loaded.folder), tuple(by_file.values()))


def target_of(loaded: Loaded, entry: ModuleEntry) -> Target:
    """What a module runs."""
    return Target(str(loaded.folder), entry.script or entry.path or "", entry.script is not None)


def load_runnables(loaded: Loaded) -> list[Runnable]:
    """Import what all modules run.

    Raises:
        ConfigError: something is not there or raised; every fault is named.
    """
    problems = Problems()
    runnables = []
    for at, entry in enumerate(loaded.config.modules):
        key = "script" if entry.script is not None else "path"
        target = target_of(loaded, entry)
        Targets(target.folder, (target,) if target.is_script else ()).make_importable()
        try:
            runnables.append(load_target(target))
        except TargetError as error:
            path = ("modules", at, key)
            problems.add(loaded.mark_of(*path), str(error), ("pipeline", *path))
    problems.raise_if_any()
    return runnables


def nested_depth_of(config: PipelineConfig) -> int:
    """How deep nested tasks may nest."""
    said = config.execution.max_nested_depth
    return DEFAULT_NESTED_DEPTH if said is None else said


def log_plan_of(config: PipelineConfig, folder: Path | None) -> LogPlan:
    """Where a run keeps the output of its modules."""
    said = config.execution.logging
    return LogPlan(
        None if folder is None else str(folder), said.level, parse_bytes(said.size), said.backups
    )


def _plan_of(
    loaded: Loaded, entry: ModuleEntry, targets: Targets, logs: LogPlan, version: str = ""
) -> CallPlan:
    execution = loaded.config.execution
    nest = Nest(
        targets,
        entry.name,
        logs,
        in_processes=execution.worker_type == "process",
        max_depth=nested_depth_of(loaded.config),
    )
    return CallPlan(
        nest=nest,
        module=entry.name,
        pipeline=loaded.config.name,
        depends_on=tuple(entry.depends_on),
        gpus=entry.resources.gpus,
        target=target_of(loaded, entry),
        version=version,
    )


def _node_of(config: PipelineConfig, entry: ModuleEntry, call: ModuleCall) -> Node:
    worker_type = config.execution.worker_type
    step = Step(
        call,
        name=entry.name,
        execution_group=entry.execution_group,
        resources=_resources_of(entry),
        retry=_retry_of(entry.retry),
        timeout=entry.timeout,
        # Left out, coroutines run on the event loop.
        lane=None if worker_type == "thread" and isinstance(call, AsyncModuleCall) else worker_type,
    )
    if entry.depends_on:
        return Node(entry.name, step, inputs={"results": tuple(entry.depends_on)})
    return Node(entry.name, step, params={"results": ()})


def _resources_of(entry: ModuleEntry) -> ResourceRequirements:
    asked = entry.resources
    gpus = int(asked.gpus) if asked.gpus == int(asked.gpus) else asked.gpus
    return ResourceRequirements(
        cpu=asked.cpus, memory=asked.memory, gpu=GPUConfig(count=gpus) if gpus else None
    )


def _retry_of(said: int | RetryPolicy) -> int | Retry:
    if isinstance(said, int):
        return said
    return Retry(said.retries, said.wait_initial, said.wait_max, said.wait_jitter)
