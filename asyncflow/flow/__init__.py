"""Operations over the jobs of a signac project; needs the extra ``[signac]``.

Names are loaded when they are asked for: a worker process needs little of this package, and every
operation would wait for the rest.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

try:
    import signac as signac
except ImportError as error:  # pragma: no cover - tests run with signac
    raise ImportError(
        "asyncflow.flow works on signac projects; install the extra: asyncflow-runtime[signac]"
    ) from error

if TYPE_CHECKING:
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

_HOMES = {
    "FlowProject": "project",
    "IgnoreConditions": "conditions",
    "aggregator": "aggregates",
    "classlabel": "labels",
    "get_aggregate_id": "aggregates",
    "label": "labels",
    "staticlabel": "labels",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = import_module(f"{__name__}.{_HOMES.get(name, 'errors')}")
    found = globals()[name] = getattr(home, name)
    return found
