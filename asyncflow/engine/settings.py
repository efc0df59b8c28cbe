"""What people give a runtime, checked, with a sentence for each mistake."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

__all__ = ["expected_seconds_of", "grace_seconds_of", "services_of"]


def services_of(services: Any) -> dict[str, Any]:
    """Live objects by the names of the parameters they go to."""
    if services is None:
        return {}
    if not isinstance(services, Mapping) or not all(isinstance(name, str) for name in services):
        raise TypeError(
            "Runtime(services=…) takes a mapping from names of parameters to objects, got "
            f"{services!r}; write {{'client': client}}"
        )
    return dict(services)


def grace_seconds_of(seconds: Any) -> float:
    """How long what was cancelled may take to end."""
    number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    # Rules out infinity and NaN, and whole numbers too large for a float.
    if number and 0 <= seconds <= sys.float_info.max:
        return float(seconds)
    raise ValueError(f"grace_seconds takes finite seconds of 0 or more, got {seconds!r}")


def expected_seconds_of(seconds: Mapping[str, float] | None) -> dict[str, float]:
    """How long steps take, by name."""
    for name, value in (seconds or {}).items():
        if not 0 <= value < float("inf"):
            raise ValueError(
                f"expected_seconds={{{name!r}: {value!r}}}: takes finite seconds of 0 or more"
            )
    return dict(seconds or {})
