"""The blocking twins run a loop of their own, and leave nothing behind."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time

import pytest

from asyncflow import Pipeline, RunTimeout, step
from asyncflow.blocking import run_blocking
from tests.programs import output_of

VARIABLE = contextvars.ContextVar("VARIABLE", default="unset")


@step
async def one() -> int:
    await asyncio.sleep(0)
    return 1


@step
def two(one: int) -> int:
    return one + 1


BOTH = Pipeline("p", steps=[one, two])


def test_a_script_runs_a_pipeline_without_a_loop_of_its_own() -> None:
    assert BOTH.run_sync()["two"] == 2


def test_it_takes_the_arguments_of_its_twin() -> None:
    @step
    async def slow(seconds: float) -> None:
        await asyncio.sleep(seconds)

    pipeline = Pipeline("p", steps=[slow])
    assert pipeline.run_sync({"seconds": 0}, run_id="night").run_id == "night"
    with pytest.raises(RunTimeout):
        pipeline.run_sync(inputs={"seconds": 60}, timeout=0.001)


async def test_inside_a_running_loop_it_says_to_await_its_twin() -> None:
    with pytest.raises(RuntimeError) as caught:
        BOTH.run_sync()
    assert str(caught.value) == (
        "pipeline.run_sync() was called inside a running event loop; await its twin instead: "
        "await pipeline.run(…)"
    )


async def test_it_may_be_called_in_a_thread_beside_a_running_loop() -> None:
    result = await asyncio.to_thread(BOTH.run_sync)
    assert result["two"] == 2


def test_it_leaves_no_loop_behind() -> None:
    BOTH.run_sync()
    with pytest.raises(RuntimeError, match="no running event loop"):
        asyncio.get_running_loop()


def test_it_sees_the_caller_s_context_variables() -> None:
    async def read() -> str:
        return VARIABLE.get()

    VARIABLE.set("the script's")
    assert run_blocking(read, "read_sync()") == "the script's"


def test_it_closes_generators_that_were_left_open() -> None:
    closed: list[bool] = []

    async def main() -> int:
        async def numbers() -> object:
            try:
                yield 1
            finally:
                closed.append(True)

        generator = numbers()
        kept.append(generator)
        return await anext(generator)  # type: ignore[call-overload,no-any-return]

    kept: list[object] = []
    assert run_blocking(main, "main_sync()") == 1
    assert closed == [True]


def test_tasks_that_were_left_behind_are_cancelled() -> None:
    ended: list[str] = []

    async def forgotten() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("forgotten")

    async def main() -> None:
        tasks.append(asyncio.create_task(forgotten()))
        await asyncio.sleep(0)

    tasks: list[asyncio.Task[None]] = []
    run_blocking(main, "main_sync()")
    assert ended == ["forgotten"]
    assert tasks[0].cancelled()


def test_what_the_coroutine_raises_is_raised() -> None:
    async def main() -> None:
        raise LookupError("as it was")

    with pytest.raises(LookupError, match="as it was"):
        run_blocking(main, "main_sync()")


def test_an_interrupt_waits_for_the_clean_up_and_is_raised() -> None:
    seen: list[str] = []

    async def main() -> None:
        # What Ctrl-C comes to while a callback of the loop runs.
        asyncio.get_running_loop().call_soon(interrupt)
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            seen.append("cleaned up")

    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_blocking(main, "main_sync()")
    assert seen == ["cleaned up"]


def test_a_second_interrupt_ends_the_wait_and_is_no_error_of_its_own() -> None:
    ended: list[str] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.call_soon(interrupt)
        try:
            await asyncio.Event().wait()
        finally:
            loop.call_soon(interrupt)
            try:
                await asyncio.Event().wait()
            finally:
                ended.append("gave up")

    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        run_blocking(main, "main_sync()")
    assert ended == ["gave up"]
    assert caught.value.__context__ is None


HANGS = """
import threading
from asyncflow import Pipeline, Runtime, step
import asyncio

@step(timeout=0.01)
def hang():
    threading.Event().wait()

async def main():
    async with Runtime(grace_seconds=0.01) as runtime:
        return await Pipeline("p", steps=[hang]).run(runtime=runtime)

from asyncflow.blocking import run_blocking
print(run_blocking(main, "main_sync()").step_results["hang"].status)
"""


def test_a_thread_that_never_ends_does_not_keep_the_program_from_exiting() -> None:
    assert output_of(HANGS) == "abandoned"


def test_two_threads_may_block_at_once() -> None:
    meeting = threading.Barrier(2, timeout=10)

    @step
    def meet() -> float:
        meeting.wait()
        return time.monotonic()

    results: list[float] = []
    pipeline = Pipeline("p", steps=[meet])
    threads = [
        threading.Thread(target=lambda: results.append(pipeline.run_sync()["meet"]))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 2
