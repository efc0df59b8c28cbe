"""Operations over the jobs of a signac project; needs the extra ``[signac]``."""

try:
    import signac as signac
except ImportError as error:  # pragma: no cover - tests run with signac
    raise ImportError(
        "asyncflow.flow works on signac projects; install the extra: asyncflow-runtime[signac]"
    ) from error

from asyncflow.flow.aggregates import aggregator, get_aggregate_id
from asyncflow.flow.conditions import IgnoreConditions
from asyncflow.flow.errors import (
    DirectivesError,
    FlowProjectDefinitionError,
    NoSchedulerError,
    SubmitError,
    UserConditionError,
    UserOperationError,
)
from asyncflow.flow.labels import classlabel, label, staticlabel
from asyncflow.flow.project import FlowProject

__all__ = [
    "DirectivesError",
    "FlowProject",
    "FlowProjectDefinitionError",
    "IgnoreConditions",
    "NoSchedulerError",
    "SubmitError",
    "UserConditionError",
    "UserOperationError",
    "aggregator",
    "classlabel",
    "get_aggregate_id",
    "label",
    "staticlabel",
]
