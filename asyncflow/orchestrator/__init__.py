"""The second dialect: pipelines of modules that a YAML, TOML or JSON file describes."""

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
