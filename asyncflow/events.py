"""The records of what happens in a run.

They are what subscribers of :meth:`Run.events` see. Their names and fields are permanent.
Every record carries ``sequence`` (its place in the run, from 1), ``run_id``, ``node`` (the
name of the node, group or "" for the run itself), ``attempt`` (from 1; 0 where it means
nothing), ``wall_time`` (UTC seconds since the epoch) and ``monotonic_seconds`` (the clock
of the event loop, for durations).
"""

from __future__ import annotations

import msgspec

from asyncflow.states import NodeState, RunState

__all__ = [
    "Event",
    "Gap",
    "MapExpanded",
    "NodeFinished",
    "NodeOutput",
    "NodeProgress",
    "NodeRetrying",
    "NodeStarted",
    "RunFinished",
    "RunStarted",
    "UnitFinished",
    "UnitStarted",
    "Warned",
]


class Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind", tag=True):
    """What every record carries."""

    sequence: int
    run_id: str
    node: str = ""
    attempt: int = 0
    wall_time: float
    monotonic_seconds: float

    @property
    def kind(self) -> str:
        """The record's type as text: the name of its class."""
        return type(self).__name__


class RunStarted(Event, frozen=True, kw_only=True):
    """A run began; ``resumed`` of its nodes ended in an earlier life of it."""

    pipeline: str
    nodes: int
    units: int
    resumed: int = 0


class RunFinished(Event, frozen=True, kw_only=True):
    """A run ended; nothing of it runs any more except ``abandoned`` nodes."""

    state: RunState
    duration_seconds: float
    reason: str = ""
    abandoned: tuple[str, ...] = ()


class UnitStarted(Event, frozen=True, kw_only=True):
    """A unit (a group, or a node of its own) was given its lease; ``node`` is its name."""

    members: tuple[str, ...]
    lane: str
    cpus: float
    memory_bytes: int
    gpu_ids: tuple[str, ...]


class UnitFinished(Event, frozen=True, kw_only=True):
    """A unit ended and its lease was given back."""


class NodeStarted(Event, frozen=True, kw_only=True):
    """An attempt of a node began."""

    lane: str


class NodeFinished(Event, frozen=True, kw_only=True):
    """A node reached its final state.

    ``cached``: its value was taken from the cache.
    ``error`` is the text of what it raised, with its type; ``duration_seconds`` that of
    the last attempt.
    """

    state: NodeState
    duration_seconds: float
    error: str = ""
    cached: bool = False


class NodeRetrying(Event, frozen=True, kw_only=True):
    """An attempt failed and the node will be tried again after ``delay_seconds``."""

    delay_seconds: float
    error: str


class NodeProgress(Event, frozen=True, kw_only=True):
    """A step called :meth:`StepContext.report`; the latest report wins if it reports often."""

    done: float
    total: float | None = None
    message: str | None = None


class NodeOutput(Event, frozen=True, kw_only=True):
    """A step that runs in a process printed ``lines`` on ``stream``: ``stdout`` or ``stderr``."""

    stream: str
    lines: tuple[str, ...]


class MapExpanded(Event, frozen=True, kw_only=True):
    """A mapped node became ``elements`` nodes, one for each element of its asset."""

    elements: int


class Warned(Event, frozen=True, kw_only=True):
    """Something deserves attention but the run goes on."""

    message: str


class Gap(Event, frozen=True, kw_only=True):
    """``missed`` records are not in this stream: they came before it, or it read too slowly."""

    missed: int


AnyEvent = (
    RunStarted
    | RunFinished
    | UnitStarted
    | UnitFinished
    | NodeStarted
    | NodeFinished
    | NodeRetrying
    | NodeProgress
    | NodeOutput
    | MapExpanded
    | Warned
    | Gap
)
