"""Steps whose annotations are text, as that import makes them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncflow.context
    from asyncflow.context import StepContext


def plain(context: StepContext) -> None: ...
def qualified(context: asyncflow.context.StepContext) -> None: ...
def optional(context: StepContext | None = None) -> None: ...
