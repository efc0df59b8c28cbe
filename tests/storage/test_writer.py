"""The writer: batches, acknowledgements, and what becomes of it when the disk fails."""

from __future__ import annotations

import asyncio
import errno
from random import Random

import pytest

from asyncflow.storage.framing import header_of
from asyncflow.storage.writer import Durability
from asyncflow.testing import FaultyDirectory
from tests.storage.writing import NONCE, SlowFile, Written, records_in

both = pytest.mark.parametrize("durability", ["process", "power"])


def write_slowly(durability: Durability) -> tuple[FaultyDirectory, SlowFile, Written]:
    """Append a record to a file whose syncs wait until they are let go on."""
    directory = FaultyDirectory()
    file = directory.create("journal")
    file.write(header_of(NONCE))
    slow = SlowFile(file)
    written = Written(directory, durability, slow)
    written.writer.append(b"one", 1)
    return directory, slow, written


@both
async def test_what_is_acknowledged_is_in_the_file(durability: Durability) -> None:
    directory = FaultyDirectory()
    written = Written(directory, durability)
    for number in range(10):
        written.writer.append(b"record %d" % number, number)
    await written.until_acknowledged(10)
    assert written.acknowledged == list(range(10))
    expected = [b"record %d" % number for number in range(10)]
    assert records_in(directory.read("journal"))[0] == expected
    await written.writer.close()
    assert records_in(directory.read("journal")) == (expected, "clean")
    assert written.released


async def test_what_waits_goes_out_at_once() -> None:
    directory = FaultyDirectory()
    written = Written(directory)
    before = directory.disk.log.count("write")
    for number in range(1000):
        written.writer.append(b"record", number)
    await written.until_acknowledged(1000)
    assert directory.disk.log.count("write") == before + 1
    await written.writer.close()


async def test_power_syncs_before_it_acknowledges() -> None:
    directory, slow, written = write_slowly("power")
    await slow.wait_syncing()
    assert records_in(directory.read("journal"))[0] == [b"one"]
    assert written.acknowledged == []
    slow.go_on.set()
    await written.until_acknowledged(1)
    await written.writer.close()


async def test_process_acknowledges_while_a_sync_goes_on() -> None:
    directory, slow, written = write_slowly("process")
    await written.until_acknowledged(1)
    await slow.wait_syncing()
    written.writer.append(b"two", 2)
    await written.until_acknowledged(2)
    assert written.acknowledged == [1, 2]
    slow.go_on.set()
    await written.writer.close()
    assert records_in(directory.read("journal")) == ([b"one", b"two"], "clean")


async def test_a_slow_sync_does_not_hold_the_loop() -> None:
    _, slow, written = write_slowly("power")
    await slow.wait_syncing()
    for _ in range(1000):  # the loop goes round and round while the sync waits
        await asyncio.sleep(0)
    assert written.acknowledged == []
    slow.go_on.set()
    await written.until_acknowledged(1)
    await written.writer.close()


@both
async def test_short_writes_are_completed(durability: Durability) -> None:
    directory = FaultyDirectory()
    written = Written(directory, durability)
    directory.disk.short = 7
    written.writer.append(b"a record that is longer than seven bytes", 1)
    await written.until_acknowledged(1)
    await written.writer.close()
    assert records_in(directory.read("journal")) == (
        [b"a record that is longer than seven bytes"],
        "clean",
    )


async def test_a_full_disk_is_said_in_bytes() -> None:
    directory = FaultyDirectory()
    written = Written(directory)
    directory.disk.free = 100
    written.writer.append(bytes([1]) * 500, 1)
    error = await written.until_failed()
    assert "No space left" in str(error)
    assert "512 bytes were needed and 0 are free" in str(error)
    assert written.acknowledged == []
    await written.writer.close()
    assert records_in(directory.read("journal")) == ([], "torn")


@both
async def test_a_failed_sync_is_never_tried_again(durability: Durability) -> None:
    directory = FaultyDirectory()
    written = Written(directory, durability)
    written.writer.append(b"one", 1)
    await written.until_acknowledged(1)
    directory.disk.fail_on, directory.disk.operations = "sync", 0
    directory.disk.fail_at, directory.disk.fail_with = 1, errno.EIO
    syncs = directory.disk.log.count("sync")
    written.writer.append(b"two", 2)
    error = await written.until_failed()
    assert "the state on disk is unknown after record" in str(error)
    written.writer.append(b"three", 3)
    await written.writer.close()
    assert directory.disk.log.count("sync") == syncs + 1
    assert 3 not in written.acknowledged
    if durability == "power":
        assert written.acknowledged == [1]


async def test_a_cancelled_close_does_not_cancel_the_write() -> None:
    directory, slow, written = write_slowly("power")
    closing = asyncio.ensure_future(written.writer.close())
    await slow.wait_syncing()
    for _ in range(3):
        closing.cancel()
        await asyncio.sleep(0)
    assert not closing.done()
    slow.go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await closing
    assert written.acknowledged == [1]
    assert records_in(directory.read("journal")) == ([b"one"], "clean")


async def test_a_loop_that_ends_early_tears_nothing() -> None:
    directory = FaultyDirectory()
    written = Written(directory)
    written.writer.append(b"one", 1)
    await written.until_acknowledged(1)
    written.writer.append(b"two", 2)
    await asyncio.sleep(0)
    written.writer._task.cancel()  # as asyncio.run does with all tasks at its end
    await written.writer.close()
    records, kind = records_in(directory.read("journal"))
    assert records in ([b"one"], [b"one", b"two"])
    assert kind == "clean"


@pytest.mark.parametrize("seed", range(40))
@both
async def test_what_survives_a_loss_of_power(durability: Durability, seed: int) -> None:
    random = Random(seed)
    directory = FaultyDirectory()
    written = Written(directory, durability)
    records = [b"record %d" % number for number in range(random.randint(1, 30))]
    for number, record in enumerate(records):
        written.writer.append(record, number)
        if random.random() < 0.3:
            await written.until_acknowledged(random.randint(0, number))
    await written.until_acknowledged(random.randint(0, len(records)))
    acknowledged = len(written.acknowledged)
    for _ in range(20):
        survivor = directory.crash(random)
        found, kind = records_in(survivor.read("journal"))
        assert found == records[: len(found)]
        assert kind != "damage"
        if durability == "power":
            assert len(found) >= acknowledged
    await written.writer.close()
    for _ in range(20):
        found, _ = records_in(directory.crash(random).read("journal"))
        assert found == records
