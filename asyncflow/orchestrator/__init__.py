"""The second dialect: pipelines of modules that a YAML, TOML or JSON file describes."""

from typing import TYPE_CHECKING, Any

from asyncflow.errors import (
    AsyncflowError,
    CapacityError,
    ConfigError,
    DependencyError,
    GraphError,
    NestedDepthError,
    StepCancelled,
    StepFailed,
    StepTimeout,
)
from asyncflow.orchestrator.module import Allocation, BaseModule, ModuleContext

if TYPE_CHECKING:
    from asyncflow.orchestrator.orchestrator import PipelineOrchestrator

__all__ = [
    "Allocation",
    "AsyncflowError",
    "BaseModule",
    "CapacityError",
    "ConfigError",
    "DependencyError",
    "GraphError",
    "ModuleContext",
    "NestedDepthError",
    "PipelineOrchestrator",
    "StepCancelled",
    "StepFailed",
    "StepTimeout",
]


def __getattr__(name: str) -> Any:
    # Modules import their base class from here, in workers too, which need no more than that.
    if name != "PipelineOrchestrator":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from asyncflow.orchestrator.orchestrator import PipelineOrchestrator

    return PipelineOrchestrator
