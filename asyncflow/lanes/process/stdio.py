"""A worker that talks over what were its standard input and output.

It is started by the boot program in :mod:`asyncflow.lanes.process.behind`, which has moved the two
out of the way of what steps do. All frames from the host come on one pipe: the control thread
reads it, obeys what cannot wait, and hands the calls to the main thread.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Sequence
from typing import Any

from asyncflow.lanes.process import payload, wire
from asyncflow.lanes.process.streams import Streams
from asyncflow.lanes.process.wire import HostFrame
from asyncflow.lanes.process.worker import Worker, die, run

__all__ = ["main"]

_READ_BYTES = 1 << 16
_END_SECONDS = 1.0


class _Outgoing(wire.Channel):
    """Calls as the main thread takes them, and the way back to the host.

    Args:
        writing: a pipe to the host.
    """

    def __init__(self, writing: int) -> None:
        self._writing = writing
        self.calls: queue.SimpleQueue[HostFrame | None] = queue.SimpleQueue()
        self._prepare(wire.HostFrame)

    def receive(self) -> list[Any] | None:
        frame = self.calls.get()
        return None if frame is None else [frame]

    def send_some(self, data: bytes | memoryview, descriptors: Sequence[int]) -> int:
        view = memoryview(data)
        while view:
            view = view[os.write(self._writing, view) :]
        return len(data)


class _Incoming(wire.Channel):
    """All that comes from the host, as the control thread reads it.

    Args:
        reading: a pipe from the host.
        outgoing: takes the calls.
    """

    def __init__(self, reading: int, outgoing: _Outgoing) -> None:
        self._reading = reading
        self._outgoing = outgoing
        self._prepare(wire.HostFrame)

    def receive(self) -> list[Any] | None:
        data = os.read(self._reading, _READ_BYTES)
        if not data:
            return None
        urgent = []
        for frame in self.take_in(data):
            if isinstance(frame, wire.Run | wire.Forget):
                self._outgoing.calls.put(frame)
            else:
                urgent.append(frame)
        return urgent


class PumpedStreams(Streams):
    """Sends what calls write to descriptor 1 in frames; what they write to 2 goes out as it is.

    Args:
        mark: stands for the end of a call; nobody prints it by chance.
        outgoing: carries the frames.
    """

    def __init__(self, mark: bytes, outgoing: _Outgoing) -> None:
        self._outgoing = outgoing
        reading, writing = os.pipe()
        os.dup2(writing, 1)
        os.close(writing)
        self._reading = wire.out_of_the_way(reading)
        self._passed = threading.Event()
        super().__init__(mark)
        threading.Thread(target=self._pump, name="asyncflow-output", daemon=True).start()

    def _pump(self) -> None:
        rest = b""
        while data := os.read(self._reading, _READ_BYTES):
            rest += data
            before, found, after = rest.partition(self._mark)
            # The beginning of a mark may be at the end of what came.
            kept = b"" if found else _beginning_of(self._mark, before)
            told = before[: len(before) - len(kept)]
            if told:
                self._outgoing.send(wire.Output(1, told))
            rest = after if found else kept
            if found:
                self._passed.set()

    def _has_unread(self, descriptor: int) -> bool:
        if descriptor != 1:
            return super()._has_unread(descriptor)
        self._passed.clear()
        try:
            os.write(1, self._mark)
        except OSError:
            return False  # the call has closed it
        self._passed.wait(_END_SECONDS)
        return False


def _beginning_of(mark: bytes, data: bytes) -> bytes:
    """The longest end of some data with which a mark begins."""
    at = data.rfind(mark[:1], max(0, len(data) - len(mark) + 1))
    while at >= 0 and not mark.startswith(data[at:]):
        at = data.rfind(mark[:1], max(0, len(data) - len(mark) + 1), at)
    return data[at:] if at >= 0 else b""


class _PatientWorker(Worker):
    """Ends at the end of its input: at once when it is busy, else in peace."""

    def obey(self) -> None:
        try:
            super().obey_until_the_end()
            assert isinstance(self.work, _Outgoing)
            self.work.calls.put(None)
            if not self.is_busy:
                threading.Event().wait(_END_SECONDS)
        finally:
            die()


def main(reading: int, writing: int, mark: bytes, levels: dict[str, int], cpus: float) -> None:
    """Serve a host until the end of the input.

    Args:
        reading, writing: the pipes from and to the host.
        mark: what stands behind the output of a call.
        levels: of the host's loggers that have one set, by name.
        cpus: how many its calls hold.
    """
    outgoing = _Outgoing(writing)
    payload.inline_only()
    worker = _PatientWorker(
        outgoing,
        _Incoming(reading, outgoing),
        memoryview(bytearray(wire.WORD.size)),
        PumpedStreams(mark, outgoing),
    )
    run(worker, worker.obey, levels, cpus)
