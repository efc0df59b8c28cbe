"""Running a pipeline's sync steps side by side, as flowyml's users write it."""

from __future__ import annotations

from typing import Literal

import msgspec

from asyncflow.errors import GraphError
from asyncflow.quantities import at_least_one

__all__ = ["ParallelExecutor"]


class ParallelExecutor(msgspec.Struct, frozen=True):
    """``pipeline.run(executor=ParallelExecutor(max_workers=4))``: at most so many at once.

    Independent steps run concurrently without one. An executor says where the sync steps that
    name no lane run, and how many of them at once.

    Args:
        max_workers: how many of them run at once, and those that name no CPUs hold none; with
            None there are as many as there are CPUs for, as each holds one.
        backend: where they run: ``"process"``, or ``"thread"`` for those that mostly wait.

    Raises:
        GraphError: the number is below 1, or there is no such backend.
    """

    max_workers: int | None = None
    backend: Literal["process", "thread"] = "process"

    def __post_init__(self) -> None:
        if self.max_workers is not None:
            try:
                at_least_one("ParallelExecutor(max_workers=…)", self.max_workers)
            except ValueError as error:
                raise GraphError(str(error)) from None
        if self.backend not in ("process", "thread"):
            raise GraphError(
                f"ParallelExecutor has no backend {self.backend!r}; use 'process' or 'thread'"
            )
