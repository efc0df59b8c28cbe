"""Values on their way: what is large goes beside the stream, and arrives writable."""

from __future__ import annotations

import errno
import os
from collections import deque
from typing import Any

import pytest

from asyncflow.lanes.process.payload import LARGE_BYTES, discard, pack, unpack

np = pytest.importorskip("numpy", reason="numpy is not installed")

needs_memory_files = pytest.mark.skipif(
    not hasattr(os, "memfd_create"), reason="this system has no memory files"
)


def carried(value: Any) -> Any:
    parcel = pack(value)
    descriptors: deque[int] = deque()
    descriptor = parcel.write()
    if descriptor is not None:
        descriptors.append(descriptor)
    arrived = unpack(parcel.packet, descriptors.popleft)
    assert not descriptors
    return arrived


@pytest.mark.parametrize(
    "value",
    [None, 17, "text" * 100_000, b"\0" * 500_000, list(range(200_000)), {"a": [1, (2,)]}],
    ids=lambda value: type(value).__name__,
)
def test_a_value_arrives_as_it_was(value: object) -> None:
    assert carried(value) == value


@pytest.mark.parametrize("count", [1, 3])
def test_arrays_arrive_writable_and_alias_nothing(count: int) -> None:
    arrays = [np.full(LARGE_BYTES // 8 + place, place, float) for place in range(count)]
    arrived = carried(arrays)
    for place, (sent, got) in enumerate(zip(arrays, arrived, strict=True)):
        assert (got == place).all()
        got += 1
        assert (sent == place).all()


@needs_memory_files
def test_large_buffers_are_not_in_the_packet() -> None:
    parcel = pack({"array": np.zeros(1 << 20), "word": "x"})
    assert len(parcel.packet.body) < 1000
    assert parcel.packet.sizes == [8 << 20]
    assert parcel.large_bytes == 8 << 20


@needs_memory_files
def test_small_buffers_are_in_the_packet() -> None:
    parcel = pack(np.zeros(100))
    assert (parcel.packet.sizes, parcel.write()) == ([], None)


@needs_memory_files
def test_a_packet_that_nobody_wants_leaves_no_descriptor() -> None:
    parcel = pack(b"\0" * LARGE_BYTES)
    descriptor = parcel.write()
    assert descriptor is not None
    discard(parcel.packet, lambda: descriptor)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


@needs_memory_files
def test_no_memory_for_a_memory_file_is_an_error_and_leaves_no_descriptor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[int] = []
    memfd_create = os.memfd_create

    def remember(*args: Any) -> int:
        made.append(memfd_create(*args))
        return made[-1]

    def refuse(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "memfd_create", remember)
    monkeypatch.setattr(os, "pwrite", refuse)
    with pytest.raises(OSError, match="No space left"):
        pack(b"\0" * LARGE_BYTES).write()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(made[0])


@needs_memory_files
def test_a_short_write_goes_on_where_it_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: pwrite(fd, bytes(data[:100_000]), at))
    value = os.urandom(LARGE_BYTES + 12_345)
    assert carried(value) == value
