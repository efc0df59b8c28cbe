"""A runtime owns capacity and threads for one loop, from its entry to its end."""

from __future__ import annotations

import asyncio
import os
import threading
from typing import Any

import pytest

from asyncflow import GraphError, Pipeline, Runtime, step
from asyncflow.resources import parse_bytes
from asyncflow.runtime import new_run_id
from tests.virtual_time import now, virtual_time


@step
async def second() -> float:
    await asyncio.sleep(1)
    return now()


@step
def thread_name() -> str:
    return threading.current_thread().name


ONE = Pipeline("one", steps=[second])


# -------------------------------------------------------------------- lifetime


@virtual_time
async def test_a_runtime_serves_one_run_after_the_other() -> None:
    async with Runtime() as runtime:
        assert (await ONE.run(runtime=runtime))["second"] == 1
        assert (await ONE.run(runtime=runtime))["second"] == 2


@virtual_time
async def test_its_threads_serve_all_runs_and_end_with_it() -> None:
    pipeline = Pipeline("p", steps=[thread_name])
    async with Runtime(max_threads=1) as runtime:
        names = {(await pipeline.run(runtime=runtime))["thread_name"] for _ in range(5)}
        assert len(names) == 1
        assert names <= {thread.name for thread in threading.enumerate()}
    assert not names & {thread.name for thread in threading.enumerate()}


@virtual_time
async def test_a_run_without_a_runtime_has_one_of_its_own() -> None:
    before = set(threading.enumerate())
    result = await Pipeline("p", steps=[thread_name]).run()
    assert result.success
    assert set(threading.enumerate()) == before


@virtual_time
async def test_a_runtime_is_entered_once() -> None:
    runtime = Runtime()
    async with runtime:
        with pytest.raises(RuntimeError, match="a Runtime is entered once"):
            await runtime.__aenter__()
    with pytest.raises(RuntimeError, match="a Runtime is entered once"):
        await runtime.__aenter__()


@virtual_time
async def test_a_runtime_that_was_not_entered_says_so() -> None:
    with pytest.raises(RuntimeError, match="was not entered; write 'async with Runtime"):
        await ONE.run(runtime=Runtime())


@virtual_time
async def test_a_runtime_that_is_closed_says_so() -> None:
    async with Runtime() as runtime:
        pass
    with pytest.raises(RuntimeError, match="this Runtime is closed; make another one"):
        await ONE.run(runtime=runtime)


@virtual_time
async def test_closing_twice_does_nothing() -> None:
    async with Runtime() as runtime:
        await runtime.aclose()
        await runtime.aclose()
    await Runtime().aclose()


@virtual_time
async def test_a_runtime_belongs_to_its_loop() -> None:
    async with Runtime() as runtime:

        def elsewhere() -> str:
            with pytest.raises(RuntimeError, match="belongs to another event loop") as caught:
                ONE.run_sync(runtime=runtime)
            return str(caught.value)

        sentence: list[str] = []
        thread = threading.Thread(target=lambda: sentence.append(elsewhere()))
        thread.start()
        thread.join()
    assert "enter one in the loop that runs the pipeline" in sentence[0]


# ------------------------------------------------------------------- arguments


def test_capacity_is_the_machine_s_where_nothing_is_said() -> None:
    capacity = Runtime().capacity
    assert 0 < capacity.cpu_millis <= 1000 * (os.cpu_count() or 1)
    assert capacity.memory_bytes > 2**20
    assert capacity.devices == ()


def test_capacity_is_what_is_said_otherwise() -> None:
    capacity = Runtime(max_cpus="2500m", max_memory="4Gi", max_gpus=["nvidia-t4"]).capacity
    assert (capacity.cpu_millis, capacity.memory_bytes) == (2500, parse_bytes("4Gi"))
    assert [(device.id, device.gpu_type) for device in capacity.devices] == [("0", "nvidia-t4")]


@pytest.mark.parametrize(
    "argument, sentence",
    [
        ({"max_concurrency": 0}, "max_concurrency takes a whole number of 1 or more, got 0"),
        ({"max_concurrency": True}, "max_concurrency takes a whole number"),
        ({"max_threads": 0}, "max_threads takes a whole number of 1 or more, got 0"),
        ({"max_threads": 2.5}, "max_threads takes a whole number"),
        ({"max_abandoned": -1}, "max_abandoned takes a whole number"),
        ({"grace_seconds": -1}, "grace_seconds takes finite seconds of 0 or more, got -1"),
        ({"grace_seconds": float("nan")}, "grace_seconds takes finite seconds"),
        ({"grace_seconds": "2"}, "grace_seconds takes finite seconds"),
        ({"oversized": "ignore"}, "oversized is 'clamp' or 'error', not 'ignore'"),
        ({"max_gpus": -1}, "max_gpus=-1 is negative"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(argument: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        Runtime(**argument)


def test_taints_are_a_list() -> None:
    with pytest.raises(TypeError, match=r"taints takes a list of names; write taints=\['spot'\]"):
        Runtime(taints="spot")


# ------------------------------------------------------------------------ runs


def test_run_ids_are_texts_that_nobody_else_has() -> None:
    ids = {new_run_id() for _ in range(1000)}
    assert len(ids) == 1000
    assert all(len(name) == len("20260101-120000-0a1b2c3d") for name in ids)


@virtual_time
async def test_a_run_id_is_in_use_until_its_run_is_over() -> None:
    async with Runtime() as runtime:
        first = asyncio.create_task(ONE.run(runtime=runtime, run_id="night"))
        await asyncio.sleep(0.5)
        with pytest.raises(GraphError, match="a run 'night' is in progress in this runtime"):
            await ONE.run(runtime=runtime, run_id="night")
        assert (await first).run_id == "night"
        assert (await ONE.run(runtime=runtime, run_id="night")).success


@virtual_time
async def test_a_hundred_runs_of_one_pipeline_at_once() -> None:
    async with Runtime() as runtime:
        results = await asyncio.gather(*(ONE.run(runtime=runtime) for _ in range(100)))
    assert all(result["second"] == 1 for result in results)
    assert len({result.run_id for result in results}) == 100
