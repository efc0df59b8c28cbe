"""A step's context without a run, for unit tests of steps."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Coroutine, Mapping
from typing import Any, NamedTuple, TypeVar

from asyncflow.blocking import run_blocking
from asyncflow.context import GrantedLease, StepContext

__all__ = ["RecordingContext", "Report", "step_context"]

T = TypeVar("T")


class Report(NamedTuple):
    """What a step reported once."""

    done: float
    total: float | None
    message: str | None


class _Control:
    """In the place of the attempt behind a context."""

    def __init__(self, cancelled: bool) -> None:
        self.cancel_requested = cancelled
        self.reports: list[Report] = []

    def report(self, done: float, total: float | None, message: str | None) -> None:
        self.reports.append(Report(done, total, message))

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    async def call_nested(
        self, step: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], key: Any
    ) -> Any:
        value = step.func(*args, **kwargs)
        return await value if inspect.isawaitable(value) else value

    async def run_nested(self, pipeline: Any, inputs: Any, key: Any) -> Any:
        return await pipeline.run(inputs)


class RecordingContext(StepContext):
    """A :class:`StepContext` that keeps what a step says and can be told to stop.

    Nested work is done on the spot: ``call`` and ``map`` call the function of the step with just
    the arguments they are given, once; ``run`` runs the pipeline on a runtime of its own.

    Attributes:
        reports: every call of ``report``, in order: done, total and message.
    """

    __slots__ = ("_said",)

    def __init__(self, *, cancelled: bool = False, **fields: Any) -> None:
        self._said = _Control(cancelled)
        super().__init__(**fields, control=self._said)

    @property
    def reports(self) -> list[Report]:
        return self._said.reports

    def cancel(self) -> None:
        """From now on ``cancelled`` is true."""
        self._said.cancel_requested = True

    def _wait(self, nested: Coroutine[Any, Any, T]) -> T:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return run_blocking(lambda: nested, "nested work")
        return super()._wait(nested)


def step_context(
    *,
    run_id: str = "test-run",
    node: str = "step",
    attempt: int = 1,
    lease: GrantedLease | None = None,
    logger: logging.Logger | None = None,
    cancelled: bool = False,
) -> RecordingContext:
    """A context to call a step with, outside any run.

    Args:
        run_id, node, attempt, lease, logger: what the step is told about itself.
        cancelled: whether it is told to stop.

    Example:
        >>> from asyncflow import StepContext, step
        >>> @step
        ... def count(context: StepContext) -> int:
        ...     context.report(1, total=3)
        ...     return context.attempt
        >>> context = step_context(attempt=2)
        >>> count(context), context.reports
        (2, [Report(done=1, total=3, message=None)])
    """
    return RecordingContext(
        run_id=run_id,
        node=node,
        attempt=attempt,
        lease=GrantedLease() if lease is None else lease,
        logger=logging.getLogger("asyncflow.step") if logger is None else logger,
        cancelled=cancelled,
    )
