"""Functions whose values need no recording: whoever called them is run again as a whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

__all__ = ["is_unrecorded", "unrecorded"]

F = TypeVar("F", bound=Callable[..., Any])
_MARK = "asyncflow_unrecorded"


def unrecorded(func: F) -> F:
    """Mark a function: runs that record note that its steps ended, and not what they gave."""
    func.__dict__[_MARK] = True
    return func


def is_unrecorded(func: Callable[..., Any]) -> bool:
    """Whether a function has that mark."""
    return getattr(func, _MARK, False)
