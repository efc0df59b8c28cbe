"""The records of a journal: the events of a run in few bytes, and what a resume needs besides.

They are arrays in msgpack, told apart by a number. Nodes are numbers too: :class:`Plan` gives
those of the graph their names, :class:`Added` those of nodes that came up while the run went
on. Every process that works on a run begins a *life* with a :class:`Life` record; numbers and
monotonic times mean something within one life only.

Which events a record stands for, :mod:`asyncflow.storage.replay` says.
"""

from __future__ import annotations

from typing import Any

import msgspec

__all__ = [
    "Added",
    "Blob",
    "Clock",
    "Ended",
    "Gated",
    "Happened",
    "Inputs",
    "Life",
    "NodeBegan",
    "Plan",
    "Record",
    "Restored",
    "SimplyBegan",
    "SimplyEnded",
    "UnitBegan",
    "UnitEnded",
    "decode",
    "encode",
]


class Blob(msgspec.Struct, frozen=True, array_like=True):
    """A value in a file of its own: the hash of its content, which is its name, and its length."""

    hash: str
    length: int


class _Record(msgspec.Struct, array_like=True, gc=False, forbid_unknown_fields=True):
    """What every record is."""


class Life(_Record, tag=0):
    """A process begins to work on the run.

    ``number`` counts from 1; ``wall`` (UTC seconds) and ``monotonic`` are the same moment.
    ``parent`` is the run that this one is nested in.
    """

    number: int
    run_id: str
    pipeline: str
    parent: str
    host: str
    pid: int
    wall: float
    monotonic: float
    version: str


class Plan(_Record, tag=1):
    """The graph by number: names, fingerprints and parents of its nodes, names of its groups.

    ``absent`` names nodes of the pipeline that are no part of this life, and whose ends still
    count; what is named nowhere is gone.
    """

    names: list[str]
    fingerprints: list[bytes]
    parents: list[list[int]]
    groups: list[tuple[str, list[int]]]
    absent: list[str] = []


class Inputs(_Record, tag=2):
    """What the run was given, encoded by name; None for what is never recorded (a secret) or
    what no codec takes."""

    inputs: dict[str, bytes | Blob | None]
    given: dict[str, bytes | Blob | None]


class SimplyBegan(_Record, tag=3):
    """Units of one coroutine began: each with its node and the time."""

    begun: list[tuple[int, float]]


class UnitBegan(_Record, tag=4):
    """A unit got its lease; ``name`` is that of a group, "" for a single node."""

    members: list[int]
    name: str
    lane: str
    cpus: float
    memory_bytes: int
    gpu_ids: list[str]
    at: float


class NodeBegan(_Record, tag=5):
    """An attempt began."""

    node: int
    attempt: int
    lane: str
    at: float


class SimplyEnded(_Record, tag=6):
    """Units of one coroutine succeeded in their first attempt: node, begin, end, value."""

    ended: list[tuple[int, float, float, bytes]]


class Ended(_Record, tag=7):
    """A node reached its final state.

    ``value`` is None where there is none or it was not taken; ``recorded`` tells the two
    apart: it is false for a value that no codec takes.
    """

    node: int
    state: int
    attempt: int
    began: float
    ended: float
    at: float
    value: bytes | Blob | None = None
    recorded: bool = True
    cached: bool = False
    error: str = ""
    worker: str = ""


class UnitEnded(_Record, tag=8):
    """A unit ended; it is named by its first member, or as the group ``name``."""

    node: int
    name: str
    at: float


class Happened(_Record, tag=9):
    """Any other event, as it is but for its sequence number, run and times."""

    at: float
    event: dict[str, Any]


class Added(_Record, tag=10):
    """A node that came up: an element of the mapped node ``above``, or asked for by it.

    ``code`` is the fingerprint of its code where it was asked for, ``item`` that of the element
    where the list it stands in is not recorded.
    """

    node: int
    name: str
    above: int
    nested: bool
    code: bytes = b""
    item: bytes = b""


class Gated(_Record, tag=11):
    """The condition of a node was found true."""

    node: int


class Clock(_Record, tag=12):
    """The wall clock was set: from here on these two are the same moment."""

    wall: float
    monotonic: float


class Restored(_Record, tag=13):
    """A life took over what earlier ones left: ``dropped`` names what it ran again, and why."""

    nodes: int
    dropped: list[tuple[str, str]]


Record = (
    Life
    | Plan
    | Inputs
    | SimplyBegan
    | UnitBegan
    | NodeBegan
    | SimplyEnded
    | Ended
    | UnitEnded
    | Happened
    | Added
    | Gated
    | Clock
    | Restored
)

encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.Decoder(Record).decode
