"""Runs that record: what was acknowledged is not run again, and everything else is."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from asyncflow import (
    GraphError,
    JournalDamaged,
    Pipeline,
    Retry,
    RunConflict,
    RunLocked,
    Runtime,
    Secret,
    StepContext,
    StorageError,
    step,
)
from asyncflow.events import RunStarted
from asyncflow.testing import VirtualRuntime
from tests.recording import Host, cut_off, until


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path / "kept")


def diamond(host: Host, *, fails: bool = False) -> Pipeline:
    """load → left, right → join; ``join`` fails if told to."""

    @step(outputs=["numbers"])
    async def load() -> list[int]:
        host.called("load")
        return [1, 2, 3]

    @step(outputs=["least"])
    async def left(numbers: list[int]) -> int:
        host.called("left")
        return min(numbers)

    @step(outputs=["most"])
    def right(numbers: list[int]) -> int:
        host.called("right")
        return max(numbers)

    @step
    async def join(least: int, most: int) -> tuple[int, int]:
        host.called("join")
        if fails:
            raise ValueError("not yet")
        return least, most

    return Pipeline("diamond", steps=[load, left, right, join])


async def test_a_finished_run_is_given_back(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    first = await host.run(diamond(host))
    assert first.success
    assert not first.resumed
    with caplog.at_level(logging.WARNING):
        again = await host.run(diamond(host))
    assert not host.calls
    assert again.success
    assert again.resumed
    assert again["join"] == (1, 3)
    assert again.outputs == first.outputs
    assert again.duration_seconds == first.duration_seconds
    assert all(result.resumed for result in again.step_results.values())
    assert "run 'nightly' is finished" in caplog.text


async def test_a_failed_run_goes_on_with_what_failed(host: Host) -> None:
    failed = await host.run(diamond(host, fails=True))
    assert not failed.success
    result = await host.run(diamond(host, fails=True))
    assert host.calls == {"join": 1}
    assert result.step_results["load"].resumed
    assert not result.step_results["join"].resumed
    assert result.step_results["join"].attempts == 2


def with_another_left(host: Host) -> Pipeline:
    @step(outputs=["least"])
    async def left(numbers: list[int]) -> int:
        host.called("left")
        return min(numbers) - 10

    return diamond(host).with_steps({"left": left})


async def test_a_changed_step_and_what_is_below_it_run_again(
    host: Host, caplog: pytest.LogCaptureFixture
) -> None:
    await host.run(diamond(host))
    changed = with_another_left(host)
    async with Runtime(directory=host.directory) as runtime:
        host.calls.clear()
        run = await runtime.start(changed, run_id="nightly")
        result = await run.result()
        warnings = [event.message async for event in run.events() if event.kind == "Warned"]  # type: ignore[attr-defined]
    assert host.calls == {"left": 1, "join": 1}
    assert result["join"] == (-9, 3)
    assert warnings == [
        "since the run was recorded these steps changed and run again: 'left', and 1 below them"
    ]
    assert result.step_results["right"].resumed


async def test_a_change_can_be_refused(host: Host) -> None:
    await host.run(diamond(host))

    @step(outputs=["least"])
    async def left(numbers: list[int]) -> int:
        return 0

    with pytest.raises(RunConflict, match="'left' changed") as refused:
        await host.run(diamond(host).with_steps({"left": left}), on_change="refuse")
    assert refused.value.steps == ("left",)
    again = await host.run(diamond(host), on_change="refuse")
    assert again["join"] == (1, 3)
    assert not host.calls


async def test_a_step_that_goes_and_comes_back_starts_anew(host: Host) -> None:
    @step(outputs=["base"])
    async def base() -> int:
        host.called("base")
        return 1

    @step(outputs=["base"])
    async def other_base() -> int:
        return 2

    @step
    async def above(base: int) -> int:
        host.called("above")
        return base

    both = Pipeline("both", steps=[base, above])
    await host.run(both)
    alone = Pipeline("both").add_step(other_base, name="base")
    await host.run(alone)
    result = await host.run(both)
    assert result["above"] == 1
    assert host.calls == {"base": 1, "above": 1}


async def test_a_part_of_a_run_leaves_the_rest_as_it_was(host: Host) -> None:
    await host.run(diamond(host))
    part = await host.run(diamond(host), targets=["left"])
    assert part["least"] == 1
    assert not host.calls
    whole = await host.run(diamond(host))
    assert whole["join"] == (1, 3)
    assert not host.calls


async def test_a_change_in_a_part_counts_for_the_rest(host: Host) -> None:
    await host.run(diamond(host))
    changed = with_another_left(host)
    await host.run(changed, targets=["left"])
    assert host.calls == {"left": 1}
    whole = await host.run(changed)
    assert whole["join"] == (-9, 3)
    assert host.calls["left"] == 0
    assert host.calls["join"] == 1


async def test_another_pipeline_is_a_conflict(host: Host) -> None:
    await host.run(diamond(host))
    with pytest.raises(RunConflict, match="of pipeline 'diamond', not of 'doubling'"):
        await host.run(doubling(host), inputs={"number": 1})


# -- inputs --------------------------------------------------------------------------------------


def doubling(host: Host) -> Pipeline:
    @step
    async def double(number: int) -> int:
        host.called("double")
        return 2 * number

    return Pipeline("doubling", steps=[double])


async def test_other_inputs_are_a_conflict(host: Host) -> None:
    await host.run(doubling(host), inputs={"number": 1})
    with pytest.raises(RunConflict, match="other inputs: 'number'"):
        await host.run(doubling(host), inputs={"number": 2})
    assert (await host.run(doubling(host), inputs={"number": 1}))["double"] == 2


async def test_inputs_that_were_recorded_need_not_be_given_again(host: Host) -> None:
    await host.run(doubling(host), inputs={"number": 21})
    assert (await host.run(doubling(host)))["double"] == 42


async def test_of_inputs_only_those_that_no_record_holds_are_given_again(host: Host) -> None:
    @step
    async def log_in(token: Secret[str], user: str) -> str:
        attempts.append(user)
        if len(attempts) == 1:
            raise ConnectionError
        return f"{user}:{token.reveal()}"

    attempts: list[str] = []
    pipeline = Pipeline("login", steps=[log_in])
    await host.run(pipeline, inputs={"token": Secret("c4n4ry"), "user": "ada"})
    with pytest.raises(RunConflict, match=r"was given 'token', which .* pass it again in"):
        await host.run(pipeline)
    with pytest.raises(RunConflict, match="other inputs: 'token'"):
        await host.run(pipeline, inputs={"user": "ada"})
    result = await host.run(pipeline, inputs={"token": Secret("c4n4ry")})
    assert (result["log_in"], attempts) == ("ada:c4n4ry", ["ada", "ada"])


async def test_restart_forgets_what_was(host: Host) -> None:
    await host.run(doubling(host), inputs={"number": 1})
    result = await host.run(doubling(host), inputs={"number": 2}, on_existing="restart")
    assert result["double"] == 4
    assert not result.resumed


async def test_fail_refuses_a_run_that_is_there(host: Host) -> None:
    await host.run(doubling(host), inputs={"number": 1}, on_existing="fail")
    with pytest.raises(RunConflict, match="on_existing='resume' or 'restart'"):
        await host.run(doubling(host), inputs={"number": 1}, on_existing="fail")


async def test_a_secret_is_never_written_and_has_to_be_given_again(host: Host) -> None:
    @step
    async def use(token: Secret[str]) -> int:
        host.called("use")
        if host.calls["use"] == 1 and not again:
            raise ValueError("not yet")
        return len(token.reveal())

    again = False
    pipeline = Pipeline("secret", steps=[use])
    await host.run(pipeline, inputs={"token": Secret("c4n4ry")})
    again = True
    with pytest.raises(RunConflict, match=r"'token', which .* secret"):
        await host.run(pipeline)
    result = await host.run(pipeline, inputs={"token": Secret("c4n4ry")})
    assert result["use"] == 6
    written = [path.read_bytes() for path in host.directory.rglob("*") if path.is_file()]
    assert not any(b"c4n4ry" in content for content in written)


@pytest.mark.parametrize(
    "options",
    [{"on_existing": "again"}, {"on_change": "maybe"}, {"checkpoint": 3}, {"checkpoint": ""}],
    ids=str,
)
async def test_an_option_that_makes_no_sense_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(GraphError, match=next(iter(options))):
        await doubling(Host(Path())).run(inputs={"number": 1}, **options)


# -- who holds it --------------------------------------------------------------------------------


async def test_a_run_in_progress_is_locked(host: Host) -> None:
    go_on = asyncio.Event()

    @step
    async def wait() -> None:
        await go_on.wait()

    pipeline = Pipeline("waiting", steps=[wait])
    async with pipeline.start(run_id="nightly", checkpoint=host.directory):
        with pytest.raises(RunLocked, match="run 'nightly' is held by process"):
            await host.run(pipeline)
        go_on.set()
    assert (await host.run(pipeline)).success


async def test_a_wrong_run_leaves_nothing_locked(host: Host) -> None:
    with pytest.raises(GraphError, match="number"):
        await host.run(doubling(host))
    assert (await host.run(doubling(host), inputs={"number": 1}))["double"] == 2


# -- values --------------------------------------------------------------------------------------


@dataclass
class Point:
    x: int
    y: int


async def test_values_come_back_as_they_were(host: Host) -> None:
    large = bytes(range(256)) * 1000

    @step(outputs=["tuple", "point"])
    async def several() -> tuple[Any, Point]:
        return (1, {2: "x"}, {3.5}), Point(1, 2)

    @step
    async def big() -> bytes:
        return large

    @step
    def nothing() -> None:
        return None

    pipeline = Pipeline("values", steps=[several, big, nothing])
    await host.run(pipeline)
    assert len(list((host.directory / "runs" / "nightly" / "blobs").iterdir())) == 1
    result = await host.run(pipeline)
    assert all(found.resumed for found in result.step_results.values())
    assert result["tuple"] == (1, {2: "x"}, {3.5})
    assert result["point"] == Point(1, 2)
    assert result["big"] == large
    assert result["nothing"] is None
    assert result["several"] == (result["tuple"], result["point"])


class Opaque:
    """What no codec takes."""


async def test_a_value_that_is_not_taken_is_made_again(host: Host) -> None:
    @step(outputs=["opaque"])
    async def make() -> Opaque:
        host.called("make")
        return Opaque()

    @step
    async def use(opaque: Opaque) -> int:
        host.called("use")
        return 1

    pipeline = Pipeline("opaque", steps=[make, use])
    async with Runtime(directory=host.directory) as runtime:
        run = await runtime.start(pipeline, run_id="nightly")
        await run.result()
        warned = [event async for event in run.events() if event.kind == "Warned"]
    assert len(warned) == 1
    assert warned[0].node == "make"
    assert "Opaque" in warned[0].message  # type: ignore[attr-defined]
    result = await host.run(pipeline)
    assert host.calls == {"make": 1}
    assert isinstance(result["opaque"], Opaque)


# -- hosts that die ------------------------------------------------------------------------------


@pytest.mark.both_loops
async def test_what_was_acknowledged_is_not_run_again(host: Host) -> None:
    stuck = asyncio.Event()

    @step(outputs=["first"])
    async def first() -> int:
        host.called("first")
        return 1

    @step(outputs=["second"])
    async def second(first: int, context: StepContext) -> tuple[int, str]:
        host.called("second")
        if context.attempt == 1:
            await stuck.wait()
        return context.attempt, context.idempotency_key

    pipeline = Pipeline("two", steps=[first, second])
    await host.die_in(pipeline, lambda: host.calls["second"] == 1)
    result = await host.run(pipeline)
    assert host.calls == {"second": 1}
    assert result["second"] == (2, "nightly/second")


async def test_retries_go_on_with_the_next_attempt(host: Host) -> None:
    @step(retry=Retry(retries=2, wait_initial=0.001, wait_max=0.002))
    async def flaky(context: StepContext) -> int:
        host.called("flaky")
        host.called(f"attempt {context.attempt}")
        if context.attempt == 2:
            await asyncio.Event().wait()
        raise ValueError("again")

    pipeline = Pipeline("flaky", steps=[flaky])
    await host.die_in(pipeline, lambda: host.calls["flaky"] == 2)
    result = await host.run(pipeline)
    # One try failed, one was cut off and does not count: two of the three are left.
    assert host.calls == {"flaky": 2, "attempt 3": 1, "attempt 4": 1}
    assert result.step_results["flaky"].attempts == 4


@pytest.mark.both_loops
async def test_a_group_goes_on_in_its_middle(host: Host) -> None:
    @step(execution_group="g", outputs=["one"])
    async def one() -> int:
        host.called("one")
        return 1

    @step(execution_group="g", outputs=["two"])
    def two(one: int) -> int:
        host.called("two")
        return one + 1

    @step(execution_group="g", outputs=["three"])
    async def three(two: int, context: StepContext) -> int:
        host.called("three")
        if context.attempt == 1:
            await asyncio.Event().wait()
        return two + 1

    @step(execution_group="g")
    async def four(three: int) -> int:
        host.called("four")
        return three + 1

    pipeline = Pipeline("grouped", steps=[one, two, three, four])
    await host.die_in(pipeline, lambda: host.calls["three"] == 1)
    result = await host.run(pipeline)
    assert host.calls == {"three": 1, "four": 1}
    assert result["four"] == 4


async def test_a_group_goes_on_in_its_middle_also_where_other_steps_nest(host: Host) -> None:
    @step
    async def double(number: int) -> int:
        return 2 * number

    @step(outputs=["doubled"])
    async def caller(context: StepContext) -> int:
        doubled = await context.call(double, 21)
        if context.attempt == 1:
            raise ValueError("not yet")
        return int(doubled)

    @step(execution_group="g")
    async def one() -> None:
        host.called("one")

    @step(execution_group="g")
    async def two(doubled: int) -> int:
        return doubled

    pipeline = Pipeline("calls", steps=[caller, one, two], failure_policy="collect_all")
    failed = await host.run(pipeline)
    assert failed.step_results["two"].status == "upstream_failed"
    result = await host.run(pipeline)
    assert (result["two"], host.calls) == (42, {})


async def test_a_verdict_is_recorded(host: Host) -> None:
    def wanted() -> bool:
        host.called("asked")
        return host.calls["asked"] == 1

    @step(condition=wanted)
    async def maybe(context: StepContext) -> int:
        host.called("maybe")
        if context.attempt == 1:
            await asyncio.Event().wait()
        return 1

    pipeline = Pipeline("verdict", steps=[maybe])
    await host.die_in(pipeline, lambda: host.calls["maybe"] == 1)
    result = await host.run(pipeline)
    assert host.calls == {"maybe": 1}
    assert result["maybe"] == 1


async def test_a_skip_is_recorded(host: Host) -> None:
    def unwanted() -> bool:
        host.called("asked")
        return False

    @step(condition=unwanted, outputs=["maybe"])
    async def maybe() -> int:
        return 1

    @step
    async def never(maybe: int) -> int:
        raise AssertionError

    @step
    async def last(context: StepContext) -> int:
        host.called("last")
        if context.attempt == 1:
            raise ValueError("not yet")
        return 1

    pipeline = Pipeline("skips", steps=[maybe, never, last], failure_policy="collect_all")
    await host.run(pipeline)
    assert host.calls["asked"] == 1
    result = await host.run(pipeline)
    assert host.calls == {"last": 1}
    assert result.step_results["maybe"].skipped
    assert result.step_results["never"].skipped
    assert result.success


async def test_elements_are_matched_by_name(host: Host) -> None:
    @step(outputs=["items"])
    async def load() -> dict[str, int]:
        host.called("load")
        return {"a": 1, "b": 2, "c": 3}

    @step(outputs=["doubled"])
    async def double(items: int, context: StepContext) -> int:
        host.called(context.node)
        if context.node == "double[b]" and context.attempt == 1:
            await asyncio.Event().wait()
        return 2 * items

    @step
    async def total(doubled: list[int]) -> int:
        host.called("total")
        return sum(doubled)

    pipeline = Pipeline("mapped").add_step(load).add_step(double, map="items").add_step(total)

    def others_are_done() -> bool:
        return {"double[a]", "double[b]", "double[c]"} <= host.calls.keys()

    await host.die_in(pipeline, others_are_done)
    result = await host.run(pipeline)
    assert host.calls == {"double[b]": 1, "total": 1}
    assert result["total"] == 12
    assert result.step_results["double[a]"].resumed
    again = await host.run(pipeline)
    assert not host.calls
    assert again["total"] == 12
    assert again["double"] == [2, 4, 6]


async def test_nested_calls_are_matched_by_key(host: Host) -> None:
    @step
    async def part(number: int, context: StepContext) -> int:
        host.called(context.node)
        if number == 2 and context.attempt == 1:
            await asyncio.Event().wait()
        return 10 * number

    @step
    async def whole(context: StepContext) -> list[int]:
        host.called("whole")
        return [await context.call(part, number, key=number) for number in range(4)]

    pipeline = Pipeline("nest", steps=[whole])
    await host.die_in(pipeline, lambda: host.calls["whole/part[2]"] == 1)
    result = await host.run(pipeline)
    assert host.calls == {"whole": 1, "whole/part[2]": 1, "whole/part[3]": 1}
    assert result["whole"] == [0, 10, 20, 30]


async def test_nested_runs_go_on_too(host: Host) -> None:
    @step(outputs=["inner"])
    async def inner(number: int) -> int:
        host.called("inner")
        return number + 1

    @step
    async def last(inner: int) -> int:
        host.called("last")
        if host.calls["outer"] == 1 and not again:
            await asyncio.Event().wait()
        return inner

    nested = Pipeline("nested", steps=[inner, last])
    again = False

    @step
    async def outer(context: StepContext) -> int:
        host.called("outer")
        result = await context.run(nested, {"number": 1}, key="k")
        value: int = result["last"]
        return value

    pipeline = Pipeline("outer", steps=[outer])

    async def run_and_die() -> None:
        async with Runtime(directory=host.directory) as runtime:
            run = await runtime.start(pipeline, run_id="nightly")
            await until(lambda: host.calls["last"] == 1)
            for record in list(runtime._scheduler.runs.values()):  # type: ignore[union-attr]
                assert record.recorder is not None
                await cut_off(record.recorder)
            await run.cancel()

    await run_and_die()
    again = True
    result = await host.run(pipeline)
    assert host.calls == {"outer": 1, "last": 1}
    assert result["outer"] == 2


async def test_a_step_that_kills_its_hosts_is_quarantined(host: Host) -> None:
    @step(outputs=["ready"])
    async def prepare() -> int:
        host.called("prepare")
        return 1

    @step
    async def killer(ready: int) -> int:
        host.called("killer")
        await asyncio.Event().wait()
        return 1

    pipeline = Pipeline("loop", steps=[prepare, killer])
    for _ in range(3):
        await host.die_in(pipeline, lambda: host.calls["killer"] == 1)
    result = await host.run(pipeline)
    assert not host.calls
    assert not result.success
    assert "'killer' is not run again: the last 3 hosts of this run died" in str(
        result.step_results["killer"].error
    )
    await host.die_in(pipeline, lambda: host.calls["killer"] == 1)


async def test_clean_up_runs_again_in_a_run_that_goes_on(host: Host) -> None:
    @step
    async def work(context: StepContext) -> int:
        host.called("work")
        if context.attempt == 1:
            raise ValueError("not yet")
        return 1

    @step(when="always")
    async def tidy() -> None:
        host.called("tidy")

    pipeline = Pipeline("tidy", steps=[work, tidy])
    await host.run(pipeline)
    assert host.calls == {"work": 1, "tidy": 1}
    assert (await host.run(pipeline)).success
    assert host.calls == {"work": 1, "tidy": 1}
    assert (await host.run(pipeline)).success
    assert not host.calls


# -- damage --------------------------------------------------------------------------------------


async def test_damage_is_named(host: Host) -> None:
    await host.run(diamond(host))
    path = host.directory / "runs" / "nightly" / "journal"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(JournalDamaged) as damaged:
        await host.run(diamond(host))
    assert str(path) in str(damaged.value)
    assert 0 < damaged.value.offset < len(content)
    assert f"offset {damaged.value.offset}, record {damaged.value.record}" in str(damaged.value)
    restarted = await host.run(diamond(host), on_existing="restart")
    assert restarted.success


async def test_the_usual_directory_is_named_when_it_is_first_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    host = Host(tmp_path)
    await doubling(host).run(inputs={"number": 1}, run_id="a", checkpoint=True)
    assert str(tmp_path / ".asyncflow") in caplog.text
    caplog.clear()
    await doubling(host).run(inputs={"number": 1}, run_id="b", checkpoint=True)
    assert ".asyncflow" not in caplog.text
    assert sorted(path.name for path in (tmp_path / ".asyncflow" / "runs").iterdir()) == ["a", "b"]


# -- events and what is left to do ---------------------------------------------------------------


@pytest.mark.both_loops
async def test_a_late_reader_is_told_everything_once(host: Host) -> None:
    pipeline = diamond(host)
    async with Runtime(directory=host.directory) as runtime:
        run = await runtime.start(pipeline, run_id="nightly")
        early = run.events()
        seen = [event async for event in early]
        await run.result()
        late = [event async for event in run.events()]
        part = [event async for event in run.events(since=7)]
        replayed = [event async for event in run.replay_events(8)]
    assert [event.sequence for event in seen] == list(range(1, len(seen) + 1))
    assert [event.kind for event in seen][0::17] == ["RunStarted", "RunFinished"]
    assert late == seen
    assert part == replayed == seen[7:]


async def test_a_reader_that_comes_in_the_middle_misses_nothing(host: Host) -> None:
    pipeline = Pipeline("many")

    @step
    async def turn() -> None:
        await asyncio.sleep(0)

    for number in range(300):
        pipeline.add_step(turn, name=f"turn{number}")
    async with Runtime(directory=host.directory, max_concurrency=20) as runtime:
        run = await runtime.start(pipeline, run_id="nightly")
        await until(lambda: run.snapshot().done > 100)
        seen = [event.sequence async for event in run.events(buffer=4096)]
    assert seen == list(range(1, len(seen) + 1))
    assert len(seen) == 2 + 4 * 300


async def test_sequences_go_on_over_lives(host: Host) -> None:
    await host.run(diamond(host, fails=True))
    async with Runtime(directory=host.directory) as runtime:
        run = await runtime.start(diamond(host, fails=True), run_id="nightly")
        await run.result()
        seen = [event async for event in run.events()]
    assert [event.sequence for event in seen] == list(range(1, len(seen) + 1))
    assert [event.kind for event in seen].count("RunFinished") == 2
    assert [event.resumed for event in seen if isinstance(event, RunStarted)] == [0, 3]


async def test_a_run_that_is_not_recorded_has_nothing_to_replay(host: Host) -> None:
    async with diamond(host).start() as run:
        with pytest.raises(StorageError, match="is not recorded"):
            await anext(run.replay_events())


async def test_what_was_interrupted_is_listed(host: Host) -> None:
    @step
    async def wait(context: StepContext) -> int:
        host.called("wait")
        if context.attempt == 1:
            await asyncio.Event().wait()
        return 1

    pipeline = Pipeline("waiting", steps=[wait])
    await diamond(host).run(run_id="done", checkpoint=host.directory)
    await host.die_in(pipeline, lambda: host.calls["wait"] == 1)
    async with Runtime(directory=host.directory) as runtime:
        (left,) = runtime.unfinished()
        assert (left.run_id, left.pipeline_name) == ("nightly", "waiting")
        run = await runtime.start(pipeline, run_id=left.run_id)
        assert runtime.unfinished() == []  # somebody is at work on it
        assert (await run.result())["wait"] == 1
        assert runtime.unfinished() == []


async def test_where_nothing_was_recorded_nothing_is_left(tmp_path: Path) -> None:
    async with Runtime(directory=tmp_path / "nothing") as runtime:
        assert runtime.unfinished() == []
    assert not (tmp_path / "nothing").exists()


def test_a_virtual_run_is_recorded_if_it_asks_for_it(tmp_path: Path) -> None:
    host = Host(tmp_path)

    @step(outputs=["slept"])
    async def sleep_long() -> int:
        host.called("sleep_long")
        await asyncio.sleep(86_400)
        return 1

    @step(retry=2)
    async def flaky(slept: int, context: StepContext) -> int:
        host.called("flaky")
        if context.attempt < 3:
            raise ConnectionError("not yet")
        return slept + 1

    pipeline = Pipeline("virtual", steps=[sleep_long, flaky])
    options: dict[str, Any] = {"run_id": "nightly", "checkpoint": tmp_path / "kept"}
    virtual = VirtualRuntime(seed=1)
    assert virtual.run(pipeline, **options)["flaky"] == 2
    assert virtual.clock > 86_400
    assert VirtualRuntime(seed=2).run(pipeline, **options).resumed
    assert host.calls == {"sleep_long": 1, "flaky": 3}
