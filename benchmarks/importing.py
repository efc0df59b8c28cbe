"""What ``import asyncflow`` costs a program that imports asyncio anyway."""

from __future__ import annotations

from benchmarks.fresh_process import output_of
from benchmarks.report import Goal, Row
from benchmarks.sampling import Scale, compare

__all__ = ["measure_import"]

_TIMED_IMPORT = """
import time
began = time.perf_counter()
import {module}
print(time.perf_counter() - began)
"""


def _import_seconds(module: str) -> float:
    return float(output_of(["-c", _TIMED_IMPORT.format(module=module)]))


def measure_import(scale: Scale) -> list[Row]:
    """``import asyncflow`` against ``import asyncio``, each in a fresh process."""
    for module in ("asyncflow", "asyncio"):
        _import_seconds(module)  # so that no sample has to compile
    ours, reference = compare(
        scale, lambda: _import_seconds("asyncflow"), lambda: _import_seconds("asyncio")
    )
    return [Row("import asyncflow, against asyncio", ours, reference, goal=Goal("extra", 0.1))]
