"""What a host sends to the worker of a group: whole stretches of members, and nothing too much."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from asyncflow import NodeState, Pipeline, PipelineResult, Retry, StepContext, step
from asyncflow.events import Event, NodeProgress, NodeStarted
from asyncflow.lanes.process import wire
from asyncflow.pickling import here

IN_GROUP: Any = {"lane": "process", "execution_group": "g"}

Messages = list[list[str]]


@pytest.fixture
def messages(monkeypatch: pytest.MonkeyPatch) -> Messages:
    """Each message to a worker: the steps that it has the worker run, or what else it says."""
    written: Messages = []
    decode = msgspec.msgpack.Decoder(wire.HostFrame).decode
    send_some = wire.Channel.send_some

    def frames_of(data: bytes) -> Sequence[wire.HostFrame]:
        frames, at = [], 0
        while at < len(data):
            end = at + 8 + int.from_bytes(data[at : at + 8], "little")
            frames.append(decode(data[at + 8 : end]))
            at = end
        return frames

    def spy(channel: wire.Channel, data: bytes | memoryview, *rights: Any) -> int:
        written.append(
            [
                frame.name if isinstance(frame, wire.Run) else type(frame).__name__
                for frame in frames_of(bytes(data))
            ]
        )
        return send_some(channel, data, *rights)

    monkeypatch.setattr(wire.Channel, "send_some", spy)
    return written


@step(**IN_GROUP)
def first() -> int:
    return 1


@step(**IN_GROUP)
def second(first: int) -> int:
    return first + 1


@step(**IN_GROUP)
async def third(second: int) -> int:
    return second + 1


def touch(path: str) -> None:
    open(path, "w").close()


async def test_a_plain_group_is_one_message(messages: Messages) -> None:
    result = await Pipeline("p", steps=[first, second, third]).run()
    assert result["third"] == 3
    assert messages == [["first", "second", "third"]]


async def test_members_that_take_a_context_go_with_the_others(messages: Messages) -> None:
    @step(**IN_GROUP)
    def begin(context: StepContext) -> tuple[str, int, float]:
        return context.node, context.attempt, context.lease.cpus

    @step(resources={"memory": "1Mi"}, **IN_GROUP)
    def go_on(begin: Any, context: StepContext) -> tuple[str, int, float, int]:
        lease = context.lease
        return context.idempotency_key, context.attempt, lease.cpus, lease.memory_bytes

    pipeline = Pipeline("p", steps=[begin, go_on, first], outputs=["begin", "go_on"])
    result = await pipeline.run(run_id="r")
    assert result["begin"] == ("begin", 1, 1.0)
    assert result["go_on"] == ("r/go_on", 1, 1.0, 1 << 20)
    assert messages == [["begin", "go_on", "first"]]


async def test_a_long_group_goes_piece_by_piece(messages: Messages) -> None:
    pipeline = Pipeline("p")
    member = step(lambda: None, name="member", **IN_GROUP)
    for number in range(300):
        pipeline.add_step(member, name=f"m{number}")
    (await pipeline.run()).raise_for_failure()
    assert [len(message) for message in messages] == [128, 128, 44]


async def test_only_what_a_thread_still_writes_to_memory_holds_a_part_back(
    messages: Messages,
) -> None:
    @step(outputs=["large", "huge"])
    def make() -> tuple[bytes, bytes]:
        return bytes(1 << 19), bytes(5 << 20)

    @step(**IN_GROUP)
    def take_large(large: bytes) -> int:
        return len(large)

    @step(**IN_GROUP)
    def take_huge(huge: bytes, take_large: int) -> int:
        return len(huge) + take_large

    @step(**IN_GROUP)
    def take_both(large: bytes, huge: bytes, take_huge: int) -> bool:
        return len(large) + len(huge) == take_huge

    result = await Pipeline("p", steps=[make, take_large, take_huge, take_both]).run()
    assert result["take_both"] is True
    assert [name for message in messages for name in message] == [
        "take_large",
        "take_huge",
        "take_both",
    ]
    assert messages[0] == ["take_large"]


async def test_a_member_that_is_tried_again_takes_those_behind_it_along(
    messages: Messages, tmp_path: Path
) -> None:
    @step(retry=Retry(retries=2, wait_initial=0.01), **IN_GROUP)
    def flaky(first: int, tries: str) -> int:
        with open(tries, "a", encoding="utf-8") as file:
            file.write("x")
        if os.path.getsize(tries) < 3:
            raise OSError("not yet")
        return first

    @step(**IN_GROUP)
    def last(flaky: int) -> int:
        return flaky + 1

    pipeline = Pipeline("p", steps=[first, flaky, last])
    result = await pipeline.run(inputs={"tries": str(tmp_path / "tries")})
    assert result["last"] == 2
    assert result.step_results["flaky"].attempts == 3
    assert messages == [["first", "flaky", "last"], ["flaky", "last"], ["flaky", "last"]]


async def run_twice(pipeline: Pipeline, messages: Messages, folder: Path) -> PipelineResult:
    """What a recorded run comes to that is resumed when there is a mark; only the messages of
    the second life are kept."""
    mark = str(folder / "mark")
    recorded: Any = {"run_id": "r", "checkpoint": folder, "inputs": {"mark": mark}}
    assert not (await pipeline.run(**recorded)).success
    touch(mark)
    messages.clear()
    return await pipeline.run(**recorded)


async def test_a_resumed_group_is_one_message_without_what_has_ended(
    messages: Messages, tmp_path: Path
) -> None:
    @step(**IN_GROUP)
    def late(first: int, mark: str) -> int:
        if not os.path.exists(mark):
            raise OSError("not yet")
        return first + 1

    @step(**IN_GROUP)
    def done(first: int) -> int:
        return first

    @step(**IN_GROUP)
    def last(late: int, done: int, context: StepContext) -> tuple[int, int]:
        return late + done, context.attempt

    pipeline = Pipeline("p", steps=[first, late, done, last], failure_policy="collect_all")
    result = await run_twice(pipeline, messages, tmp_path)
    assert result["last"] == (3, 1)
    assert messages == [["late", "last"]]


async def test_a_run_that_drains_takes_back_what_was_sent(
    messages: Messages, tmp_path: Path
) -> None:
    begun, go = tmp_path / "begun", tmp_path / "go"

    @step(**IN_GROUP)
    def wait(begun: str, go: str) -> int:
        worker = here.control.__self__  # type: ignore[union-attr]
        touch(begun)
        # The worker has heard of it, which its other thread may do later than it sees the file.
        while not (os.path.exists(go) and worker._cancelled):
            time.sleep(0.01)
        return 1

    @step(**IN_GROUP)
    def behind(wait: int) -> int:
        return wait

    inputs = {"begun": str(begun), "go": str(go)}
    async with Pipeline("p", steps=[wait, behind]).start(inputs=inputs) as run:
        while not begun.exists():  # noqa: ASYNC110
            await asyncio.sleep(0.01)  # nothing else tells of what another process does
        run.drain_nowait()
        assert messages == [["wait", "behind"], ["Cancel"]]
        touch(str(go))
        result = await run.result()
    assert result.step_results["wait"].status is NodeState.SUCCEEDED
    assert result.step_results["behind"].status is NodeState.CANCELLED


async def test_what_an_outside_failure_rules_out_is_not_sent(messages: Messages) -> None:
    @step
    def fails() -> None:
        raise ValueError("outside")

    @step(**IN_GROUP)
    def below() -> None: ...

    pipeline = Pipeline("p", failure_policy="collect_all").add_step(fails).add_step(first)
    pipeline.add_step(below, after=["fails"])
    result = await pipeline.run()
    assert result.step_results["first"].status is NodeState.SUCCEEDED
    assert result.step_results["below"].status is NodeState.UPSTREAM_FAILED
    assert messages == [["first"]]


# -- a worker that is ahead of its host ------------------------------------------------------


@pytest.fixture
def all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """One read brings all that workers have sent, as it does on most systems."""
    receive = wire.Channel.receive

    def receive_all(channel: wire.Channel) -> list[Any] | None:
        frames = more = receive(channel)
        while more:
            try:
                more = receive(channel)
            except BlockingIOError:
                break
            frames = [*(frames or ()), *(more or ())]
        return frames

    monkeypatch.setattr(wire.Channel, "receive", receive_all)


def hold_up_until(mark: Path) -> None:
    """Have the event loop do nothing at all until there is a mark."""
    while not mark.exists():
        time.sleep(0.01)


@step
async def stand_by(over: asyncio.Event) -> None:
    """While something else runs, what follows from an end comes in a later turn of the loop."""
    await over.wait()


async def events_of_a_host_that_is_behind(pipeline: Pipeline, mark: Path) -> list[Event]:
    """The events of a group whose host does nothing from its first step on until there is a mark,
    and then learns of everything at once."""
    events: list[Event] = []
    over = asyncio.Event()
    pipeline.add_step(stand_by)
    async with pipeline.start(inputs={"mark": str(mark)}, services={"over": over}) as run:
        async for event in run.events():
            if event.kind == "NodeStarted":
                hold_up_until(mark)
            elif event.kind == "NodeFinished":
                over.set()
            if event.node != "stand_by":
                events.append(event)
        (await run.result()).raise_for_failure()
    return events


@step(**IN_GROUP)
def talk(first: int, mark: str, context: StepContext) -> int:
    context.report(1, 2)
    context.report(2, 2)
    print("talking", flush=True)
    return first


@step(**IN_GROUP)
def leave_a_mark(talk: int, mark: str) -> int:
    touch(mark)
    return talk


@pytest.mark.usefixtures("all_at_once")
async def test_what_a_member_tells_ahead_of_its_host_is_told_when_its_turn_has_come(
    tmp_path: Path,
) -> None:
    pipeline = Pipeline("p", steps=[first, talk, leave_a_mark])
    events = await events_of_a_host_that_is_behind(pipeline, tmp_path / "mark")
    story = [(event.kind, event.node) for event in events if event.kind.startswith("Node")]
    assert story == [
        ("NodeStarted", "first"),
        ("NodeFinished", "first"),
        ("NodeStarted", "talk"),
        ("NodeOutput", "talk"),
        ("NodeProgress", "talk"),
        ("NodeFinished", "talk"),
        ("NodeStarted", "leave_a_mark"),
        ("NodeFinished", "leave_a_mark"),
    ]
    (told,) = [event for event in events if isinstance(event, NodeProgress)]
    assert (told.done, told.total) == (2, 2)


@step
async def double(number: int) -> int:
    return 2 * number


@step(**IN_GROUP)
async def ask(first: int, mark: str, context: StepContext) -> int:
    asked: asyncio.Future[int] = asyncio.ensure_future(context.call(double, first))
    for _ in range(3):
        await asyncio.sleep(0)
    touch(mark)  # the question is on its way
    return await asked


@pytest.mark.usefixtures("all_at_once")
async def test_what_a_member_asks_for_ahead_of_its_host_is_done_when_its_turn_has_come(
    tmp_path: Path,
) -> None:
    pipeline = Pipeline("p", steps=[first, ask])
    events = await events_of_a_host_that_is_behind(pipeline, tmp_path / "mark")
    nodes = [event.node for event in events if isinstance(event, NodeStarted)]
    assert nodes == ["first", "ask", "ask/double"]


@pytest.mark.usefixtures("all_at_once")
async def test_a_member_that_waits_for_its_nest_ahead_of_its_host_goes_with_its_run(
    tmp_path: Path,
) -> None:
    mark = tmp_path / "mark"
    async with Pipeline("p", steps=[first, ask]).start(inputs={"mark": str(mark)}) as run:
        async for event in run.events():
            if event.kind == "NodeStarted":
                break
        hold_up_until(mark)
        await run.cancel()
        result = await run.result()
    assert result.step_results["ask"].status is NodeState.CANCELLED
    assert "ask/double" not in result.step_results
