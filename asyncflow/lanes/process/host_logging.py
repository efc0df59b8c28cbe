"""Log records that came from workers."""

from __future__ import annotations

import logging
import pickle

from asyncflow.lanes.process.wire import LogLine

__all__ = ["handle_record"]


def handle_record(frame: LogLine) -> None:
    """Give a record to the logger of its name, as if it had been made here."""
    record = logging.makeLogRecord(pickle.loads(frame.fields))
    logger = logging.getLogger(record.name)
    if logger.isEnabledFor(record.levelno):
        logger.handle(record)
