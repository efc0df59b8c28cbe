"""The host's way of sending: never blocks, and keeps what the other end has no room for."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from typing import Any

from asyncflow.lanes.process.wire import Channel, framed

__all__ = ["Sender"]


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
        self._waiting: deque[tuple[memoryview, int | None]] = deque()
        # Small frames that are sent together.
        self._soon: list[bytes] = []
        self._closed = False

    def send(self, frame: Any, descriptor: int | None = None) -> None:
        """Send a frame, now or as soon as there is room; the descriptor is closed then."""
        self.flush()
        self.send_bytes(framed(frame), descriptor)

    def send_soon(self, frame: Any, descriptor: int | None = None) -> None:
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

    def send_bytes(self, data: bytes, descriptor: int | None = None) -> None:
        """Send frames that are bytes already."""
        if self._closed:
            _close(descriptor)
            return
        self._waiting.append((memoryview(data), descriptor))
        if len(self._waiting) == 1 and not self._send_some():
            self._loop.add_writer(self._channel.write_fileno(), self._go_on)

    def _go_on(self) -> None:
        if self._send_some():
            self._loop.remove_writer(self._channel.write_fileno())

    def _send_some(self) -> bool:
        """Send what goes; whether that was all."""
        while self._waiting:
            data, descriptor = self._waiting[0]
            try:
                sent = self._channel.send_some(data, descriptor)
            except BlockingIOError:
                return False
            except OSError:
                # The other end is gone: whoever reads from it learns of that.
                self._drop_all()
                return True
            _close(descriptor)
            if sent < len(data):
                self._waiting[0] = data[sent:], None
            else:
                self._waiting.popleft()
        return True

    def _drop_all(self) -> None:
        while self._waiting:
            _close(self._waiting.popleft()[1])

    def close(self) -> None:
        """Send nothing more; what waits is dropped. The channel is not closed."""
        if not self._closed:
            self.flush()
            self._closed = True
            if self._waiting:
                self._loop.remove_writer(self._channel.write_fileno())
                self._drop_all()


def _close(descriptor: int | None) -> None:
    if descriptor is not None:
        os.close(descriptor)
