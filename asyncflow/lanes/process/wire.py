"""The frames between a host and a worker, and the channel that carries them.

Both sides are of one version and one machine. A frame is a msgspec record in msgpack behind
eight bytes of length. Several may go as one message; the file descriptors that belong to them
travel with its first bytes, in their order.

Each worker has two channels. On *work* come the calls, read between two of them by the thread
that makes them; back go their outcomes. On *control* comes what cannot wait for the end of a
call, read by a thread of its own, for which the end of that channel is the end of the host.
"""

from __future__ import annotations

import array
import fcntl
import os
import socket
import struct
import threading
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import msgspec

from asyncflow.lanes.flow import Flow

__all__ = [
    "MOST_DESCRIPTORS",
    "WORD",
    "Answer",
    "Ask",
    "Cancel",
    "Channel",
    "Done",
    "Failed",
    "Forget",
    "Hello",
    "HostFrame",
    "LogLine",
    "New",
    "Outcome",
    "Output",
    "Packet",
    "Recall",
    "Recalled",
    "Report",
    "Run",
    "Withdraw",
    "WorkerFrame",
    "framed",
    "out_of_the_way",
]

_LENGTH = struct.Struct("<Q")
_READ_BYTES = 1 << 16
# So many go with one message; the other end makes room for no more.
MOST_DESCRIPTORS = 64
# Where a step that closes or reuses low descriptors does not come by.
_OUT_OF_THE_WAY = 200

# The number of the call that a worker is making, in memory that it shares with the host.
WORD = struct.Struct("<Q")


class Packet(msgspec.Struct, array_like=True, frozen=True):
    """A pickled value.

    ``sizes`` are those of the parts in the descriptor that travels with it, in bytes; without
    any there is no descriptor. An empty ``body`` says that the pickle is the first of them.
    """

    body: bytes
    sizes: list[int] = []


class New(msgspec.Struct, array_like=True, frozen=True):
    """A function that the worker has not seen yet."""

    number: int
    body: bytes


# -- from the host -----------------------------------------------------------------------


class Run(msgspec.Struct, array_like=True, tag=0):
    """Call a function. ``chain`` is the unit it belongs to where that has several members."""

    number: int
    function: int
    args: Packet
    name: str
    is_coroutine: bool = False
    new: list[New] = []
    flow: Flow | None = None
    chain: int = 0


class Forget(msgspec.Struct, array_like=True, tag=1):
    """Let go of functions, of values that were kept, or of what a chain has waiting."""

    functions: bool = False
    kept: list[int] = []


class Cancel(msgspec.Struct, array_like=True, tag=2):
    """Tell a call to stop, and do not begin what waits behind it in its chain."""

    number: int
    chain: int = 0


class Recall(msgspec.Struct, array_like=True, tag=3):
    """Hand calls back that have not begun."""

    numbers: list[int]


class Answer(msgspec.Struct, array_like=True, tag=4):
    """What came of something that a call asked for."""

    ticket: int
    value: Packet
    failed: bool


HostFrame = Run | Forget | Cancel | Recall | Answer


# -- from the worker ---------------------------------------------------------------------


class Done(msgspec.Struct, array_like=True, tag=0):
    """A call returned. ``marks`` says on which streams (1: stdout, 2: stderr) a mark stands
    behind its output; ``dirty`` what of the worker's state it left changed. What the worker held
    after the call, and at most during it, is 0 where the call was short."""

    number: int
    value: Packet
    started: float
    finished: float
    marks: int = 0
    dirty: str = ""
    resident_bytes: int = 0
    peak_bytes: int = 0


class Failed(msgspec.Struct, array_like=True, tag=1):
    """A call raised; ``value`` is what :mod:`asyncflow.lanes.process.raised` makes of it."""

    number: int
    value: Packet
    started: float
    finished: float
    marks: int = 0
    dirty: str = ""
    resident_bytes: int = 0
    peak_bytes: int = 0


Outcome = Done | Failed


class Report(msgspec.Struct, array_like=True, tag=2):
    """A call tells how far it is."""

    number: int
    done: float
    total: float | None
    message: str | None


class LogLine(msgspec.Struct, array_like=True, tag=3):
    """A log record, its fields pickled."""

    fields: bytes


class Recalled(msgspec.Struct, array_like=True, tag=4):
    """Calls that were not begun and will not be."""

    numbers: list[int]


class Ask(msgspec.Struct, array_like=True, tag=5):
    """A call asks for nested work."""

    number: int
    ticket: int
    what: str
    args: Packet


class Withdraw(msgspec.Struct, array_like=True, tag=6):
    """A call does not want any more what it asked for."""

    number: int
    ticket: int


class Output(msgspec.Struct, array_like=True, tag=8):
    """What a call has written to a stream (1: stdout) that is no pipe of its own."""

    stream: int
    data: bytes


class Hello(msgspec.Struct, array_like=True, tag=7):
    """The worker is up."""

    pid: int


WorkerFrame = Done | Failed | Report | LogLine | Recalled | Ask | Withdraw | Hello | Output

_encode = msgspec.msgpack.Encoder().encode


def framed(frame: msgspec.Struct) -> bytes:
    """A frame as bytes, its length in front."""
    body = _encode(frame)
    return _LENGTH.pack(len(body)) + body


def out_of_the_way(descriptor: int) -> int:
    """Move a descriptor to a high number that children do not inherit, if there are so many."""
    for least in (_OUT_OF_THE_WAY, _OUT_OF_THE_WAY // 8):
        try:
            moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, least)
        except OSError:  # the limit of descriptors is below that
            continue
        os.close(descriptor)
        return moved
    os.set_inheritable(descriptor, False)
    return descriptor


class Channel:
    """One end of a stream of frames.

    Args:
        sock: connected to the other end.
        kinds: the union of frames that come from there.
    """

    # Why a worker that may be of another version cannot be used.
    refusal = ""

    @property
    def printed(self) -> tuple[str, ...]:
        """What came before the worker was up; nothing where only a worker can be there."""
        return ()

    def __init__(self, sock: socket.socket, kinds: Any) -> None:
        self.socket = sock
        self._prepare(kinds)

    def _prepare(self, kinds: Any) -> None:
        self._decode = msgspec.msgpack.Decoder(kinds).decode
        # The beginning of a frame that has not come whole, and how long it has to be.
        self._rest = bytearray()
        self._wanted = 0
        self._lock = threading.Lock()
        # Descriptors that came, for the frames that speak of one, in the same order.
        self.descriptors: deque[int] = deque()

    # -- receiving -----------------------------------------------------------------------

    def receive(self) -> list[Any] | None:
        """The frames that one read brings, perhaps none; None at the end of the stream.

        Raises:
            BlockingIOError: the socket does not block, and nothing is there.
        """
        try:
            data, ancillary, _, _ = self.socket.recvmsg(
                _READ_BYTES, socket.CMSG_SPACE(4 * MOST_DESCRIPTORS)
            )
        except ConnectionError:
            return None
        if ancillary:
            self._take_descriptors(ancillary)
        return self.take_in(data) if data else None

    def take_in(self, data: bytes) -> list[Any]:
        """The frames that are whole with what just came."""
        if not self._rest:
            return self._frames_of(data)
        self._rest += data
        if len(self._rest) < self._wanted:
            return []
        whole, self._rest = bytes(self._rest), bytearray()
        return self._frames_of(whole)

    def _take_descriptors(self, ancillary: list[tuple[int, int, bytes]]) -> None:
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                numbers = array.array("i")
                numbers.frombytes(data[: len(data) - len(data) % numbers.itemsize])
                for number in numbers:
                    os.set_inheritable(number, False)
                    self.descriptors.append(number)

    def _frames_of(self, data: bytes) -> list[Any]:
        frames, at, size, view = [], 0, len(data), memoryview(data)
        while at + 8 <= size:
            end = at + 8 + _LENGTH.unpack_from(data, at)[0]
            if end > size:
                break
            frames.append(self._decode(view[at + 8 : end]))
            at = end
        if at < size:
            self._rest += data[at:]
            left = size - at
            self._wanted = 8 + _LENGTH.unpack_from(data, at)[0] if left >= 8 else 8
        return frames

    def next_descriptor(self) -> int:
        """The descriptor of the frame whose turn it is."""
        return self.descriptors.popleft()

    # -- sending, blocking -----------------------------------------------------------------

    def send(self, frame: msgspec.Struct, descriptor: int | None = None) -> None:
        """Send a frame whole, from any thread; the descriptor is closed.

        Raises:
            ConnectionError: the other end is gone.
        """
        data = framed(frame)
        with self._lock:
            sent = self.send_some(data, () if descriptor is None else (descriptor,))
            if descriptor is not None:
                os.close(descriptor)
            if sent < len(data):
                self.socket.sendall(memoryview(data)[sent:])

    # -- what the host's loop watches ------------------------------------------------------

    def fileno(self) -> int:
        """Where frames come from."""
        return self.socket.fileno()

    def write_fileno(self) -> int:
        """Where they are sent to."""
        return self.socket.fileno()

    def end_sending(self) -> None:
        """Let the other end read on to here, and no further."""
        with suppress(OSError):  # it may have gone already
            self.socket.shutdown(socket.SHUT_WR)

    def send_some(self, data: bytes | memoryview, descriptors: Sequence[int]) -> int:
        """Send the beginning of some frames, and their descriptors with it; how many bytes
        went."""
        if not descriptors:
            return self.socket.send(data)
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))
        return self.socket.sendmsg([data], [rights])

    def close(self) -> None:
        """Close this end, and what came for frames that will not be read."""
        self.socket.close()
        while self.descriptors:
            os.close(self.descriptors.popleft())
