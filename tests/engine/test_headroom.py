"""Limits that change while things run: what is new follows them, what runs goes on."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from typing import Any

import msgspec
import pytest

from asyncflow import Pipeline, Runtime, StepContext, step
from asyncflow.engine import supply
from asyncflow.engine.hardware import Machine
from asyncflow.engine.headroom import Headroom, private_bytes
from asyncflow.events import Warned
from tests.virtual_time import virtual_time

MIB, GIB = 2**20, 2**30
SOURCES = {"cpu_millis": "test", "memory_bytes": "test"}


class Made:
    """A machine that changes when the test says so."""

    def __init__(self, cpus: int = 8, memory: int = 16 * GIB, available: int = 10 * GIB) -> None:
        self.machine = Machine(1000 * cpus, memory, SOURCES, available)
        self.own = 100 * MIB

    def becomes(self, **changes: Any) -> None:
        self.machine = msgspec.structs.replace(self.machine, **changes)

    def headroom(self, **options: Any) -> Headroom:
        return Headroom(lambda: self.machine, lambda: self.own, **options)


def test_what_is_available_at_first_is_what_there_is_to_share() -> None:
    totals = Made(cpus=8, available=10 * GIB).headroom().totals
    assert (totals.cpu_millis, totals.memory_bytes) == (8000, 10 * GIB)


def test_what_our_own_work_uses_is_not_lost() -> None:
    made = Made(available=10 * GIB)
    headroom = made.headroom()
    made.own += 4 * GIB
    made.becomes(memory_available_bytes=6 * GIB)
    assert headroom.look().memory_bytes == 10 * GIB


def test_what_others_take_is() -> None:
    made = Made(available=10 * GIB)
    headroom = made.headroom()
    made.own += 1 * GIB
    made.becomes(memory_available_bytes=3 * GIB)
    assert headroom.look().memory_bytes == 4 * GIB
    made.becomes(memory_available_bytes=9 * GIB)
    assert headroom.look().memory_bytes == 10 * GIB


def test_there_is_never_more_than_the_limit() -> None:
    made = Made(memory=16 * GIB, available=15 * GIB)
    headroom = made.headroom()
    made.own += 8 * GIB
    assert headroom.look().memory_bytes == 16 * GIB


def test_small_movements_of_memory_change_nothing() -> None:
    made = Made(available=10 * GIB)
    headroom = made.headroom()
    made.becomes(memory_available_bytes=10 * GIB - 5 * MIB)
    assert headroom.look().memory_bytes == 10 * GIB


def test_other_cpus_are_told() -> None:
    made = Made(cpus=8)
    headroom = made.headroom()
    made.becomes(cpu_millis=2000)
    totals = headroom.look()
    assert totals.cpu_millis == 2000
    assert totals.warnings == ("this process may now use 2 CPUs, until now 8 CPUs",)
    assert headroom.look().warnings == ()


def test_a_figure_that_cannot_be_read_stays_and_the_fault_is_told_once() -> None:
    made = Made(cpus=8, available=10 * GIB)
    headroom = made.headroom()
    faults = {"cpu_millis": "no affinity", "memory_bytes": "no memory"}
    made.becomes(cpu_millis=1000, memory_available_bytes=GIB, faults=faults)
    totals = headroom.look()
    assert (totals.cpu_millis, totals.memory_bytes) == (8000, 10 * GIB)
    assert totals.warnings == (
        "no affinity; the limit stays what it was",
        "no memory; the limit stays what it was",
    )
    assert headroom.look().warnings == ()


def test_only_the_figures_that_are_followed_are_told_of() -> None:
    made = Made(cpus=8)
    headroom = made.headroom(figures=["memory_bytes"])
    made.becomes(cpu_millis=2000, faults={"cpu_millis": "no affinity"})
    assert headroom.look().warnings == ()


def test_a_sandbox_that_never_let_us_look_is_no_news() -> None:
    made = Made()
    made.becomes(faults={"cpu_millis": "no affinity"})
    headroom = made.headroom()
    assert headroom.look().warnings == ()


def test_memory_of_processes_that_are_gone_counts_nothing() -> None:
    child = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"],
        capture_output=True,
        check=True,
        text=True,
    )
    own = private_bytes([os.getpid()])
    assert own > MIB
    assert private_bytes([child.stdout.strip()]) == 0


# ------------------------------------------------------------------- in a run


def holding(seconds: float, **resources: Any) -> Any:
    @step(name="hold", resources=resources)
    async def hold(context: StepContext) -> tuple[float, int]:
        await asyncio.sleep(seconds)
        return context.lease.cpus, context.lease.memory_bytes

    return hold


@virtual_time
async def test_new_units_follow_limits_that_shrink(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Made(cpus=4, available=8 * GIB)
    monkeypatch.setattr(supply, "probe", lambda: made.machine)
    pipeline = Pipeline("p")
    pipeline.add_step(holding(10, cpu=4, memory="6Gi"), "first")
    pipeline.add_step(holding(10, cpu=4, memory="6Gi"), "second", after=["first"])
    async with Runtime() as runtime, pipeline.start(runtime=runtime) as run:
        await asyncio.sleep(5)
        made.becomes(cpu_millis=2000, memory_available_bytes=4 * GIB)
        events = [event async for event in run.events()]
    result = await run.result()
    assert result["first"] == (4, 6 * GIB)
    cpus, memory = result["second"]
    assert cpus == 2
    assert 4 * GIB <= memory < 5 * GIB  # what this process itself came to use meanwhile
    (warning,) = (event.message for event in events if isinstance(event, Warned))
    assert warning == "this process may now use 2 CPUs, until now 4 CPUs"


@virtual_time
async def test_a_probe_that_fails_is_a_warning_and_the_run_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = Made(cpus=4)
    monkeypatch.setattr(supply, "probe", lambda: made.machine)
    pipeline = Pipeline("p")
    pipeline.add_step(holding(10, cpu=4), "first")
    pipeline.add_step(holding(10, cpu=4), "second", after=["first"])
    async with Runtime() as runtime, pipeline.start(runtime=runtime) as run:
        await asyncio.sleep(5)
        made.becomes(cpu_millis=1000, faults={"cpu_millis": "no affinity"})
        events = [event async for event in run.events()]
    assert (await run.result())["second"][0] == 4
    (warning,) = (event.message for event in events if isinstance(event, Warned))
    assert warning == "no affinity; the limit stays what it was"


@virtual_time
async def test_memory_above_what_is_available_is_given_alone_with_a_warning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = Made(cpus=4, memory=16 * GIB, available=3 * GIB)
    monkeypatch.setattr(supply, "probe", lambda: made.machine)
    pipeline = Pipeline("p", steps=[holding(1, memory="8Gi")])
    async with Runtime() as runtime, pipeline.start(runtime=runtime) as run:
        events = [event async for event in run.events()]
    assert (await run.result())["hold"] == (4, 3 * GIB)
    (warning,) = (event.message for event in events if isinstance(event, Warned))
    assert "8 GiB of memory asked for, but there are 3 GiB." in warning


@virtual_time
async def test_given_maxima_are_followed_whatever_the_machine_has(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def probe() -> Machine:
        raise AssertionError("nobody has to look")

    monkeypatch.setattr(supply, "probe", probe)
    pipeline = Pipeline("p", steps=[holding(1, memory="8Gi", cpu=3)])
    async with Runtime(max_cpus=3, max_memory="8Gi") as runtime:
        assert (await pipeline.run(runtime=runtime))["hold"] == (3, 8 * GIB)
