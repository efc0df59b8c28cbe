"""Calls that a worker was given before their turn, and what they say before it has come.

The worker goes on by itself, so a call may begin, print, report, ask for nested work and end
before the engine has come to it. To the world all that happens when its turn has come.
"""

from __future__ import annotations

from typing import Any

import msgspec

from asyncflow.lanes.lane import Call
from asyncflow.lanes.process import wire

__all__ = ["Early"]


class Early(msgspec.Struct, eq=False):
    """One such call.

    ``printed`` are lines with the stream they came on; of what it ``reported`` the latest counts.
    ``asked`` has by ticket what it wants of the host, and the arguments. ``ended``: what the
    worker told of its end, and when the host learned of that.
    """

    call: Call
    printed: list[tuple[str, tuple[str, ...]]] = []
    reported: wire.Report | None = None
    asked: dict[int, tuple[str, Any]] = {}
    ended: tuple[wire.Outcome, float] | None = None

    @property
    def is_dropped(self) -> bool:
        """Whether its turn will not come."""
        return self.call.cancel_requested

    def take_output(self, stream: str, lines: tuple[str, ...]) -> None:
        """It has printed."""
        if not self.is_dropped:
            self.printed.append((stream, lines))

    def tell(self) -> None:
        """Its turn has come: what it has printed and reported is told."""
        for stream, lines in self.printed:
            self.call.take_output(stream, lines)
        if self.reported is not None:
            self.call.report(self.reported.done, self.reported.total, self.reported.message)
