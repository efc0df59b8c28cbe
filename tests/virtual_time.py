"""Virtual time for our own tests: a loop whose clock jumps, and which ends tidily.

A day of back-off takes no time, and what happens does not depend on how fast the machine is.
A thread that runs a step holds the clock, as its work takes no virtual time. One that waits at
a :class:`Gate` does not: that is how a test plays a step that hangs.

    @virtual_time
    async def test_a_day_passes() -> None:
        await asyncio.sleep(86_400)
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

from asyncflow.testing import Gate, Stuck
from asyncflow.testing import VirtualLoop as ProductLoop

__all__ = ["Gate", "Stuck", "VirtualLoop", "now", "run_virtually", "turns", "virtual_time"]

P = ParamSpec("P")
T = TypeVar("T")

# How long, in real seconds, a thread or a file may take before the test counts as stuck.
PATIENCE_SECONDS = 30.0
TURNS_OF_GRACE = 20


class VirtualLoop(ProductLoop):
    """A virtual loop that keeps what goes to its exception handler in ``faults``."""

    def __init__(self) -> None:
        self.faults: list[dict[str, Any]] = []
        super().__init__(patience_seconds=PATIENCE_SECONDS)
        self.set_exception_handler(lambda _, fault: self.faults.append(fault))


def _running() -> VirtualLoop:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop), "this test does not run in virtual time"
    return loop


def now() -> float:
    """Virtual seconds since the test began."""
    return _running().world.seconds


def turns() -> int:
    """How often the loop has gone round."""
    return _running().turns


async def _tidy(main: Coroutine[Any, Any, T]) -> T:
    """Fail what leaves tasks behind or has the loop report a fault."""
    result = await main
    left: set[asyncio.Task[Any]] = set()
    for _ in range(TURNS_OF_GRACE):
        left = asyncio.all_tasks() - {asyncio.current_task()}
        if not left:
            break
        await asyncio.sleep(0)
    assert not left, f"the test left tasks behind: {left}"
    assert not _running().faults, f"the loop reported {_running().faults}"
    return result


def run_virtually(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on a virtual loop of its own; threads of the thread lane hold its clock."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(_tidy(main))


def virtual_time(test: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, T]:
    """Make a test function of a coroutine function: each call has a virtual loop of its own."""

    @functools.wraps(test)
    def in_virtual_time(*args: P.args, **kwargs: P.kwargs) -> T:
        return run_virtually(test(*args, **kwargs))

    return in_virtual_time
