"""asyncflow: a pipeline runtime that lives inside an asyncio program."""

from asyncflow.context import GrantedLease, StepContext
from asyncflow.environment import Environment
from asyncflow.errors import (
    AsyncflowError,
    CapacityError,
    DependencyError,
    GraphError,
    JournalDamaged,
    NestedDepthError,
    NotReadable,
    NotRecordable,
    RemoteError,
    ResourceLost,
    RunConflict,
    RunLocked,
    RunTimeout,
    StepCancelled,
    StepFailed,
    StepSkipped,
    StepTimeout,
    StorageError,
    WorkerDied,
)
from asyncflow.failure import RunFailure
from asyncflow.graph.grouping import Group, StepGroup
from asyncflow.limits import Rate
from asyncflow.pipeline.executor import ParallelExecutor
from asyncflow.pipeline.parallel import parallel_map
from asyncflow.pipeline.pipeline import Pipeline
from asyncflow.pipeline.versioned import VersionedPipeline
from asyncflow.resources import GPUConfig, NodeAffinity, ResourceRequirements
from asyncflow.result import PipelineResult, StepResult
from asyncflow.retry import Retry, RetryAfter
from asyncflow.run import Run, RunningNode, RunSnapshot
from asyncflow.runtime import Runtime
from asyncflow.secret import Secret
from asyncflow.states import NodeState, RunState
from asyncflow.step import Step, step
from asyncflow.storage.codec import Codec
from asyncflow.streams import stream_map

__version__ = "0.1.0"

__all__ = [
    "AsyncflowError",
    "CapacityError",
    "Codec",
    "DependencyError",
    "Environment",
    "GPUConfig",
    "GrantedLease",
    "GraphError",
    "Group",
    "JournalDamaged",
    "NestedDepthError",
    "NodeAffinity",
    "NodeState",
    "NotReadable",
    "NotRecordable",
    "ParallelExecutor",
    "Pipeline",
    "PipelineResult",
    "Rate",
    "RemoteError",
    "ResourceLost",
    "ResourceRequirements",
    "Retry",
    "RetryAfter",
    "Run",
    "RunConflict",
    "RunFailure",
    "RunLocked",
    "RunSnapshot",
    "RunState",
    "RunTimeout",
    "RunningNode",
    "Runtime",
    "Secret",
    "Step",
    "StepCancelled",
    "StepContext",
    "StepFailed",
    "StepGroup",
    "StepResult",
    "StepSkipped",
    "StepTimeout",
    "StorageError",
    "VersionedPipeline",
    "WorkerDied",
    "parallel_map",
    "step",
    "stream_map",
]
