"""``exec``: operations right here, whatever their conditions."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Awaitable
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from asyncflow.errors import text_of
from asyncflow.flow.aggregates import Aggregate
from asyncflow.flow.errors import UserOperationError
from asyncflow.flow.groups import FlowGroup
from asyncflow.flow.registry import Operation

if TYPE_CHECKING:
    from asyncflow.flow.project import FlowProject

__all__ = ["execute"]


def execute(project: FlowProject, group: FlowGroup, aggregate_id: str, jobs: Aggregate) -> None:
    """Execute all operations of a group on one aggregate, in order and without hooks.

    Raises:
        UserOperationError: one of them failed; those after it were not executed.
    """
    for operation in group.operations.values():
        try:
            with jobs[0] if operation.with_job else nullcontext():
                _call(operation, jobs)
        except Exception as error:
            raise UserOperationError(
                f"{operation.name!r} failed on {aggregate_id}: {text_of(error)}",
                operation=operation.name,
                aggregate_id=aggregate_id,
            ) from error


def _call(operation: Operation, jobs: Aggregate) -> None:
    value = operation.func(*jobs)
    if isinstance(value, Awaitable):
        value = asyncio.run(_awaited(value))
    if operation.cmd:
        subprocess.run(value, shell=True, check=True)


async def _awaited(value: Awaitable[Any]) -> Any:
    return await value
