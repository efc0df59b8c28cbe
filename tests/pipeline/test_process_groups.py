"""Groups in processes: one worker, values by reference, and what happens when it dies."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from asyncflow import (
    Group,
    NodeState,
    ParallelExecutor,
    Pipeline,
    Retry,
    Runtime,
    StepContext,
    StepFailed,
    WorkerDied,
    step,
)

PATIENCE_SECONDS = 30.0
IN_GROUP: Any = {"lane": "process", "execution_group": "g"}


@step
async def double(number: int) -> int:
    return 2 * number


class Unpicklable:
    """Would not get through a pipe; says in which process it was made, and where it is."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.place = id(self)

    def __reduce__(self) -> Any:
        raise TypeError("this object stays where it is")


@step(outputs=["thing"], **IN_GROUP)
def make() -> Unpicklable:
    return Unpicklable()


@step(outputs=["same"], **IN_GROUP)
def look(thing: Unpicklable) -> tuple[int, int, bool]:
    return os.getpid(), thing.pid, thing.place == id(thing)


@step(outputs=["again"], **IN_GROUP)
async def look_again(thing: Unpicklable) -> int:
    return thing.pid


async def test_members_hand_values_over_without_pickling_them() -> None:
    result = await Pipeline("p", steps=[make, look, look_again]).run()
    result.raise_for_failure()
    here, made, is_same = result["same"]
    assert here == made == result["again"] != os.getpid()
    assert is_same
    assert result.step_results["look_again"].lane == "process"


async def test_a_value_that_stayed_says_so_when_it_is_asked_for() -> None:
    result = await Pipeline("p", steps=[make, look]).run()
    with pytest.raises(StepFailed, match=r"stayed in the worker of its group.*outputs="):
        result["thing"]
    assert result.get("thing", "absent") == "absent"
    assert result.step_results["make"].output is None
    assert set(result.outputs) == {"same", "look"}


@step(outputs=["numbers"], **IN_GROUP)
def count() -> list[int]:
    return [1, 2, 3]


@step(outputs=["total"], **IN_GROUP)
def add(numbers: list[int]) -> int:
    return sum(numbers)


@step
def show(numbers: list[int], total: int) -> str:
    return f"{numbers} {total}"


async def test_what_a_node_outside_takes_comes_back() -> None:
    result = await Pipeline("p", steps=[count, add, show]).run()
    assert result["show"] == "[1, 2, 3] 6"


async def test_what_the_pipeline_names_as_outputs_comes_back() -> None:
    result = await Pipeline("p", steps=[count, add], outputs=["numbers", "total"]).run()
    assert (result["numbers"], result["total"]) == ([1, 2, 3], 6)


async def test_parts_of_several_outputs_go_their_own_ways() -> None:
    @step(outputs=["kept", "told"], **IN_GROUP)
    def two() -> tuple[Unpicklable, str]:
        return Unpicklable(), "told"

    @step(outputs=["pid"], **IN_GROUP)
    def use(kept: Unpicklable) -> int:
        return kept.pid

    @step
    def outside(told: str) -> str:
        return told

    result = await Pipeline("p", steps=[two, use, outside]).run()
    result.raise_for_failure()
    assert (result["told"], result["outside"]) == ("told", "told")
    assert result["pid"] != os.getpid()


async def test_wrong_parts_are_an_error_that_names_the_step() -> None:
    @step(outputs=["a", "b"], **IN_GROUP)
    def two() -> int:
        return 1

    @step(**IN_GROUP)
    def use(a: int) -> int:
        return a

    result = await Pipeline("p", steps=[two, use]).run()
    assert str(result.step_results["two"].error).startswith(
        "step 'two' declares the outputs a, b but returned a value of type int"
    )


async def test_a_condition_of_a_member_sees_values_of_earlier_ones() -> None:
    @step(condition=lambda numbers: len(numbers) > 5, **IN_GROUP)
    def many(numbers: list[int]) -> int:
        return len(numbers)

    @step(condition=lambda numbers: len(numbers) < 5, **IN_GROUP)
    def few(numbers: list[int]) -> int:
        return len(numbers)

    result = await Pipeline("p", steps=[count, many, few]).run()
    assert result.step_results["many"].status is NodeState.SKIPPED
    assert result["few"] == 3


async def test_every_member_has_its_own_retries_on_the_same_worker(tmp_path: Path) -> None:
    @step(retry=Retry(retries=2, wait_initial=0.01), **IN_GROUP)
    def flaky(thing: Unpicklable, context: StepContext) -> tuple[int, int]:
        if context.attempt < 3:
            raise OSError("not yet")
        return thing.pid, os.getpid()

    result = await Pipeline("p", steps=[make, flaky]).run()
    made, here = result["flaky"]
    assert made == here
    assert result.step_results["flaky"].attempts == 3
    assert result.step_results["make"].attempts == 1


async def test_one_process_member_makes_it_a_process_unit() -> None:
    @step(execution_group="g")
    def first() -> int:
        return os.getpid()

    @step(execution_group="g", resources={"gpu": 1})
    def second(first: int) -> bool:
        return first == os.getpid()

    pipeline = Pipeline("p", steps=[first, second])
    assert [unit.lane for unit in pipeline.plan().units] == ["process"]
    async with Runtime(max_gpus=1) as runtime:
        assert (await pipeline.run(runtime=runtime))["second"] is True


async def test_a_group_may_be_sent_to_a_process_as_a_whole() -> None:
    @step(execution_group="g")
    def first() -> int:
        return os.getpid()

    @step(execution_group="g")
    async def second(first: int) -> bool:
        return first == os.getpid()

    said = Pipeline("p", steps=[first, second], groups={"g": Group(lane="process")})
    assert (await said.run())["second"] is True
    plain = Pipeline("p", steps=[first, second])
    executor = ParallelExecutor(max_workers=2)
    result = await plain.run(executor=executor)
    assert result["second"] is True
    assert {r.lane for r in result.step_results.values()} == {"process"}


# -- deaths ------------------------------------------------------------------------------


def fatal_once(mark: str) -> None:
    if not os.path.exists(mark):
        Path(mark).write_text(str(os.getpid()), encoding="utf-8")
        os._exit(1)


def note_in(log: str) -> None:
    with open(log, "a", encoding="utf-8") as file:
        file.write("ran ")


@pytest.mark.parametrize("outputs", [None, ["end"]])
async def test_a_unit_whose_worker_dies_runs_its_lost_members_again(
    tmp_path: Path, outputs: list[str] | None
) -> None:
    log = tmp_path / "log"

    def note(word: str) -> None:
        with open(log, "a", encoding="utf-8") as file:
            file.write(f"{word} ")

    @step(outputs=["lost"], **IN_GROUP)
    def first(start: str, context: StepContext) -> list[Any]:
        note(f"first{context.attempt}")
        return [start, context.attempt]

    @step(outputs=["told"], **IN_GROUP)
    def second(lost: list[Any], context: StepContext) -> int:
        note(f"second{context.attempt}")
        return context.attempt

    @step(outputs=["end"], retry=Retry(retries=1, wait_initial=0.01), **IN_GROUP)
    def third(lost: list[Any], told: int, mark: str, context: StepContext) -> list[Any]:
        note(f"third{context.attempt}")
        fatal_once(mark)
        return [*lost, told, context.attempt]

    @step
    def outside(told: int) -> int:
        return told

    @step
    def begin() -> str:
        return "start"

    begin = begin.with_options(outputs=["start"])
    pipeline = Pipeline("p", steps=[begin, first, second, third, outside], outputs=outputs)
    async with pipeline.start(inputs={"mark": str(tmp_path / "mark")}) as run:
        events = [event async for event in run.events()]
        result = await run.result()
    result.raise_for_failure()
    assert result["end"] == ["start", 2, 1, 2]
    assert log.read_text(encoding="utf-8").split() == [
        "first1",
        "second1",
        "third1",
        "first2",
        "third2",
    ]
    attempts = {name: found.attempts for name, found in result.step_results.items()}
    assert attempts == {"begin": 1, "first": 2, "second": 1, "third": 2, "outside": 1}
    retried = [(e.node, e.error) for e in events if e.kind == "NodeRetrying"]  # type: ignore[attr-defined]
    assert [node for node, _ in retried] == ["third", "first"]
    assert "lost with the worker" in retried[1][1]


async def test_a_member_that_needs_what_was_lost_has_it_made_again() -> None:
    @step(**IN_GROUP)
    def dies() -> None:
        os._exit(1)

    pipeline = Pipeline("p", steps=[make, dies, look], failure_policy="collect_all")
    result = await pipeline.run()
    assert isinstance(result.step_results["dies"].error, WorkerDied)
    assert result["same"][2] is True
    assert result.step_results["make"].attempts == 2


async def test_a_member_behind_others_in_the_new_worker_has_what_it_takes_made_again() -> None:
    """Those others may not take it along in their message: what it takes is not there."""

    @step(**IN_GROUP)
    def dies() -> None:
        os._exit(1)

    @step(**IN_GROUP)
    def unconcerned() -> int:
        return 1

    pipeline = Pipeline("p", steps=[make, dies, unconcerned, look], failure_policy="collect_all")
    result = await pipeline.run()
    assert (result["unconcerned"], result["same"][2]) == (1, True)
    attempts = {name: found.attempts for name, found in result.step_results.items()}
    assert attempts == {"make": 2, "dies": 1, "unconcerned": 1, "look": 1}


async def test_what_a_lost_member_takes_is_made_again_where_the_worker_has_let_go_of_it() -> None:
    @step(outputs=["other"], **IN_GROUP)
    def pass_on(thing: Unpicklable) -> Unpicklable:
        return thing

    @step(**IN_GROUP)
    def dies() -> None:
        os._exit(1)

    # The last to need the thing, unless the one that it was passed on by has to run again.
    @step(**IN_GROUP)
    def last(thing: Unpicklable) -> int:
        return thing.pid

    @step(**IN_GROUP)
    def behind(other: Unpicklable) -> int:
        return other.pid

    pipeline = Pipeline(
        "p", steps=[make, pass_on, dies, last, behind], failure_policy="collect_all"
    )
    result = await pipeline.run()
    assert result["last"] == result["behind"]
    attempts = {name: found.attempts for name, found in result.step_results.items()}
    assert attempts == {"make": 3, "pass_on": 2, "dies": 1, "last": 1, "behind": 1}


async def test_a_member_whose_result_cannot_be_sent_says_so_at_every_try() -> None:
    """What it takes is kept until its result is on its way."""

    @step(retry=Retry(retries=1, wait_initial=0), **IN_GROUP)
    def keeps(thing: Unpicklable) -> Unpicklable:
        return thing

    result = await Pipeline("p", steps=[make, keeps]).run()
    error = result.step_results["keeps"].error
    assert "cannot be sent back" in str(error)
    assert {name: found.attempts for name, found in result.step_results.items()} == {
        "make": 1,
        "keeps": 2,
    }


async def test_members_behind_one_that_was_made_again_run_once_and_may_ask_for_more(
    tmp_path: Path,
) -> None:
    @step(retry=Retry(retries=1, wait_initial=0), **IN_GROUP)
    def dies_once(thing: Unpicklable, mark: str) -> None:
        fatal_once(mark)

    @step(**IN_GROUP)
    async def asks(context: StepContext, log: str) -> int:
        note_in(log)
        return int(await context.call(double, 21))

    inputs = {"mark": str(tmp_path / "mark"), "log": str(tmp_path / "log")}
    async with asyncio.timeout(PATIENCE_SECONDS):
        result = await Pipeline("p", steps=[make, dies_once, look, asks]).run(inputs=inputs)
    assert (result["same"][2], result["asks"]) == (True, 42)
    assert (tmp_path / "log").read_text(encoding="utf-8") == "ran "


async def test_a_cancel_while_lost_members_run_again_ends_them_all(tmp_path: Path) -> None:
    @step(outputs=["other"], **IN_GROUP)
    def second(thing: Unpicklable) -> Unpicklable:
        return thing

    @step(outputs=["thing"], **IN_GROUP)
    def slow_the_second_time(mark: str) -> Unpicklable:
        if os.path.exists(mark):
            time.sleep(PATIENCE_SECONDS)
        return Unpicklable()

    @step(retry=Retry(retries=1, wait_initial=0), **IN_GROUP)
    def dies_once(other: Unpicklable, mark: str) -> None:
        fatal_once(mark)

    pipeline = Pipeline("p", steps=[slow_the_second_time, second, dies_once])
    async with Runtime(grace_seconds=0.05) as runtime:
        run = await runtime.start(pipeline, inputs={"mark": str(tmp_path / "mark")})
        async for event in run.events():
            if event.kind == "NodeStarted" and event.attempt == 2:
                break
        await run.cancel()
        result = run.result_now()
    assert {str(found.status) for found in result.step_results.values()} == {"cancelled"}


async def test_a_member_s_timeout_kills_the_worker_and_the_unit_starts_again(
    tmp_path: Path,
) -> None:
    @step(timeout=0.3, retry=Retry(retries=9, wait_initial=0.01), **IN_GROUP)
    def hangs(thing: Unpicklable, mark: str) -> bool:
        if not os.path.exists(mark):
            open(mark, "w").close()
            time.sleep(30)
        return thing.pid == os.getpid()

    async with Runtime(grace_seconds=0.05) as runtime:
        result = await Pipeline("p", steps=[make, hangs]).run(
            inputs={"mark": str(tmp_path / "mark")}, runtime=runtime
        )
    assert result["hangs"] is True
    # Twice, unless the machine is so busy that even what does not hang takes too long.
    assert result.step_results["make"].attempts == result.step_results["hangs"].attempts >= 2


async def test_what_fails_when_it_is_made_again_takes_the_others_along(tmp_path: Path) -> None:
    @step(outputs=["once"], **IN_GROUP)
    def works_once(mark: str) -> Unpicklable:
        if os.path.exists(mark):
            raise OSError("not twice")
        return Unpicklable()

    @step(retry=Retry(retries=1, wait_initial=0.01), **IN_GROUP)
    def fatal(once: Unpicklable, mark: str) -> None:
        fatal_once(mark)

    pipeline = Pipeline("p", steps=[works_once, fatal], failure_policy="collect_all")
    result = await pipeline.run(inputs={"mark": str(tmp_path / "mark")})
    assert result.step_results["works_once"].status is NodeState.FAILED
    assert result.step_results["fatal"].status is NodeState.UPSTREAM_FAILED
    assert result.counts() == {NodeState.FAILED: 1, NodeState.UPSTREAM_FAILED: 1}


async def test_a_run_that_records_gets_every_value_that_can_be_pickled(tmp_path: Path) -> None:
    pipeline = Pipeline("p", steps=[count, add, make, look])
    result = await pipeline.run(checkpoint=tmp_path)
    result.raise_for_failure()
    assert (result["numbers"], result["total"]) == ([1, 2, 3], 6)
    assert result["same"][2] is True
    assert result.get("thing", "absent") == "absent"


# -- one message ---------------------------------------------------------------------------


def hold_the_loop_until(fact: Callable[[], bool]) -> None:
    """Nobody can ask this host anything meanwhile."""
    until = time.monotonic() + PATIENCE_SECONDS
    while not fact():
        assert time.monotonic() < until
        time.sleep(0.005)


def leave_mark(name: str, folder: Path) -> Any:
    def member(above: Any = None) -> list[tuple[str, int]]:
        found = [] if above is None else list(above)
        (folder / name).touch()
        return [*found, (name, os.getpid())]

    return member


def chain_of(*names: str, folder: Path, **options: Any) -> Pipeline:
    pipeline = Pipeline("chain", **options)
    for place, name in enumerate(names):
        used = step(leave_mark(name, folder), name=name, **IN_GROUP)
        inputs = {"above": names[place - 1]} if place else None
        pipeline.add_step(used, inputs=inputs)
    return pipeline


async def test_the_worker_goes_on_with_the_next_member_without_asking_the_host(
    tmp_path: Path,
) -> None:
    pipeline = chain_of("a", "b", "c", "d", folder=tmp_path, outputs=["d"])
    async with pipeline.start() as run:
        async for event in run.events():
            if event.kind == "NodeStarted":
                break
        hold_the_loop_until((tmp_path / "d").exists)
        result = await run.result()
    result.raise_for_failure()
    assert [name for name, _ in result["d"]] == ["a", "b", "c", "d"]
    assert len({pid for _, pid in result["d"]}) == 1


async def test_a_failure_keeps_the_members_behind_it_from_running(tmp_path: Path) -> None:
    @step(outputs=["x"], retry=Retry(retries=1, wait_initial=0.05), **IN_GROUP)
    def fails_once(mark: str) -> int:
        if not os.path.exists(mark):
            open(mark, "w").close()
            raise OSError("once")
        return 1

    @step(outputs=["y"], **IN_GROUP)
    def notes(x: int, log: str) -> int:
        with open(log, "a", encoding="utf-8") as file:
            file.write("ran ")
        return x + 1

    result = await Pipeline("p", steps=[fails_once, notes]).run(
        inputs={"mark": str(tmp_path / "mark"), "log": str(tmp_path / "log")}
    )
    result.raise_for_failure()
    assert result["y"] == 2
    assert (tmp_path / "log").read_text(encoding="utf-8") == "ran "


async def test_a_failure_of_one_sent_ahead_is_its_own(tmp_path: Path) -> None:
    @step(**IN_GROUP)
    def breaks(thing: Unpicklable) -> None:
        raise ValueError("second")

    pipeline = Pipeline("p", steps=[make, breaks, look], failure_policy="collect_all")
    result = await pipeline.run()
    assert repr(result.step_results["breaks"].error) == "ValueError('second')"
    assert result["same"][2] is True
    assert {found.attempts for found in result.step_results.values()} == {1}


def has_died(mark: Path) -> bool:
    """Whether the process that has written its number there is gone, or a zombie."""
    number = mark.read_text(encoding="utf-8") if mark.exists() else ""
    try:
        return bool(number) and psutil.Process(int(number)).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


async def test_a_worker_that_dies_ahead_of_the_host_is_retried_by_policy(tmp_path: Path) -> None:
    mark = tmp_path / "mark"

    @step(outputs=["end"], retry=Retry(retries=1, wait_initial=0.01), **IN_GROUP)
    def dies_once(thing: Unpicklable, mark: str) -> bool:
        fatal_once(mark)
        return thing.pid == os.getpid()

    pipeline = Pipeline("p", steps=[make, dies_once])
    async with pipeline.start(inputs={"mark": str(mark)}) as run:
        async for event in run.events():
            if event.kind == "NodeStarted":
                break
        # It dies before the host knows that it has begun.
        hold_the_loop_until(lambda: has_died(mark))
        result = await run.result()
    result.raise_for_failure()
    assert result["end"] is True
    assert {name: found.attempts for name, found in result.step_results.items()} == {
        "make": 2,
        "dies_once": 2,
    }


async def test_a_cancelled_run_stops_what_was_sent_ahead() -> None:
    @step(**IN_GROUP)
    def sleeps(thing: Unpicklable) -> None:
        time.sleep(30)

    async with (
        Runtime(grace_seconds=0.05) as runtime,
        Pipeline("p", steps=[make, sleeps, look]).start(runtime=runtime) as run,
    ):
        async for event in run.events():
            if event.kind == "NodeStarted" and event.node == "sleeps":
                break
        await run.cancel()
        result = await run.result()
    assert result.step_results["sleeps"].status is NodeState.CANCELLED
    assert result.step_results["look"].status is NodeState.CANCELLED


async def test_a_group_takes_values_of_one_that_still_runs_in_another_worker(
    tmp_path: Path,
) -> None:
    mark = tmp_path / "mark"

    @step(lane="process", execution_group="first", outputs=["number"])
    def begin() -> int:
        return 20

    @step(lane="process", execution_group="first")
    def end_late(number: int) -> int:
        while not mark.exists():
            time.sleep(0.01)
        return number

    @step(lane="process", execution_group="second", outputs=["more"])
    def take(number: int) -> int:
        return number + 1

    @step(lane="process", execution_group="second")
    def take_both(number: int, more: int) -> int:
        mark.touch()
        return number + more

    pipeline = Pipeline("two groups", steps=[begin, end_late, take, take_both])
    async with Runtime(max_cpus=2) as runtime:
        result = await pipeline.run(runtime=runtime, timeout=PATIENCE_SECONDS)
    result.raise_for_failure()
    assert result["take_both"] == 41
