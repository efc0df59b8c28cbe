"""An executor limits the steps that name no lane; a number or a backend is checked."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from asyncflow import GraphError, ParallelExecutor, Pipeline, Runtime, step
from tests.virtual_time import Gate, virtual_time


class Counter:
    """How many of some calls are in progress at once, at most."""

    def __init__(self) -> None:
        self.running = 0
        self.most = 0
        self._lock = threading.Lock()

    def call(self, meeting: threading.Barrier | None = None) -> None:
        with self._lock:
            self.running += 1
            self.most = max(self.most, self.running)
        if meeting is not None:
            meeting.wait()
        with self._lock:
            self.running -= 1


@pytest.mark.parametrize("workers", [1, 2, 5])
@virtual_time
async def test_never_more_steps_than_workers_run_at_once(workers: int) -> None:
    counter, meeting = Counter(), threading.Barrier(workers, timeout=10)

    @step
    def work() -> None:
        counter.call(meeting)

    pipeline = Pipeline("p")
    for number in range(20):
        pipeline.add_step(work, f"work {number}")
    assert (await pipeline.run(executor=ParallelExecutor(workers, backend="thread"))).success
    assert counter.most == workers


@virtual_time
async def test_more_workers_than_a_runtime_has_by_itself() -> None:
    meeting = threading.Barrier(60, timeout=10)

    @step
    def meet() -> None:
        meeting.wait()

    pipeline = Pipeline("p")
    for number in range(60):
        pipeline.add_step(meet, f"meet {number}")
    assert (await pipeline.run(executor=ParallelExecutor(60, backend="thread"))).success


@virtual_time
async def test_steps_that_name_their_lane_do_not_count() -> None:
    with Gate() as gate:
        ran: list[str] = []

        @step
        def limited() -> None:
            gate.wait()

        @step(lane="thread")
        def free() -> None:
            ran.append("free")

        @step
        async def coroutine() -> None:
            ran.append("coroutine")
            gate.open()

        pipeline = Pipeline("p", steps=[limited, free]).add_step(coroutine, after=[free])
        result = await pipeline.run(executor=ParallelExecutor(1, backend="thread"))
    assert result.success
    assert ran == ["free", "coroutine"]


@virtual_time
async def test_a_hanging_step_does_not_use_up_the_workers() -> None:
    with Gate() as gate:
        hang = step(gate.wait, name="hang", timeout=1)

        @step
        def other() -> str:
            return "ran"

        async with Runtime(grace_seconds=1) as runtime:
            pipeline = Pipeline("p", steps=[hang, other], failure_policy="collect_all")
            executor = ParallelExecutor(1, backend="thread")
            result = await pipeline.run(runtime=runtime, executor=executor)
    assert result["other"] == "ran"


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        ({"max_workers": 0}, "takes a whole number of 1 or more, got 0"),
        ({"max_workers": True}, "takes a whole number of 1 or more, got True"),
        ({"max_workers": 2.0}, "takes a whole number of 1 or more, got 2.0"),
        ({"backend": "gpu"}, "ParallelExecutor has no backend 'gpu'"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(GraphError, match=sentence):
        ParallelExecutor(**arguments)
