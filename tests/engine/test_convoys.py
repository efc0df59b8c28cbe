"""Convoys: many tiny steps in few processes, one at a time in each, and nobody left behind."""

from __future__ import annotations

import os
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from asyncflow import NodeState, ParallelExecutor, Pipeline, Retry, Runtime, Step, WorkerDied, step
from asyncflow.events import NodeFinished, NodeStarted, UnitFinished, UnitStarted

COUNT = 300


@step(lane="process")
def tiny(number: int) -> tuple[int, int, float, float]:
    began = time.monotonic()
    return number, os.getpid(), began, time.monotonic()


def fan(used: Step[..., Any], count: int = COUNT, **options: Any) -> Pipeline:
    pipeline = Pipeline("fan", **options)
    for number in range(count):
        pipeline.add_step(used, name=f"n{number}", params={"number": number})
    return pipeline


@pytest.mark.parametrize("executor", [None, ParallelExecutor(max_workers=2)])
async def test_tiny_steps_share_few_workers_and_each_makes_one_at_a_time(
    executor: ParallelExecutor | None,
) -> None:
    used = tiny if executor is None else tiny.with_options(lane=None)
    async with Runtime(max_cpus=2) as runtime:
        result = await fan(used).run(runtime=runtime, executor=executor)
    result.raise_for_failure()
    values = [result[f"n{number}"] for number in range(COUNT)]
    assert [value[0] for value in values] == list(range(COUNT))
    by_worker: dict[int, list[tuple[float, float]]] = {}
    for _, pid, began, ended in values:
        by_worker.setdefault(pid, []).append((began, ended))
    assert len(by_worker) <= 2
    for times in by_worker.values():
        times.sort()
        assert all(end <= begin for (_, end), (begin, _) in pairwise(times))


async def test_events_say_of_each_unit_when_it_began_and_never_of_more_than_there_are_cpus() -> (
    None
):
    async with (
        Runtime(max_cpus=2) as runtime,
        fan(tiny).start(runtime=runtime) as run,
    ):
        events = [event async for event in run.events(buffer=100_000)]
        result = await run.result()
    result.raise_for_failure()
    started = Counter(event.node for event in events if isinstance(event, NodeStarted))
    assert started == {f"n{number}": 1 for number in range(COUNT)}
    holding: set[str] = set()
    for event in events:
        if isinstance(event, UnitStarted):
            holding.add(event.node)
            assert len(holding) <= 2 * 32
            assert event.cpus in (0, 1)
        elif isinstance(event, UnitFinished):
            holding.remove(event.node)
    assert not holding


async def test_what_waits_behind_a_long_call_is_recalled(tmp_path: Path) -> None:
    @step(lane="process")
    def mixed(number: int, gate: str) -> int:
        # The long one ends only when all others have.
        if number == 40:
            while len(os.listdir(gate)) < 79:
                time.sleep(0.001)
        else:
            open(os.path.join(gate, str(number)), "w").close()
        return number

    async with Runtime(max_cpus=2) as runtime:
        result = await fan(mixed, 80).run(inputs={"gate": str(tmp_path)}, runtime=runtime)
    result.raise_for_failure()


def wait_for(gate: str) -> None:
    while not os.path.exists(gate):
        time.sleep(0.001)


async def test_a_failure_stops_those_that_are_on_their_way(tmp_path: Path) -> None:
    gate, workers, last_free = tmp_path / "gate", 2, 100

    @step(lane="process")
    def fails(number: int, gate: str) -> int:
        if number == 50:
            raise ValueError("fifty")
        if number > last_free:
            wait_for(gate)
        return number

    async with (
        Runtime(max_cpus=workers) as runtime,
        fan(fails).start({"gate": str(gate)}, runtime=runtime) as run,
    ):
        cancelled = 0
        async for event in run.events(buffer=100_000):
            if isinstance(event, NodeFinished):
                cancelled += event.state is NodeState.CANCELLED
            # All that was sent behind those that wait at the gate has been called back.
            if cancelled == COUNT - 1 - last_free - workers:
                break
        gate.touch()
        result = await run.result()
    counts = result.counts()
    assert counts[NodeState.FAILED] == 1
    assert sum(counts.values()) == COUNT


async def test_every_failure_counts_where_all_are_collected() -> None:
    @step(lane="process")
    def odd(number: int) -> int:
        if number % 2:
            raise ValueError(number)
        return number

    result = await fan(odd, failure_policy="collect_all").run()
    assert result.counts() == {NodeState.SUCCEEDED: COUNT // 2, NodeState.FAILED: COUNT // 2}


async def test_each_is_tried_again_by_its_own_policy(tmp_path: Path) -> None:
    @step(lane="process", retry=Retry(retries=1, wait_initial=0.001))
    def flaky(number: int, folder: str) -> int:
        path = os.path.join(folder, str(number))
        if number % 10 == 0 and not os.path.exists(path):
            open(path, "w").close()
            raise OSError("once")
        return number

    result = await fan(flaky).run(inputs={"folder": str(tmp_path)})
    result.raise_for_failure()
    attempts = Counter(found.attempts for found in result.step_results.values())
    assert attempts == {1: COUNT * 9 // 10, 2: COUNT // 10}


async def test_a_death_blames_the_call_that_was_being_made_and_no_other() -> None:
    @step(lane="process")
    def deadly(number: int) -> int:
        if number % 60 == 30:
            os._exit(7)
        return number

    result = await fan(deadly, failure_policy="collect_all").run()
    failed = {
        name: found.error
        for name, found in result.step_results.items()
        if found.status is NodeState.FAILED
    }
    assert set(failed) == {f"n{number}" for number in range(30, COUNT, 60)}
    assert all(isinstance(error, WorkerDied) for error in failed.values())
    assert result.counts()[NodeState.SUCCEEDED] == COUNT - len(failed)


async def test_a_step_that_leaves_its_worker_dirty_sends_the_others_elsewhere() -> None:
    @step(lane="process")
    def moves(number: int) -> str:
        found = os.getcwd()
        if number % 50 == 25:
            os.chdir("/")
        return found

    result = await fan(moves).run()
    result.raise_for_failure()
    assert {result[f"n{number}"] for number in range(COUNT)} == {os.getcwd()}


async def test_a_drained_run_begins_nothing_more() -> None:
    async with fan(tiny, 5000).start() as run:
        async for event in run.events():
            if isinstance(event, UnitFinished):
                break
        run.drain_nowait()
        result = await run.result()
    counts = result.counts()
    assert counts[NodeState.CANCELLED] > 1000
    assert set(counts) <= {NodeState.SUCCEEDED, NodeState.CANCELLED}


async def test_two_runs_share_the_workers_fairly(tmp_path: Path) -> None:
    gate = tmp_path / "gate"

    @step(lane="process")
    def waits(number: int, gate: str) -> None:
        wait_for(gate)

    first, second, inputs = fan(waits, 400), fan(waits, 400), {"gate": str(gate)}
    async with (
        Runtime(max_cpus=1) as runtime,
        first.start(inputs, runtime=runtime) as one,
        second.start(inputs, runtime=runtime) as two,
    ):
        ended, events = [], runtime.events(buffer=100_000)
        gate.touch()
        async for event in events:
            if isinstance(event, UnitFinished):
                ended.append(event.run_id)
            if len(ended) == 500:
                break
        (await one.result()).raise_for_failure()
        (await two.result()).raise_for_failure()
    shares = Counter(ended)
    assert min(shares[one.id], shares[two.id]) > 100


async def test_results_of_one_layer_feed_the_next() -> None:
    @step(lane="process")
    def add(number: int, *above: int) -> int:
        return number + sum(above)

    pipeline = Pipeline("layers")
    for layer in range(6):
        for number in range(20):
            inputs = [f"{layer - 1} {other}" for other in (number, (number + 1) % 20)]
            pipeline.add_step(
                add, name=f"{layer} {number}", params={"number": 1}, inputs=inputs if layer else []
            )
    result = await pipeline.run()
    result.raise_for_failure()
    assert {result[f"5 {number}"] for number in range(20)} == {2**6 - 1}
