"""Journals of real runs, cut, flipped, shuffled and forged: recovered or refused, never wrong."""

from __future__ import annotations

import asyncio
import contextlib
import os
import zlib
from pathlib import Path
from random import Random
from typing import Any

import pytest

from asyncflow import JournalDamaged, Pipeline, RunConflict, StepContext, StorageError, step
from asyncflow.states import SUCCEEDED
from asyncflow.storage.framing import HEADER_BYTES, Chain, Scan, header_of, read_header
from asyncflow.storage.journal import OpenJournal, open_in
from asyncflow.storage.memory import RunMemory
from asyncflow.storage.records import Ended, Life, Plan, SimplyEnded, encode
from asyncflow.testing import FaultyDirectory

NONCE = bytes(range(16))


async def record_run(directory: Path) -> bytes:
    """The journal of a small run with a bit of everything."""

    @step(outputs=["items"])
    async def load() -> list[int]:
        return [3, 1, 2]

    @step(outputs=["squares"])
    async def square(items: int) -> int:
        return items * items

    @step(execution_group="g", outputs=["total"])
    def total(squares: list[int]) -> int:
        return sum(squares)

    @step(execution_group="g")
    async def half(total: int) -> float:
        return total / 2

    @step(condition=lambda: False)
    async def never() -> int:
        return 1

    @step
    async def part(number: int) -> int:
        return -number

    @step
    async def whole(context: StepContext) -> int:
        context.report(1, 2, "half way")
        value: int = await context.call(part, 7, key="seven")
        return value

    pipeline = Pipeline("everything").add_step(load).add_step(square, map="items")
    for other in (total, half, never, whole):
        pipeline.add_step(other)
    result = await pipeline.run(run_id="golden", checkpoint=directory)
    assert result.success
    return (directory / "runs" / "golden" / "journal").read_bytes()


async def record_small_run(directory: Path) -> bytes:
    """The journal of two steps."""

    @step(outputs=["one"])
    async def first() -> int:
        return 1

    @step
    async def second(one: int) -> int:
        return one + 1

    await Pipeline("small", steps=[first, second]).run(run_id="golden", checkpoint=directory)
    return (directory / "runs" / "golden" / "journal").read_bytes()


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return asyncio.run(record_run(tmp_path_factory.mktemp("recorded")))


def directory_with(content: bytes) -> FaultyDirectory:
    directory = FaultyDirectory()
    file = directory.create("journal")
    file.write(content)
    file.sync()
    directory.sync()
    return directory


def reopened(content: bytes, run_id: str = "golden") -> OpenJournal:
    directory = directory_with(content)
    return open_in(directory, run_id, "resume", directory.child("blobs", create=True))


def results_in(memory: RunMemory) -> dict[str, Any]:
    return {name: node.value for name, node in memory.nodes.items() if node.state == SUCCEEDED}


def is_part_of(memory: RunMemory, whole: dict[str, Any]) -> bool:
    return results_in(memory).items() <= whole.items()


def test_a_journal_is_remembered(content: bytes) -> None:
    memory = reopened(content).memory
    assert memory.run_id == "golden"
    assert set(memory.nodes) == {
        "load", "square", "square[0]", "square[1]", "square[2]", "total", "half", "never",
        "whole", "whole/part[seven]",
    }  # fmt: skip
    assert all(node.is_done for node in memory.nodes.values())


def test_cut_at_any_byte_it_holds_what_stands_before(content: bytes) -> None:
    whole = results_in(reopened(content).memory)
    most = 0
    for end in range(len(content)):
        opened = reopened(content[:end])
        found = results_in(opened.memory)
        assert found.items() <= whole.items()
        assert len(found) >= most  # the longer the file, the more it holds
        most = len(found)
        assert (opened.cut == "") == (opened.chain.offset == end or end < HEADER_BYTES)
    assert most == len(whole)


def test_a_cut_journal_can_be_written_on(content: bytes) -> None:
    opened = reopened(content[:-5])
    opened.file.write(opened.chain.frame(encode(Life(2, "golden", "p", "", "h", 1, 0.0, 0.0, ""))))
    again = open_in(opened.directory, "golden", "resume", opened.blobs)
    assert len(again.memory.lives) == 2
    assert not again.cut


def memory_or_refusal(content: bytes) -> RunMemory | JournalDamaged:
    try:
        return reopened(content).memory
    except JournalDamaged as damaged:
        return damaged


def test_whatever_bit_is_flipped_nothing_wrong_is_read(tmp_path: Path) -> None:
    content = asyncio.run(record_small_run(tmp_path))
    whole = results_in(reopened(content).memory)
    assert len(whole) == 2
    refused = 0
    for bit in range(8 * len(content)):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        found = memory_or_refusal(bytes(flipped))
        if isinstance(found, JournalDamaged):
            refused += 1
            assert found.path.endswith("journal")
            assert found.offset <= bit // 8
        else:
            assert is_part_of(found, whole)
    # It was closed, so marks vouch for all but the last of them.
    assert refused >= 8 * (len(content) - 2 * 40)


def frames_of(content: bytes) -> list[bytes]:
    nonce = read_header(content)
    assert nonce is not None
    chain, frames = Chain(nonce), []
    while (begin := chain.offset) < len(content):
        assert chain.read_at(content) is not None
        frames.append(content[begin : chain.offset])
    return frames


def test_shuffled_records_are_refused_or_cut(content: bytes) -> None:
    whole = results_in(reopened(content).memory)
    frames, random = frames_of(content), Random(1)
    assert content[:HEADER_BYTES] + b"".join(frames) == content
    for _ in range(300):
        changed = list(frames)
        first, second = random.sample(range(len(changed)), 2)
        match random.choice(["swap", "repeat", "leave out"]):
            case "swap":
                changed[first], changed[second] = changed[second], changed[first]
            case "repeat":
                changed.insert(first, changed[second])
            case "leave out":
                del changed[first]
        found = memory_or_refusal(content[:HEADER_BYTES] + b"".join(changed))
        assert isinstance(found, JournalDamaged) or is_part_of(found, whole)


def test_records_of_another_run_are_refused(content: bytes, tmp_path: Path) -> None:
    other = asyncio.run(record_run(tmp_path))
    mixed = content[: len(content) // 2] + other[len(other) // 2 :]
    foreign = reopened(content[:HEADER_BYTES] + b"".join(frames_of(other)))
    assert foreign.memory.life is None
    assert foreign.cut
    opened = reopened(mixed)
    assert opened.cut
    assert is_part_of(opened.memory, results_in(reopened(content).memory))


def test_the_journal_of_another_run_id_is_refused(content: bytes) -> None:
    with pytest.raises(StorageError, match="is of run 'golden', not of 'silver'"):
        reopened(content, "silver")


# -- forged records ------------------------------------------------------------------------------


def forged(*payloads: bytes) -> bytes:
    """A journal of records that fit, whatever is in them."""
    chain = Chain(NONCE)
    return header_of(NONCE) + b"".join(chain.frame(payload) for payload in payloads)


LIFE = encode(Life(1, "golden", "p", "", "h", 1, 0.0, 0.0, ""))


@pytest.mark.parametrize(
    "payload",
    [
        b"\xc1",
        b"\x00",
        b"\x93\x06",
        b"\x91\xcc\xff",
        b"\xc7\x04\x01abcd",  # an extension type
        b"\xdf\xff\xff\xff\xff",  # a map of four billion
        b"\xdd\xff\xff\xff\xff",
        b"\x91" * 5000,  # depth
        encode(Ended(0, 3, 1, 1.0, 2.0, 2.0)),  # a node that no plan has
        encode(SimplyEnded([(99, 0.0, 0.0, b"")])),
        encode(Plan(["a"], [], [[]], [])),
        encode(LIFE),
    ],
    ids=repr,
)
def test_a_record_that_makes_no_sense_is_refused(payload: bytes) -> None:
    with pytest.raises(JournalDamaged) as damaged:
        reopened(forged(LIFE, payload))
    assert damaged.value.record == 2


# -- crashes -------------------------------------------------------------------------------------


def test_a_new_journal_survives_a_loss_of_power() -> None:
    for seed in range(50):
        directory = FaultyDirectory()
        open_in(directory, "golden", "resume", directory.child("blobs", create=True))
        survivor = directory.crash(Random(seed))
        assert read_header(survivor.read("journal")) is not None


def test_a_crash_while_a_journal_is_made_leaves_none_or_an_empty_one() -> None:
    for operation in range(1, 8):
        for seed in range(20):
            directory = FaultyDirectory()
            blobs = directory.child("blobs", create=True)
            directory.disk.fail_at = operation
            with contextlib.suppress(OSError):  # as the disk was told to
                open_in(directory, "golden", "resume", blobs)
            survivor = directory.crash(Random(seed))
            again = open_in(survivor, "golden", "resume", survivor.child("blobs", create=True))
            assert again.memory.life is None


def test_a_cut_survives_a_loss_of_power(content: bytes) -> None:
    torn = content[:-5]
    for seed in range(50):
        opened = reopened(torn)
        opened.file.write(opened.chain.frame(LIFE))
        opened.file.sync()
        assert isinstance(opened.directory, FaultyDirectory)
        survivor = opened.directory.crash(Random(seed))
        again = open_in(survivor, "golden", "resume", survivor.child("blobs", create=True))
        assert len(again.memory.lives) == 2


def test_restart_leaves_nothing_of_what_was(content: bytes) -> None:
    directory = directory_with(content)
    blobs = directory.child("blobs", create=True)
    blobs.create("cafe")
    opened = open_in(directory, "golden", "restart", blobs)
    assert opened.memory.life is None
    assert blobs.names() == []
    assert Scan(directory.read("journal"), opened.chain.nonce).chain.offset == HEADER_BYTES


def test_fail_leaves_what_was(content: bytes) -> None:
    directory = directory_with(content)
    with pytest.raises(RunConflict):
        open_in(directory, "golden", "fail", directory.child("blobs", create=True))
    assert directory.read("journal") == content


def test_a_version_of_the_future_is_named(content: bytes) -> None:
    newer = bytearray(content)
    newer[8] = 2
    newer[28:32] = zlib.crc32(bytes(newer[:28])).to_bytes(4, "little")
    with pytest.raises(JournalDamaged, match=r"format 2, .* knows format 1"):
        reopened(bytes(newer))
    assert os.path.basename(reopened(content).path) == "journal"
