"""The errors of project definitions, conditions, operations and submissions.

They carry the names that users of signac-flow know, below the one root of all errors here::

    AsyncflowError
    ├── FlowProjectDefinitionError   a project class is wrong (also a ValueError)
    ├── DirectivesError              a directive is wrong (also a ValueError)
    ├── UserConditionError           a condition or a label raised (also a RuntimeError)
    ├── UserOperationError           an operation failed (also a RuntimeError)
    ├── SubmitError                  a scheduler refused, or did not answer (also a RuntimeError)
    └── NoSchedulerError             there is no scheduler on this machine (also an AttributeError)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from asyncflow.errors import AsyncflowError

if TYPE_CHECKING:
    from asyncflow.result import PipelineResult

__all__ = [
    "DirectivesError",
    "FlowProjectDefinitionError",
    "NoSchedulerError",
    "SubmitError",
    "UserConditionError",
    "UserOperationError",
]


class FlowProjectDefinitionError(AsyncflowError, ValueError):
    """A project class is wrong: names, decorators in the wrong order, what cannot go together."""


class DirectivesError(AsyncflowError, ValueError):
    """A directive has a value that it cannot have; the message names operation and group."""


class UserConditionError(AsyncflowError, RuntimeError):
    """A condition or a label raised; ``__cause__`` is what it raised."""


class UserOperationError(AsyncflowError, RuntimeError):
    """An operation failed; ``__cause__`` is what it raised.

    ``result`` is the :class:`PipelineResult` of the run it was part of, None where it was not
    part of one.
    """

    result: PipelineResult | None = None

    def __init__(self, message: str, *, operation: str = "", aggregate_id: str = "") -> None:
        super().__init__(message)
        self.operation = operation
        self.aggregate_id = aggregate_id


class SubmitError(AsyncflowError, RuntimeError):
    """A scheduler refused a submission, or did not answer in time."""


class NoSchedulerError(AsyncflowError, AttributeError):
    """There is no scheduler to submit to on this machine."""
