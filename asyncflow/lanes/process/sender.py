"""The host's way of sending: never blocks, and keeps what the other end has no room for."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from typing import Any

from asyncflow.lanes.process.wire import MOST_DESCRIPTORS, Channel, framed

__all__ = ["Rights", "Sender"]

# The descriptor that goes with a frame, or one that is still being written to.
Rights = int | asyncio.Future[Any] | None
# What is longer gains nothing by going with others, and would be copied for it.
_MOST_BYTES = 1 << 18
_NOTHING = memoryview(b"")


class Sender:
    """Sends frames on a channel whose socket does not block.

    Frames that wait are sent together, with the descriptors that belong to them.

    Args:
        loop: the running event loop.
        channel: the host's end.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, channel: Channel) -> None:
        self._loop = loop
        self._channel = channel
        # Frames still to be sent, each with the descriptor that goes with it.
        self._waiting: deque[tuple[bytes, Rights]] = deque()
        # What is left of the message that is being sent, and the descriptors that go with it.
        self._message = _NOTHING
        self._descriptors: list[int] = []
        self._is_due = False
        self._watches = False
        self._closed = False

    def send(self, frame: Any, descriptor: Rights = None) -> None:
        """Send a frame, now or as soon as there is room; the descriptor is closed then.

        A descriptor that is still being written to holds back what comes behind it.
        """
        self._add(frame, descriptor)
        self.flush()

    def send_soon(self, frame: Any, descriptor: Rights = None) -> None:
        """Send a frame with others of this turn of the loop, at its end or by :meth:`flush`."""
        self._add(frame, descriptor)
        if not self._is_due:
            self._is_due = True
            self._loop.call_soon(self.flush)

    def _add(self, frame: Any, descriptor: Rights) -> None:
        if self._closed:
            _drop(descriptor)
            return
        self._waiting.append((framed(frame), descriptor))
        if isinstance(descriptor, asyncio.Future):
            descriptor.add_done_callback(lambda _: self.flush())

    def flush(self) -> None:
        """Send now what was to be sent soon."""
        self._is_due = False
        if self._closed:
            return
        is_full = self._send_some()
        if is_full != self._watches:
            self._watches = is_full
            number = self._channel.write_fileno()
            if is_full:
                self._loop.add_writer(number, self.flush)
            else:
                self._loop.remove_writer(number)

    def _send_some(self) -> bool:
        """Send what goes now; whether there was no room for more."""
        while self._message or self._gather():
            try:
                sent = self._channel.send_some(self._message, self._descriptors)
            except BlockingIOError:
                return True
            except OSError:
                # The other end is gone: whoever reads from it learns of that.
                self._drop_all()
                return False
            self._drop_descriptors()
            # An empty slice would keep alive what it is cut from.
            self._message = self._message[sent:] if sent < len(self._message) else _NOTHING
        return False

    def _gather(self) -> bool:
        """Make one message of what waits, as far as it can go together; false if nothing can."""
        frames: list[bytes] = []
        room = _MOST_BYTES
        while self._waiting and len(self._descriptors) < MOST_DESCRIPTORS:
            frame, rights = self._waiting[0]
            if frames and len(frame) > room:
                break
            if isinstance(rights, asyncio.Future):
                if not rights.done():
                    break  # who writes what belongs to it will tell
                if rights.cancelled() or rights.exception() is not None:
                    self._waiting.popleft()  # and whoever asked for it has been told
                    continue
                rights = rights.result()
            self._waiting.popleft()
            frames.append(frame)
            room -= len(frame)
            if rights is not None:
                self._descriptors.append(rights)
        if frames:
            self._message = memoryview(frames[0] if len(frames) == 1 else b"".join(frames))
        return bool(frames)

    def _drop_descriptors(self) -> None:
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors = []

    def _drop_all(self) -> None:
        self._message = _NOTHING
        self._drop_descriptors()
        while self._waiting:
            _drop(self._waiting.popleft()[1])

    def close(self) -> None:
        """Send nothing more; what waits is dropped. The channel is not closed."""
        if not self._closed:
            self.flush()
            self._closed = True
            if self._watches:
                self._loop.remove_writer(self._channel.write_fileno())
            self._drop_all()


def _drop(rights: Rights) -> None:
    if isinstance(rights, asyncio.Future):
        rights.add_done_callback(_drop_later)
    elif rights is not None:
        os.close(rights)


def _drop_later(rights: asyncio.Future[int | None]) -> None:
    if not rights.cancelled() and rights.exception() is None:
        _drop(rights.result())
