"""The host's way of sending: never blocks, and keeps what the other end has no room for."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from typing import Any

from asyncflow.lanes.process.wire import Channel, framed

__all__ = ["Rights", "Sender"]

# The descriptor that goes with a frame, or one that is still being written to.
Rights = int | asyncio.Future[Any] | None


class Sender:
    """Sends frames on a channel whose socket does not block.

    Args:
        loop: the running event loop.
        channel: the host's end.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, channel: Channel) -> None:
        self._loop = loop
        self._channel = channel
        # Bytes still to be sent, with the descriptor that goes with the first of them.
        self._waiting: deque[tuple[memoryview, Rights]] = deque()
        self._watches = False
        # Small frames that are sent together.
        self._soon: list[bytes] = []
        self._closed = False

    def send(self, frame: Any, descriptor: Rights = None) -> None:
        """Send a frame, now or as soon as there is room; the descriptor is closed then.

        A descriptor that is still being written to holds back what comes behind it.
        """
        self.flush()
        self.send_bytes(framed(frame), descriptor)

    def send_soon(self, frame: Any, descriptor: Rights = None) -> None:
        """Send a frame with others of this turn of the loop, if it is small."""
        if descriptor is not None or self._waiting:
            self.send(frame, descriptor)
            return
        if not self._soon:
            self._loop.call_soon(self.flush)
        self._soon.append(framed(frame))

    def flush(self) -> None:
        """Send now what was to be sent soon."""
        if self._soon:
            data = b"".join(self._soon)
            self._soon.clear()
            self.send_bytes(data)

    def send_bytes(self, data: bytes, descriptor: Rights = None) -> None:
        """Send frames that are bytes already."""
        if self._closed:
            _drop(descriptor)
            return
        self._waiting.append((memoryview(data), descriptor))
        if isinstance(descriptor, asyncio.Future):
            descriptor.add_done_callback(lambda _: self._go_on())
        if len(self._waiting) == 1:
            self._go_on()

    def _go_on(self) -> None:
        if self._closed:
            return
        is_full = self._send_some()
        if is_full != self._watches:
            self._watches = is_full
            number = self._channel.write_fileno()
            if is_full:
                self._loop.add_writer(number, self._go_on)
            else:
                self._loop.remove_writer(number)

    def _send_some(self) -> bool:
        """Send what goes now; whether there was no room for more."""
        while self._waiting:
            data, rights = self._waiting[0]
            if isinstance(rights, asyncio.Future):
                if not rights.done():
                    return False  # who writes what belongs to it will tell
                if rights.cancelled() or rights.exception() is not None:
                    self._waiting.popleft()  # and whoever asked for it has been told
                    continue
                rights = rights.result()
                self._waiting[0] = data, rights
            try:
                sent = self._channel.send_some(data, rights)
            except BlockingIOError:
                return True
            except OSError:
                # The other end is gone: whoever reads from it learns of that.
                self._drop_all()
                return False
            _drop(rights)
            if sent < len(data):
                self._waiting[0] = data[sent:], None
            else:
                self._waiting.popleft()
        return False

    def _drop_all(self) -> None:
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
