"""What a step held in memory at most is its own, not that of the step before it."""

from __future__ import annotations

import os
import resource
import sys
import time

import pytest

from asyncflow import Environment, Pipeline, PipelineResult, Runtime, WorkerDied, step
from asyncflow.lanes.process import memory
from asyncflow.lanes.process.memory import Memory

MIB = 2**20
LARGE, SMALL = 300 * MIB, 20 * MIB

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc/self/clear_refs")


@step(lane="process")
def use(amount: int) -> int:
    held = bytearray(amount)
    time.sleep(0.02)
    return len(held)


@step(lane="process")
def use_and_die(amount: int) -> None:
    bytearray(amount)
    os._exit(3)


def two_in_turn(**options: object) -> Pipeline:
    shaped = use.with_options(**options)  # type: ignore[arg-type]
    pipeline = Pipeline("p").add_step(shaped, "large", params={"amount": LARGE})
    return pipeline.add_step(shaped, "small", params={"amount": SMALL}, after=["large"])


def peaks(result: PipelineResult) -> list[int]:
    result.raise_for_failure()
    return [result.step_results[name].peak_memory_bytes for name in ("large", "small")]


@pytest.mark.parametrize("environment", [None, Environment()])
async def test_each_step_has_a_peak_of_its_own(environment: Environment | None) -> None:
    async with Runtime(max_cpus=1) as runtime:
        result = await two_in_turn(environment=environment).run(runtime=runtime)
    workers = {result.step_results[name].worker for name in ("large", "small")}
    assert len(workers) == 1
    large, small = peaks(result)
    assert LARGE < large < LARGE + 150 * MIB
    assert SMALL < small < LARGE
    assert result.to_dict()["steps"]["large"]["peak_memory_bytes"] == large


KEPT: list[bytearray] = []


@step(lane="process", resources={"memory": "1Mi"})
def keep(amount: int) -> None:
    KEPT.append(bytearray(amount))


async def test_what_workers_hold_is_ours_and_so_not_lost_to_what_we_share() -> None:
    async with Runtime(max_cpus=1) as runtime:
        await Pipeline("p", steps=[keep]).run({"amount": 1}, runtime=runtime)
        before = runtime._supply._own_bytes()
        await Pipeline("p", steps=[keep]).run({"amount": LARGE}, runtime=runtime)
        assert runtime._supply._own_bytes() > before + LARGE - 10 * MIB


def test_a_short_step_is_not_measured_and_nor_is_one_elsewhere() -> None:
    inline = Pipeline("p", steps=[use.with_options(lane="thread")]).run_sync({"amount": SMALL})
    assert inline.step_results["use"].peak_memory_bytes == 0


def test_of_a_worker_that_died_the_kernel_knows_it() -> None:
    # A process begins with the peak of the one that started it, so it has to hold more than that.
    amount = LARGE + resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    result = Pipeline("p", steps=[use_and_die]).run_sync({"amount": amount})
    failed = result.step_results["use_and_die"]
    assert isinstance(failed.error, WorkerDied)
    assert failed.peak_memory_bytes == failed.error.peak_memory_bytes > amount


def test_where_the_kernel_does_not_forget_only_a_new_peak_is_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    most = iter([100, 100, 100, 170])
    monkeypatch.setattr(memory, "_most_ever", lambda: next(most))
    measured = Memory()
    assert measured._clear is not None
    os.close(measured._clear)
    measured.begin()
    assert measured.peak_bytes() == 0
    measured.begin()
    assert measured.peak_bytes() == 170
    assert measured.resident_bytes() > MIB
    assert measured._status is not None
    os.close(measured._status)
    assert measured.resident_bytes() == 0
