"""What a worker holds in memory: now, and at most while it made one call."""

from __future__ import annotations

import os
import resource
import sys

from asyncflow.lanes.process.wire import out_of_the_way

__all__ = ["Memory"]

_RUSAGE_UNIT = 1 if sys.platform == "darwin" else 1024


class Memory:
    """Measures this process.

    The kernel keeps the most that a process ever held, and forgets it when told to (proc(5),
    ``clear_refs``): so each call has a peak of its own. Where that is not to be had, a call is
    known to have reached a new peak of the process, or nothing is known of it.
    """

    def __init__(self) -> None:
        self._status = _opened("/proc/self/status", os.O_RDONLY)
        self._clear = _opened("/proc/self/clear_refs", os.O_WRONLY)
        self._before = 0

    def begin(self) -> None:
        """A call begins: what was before does not count."""
        if self._clear is not None:
            try:
                os.pwrite(self._clear, b"5", 0)
            except OSError:
                self._clear = None  # not allowed here
        if self._clear is None:
            self._before = _most_ever()

    def peak_bytes(self) -> int:
        """The most that this process has held since the call began; 0 if that is not known."""
        if self._clear is not None:
            return self._field(b"VmHWM:")
        most = _most_ever()
        return most if most > self._before else 0

    def resident_bytes(self) -> int:
        """What it holds now; 0 if that is not known."""
        return self._field(b"VmRSS:")

    def _field(self, name: bytes) -> int:
        if self._status is None:
            return 0
        try:
            status = os.pread(self._status, 1 << 14, 0)
        except OSError:
            return 0
        _, found, rest = status.partition(name)
        return int(rest.split(maxsplit=1)[0]) * 1024 if found else 0


def _opened(path: str, flags: int) -> int | None:
    try:
        return out_of_the_way(os.open(path, flags))
    except OSError:
        return None


def _most_ever() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RUSAGE_UNIT
