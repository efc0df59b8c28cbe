"""The states of nodes and runs, and the moves that are legal between them."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

__all__ = ["NodeState", "RunState"]


class NodeState(StrEnum):
    """Where a node stands; the last seven are final."""

    WAITING = "waiting"
    RUNNING = "running"
    RETRYING = "retrying"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    SKIPPED = "skipped"
    UPSTREAM_FAILED = "upstream_failed"
    CANCELLED = "cancelled"
    ABANDONED = "abandoned"


class RunState(StrEnum):
    """Where a run stands; all but ``running`` are final."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


# A run keeps the states of its nodes as one byte each: 100,000 nodes are 100 KB, and the
# states of all waiting nodes can be changed in one call.
NODE_STATES: Final = tuple(NodeState)
(
    WAITING,
    RUNNING,
    RETRYING,
    SUCCEEDED,
    FAILED,
    TIMED_OUT,
    SKIPPED,
    UPSTREAM_FAILED,
    CANCELLED,
    ABANDONED,
) = range(10)

FINAL: Final = frozenset(range(SUCCEEDED, ABANDONED + 1))
FAILURES: Final = frozenset({FAILED, TIMED_OUT, UPSTREAM_FAILED, CANCELLED, ABANDONED})
# What makes those below it "upstream_failed"; nothing below what was cancelled has failed.
PASSED_ON: Final = FAILURES - {CANCELLED}

MOVES: Final[dict[int, frozenset[int]]] = {
    WAITING: frozenset(
        {RUNNING, FAILED, TIMED_OUT, SKIPPED, UPSTREAM_FAILED, CANCELLED, ABANDONED}
    ),
    RUNNING: frozenset({RETRYING, SUCCEEDED, FAILED, TIMED_OUT, CANCELLED, ABANDONED}),
    RETRYING: frozenset({RUNNING, FAILED, SKIPPED, UPSTREAM_FAILED, CANCELLED}),
}


def check_move(node: str, before: int, after: int) -> None:
    """Refuse a move between states that the table does not have.

    Raises:
        RuntimeError: the move is illegal; an engine fault, never the user's.
    """
    if after not in MOVES.get(before, frozenset()):
        raise RuntimeError(
            f"node {node!r} cannot go from {NODE_STATES[before]} to {NODE_STATES[after]}; "
            "this is a fault of asyncflow itself, please report it"
        )
