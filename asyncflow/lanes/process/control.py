"""What the context of a step needs of its attempt, in a worker: asked of the host."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from asyncflow.lanes.process import wire

if TYPE_CHECKING:
    import asyncio

    from asyncflow.lanes.process.worker import Worker

__all__ = ["RemoteControl"]


class RemoteControl:
    """Stands for an attempt that the host knows.

    Args:
        number: of the call that it is about.
    """

    def __init__(self, worker: Worker, number: int) -> None:
        self._worker = worker
        self._number = number

    @property
    def cancel_requested(self) -> bool:
        return self._worker.is_cancelled(self._number)

    def report(self, done: float, total: float | None, message: str | None) -> None:
        """Tell the host how far the call is."""
        self._worker.tell(wire.Report(self._number, done, total, message))

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        raise RuntimeError("steps in a process cannot make nested calls")

    async def call_nested(
        self, step: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], key: Any
    ) -> Any:
        raise RuntimeError("steps in a process cannot make nested calls")

    async def run_nested(self, pipeline: Any, inputs: Any, key: Any) -> Any:
        raise RuntimeError("steps in a process cannot make nested calls")
