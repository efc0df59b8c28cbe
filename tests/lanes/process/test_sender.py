"""What waits to be sent goes together, each frame with the descriptor that belongs to it."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Sequence

import pytest
import pytest_asyncio

from asyncflow.lanes.process.sender import Sender
from asyncflow.lanes.process.wire import (
    MOST_DESCRIPTORS,
    Channel,
    Done,
    Forget,
    HostFrame,
    Packet,
    WorkerFrame,
)


class Ends:
    """A sender and what reads from it; counts the messages that go."""

    def __init__(self) -> None:
        near, far = socket.socketpair()
        near.setblocking(False)
        far.setblocking(False)
        self._channel, self.far = Channel(near, HostFrame), Channel(far, WorkerFrame)
        self.messages = 0
        self._channel.send_some = self._counted  # type: ignore[method-assign]
        self.sender = Sender(asyncio.get_running_loop(), self._channel)

    def _counted(self, data: bytes | memoryview, descriptors: Sequence[int]) -> int:
        sent = Channel.send_some(self._channel, data, descriptors)
        self.messages += 1
        return sent

    def numbers(self) -> list[int]:
        """The numbers of the frames that have come."""
        frames: list[Done] = []
        while True:
            try:
                frames += self.far.receive() or []
            except BlockingIOError:
                return [frame.number for frame in frames]

    def words(self, count: int) -> list[bytes]:
        """What the descriptors hold that have come."""
        found = []
        for _ in range(count):
            descriptor = self.far.next_descriptor()
            found.append(os.pread(descriptor, 100, 0))
            os.close(descriptor)
        return found

    def close(self) -> None:
        self.sender.close()
        self._channel.close()
        self.far.close()


@pytest_asyncio.fixture
async def ends() -> AsyncIterator[Ends]:
    made = Ends()
    yield made
    made.close()


def done(number: int, size: int = 0) -> Done:
    return Done(number, Packet(bytes(size)), 0.0, 0.0)


def memory(word: bytes) -> int:
    descriptor = os.memfd_create("test")
    os.write(descriptor, word)
    return descriptor


async def test_frames_of_one_turn_are_one_message(ends: Ends) -> None:
    for number in range(3):
        ends.sender.send_soon(done(number))
    assert ends.messages == 0
    await asyncio.sleep(0)
    assert (ends.messages, ends.numbers()) == (1, [0, 1, 2])


async def test_what_is_sent_at_once_takes_along_what_waits(ends: Ends) -> None:
    ends.sender.send_soon(done(0))
    ends.sender.send(done(1))
    assert (ends.messages, ends.numbers()) == (1, [0, 1])


async def test_descriptors_of_several_frames_go_with_one_message(ends: Ends) -> None:
    for number, word in enumerate((b"one", b"two")):
        ends.sender.send_soon(done(number), memory(word))
    ends.sender.flush()
    assert (ends.messages, ends.numbers(), ends.words(2)) == (1, [0, 1], [b"one", b"two"])


async def test_more_descriptors_than_the_other_end_takes_at_once_go_one_after_the_other(
    ends: Ends,
) -> None:
    count = MOST_DESCRIPTORS + 1
    for number in range(count):
        ends.sender.send_soon(done(number), memory(b"%d" % number))
    ends.sender.flush()
    assert ends.messages == 2
    assert ends.numbers() == list(range(count))
    assert ends.words(count) == [b"%d" % number for number in range(count)]


async def test_a_descriptor_that_is_being_written_to_holds_back_what_is_behind_it(
    ends: Ends,
) -> None:
    written: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    ends.sender.send_soon(done(0))
    ends.sender.send_soon(done(1), written)
    ends.sender.send_soon(done(2))
    ends.sender.flush()
    assert ends.numbers() == [0]
    written.set_result(memory(b"late"))
    await asyncio.sleep(0)
    assert (ends.messages, ends.numbers(), ends.words(1)) == (2, [1, 2], [b"late"])


async def test_a_frame_whose_memory_could_not_be_written_is_left_out(ends: Ends) -> None:
    written: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    ends.sender.send_soon(done(0), written)
    ends.sender.send_soon(done(1))
    written.set_exception(OSError("no memory"))
    await asyncio.sleep(0)
    assert ends.numbers() == [1]


async def test_what_finds_no_room_goes_as_soon_as_there_is_some(ends: Ends) -> None:
    for number in range(8):
        ends.sender.send_soon(done(number, 1 << 17))
    ends.sender.flush()
    numbers: list[int] = []
    while len(numbers) < 8:
        numbers += ends.numbers()
        await asyncio.sleep(0)
    assert numbers == list(range(8))


async def test_what_is_not_sent_when_it_is_closed_leaves_no_descriptor_open(ends: Ends) -> None:
    descriptor = memory(b"unsent")
    ends.sender.send(done(0, 1 << 22))
    ends.sender.send(done(1), descriptor)
    ends.sender.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


async def test_the_end_of_the_other_side_is_no_error(ends: Ends) -> None:
    ends.far.close()
    ends.sender.send(done(0), memory(b"unsent"))
    ends.sender.send(Forget())
