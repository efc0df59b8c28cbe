"""What a process is told about itself when it is a worker."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["control"]

# In a worker: makes what a step's context needs of the call that is being made. None elsewhere.
control: Callable[[], Any] | None = None
