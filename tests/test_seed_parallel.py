"""The parallel-execution guide of flowyml: its blocks run, and side by side is meant so."""

from __future__ import annotations

import contextvars
import itertools
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from asyncflow import (
    GraphError,
    NodeState,
    ParallelExecutor,
    Pipeline,
    Runtime,
    Step,
    StepContext,
    StepFailed,
    parallel_map,
    step,
)

MEETING_SECONDS = 30.0


class Crowd:
    """Counts how many calls are inside at the same time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self.largest = 0

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            self.largest = max(self.largest, self._inside)

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1


def chunks(process_chunk: Step[..., Any], count: int) -> Pipeline:
    """The guide's loop: one step under many names."""
    pipeline = Pipeline("parallel_processing")
    for i in range(count):
        pipeline.add_step(process_chunk, name=f"chunk_{i}", params={"chunk_id": i})
    return pipeline


# -- Basic Usage -------------------------------------------------------------------------


async def test_five_chunks_are_processed_by_a_parallel_executor() -> None:
    @step
    def process_chunk(chunk_id: int) -> str:
        return f"processed_{chunk_id}"

    pipeline = Pipeline("parallel_processing")
    for i in range(5):
        pipeline.add_step(process_chunk, name=f"chunk_{i}", params={"chunk_id": i})
    executor = ParallelExecutor(max_workers=4, backend="thread")
    result = await pipeline.run(executor=executor)
    assert result.success
    assert [result[f"chunk_{i}"] for i in range(5)] == [f"processed_{i}" for i in range(5)]


async def test_independent_steps_are_inside_at_the_same_time() -> None:
    meeting = threading.Barrier(5, timeout=MEETING_SECONDS)

    @step
    def process_chunk(chunk_id: int) -> int:
        # Passes only when all five are here: one after the other they never would be.
        meeting.wait()
        return chunk_id

    result = await chunks(process_chunk, 5).run(
        executor=ParallelExecutor(max_workers=5, backend="thread")
    )
    result.raise_for_failure()
    assert [result[f"chunk_{i}"] for i in range(5)] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("max_workers", [1, 2, 4])
async def test_an_executor_fills_its_workers_and_never_has_more(max_workers: int) -> None:
    crowd = Crowd()
    meeting = threading.Barrier(max_workers, timeout=MEETING_SECONDS)

    @step
    def process_chunk(chunk_id: int) -> None:
        with crowd:
            meeting.wait()

    pipeline = chunks(process_chunk, 4 * max_workers)
    result = await pipeline.run(executor=ParallelExecutor(max_workers, backend="thread"))
    result.raise_for_failure()
    assert crowd.largest == max_workers


async def test_an_executor_limits_one_run_and_not_its_neighbour() -> None:
    crowd = Crowd()
    meeting = threading.Barrier(3, timeout=MEETING_SECONDS)

    @step
    def alone(chunk_id: int) -> None:
        with crowd:
            pass

    @step
    def together(chunk_id: int) -> None:
        meeting.wait()

    async with (
        Runtime(max_threads=8) as runtime,
        chunks(alone, 20).start(
            runtime=runtime, executor=ParallelExecutor(1, backend="thread")
        ) as limited,
    ):
        unlimited = await chunks(together, 3).run(runtime=runtime)
        unlimited.raise_for_failure()
        (await limited.result()).raise_for_failure()
    assert crowd.largest == 1


async def test_a_chunk_that_fails_stops_the_others_and_is_named() -> None:
    @step
    def process_chunk(chunk_id: int) -> int:
        if chunk_id == 0:
            raise OSError("no such chunk")
        return chunk_id

    result = await chunks(process_chunk, 5).run(executor=ParallelExecutor(1, backend="thread"))
    assert not result.success
    assert result.step_results["chunk_0"].status is NodeState.FAILED
    assert {result.step_results[f"chunk_{i}"].status for i in range(1, 5)} == {NodeState.CANCELLED}
    with pytest.raises(StepFailed, match="'chunk_0' failed at attempt 1: OSError: no such chunk"):
        result.raise_for_failure()


@pytest.mark.parametrize("max_workers", [0, -1, True, 2.0])
def test_an_executor_needs_a_whole_number_of_workers(max_workers: int) -> None:
    with pytest.raises(GraphError, match="max_workers=…"):
        ParallelExecutor(max_workers=max_workers)


# -- In-Step Parallelism -----------------------------------------------------------------


def process_item(item: int) -> int:
    return item * item


async def test_a_step_maps_its_items_in_parallel() -> None:
    @step
    def batch_process(items: list[int]) -> list[int]:
        return parallel_map(process_item, items, max_workers=8)

    pipeline = Pipeline("batch", steps=[batch_process], inputs={"items": list})
    result = await pipeline.run(inputs={"items": list(range(100))})
    assert result["batch_process"] == [item * item for item in range(100)]


def test_results_stand_in_the_order_of_the_items_whoever_ends_first() -> None:
    second_is_done = threading.Event()

    def wait_for_the_second(item: int) -> int:
        if item == 0:
            assert second_is_done.wait(MEETING_SECONDS)
        else:
            second_is_done.set()
        return item

    assert parallel_map(wait_for_the_second, [0, 1], max_workers=2) == [0, 1]


def test_a_map_fills_its_workers_and_never_has_more() -> None:
    crowd = Crowd()
    meeting = threading.Barrier(4, timeout=MEETING_SECONDS)

    def meet(_: int) -> None:
        with crowd:
            meeting.wait()

    parallel_map(meet, range(16), max_workers=4)
    assert crowd.largest == 4


def test_the_first_error_is_raised_after_those_in_progress_have_ended() -> None:
    begun = threading.Barrier(2, timeout=MEETING_SECONDS)
    failing: list[threading.Thread] = []
    ended: list[int] = []

    def work(item: int) -> int:
        if item == 0:
            failing.append(threading.current_thread())
            begun.wait()
            raise OSError("broken item")
        begun.wait()
        failing[0].join(MEETING_SECONDS)
        ended.append(item)
        return item

    with pytest.raises(OSError, match="broken item"):
        parallel_map(work, range(100), max_workers=2)
    # Item 1 was in progress and was waited for; no other was begun.
    assert ended == [1]


def test_items_are_read_as_workers_come_free_and_not_after_an_error() -> None:
    read: list[int] = []

    def items() -> Iterator[int]:
        for item in range(1000):
            read.append(item)
            yield item

    def fail(item: int) -> None:
        raise ValueError(f"item {item}")

    with pytest.raises(ValueError, match="item 0"):
        parallel_map(fail, items(), max_workers=1)
    assert read == [0]


def test_an_error_of_the_items_themselves_is_raised() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise OSError("the source broke")

    with pytest.raises(OSError, match="the source broke"):
        parallel_map(process_item, items(), max_workers=3)


def test_a_map_sees_the_caller_s_context_variables() -> None:
    tenant: contextvars.ContextVar[str] = contextvars.ContextVar("tenant")
    token = tenant.set("north")
    try:
        assert parallel_map(lambda _: tenant.get(), range(4), max_workers=2) == ["north"] * 4
    finally:
        tenant.reset(token)


def test_a_map_of_nothing_is_an_empty_list() -> None:
    assert parallel_map(process_item, []) == []


@pytest.mark.parametrize("max_workers", [0, -1, True, 2.0])
def test_a_map_needs_a_whole_number_of_workers(max_workers: int) -> None:
    with pytest.raises(ValueError, match="max_workers takes a whole number of 1 or more"):
        parallel_map(process_item, [1], max_workers=max_workers)


def test_a_map_names_the_backend_it_has() -> None:
    with pytest.raises(ValueError, match="no backend 'fibre'; use 'thread' or 'process'"):
        parallel_map(process_item, [1], backend="fibre")  # type: ignore[arg-type]


# -- processes -----------------------------------------------------------------------------


def square_slowly(item: int) -> tuple[int, int]:
    time.sleep(0.02 * (3 - item % 4))
    return item * item, os.getpid()


def test_a_script_maps_in_processes_in_input_order() -> None:
    found = parallel_map(square_slowly, range(8), max_workers=2, backend="process")
    assert [value for value, _ in found] == [item * item for item in range(8)]
    assert len({pid for _, pid in found}) == 2
    assert os.getpid() not in {pid for _, pid in found}


@pytest.mark.parametrize("lane", ["thread", "process"])
async def test_a_sync_step_maps_in_processes_on_its_own_lease(lane: Any) -> None:
    def batch() -> set[int]:
        return {pid for _, pid in parallel_map(square_slowly, range(6), backend="process")}

    step_of_two_cpus = step(batch, lane=lane, resources={"cpu": 2})
    async with Runtime(max_cpus=2) as runtime:
        result = await Pipeline("p", steps=[step_of_two_cpus]).run(runtime=runtime)
    result.raise_for_failure()
    assert len(result["batch"]) == 2


def fail_at_two(item: int) -> int:
    if item == 2:
        raise OSError("item two")
    return item


def test_the_first_error_in_a_process_stops_the_map() -> None:
    with pytest.raises(OSError, match="item two"):
        parallel_map(fail_at_two, itertools.count(), max_workers=2, backend="process")


async def test_a_map_on_the_event_loop_is_refused_with_what_to_use() -> None:
    with pytest.raises(RuntimeError, match=r"use await context.map.* in a step, stream_map"):
        parallel_map(process_item, [1])


# -- the default backend: processes --------------------------------------------------------


async def test_five_chunks_with_four_workers_take_two_rounds(tmp_path: Path) -> None:
    @step
    def process_chunk(chunk_id: int, folder: Path) -> str:
        # Who is inside says so in the folder: four at once, and never five.
        (folder / f"in-{chunk_id}").touch()
        until = time.monotonic() + MEETING_SECONDS
        while len(list(folder.iterdir())) < 4:
            assert time.monotonic() < until
            time.sleep(0.001)
        return f"processed_{chunk_id} {os.getpid()}"

    pipeline = chunks(process_chunk, 5)
    executor = ParallelExecutor(max_workers=4)
    result = await pipeline.run(inputs={"folder": tmp_path}, executor=executor)
    result.raise_for_failure()
    words = [result[f"chunk_{i}"].split() for i in range(5)]
    assert [word for word, _ in words] == [f"processed_{i}" for i in range(5)]
    assert len({pid for _, pid in words}) == 4
    assert {found.lane for found in result.step_results.values()} == {"process"}


async def test_the_guide_s_batch_processor() -> None:
    @step
    def process_chunk(chunk_path: str) -> int:
        return len(chunk_path)

    pipeline = Pipeline("batch_processor")
    for i in range(10):
        pipeline.add_step(
            process_chunk, name=f"chunk_{i}", params={"chunk_path": f"data/part_{i}.csv"}
        )
    result = await pipeline.run(executor=ParallelExecutor(max_workers=4, backend="process"))
    assert [result[f"chunk_{i}"] for i in range(10)] == [15] * 10


async def test_steps_that_name_no_cpus_hold_none_where_the_workers_are_counted() -> None:
    @step
    def lease(context: StepContext) -> float:
        return context.lease.cpus

    pipeline = Pipeline("p", steps=[lease])
    assert (await pipeline.run(executor=ParallelExecutor(max_workers=3)))["lease"] == 0
    assert (await pipeline.run(executor=ParallelExecutor()))["lease"] == 1
