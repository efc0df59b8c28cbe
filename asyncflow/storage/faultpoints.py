"""Named points in the code at which a crash can be placed exactly.

``ASYNCFLOW_FAULT=after-write:3`` in the environment kills this process, as ``kill -9`` would,
when it comes to the point ``after-write`` for the third time. Without the variable a point
costs a comparison. It is read when the module is imported.
"""

from __future__ import annotations

import os
import signal
from typing import Final

__all__ = ["POINTS", "VARIABLE", "arm", "is_armed", "point"]

VARIABLE: Final = "ASYNCFLOW_FAULT"

POINTS: Final = (
    "before-create",  # a new journal: its directory is there and locked, no file yet
    "after-header",  # the header is written, not synced
    "after-create",  # header and first records are synced, and their directory
    "before-write",  # a batch of records is about to be written
    "mid-write",  # half of the batch is written
    "after-write",  # the batch is written, nothing of it is acknowledged
    "before-sync",  # what was written is about to be synced
    "after-sync",  # it is synced, which no mark says yet
    "after-acknowledge",  # who waited for the batch was told
    "before-blob",  # a large value: nothing of it is written
    "mid-blob",  # half of it is in the temporary file
    "before-blob-rename",  # it is written and synced under the temporary name
    "after-blob-rename",  # it has its name, the directory is not synced
    "after-blob",  # the directory is synced, no record names the value
    "after-truncate",  # a torn tail was cut
    "before-close",  # everything is written, the last sync is to come
)


class _Armed:
    """The point that is armed, and how many times it has still to be passed."""

    name = ""
    left = 0


def arm(setting: str) -> None:
    """Arm one point, ``"name:count"`` (count 1 left out); an empty text disarms.

    Raises:
        ValueError: there is no such point, or the count makes no sense.
    """
    name, _, count = setting.partition(":")
    if name and name not in POINTS:
        raise ValueError(f"{VARIABLE} names {name!r}; the points are {', '.join(POINTS)}")
    if count and not (count.isascii() and count.isdecimal() and int(count) > 0):
        raise ValueError(f"{VARIABLE}={setting!r}: what follows the colon is a number of 1 or more")
    _Armed.name, _Armed.left = name, int(count or 1)


def is_armed(name: str) -> bool:
    """Whether this point is the one that is armed."""
    return _Armed.name == name


def point(name: str) -> None:
    """Come to a point: the process dies here if it is armed and its time has come."""
    if _Armed.name == name:
        _Armed.left -= 1
        if _Armed.left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)


arm(os.environ.get(VARIABLE, ""))
