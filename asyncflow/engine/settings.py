"""What people give a runtime, checked, with a sentence for each mistake."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from asyncflow.engine.gpus import GpuProbe
from asyncflow.engine.supply import Supply
from asyncflow.limits import Definitions
from asyncflow.quantities import parse_bytes, parse_cpu

__all__ = ["expected_seconds_of", "grace_seconds_of", "services_of", "supply_of"]


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


def supply_of(
    max_cpus: int | float | str | None,
    max_memory: int | str | None,
    max_gpus: int | Sequence[str] | GpuProbe | None,
    labels: Mapping[str, str] | None,
    taints: Sequence[str],
    oversized: str,
    limits: Definitions,
) -> Supply:
    """What a runtime shares."""
    if oversized not in ("clamp", "error"):
        raise ValueError(f"oversized is 'clamp' or 'error', not {oversized!r}")
    if isinstance(taints, str):
        raise TypeError(f"taints takes a list of names; write taints=[{taints!r}]")
    return Supply(
        cpu_millis=None if max_cpus is None else parse_cpu(max_cpus),
        memory_bytes=None if max_memory is None else parse_bytes(max_memory),
        max_gpus=max_gpus,
        labels=dict(labels or {}),
        taints=tuple(taints),
        refuse_oversized=oversized == "error",
        limits=limits,
    )
