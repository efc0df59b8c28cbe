"""Values on their way between processes: pickle 5, with what is large beside the stream.

Buffers of 256 KB and more (arrays, mostly), and a pickle that is itself that long, go into a
memory file: written once, by whoever sends; mapped, not copied, by whoever receives. The map
is private, so an array stays writable and nobody else sees what is written to it. The file has
no name, and its memory goes with the last process that holds or maps it, however that ends.

Written with ``write``, which reports a machine that is out of memory as an error; only a map of
a hole would be a bus error.
"""

from __future__ import annotations

import mmap
import os
import pickle
from collections.abc import Callable
from typing import Any

from asyncflow.lanes.process.wire import Packet

__all__ = ["LARGE_BYTES", "Parcel", "discard", "pack", "plain_dumps", "unpack"]

LARGE_BYTES = 1 << 18
_HAS_MEMORY_FILES = hasattr(os, "memfd_create")
_PAGE = mmap.ALLOCATIONGRANULARITY

BufferCallback = Callable[[pickle.PickleBuffer], bool]
Dumps = Callable[[Any, "BufferCallback | None"], bytes]


class Parcel:
    """A pickled value ready to be sent: a packet, and the parts for its memory file."""

    __slots__ = ("packet", "parts")

    def __init__(self, packet: Packet, parts: list[memoryview]) -> None:
        self.packet = packet
        self.parts = parts

    @property
    def large_bytes(self) -> int:
        """How much has to be written to a memory file."""
        return sum(part.nbytes for part in self.parts)

    def write(self) -> int | None:
        """Write the parts to a memory file and give its descriptor; None without any.

        Raises:
            OSError: there is no memory for it, or no descriptor.
        """
        if not self.parts:
            return None
        descriptor = os.memfd_create("asyncflow", os.MFD_CLOEXEC)
        try:
            at = 0
            for part in self.parts:
                _write_all(descriptor, part, at)
                at += _padded(part.nbytes)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor


def plain_dumps(value: Any, take: BufferCallback | None) -> bytes:
    """Pickle without anything of our own."""
    return pickle.dumps(value, 5, buffer_callback=take)


def inline_only() -> None:
    """Have this process put all it sends into the stream: no descriptor would get through."""
    global _HAS_MEMORY_FILES
    _HAS_MEMORY_FILES = False


def pack(value: Any, dumps: Dumps = plain_dumps, *, inline: bool = False) -> Parcel:
    """Pickle a value.

    Args:
        dumps: how; called again with a callback of its own for each try.
        inline: whether all of it has to go into the stream.

    Raises:
        Exception: whatever pickling it raises.
    """
    if inline or not _HAS_MEMORY_FILES:
        return Parcel(Packet(dumps(value, None)), [])
    parts: list[memoryview] = []

    def take(buffer: pickle.PickleBuffer) -> bool:
        """Whether a buffer goes into the stream as usual."""
        try:
            raw = buffer.raw()
        except BufferError:  # it is not in one piece
            return True
        if raw.nbytes < LARGE_BYTES:
            return True
        parts.append(raw)
        return False

    body = dumps(value, take)
    if len(body) < LARGE_BYTES:
        return Parcel(Packet(body, [part.nbytes for part in parts]), parts)
    parts.insert(0, memoryview(body))
    return Parcel(Packet(b"", [part.nbytes for part in parts]), parts)


def unpack(packet: Packet, next_descriptor: Callable[[], int]) -> Any:
    """The value of a packet; its memory file is mapped and closed.

    Raises:
        Exception: whatever unpickling it raises; MemoryError or OSError where it cannot be
            mapped.
    """
    if not packet.sizes:
        return pickle.loads(packet.body)
    descriptor = next_descriptor()
    try:
        parts = _map(descriptor, packet.sizes)
    finally:
        os.close(descriptor)
    if packet.body:
        return pickle.loads(packet.body, buffers=parts)
    return pickle.loads(parts[0], buffers=parts[1:])


def discard(packet: Packet, next_descriptor: Callable[[], int]) -> None:
    """Let go of a packet that nobody wants."""
    if packet.sizes:
        os.close(next_descriptor())


def _map(descriptor: int, sizes: list[int]) -> list[memoryview]:
    whole = memoryview(
        mmap.mmap(
            descriptor,
            sum(map(_padded, sizes[:-1])) + sizes[-1],
            flags=mmap.MAP_PRIVATE,
            prot=mmap.PROT_READ | mmap.PROT_WRITE,
        )
    )
    parts, at = [], 0
    for size in sizes:
        parts.append(whole[at : at + size])
        at += _padded(size)
    return parts


def _padded(size: int) -> int:
    return -(-size // _PAGE) * _PAGE


def _write_all(descriptor: int, part: memoryview, at: int) -> None:
    view = part.cast("B") if part.ndim != 1 or part.format != "B" else part
    while view.nbytes:
        written = os.pwrite(descriptor, view, at)
        if not written:
            raise OSError(f"a memory file took only {at} bytes")
        view, at = view[written:], at + written
