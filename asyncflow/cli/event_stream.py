"""The events of a run as lines of JSON on standard output."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec

from asyncflow.engine.bus import Subscription
from asyncflow.events import Event

__all__ = ["EventStream", "claim_stdout", "json_line"]

# How many events may wait for a reader that is slower than the run; then Gap counts them.
BUFFER = 65_536
_MOST_WAITING_BYTES = 1 << 20
_EVENTS_PER_TURN = 256


def claim_stdout() -> int:
    """Keep standard output for events: whatever else is written there goes to the error stream.

    Steps print, and so do the programs they start; one such line would spoil the stream.

    Returns:
        A descriptor of what standard output was.
    """
    sys.stdout.flush()
    descriptor = os.dup(1)
    os.dup2(2, 1)
    return descriptor


class EventStream:
    """Writes events to a descriptor, without ever holding up the event loop.

    ``lost`` is the error that ended the writing, if one did; the run goes on without.
    """

    def __init__(self, descriptor: int) -> None:
        self.lost: OSError | None = None
        self._descriptor = descriptor
        self._waiting = bytearray()
        self._arrived = asyncio.Event()
        self._taken = asyncio.Event()
        self._ended = False

    async def copy(self, events: Subscription) -> None:
        """Write every event, until the run is over and all is written."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._write_all(events))
            await self._encode_all(events)

    @property
    def reader_left(self) -> bool:
        """Whether writing ended because nobody reads any more, as after ``| head``."""
        return self.lost is not None and self.lost.errno == errno.EPIPE

    async def _encode_all(self, events: Subscription) -> None:
        count = 0
        async for event in events:
            self._waiting += json_line(event)
            self._arrived.set()
            count += 1
            if len(self._waiting) > _MOST_WAITING_BYTES:
                self._taken.clear()
                await self._taken.wait()
            elif not count % _EVENTS_PER_TURN:
                await asyncio.sleep(0)
        self._ended = True
        self._arrived.set()

    async def _write_all(self, events: Subscription) -> None:
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(1, "asyncflow-events") as writer:
            while self.lost is None and not (self._ended and not self._waiting):
                await self._arrived.wait()
                self._arrived.clear()
                chunk, self._waiting = bytes(self._waiting), bytearray()
                self._taken.set()
                try:
                    await loop.run_in_executor(writer, _write, self._descriptor, chunk)
                except OSError as error:
                    self.lost = error
                    await events.aclose()
        self._taken.set()


def _write(descriptor: int, chunk: bytes) -> None:
    view = memoryview(chunk)
    while view:
        view = view[os.write(descriptor, view) :]


def json_line(event: Event) -> bytes:
    """One event as one line of JSON."""
    try:
        return _ENCODER.encode(event) + b"\n"
    except UnicodeEncodeError:
        # A file name that is no UTF-8 gives an error's text that msgspec refuses.
        return json.dumps(msgspec.to_builtins(event, enc_hook=_number_or_text)).encode() + b"\n"


def _number_or_text(value: Any) -> Any:
    """Steps may report numbers of other kinds, numpy's say."""
    try:
        return float(value)
    except (TypeError, ValueError):
        return str(value)


_ENCODER = msgspec.json.Encoder(enc_hook=_number_or_text)
