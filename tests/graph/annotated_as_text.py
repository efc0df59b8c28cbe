"""Steps whose annotations are text, as that import makes them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Optional

import asyncflow
from asyncflow import StepContext as Told

if TYPE_CHECKING:
    import asyncflow.context
    from asyncflow.context import StepContext


class RunFailure:
    """Not the one that clean-up steps are told."""


def plain(context: StepContext) -> None: ...
def qualified(context: asyncflow.context.StepContext) -> None: ...
def optional(context: StepContext | None = None) -> None: ...
def renamed(context: Told) -> None: ...
def renamed_optional(context: Told | None = None) -> None: ...
def old_optional(context: Optional[Told] = None) -> None: ...  # noqa: UP045
def of_a_module(context: asyncflow.StepContext) -> None: ...
def another(why: RunFailure) -> None: ...
