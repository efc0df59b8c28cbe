"""What a host sends to the worker of a group: whole stretches of members, and nothing too much."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from asyncflow import NodeState, Pipeline, Retry, step
from asyncflow.lanes.process import wire

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


async def test_a_plain_group_is_one_message(messages: Messages) -> None:
    result = await Pipeline("p", steps=[first, second, third]).run()
    assert result["third"] == 3
    assert messages == [["first", "second", "third"]]


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
