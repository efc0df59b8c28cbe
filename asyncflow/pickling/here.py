"""What a process is told about itself when it is a worker."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["control", "leased_cpus"]

# In a worker: makes what a step's context needs of the call that is being made. None elsewhere.
control: Callable[[], Any] | None = None

# In a worker: how many CPUs its calls hold; 0 where they hold none.
leased_cpus: float = 0.0
