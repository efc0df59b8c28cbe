"""Whether a call left its worker as it found it.

Checked after every call, so it has to be cheap. A worker whose state is dirty is retired.
"""

from __future__ import annotations

import _locale
import os
import signal
import sys
import warnings
from collections.abc import Callable
from typing import Any

__all__ = ["Hygiene"]

# Asking for all 64 would take longer than most tiny steps.
_SIGNALS = tuple(
    getattr(signal, f"SIG{name}")
    for name in ("INT", "TERM", "HUP", "ALRM", "CHLD", "PIPE", "USR1", "USR2")
    if hasattr(signal, f"SIG{name}")
)

# The mapping behind os.environ, whose own methods decode and encode every variable.
_environment: dict[bytes, bytes] = os.environ._data  # type: ignore[attr-defined]
# The function behind signal.getsignal, which makes members of an enum.
_handler_of: Callable[[int], Any] = sys.modules["_signal"].getsignal


class Hygiene:
    """The state of a worker before its first call, and what of it has changed since."""

    def __init__(self) -> None:
        self._environment = dict(_environment)
        self._directory = os.getcwd()
        self._umask = _umask()
        self._handlers = [_handler_of(number) for number in _SIGNALS]
        self._streams = _streams()
        self._warnings = list(warnings.filters)
        self._modules = len(sys.modules)
        self._locale = _locale.setlocale(_locale.LC_ALL)

    def changed(self) -> str:
        """What has changed, in words; empty if nothing has."""
        try:
            if os.getcwd() != self._directory:
                return "the working directory"
        except OSError:
            return "the working directory, which is gone"
        if _streams() != self._streams:
            return "the standard streams"
        if _environment != self._environment:
            return "the environment"
        if _umask() != self._umask:
            return "the umask"
        if [_handler_of(number) for number in _SIGNALS] != self._handlers:
            return "a signal handler"
        return self._changed_interpreter()

    def _changed_interpreter(self) -> str:
        if list(warnings.filters) != self._warnings:
            if len(sys.modules) == self._modules:
                return "the warning filters"
            # A library that is imported may well set its own.
            self._warnings = list(warnings.filters)
        self._modules = len(sys.modules)
        return "" if _locale.setlocale(_locale.LC_ALL) == self._locale else "the locale"


def _umask() -> int:
    now = os.umask(0o077)
    os.umask(now)
    return now


def _streams() -> list[tuple[int, int]] | None:
    try:
        stats = [os.fstat(number) for number in (0, 1, 2)]
    except OSError:
        return None
    return [(stat.st_dev, stat.st_ino) for stat in stats]
