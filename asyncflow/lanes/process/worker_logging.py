"""Log records of a worker, handed to the host's loggers."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["fields_of", "install"]

_PLAIN = (str, int, float, bool, type(None))


class _ToHost(logging.Handler):
    """The only handler: the host's own say what becomes of a record."""

    def __init__(self, send: Callable[[dict[str, Any]], None]) -> None:
        super().__init__()
        self._send = send

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._send(fields_of(record))
        except Exception:  # noqa: BLE001 - as every handler does
            self.handleError(record)


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """A record as plain values: its message made, its traceback as text."""
    fields = {name: value for name, value in vars(record).items() if isinstance(value, _PLAIN)}
    fields["msg"], fields["args"] = record.getMessage(), None
    if record.exc_info:
        fields["exc_text"] = logging.Formatter().formatException(record.exc_info)
    fields["exc_info"] = None
    return fields


def install(send: Callable[[dict[str, Any]], None], levels: Mapping[str, int]) -> None:
    """Send all records to the host, at the levels that its loggers have."""
    root = logging.getLogger()
    root.handlers[:] = [_ToHost(send)]
    for name, level in levels.items():
        logging.getLogger(name or None).setLevel(level)
