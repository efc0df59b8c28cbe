"""What workers print, line by line, each line with the call that printed it."""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Callable

__all__ = ["OutputReader"]

_READ_BYTES = 1 << 16
_READS_AT_ONCE = 4
_LONGEST_LINE = 1 << 16
_LAST_LINES = 50
_STREAMS = {1: "stdout", 2: "stderr"}

Take = Callable[[str, tuple[str, ...]], None]


class OutputReader:
    """Reads one stream of a worker.

    Args:
        descriptor: a pipe that does not block; closed by :meth:`close`.
        number: 1 for stdout, 2 for stderr.
        mark: what the worker writes behind the output of a call, if the next might follow
            before it is read.
        take: is given the stream's name and the lines of the call whose turn it is.
    """

    def __init__(self, descriptor: int, number: int, mark: bytes, take: Take) -> None:
        self.descriptor = descriptor
        self._number = number
        self._mark = mark
        self._take = take
        self._data = bytearray()
        self._at_mark = False
        self.last_lines: deque[str] = deque(maxlen=_LAST_LINES)

    def read(self) -> bool:
        """Take in some of what is there, so much that it holds nobody up; false at the end."""
        for _ in range(_READS_AT_ONCE):
            count = self._read_once()
            if count < _READ_BYTES:
                return count >= 0
        return True

    def read_all(self) -> None:
        """Take in what is there."""
        while self.descriptor >= 0 and self._read_once() > 0:
            continue

    def _read_once(self) -> int:
        """How many bytes came; 0 for none at present, -1 for none any more."""
        try:
            data = os.read(self.descriptor, _READ_BYTES)
        except BlockingIOError:
            return 0
        self._data += data
        self._tell_whole_lines()
        return len(data) or -1

    def feed(self, data: bytes) -> None:
        """Take in what came another way than by the pipe."""
        self._data += data
        self._tell_whole_lines()

    def end_call(self, marked: bool) -> None:
        """The call whose turn it was has ended: all up to its mark is its own."""
        while marked and not self._at_mark and self._read_once() > 0:
            continue
        if not marked and self._data:
            # Its last line lacks its end.
            self._tell(bytes(self._data))
            self._data.clear()
        self._at_mark = False

    def resume(self) -> None:
        """What follows belongs to the next call."""
        if self._data:
            self._tell_whole_lines()

    def _tell_whole_lines(self) -> None:
        if self._at_mark:
            return
        end = self._data.find(self._mark)
        if end >= 0:
            self._at_mark = True
            self._tell(bytes(self._data[:end]))
            del self._data[: end + len(self._mark)]
            return
        end = self._data.rfind(b"\n") + 1
        if not end and len(self._data) > _LONGEST_LINE:
            end = len(self._data) - len(self._mark)
        if end:
            self._tell(bytes(self._data[:end]))
            del self._data[:end]

    def _tell(self, data: bytes) -> None:
        if not data:
            return
        text = data.decode("utf-8", "backslashreplace")
        lines = tuple(text.removesuffix("\n").split("\n"))
        self.last_lines.extend(lines)
        _echo(sys.stdout if self._number == 1 else sys.stderr, text)
        self._take(_STREAMS[self._number], lines)

    def close(self) -> None:
        """Close the pipe."""
        os.close(self.descriptor)


def _echo(stream: object, text: str) -> None:
    """Show it where the host's own output goes, whatever has become of that."""
    try:
        stream.write(text)  # type: ignore[attr-defined]
        stream.flush()  # type: ignore[attr-defined]
    except (OSError, ValueError, AttributeError):
        return  # closed, or a pipe that nobody reads any more
