"""All that can be said against a pipeline before it runs, without importing anything."""

from __future__ import annotations

from asyncflow.orchestrator.config import Loaded
from asyncflow.orchestrator.knots import Problems
from asyncflow.orchestrator.orchestrator import PipelineOrchestrator
from asyncflow.orchestrator.sources import look_at_sources

__all__ = ["faults_of"]


def faults_of(orchestrator: PipelineOrchestrator) -> list[str]:
    """Check sources, and GPUs against what the file itself has.

    Returns:
        Warnings, one sentence each.

    Raises:
        ConfigError: something is wrong; ``problems`` has every fault.
    """
    loaded = orchestrator.loaded
    problems = Problems()
    warnings = look_at_sources(loaded, problems)
    _check_gpus(loaded, problems)
    problems.raise_if_any()
    return warnings


def _check_gpus(loaded: Loaded, problems: Problems) -> None:
    """What the file itself has too few of. What a machine has is not asked: the file may be for
    another one."""
    there = loaded.config.resources.max_gpus
    if there is None:
        return
    most = len(there) if isinstance(there, list) else there
    for at, entry in enumerate(loaded.config.modules):
        if entry.resources.gpus > most:
            path = ("modules", at, "resources", "gpus")
            problems.add(
                loaded.mark_of(*path),
                f"asks for {entry.resources.gpus:g} GPUs, and max_gpus is {most}",
                ("pipeline", *path),
            )
