"""What a runtime holds once its runs are over: nothing."""

from __future__ import annotations

from asyncflow import Runtime

__all__ = ["assert_nothing_is_held"]


def assert_nothing_is_held(runtime: Runtime) -> None:
    """No call, no timer, no run, no capacity, no thread at work."""
    scheduler, limiter = runtime._entered(), runtime._get_limiter()
    assert (scheduler.in_flight, scheduler.timers, scheduler.runs) == (0, 0, {})
    limiter.validate()
    statistics = limiter.statistics()
    assert (statistics.leases, statistics.waiting) == (0, 0)
    assert (statistics.cpu_millis_held, statistics.memory_bytes_held) == (0, 0)
    assert scheduler.lanes["thread"].statistics().busy == 0
