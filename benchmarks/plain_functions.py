"""What is called in other processes; it imports next to nothing, so that a start is a start."""

from __future__ import annotations

import time
from typing import Any

__all__ = ["add_one", "add_up", "all_in_turn", "compute", "make_array", "make_large", "no_op"]

ARRAY_BYTES = 2**20
LARGE_BYTES = 100 * 2**20
MILLISECOND = 0.001


def no_op() -> int:
    """A function that does nothing."""
    return 1


def compute(_: int = 0) -> int:
    """Keep a CPU busy for a millisecond of this process's own time."""
    turns, until = 0, time.process_time() + MILLISECOND
    while time.process_time() < until:
        turns += 1
    return turns


def make_array() -> Any:
    """An array of a megabyte."""
    import numpy

    return numpy.ones(ARRAY_BYTES // 8)


def make_large() -> Any:
    """An array of 100 MB."""
    import numpy

    return numpy.ones(LARGE_BYTES // 8)


def add_one(large: Any) -> Any:
    """The array itself, changed in place: what is measured is the passing on."""
    large += 1
    return large


def add_up(larger: Any) -> float:
    """The sum of the array."""
    return float(larger.sum())


def all_in_turn() -> float:
    """The three, called one after the other."""
    return add_up(add_one(make_large()))
