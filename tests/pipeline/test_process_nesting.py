"""Nested work from inside workers: calls, maps and runs, over the worker's channel."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from asyncflow import (
    NodeState,
    ParallelExecutor,
    Pipeline,
    Retry,
    Runtime,
    StepContext,
    StepFailed,
    step,
    stream_map,
)


@step(lane="process")
def leaf(number: int) -> tuple[int, int]:
    return number, os.getpid()


@step(lane="process")
def middle(number: int, context: StepContext) -> list[int]:
    found = context.map_sync(leaf, range(number, number + 3))
    return [value for value, _ in found]


@step(lane="process")
async def top(context: StepContext) -> list[list[int]]:
    return await context.map(middle, [0, 10, 20])


@pytest.mark.parametrize("max_cpus", [1, 2])
async def test_a_map_three_levels_deep_on_so_many_workers(max_cpus: int) -> None:
    async with Runtime(max_cpus=max_cpus) as runtime:
        result = await Pipeline("p", steps=[top]).run(runtime=runtime)
    result.raise_for_failure()
    assert result["top"] == [[0, 1, 2], [10, 11, 12], [20, 21, 22]]
    assert result.step_results["top/middle[10]/leaf[11]"].lane == "process"


async def test_workers_that_only_nests_needed_do_not_stay() -> None:
    runtime = Runtime(max_cpus=1)
    runtime.max_processes = 1
    async with runtime:
        (await Pipeline("p", steps=[top]).run(runtime=runtime)).raise_for_failure()
        assert runtime._scheduler is not None
        assert runtime._scheduler.lanes["process"].statistics().workers == 1


async def test_a_map_three_levels_deep_with_two_workers_of_an_executor() -> None:
    @step
    def inner(number: int) -> int:
        return number + 1

    @step
    def nest(number: int, context: StepContext) -> int:
        return sum(context.map_sync(inner, [number, number + 1]))

    @step
    def outer(context: StepContext) -> int:
        return sum(context.map_sync(nest, range(4)))

    result = await Pipeline("p", steps=[outer]).run(executor=ParallelExecutor(max_workers=2))
    result.raise_for_failure()
    assert result["outer"] == sum(2 * number + 3 for number in range(4))


async def test_a_step_in_a_process_may_call_one_on_the_host_s_loop() -> None:
    @step
    async def here() -> int:
        return os.getpid()

    @step(lane="process")
    def there(context: StepContext) -> int:
        pid: int = context.call_sync(here)
        return pid

    result = await Pipeline("p", steps=[there]).run()
    assert result["there"] == os.getpid()


async def test_what_a_nested_step_raises_is_raised_in_the_worker() -> None:
    @step(lane="process", name="fails")
    def fails() -> None:
        raise ValueError("deep")

    @step(lane="process")
    def catches(context: StepContext) -> str:
        try:
            context.call_sync(fails)
        except ValueError as error:
            return f"caught {error}"
        return "nothing"

    result = await Pipeline("p", steps=[catches]).run()
    result.raise_for_failure()
    assert result["catches"] == "caught deep"
    assert result.step_results["catches/fails"].status is NodeState.FAILED


async def test_a_step_in_a_process_may_run_a_pipeline() -> None:
    @step(lane="process")
    def runs(context: StepContext) -> tuple[bool, Any, int]:
        result = context.run_sync(Pipeline("inner", steps=[leaf]), {"number": 5})
        return result.success, result["leaf"][0], result.step_results["leaf"].attempts

    result = await Pipeline("p", steps=[runs]).run()
    result.raise_for_failure()
    assert result["runs"] == (True, 5, 1)


async def test_the_result_of_a_pipeline_that_failed_says_so_in_the_worker() -> None:
    @step
    def broken() -> None:
        raise OSError("inner fault")

    @step(lane="process")
    def runs(context: StepContext) -> str:
        result = context.run_sync(Pipeline("inner", steps=[broken]))
        try:
            result.raise_for_failure()
        except StepFailed as error:
            return str(error)
        return "no failure"

    result = await Pipeline("p", steps=[runs]).run()
    result.raise_for_failure()
    assert "'broken' failed at attempt 1: OSError: inner fault" in result["runs"]


async def test_a_cancelled_caller_takes_its_nest_along() -> None:
    @step(lane="process", name="sleeps")
    def sleeps() -> None:
        import time

        time.sleep(30)

    @step(lane="process")
    async def calls(context: StepContext) -> None:
        await context.call(sleeps)

    async with (
        Runtime(grace_seconds=0.1) as runtime,
        Pipeline("p", steps=[calls]).start(runtime=runtime) as run,
    ):
        async for event in run.events():
            if event.kind == "NodeStarted" and event.node == "calls/sleeps":
                break
        await run.cancel()
        result = await run.result()
    assert result.step_results["calls"].status is NodeState.CANCELLED
    assert result.step_results["calls/sleeps"].status is NodeState.CANCELLED


async def test_a_caller_that_dies_takes_its_nest_along(tmp_path: Path) -> None:
    begun = tmp_path / "begun"

    @step(lane="process", name="sleeps")
    async def sleeps() -> None:
        import asyncio

        begun.touch()
        await asyncio.sleep(30)

    def die_meanwhile() -> None:
        while not begun.exists():
            time.sleep(0.005)
        os._exit(1)

    @step(lane="process")
    def calls(context: StepContext) -> None:
        import threading

        threading.Thread(target=die_meanwhile, daemon=True).start()
        context.call_sync(sleeps)

    async with Runtime(grace_seconds=0.1) as runtime:
        result = await Pipeline("p", steps=[calls]).run(runtime=runtime)
    assert result.step_results["calls"].status is NodeState.FAILED
    assert result.step_results["calls/sleeps"].status is NodeState.CANCELLED


# -- streams -------------------------------------------------------------------------------


async def test_a_stream_is_mapped_in_processes(tmp_path: Path) -> None:
    @step(lane="process")
    def meets(number: int) -> tuple[int, int]:
        # The first two are in progress at the same time.
        (tmp_path / str(number)).touch()
        while not (tmp_path / "0").exists() or not (tmp_path / "1").exists():
            time.sleep(0.005)
        return number, os.getpid()

    found = [value async for value in stream_map(meets, range(20), concurrency=2)]
    assert [number for number, _ in found] == list(range(20))
    pids = {pid for _, pid in found}
    assert os.getpid() not in pids
    assert len(pids) == 2


async def test_a_call_of_a_stream_that_hangs_is_killed_and_tried_again(tmp_path: Path) -> None:
    # More retries than hangs: to a busy machine, what does not hang may take too long as well.
    @step(lane="process", timeout=0.3, retry=Retry(retries=9, wait_initial=0.01))
    def hangs_once(number: int) -> int:
        mark = os.path.join(str(tmp_path), str(number))
        if number == 3 and not os.path.exists(mark):
            open(mark, "w").close()
            time.sleep(30)
        return number

    async with Runtime(grace_seconds=0.05) as runtime:
        stream = stream_map(hangs_once, range(6), concurrency=2, runtime=runtime)
        assert [value async for value in stream] == list(range(6))
