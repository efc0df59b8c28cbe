"""Running a pipeline's sync steps side by side, as flowyml's users write it."""

from __future__ import annotations

from typing import Literal

import msgspec

from asyncflow.errors import GraphError

__all__ = ["ParallelExecutor"]


class ParallelExecutor(msgspec.Struct, frozen=True):
    """``pipeline.run(executor=ParallelExecutor(max_workers=4))``: at most so many at once.

    Independent steps run concurrently without one; an executor limits how many of the sync
    steps that name no lane do.

    Args:
        max_workers: how many of them run at once; None leaves it to the runtime.
        backend: where they run; ``"thread"`` is what there is so far.

    Raises:
        GraphError: the number is below 1, or there is no such backend.
    """

    max_workers: int | None = None
    backend: Literal["thread"] = "thread"

    def __post_init__(self) -> None:
        if self.max_workers is not None and (
            isinstance(self.max_workers, bool)
            or not isinstance(self.max_workers, int)
            or self.max_workers < 1
        ):
            raise GraphError(
                f"ParallelExecutor(max_workers=…) takes a whole number of 1 or more, got "
                f"{self.max_workers!r}"
            )
        if self.backend != "thread":
            raise GraphError(
                f"ParallelExecutor has no backend {self.backend!r}; use backend='thread'"
            )
