"""The standard streams of a worker: pipes to the host, with marks between the calls."""

from __future__ import annotations

import fcntl
import os
import struct
import sys
import termios
from typing import Any

__all__ = ["Streams"]

_NOTHING = struct.pack("i", 0)


class Streams:
    """Flushes what a call has printed, and marks its end where the host has not read it yet.

    Without a mark the host could not tell the last lines of one call from the first ones of the
    next. A pipe that is empty needs none.

    Args:
        mark: stands for the end of a call; nobody prints it by chance.
    """

    def __init__(self, mark: bytes) -> None:
        self._mark = mark
        self._own: tuple[Any, Any] = (sys.stdout, sys.stderr)
        for stream in self._own:
            stream.reconfigure(line_buffering=True, errors="backslashreplace")

    def mark(self) -> int:
        """Mark the end of a call's output; on which streams: 1 stdout, 2 stderr."""
        marks = 0
        for number, own in enumerate(self._own, start=1):
            current = sys.stdout if number == 1 else sys.stderr
            for stream in (own, current) if current is not own else (own,):
                _flush(stream)
            if self._has_unread(number):
                marks |= number
        return marks

    def _has_unread(self, descriptor: int) -> bool:
        try:
            if fcntl.ioctl(descriptor, termios.FIONREAD, _NOTHING) == _NOTHING:
                return False
            os.write(descriptor, self._mark)
        except OSError:
            return False  # the call has closed it
        return True


def _flush(stream: Any) -> None:
    try:
        stream.flush()
    except (OSError, ValueError, AttributeError):
        return  # closed by the call, or replaced by something else
