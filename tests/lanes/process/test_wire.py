"""Frames arrive whole, in order, and with the descriptor that belongs to them."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asyncflow.lanes.process.wire import (
    Cancel,
    Channel,
    Done,
    HostFrame,
    LogLine,
    Packet,
    Recall,
    WorkerFrame,
    framed,
)


@pytest.fixture
def ends() -> Iterator[tuple[Channel, Channel]]:
    near, far = socket.socketpair()
    channels = Channel(near, WorkerFrame), Channel(far, HostFrame)
    yield channels
    for channel in channels:
        channel.close()


def test_frames_arrive_in_order(ends: tuple[Channel, Channel]) -> None:
    near, far = ends
    near.send(Cancel(1))
    near.send(Recall([2, 3]))
    assert far.receive() == [Cancel(1), Recall([2, 3])]


def test_the_end_of_the_stream_is_none(ends: tuple[Channel, Channel]) -> None:
    near, far = ends
    near.socket.shutdown(socket.SHUT_WR)
    assert far.receive() is None


def test_a_frame_has_its_own_descriptor(ends: tuple[Channel, Channel]) -> None:
    near, far = ends
    for word in (b"first", b"second"):
        reading, writing = os.pipe()
        os.write(writing, word)
        os.close(writing)
        far.send(Done(1, Packet(b"", [5]), 0.0, 0.0), reading)
    frames: list[object] = []
    while len(frames) < 2:
        frames += near.receive() or []
    read = []
    for _ in frames:
        descriptor = near.next_descriptor()
        read.append(os.read(descriptor, 100))
        os.close(descriptor)
    assert read == [b"first", b"second"]


def test_what_came_for_frames_that_nobody_reads_is_closed() -> None:
    near, far = socket.socketpair()
    sender, receiver = Channel(near, HostFrame), Channel(far, WorkerFrame)
    sender.send(Done(1, Packet(b"", [5]), 0.0, 0.0), os.open(os.devnull, os.O_RDONLY))
    receiver.receive()
    (descriptor,) = receiver.descriptors
    receiver.close()
    sender.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


@given(
    sizes=st.lists(st.integers(0, 200_000), min_size=1, max_size=5),
    pieces=st.lists(st.integers(1, 70_000), min_size=1, max_size=30),
)
def test_frames_may_come_in_any_pieces(sizes: list[int], pieces: list[int]) -> None:
    frames = [LogLine(bytes(size)) for size in sizes]
    stream = b"".join(map(framed, frames))
    near, far = socket.socketpair()
    channel = Channel(far, WorkerFrame)
    arrived, at, turn = [], 0, 0
    try:
        while at < len(stream):
            piece = stream[at : at + pieces[turn % len(pieces)]]
            near.sendall(piece)
            left = len(piece)
            while left > 0:
                arrived += channel.receive() or []
                left -= 1 << 16
            at, turn = at + len(piece), turn + 1
    finally:
        near.close()
        channel.close()
    assert arrived == frames
