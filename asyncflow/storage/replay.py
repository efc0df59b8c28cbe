"""From records to events: what subscribers see is what the journal holds, record by record."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from asyncflow import events
from asyncflow.events import AnyEvent, Event
from asyncflow.states import NODE_STATES
from asyncflow.storage.records import (
    Added,
    Clock,
    Ended,
    Happened,
    Life,
    NodeBegan,
    Plan,
    Record,
    SimplyBegan,
    SimplyEnded,
    UnitBegan,
    UnitEnded,
)

__all__ = ["Teller", "event_fields"]

_COMMON = frozenset({"sequence", "run_id", "wall_time", "monotonic_seconds"})


def event_fields(kind: type[Event], fields: dict[str, Any]) -> dict[str, Any]:
    """What a :class:`Happened` record keeps of an event: its kind and what it adds."""
    built: dict[str, Any] = msgspec.to_builtins({"kind": kind.__name__, **fields})
    return built


class Teller:
    """Tells the events of one run from its records, in their order.

    Attributes:
        sequence: the number of the last event told.
    """

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        self.sequence = 0
        self._names: dict[int, str] = {}
        self._ahead = 0.0  # of the wall clock over the monotonic one

    def count(self, record: Record) -> int:
        """Take note of a record without telling its events; returns how many they are."""
        if isinstance(record, SimplyEnded):
            told = 2 * len(record.ended)
        elif isinstance(record, SimplyBegan):
            told = 2 * len(record.begun)
        elif isinstance(record, Ended | NodeBegan | UnitBegan | UnitEnded | Happened):
            told = 1
        else:
            self._note(record)
            told = 0
        self.sequence += told
        return told

    def tell(self, record: Record) -> Iterator[Event]:
        """The events that a record stands for."""
        for kind, at, fields in self._told(record):
            self.sequence += 1
            yield kind(
                sequence=self.sequence,
                run_id=self.run_id,
                wall_time=at + self._ahead,
                monotonic_seconds=at,
                **fields,
            )

    def _note(self, record: Record) -> None:
        if isinstance(record, Plan):
            self._names = dict(enumerate(record.names))
        elif isinstance(record, Added):
            self._names[record.node] = record.name
        elif isinstance(record, Life | Clock):
            self._ahead = record.wall - record.monotonic

    def _told(self, record: Record) -> Iterator[tuple[type[Event], float, dict[str, Any]]]:
        names = self._names
        if isinstance(record, SimplyBegan):
            for node, at in record.begun:
                yield events.UnitStarted, at, _simple_unit(names[node])
                yield events.NodeStarted, at, {"node": names[node], "attempt": 1, "lane": "inline"}
        elif isinstance(record, SimplyEnded):
            for node, began, ended, _ in record.ended:
                yield events.NodeFinished, ended, _succeeded(names[node], ended - began)
                yield events.UnitFinished, ended, {"node": names[node]}
        elif isinstance(record, Ended):
            yield events.NodeFinished, record.at, self._finished(record)
        elif isinstance(record, NodeBegan):
            yield (
                events.NodeStarted,
                record.at,
                {"node": names[record.node], "attempt": record.attempt, "lane": record.lane},
            )
        elif isinstance(record, UnitBegan):
            yield events.UnitStarted, record.at, self._unit(record)
        elif isinstance(record, UnitEnded):
            yield events.UnitFinished, record.at, {"node": record.name or names[record.node]}
        elif isinstance(record, Happened):
            yield self._happened(record)
        else:
            self._note(record)

    def _finished(self, record: Ended) -> dict[str, Any]:
        return {
            "node": self._names[record.node],
            "attempt": record.attempt,
            "state": NODE_STATES[record.state],
            "duration_seconds": max(0.0, record.ended - record.began) if record.began else 0.0,
            "error": record.error,
            "cached": record.cached,
        }

    def _unit(self, record: UnitBegan) -> dict[str, Any]:
        members = tuple(self._names[node] for node in record.members)
        return {
            "node": record.name or members[0],
            "members": members,
            "lane": record.lane,
            "cpus": record.cpus,
            "memory_bytes": record.memory_bytes,
            "gpu_ids": tuple(record.gpu_ids),
        }

    def _happened(self, record: Happened) -> tuple[type[Event], float, dict[str, Any]]:
        # Through msgspec: what stands in a file is checked like anything from outside.
        event = msgspec.convert(
            {**record.event, "sequence": 0, "run_id": "", "wall_time": 0.0, "monotonic_seconds": 0},
            AnyEvent,
        )
        names = type(event).__struct_fields__
        fields = {name: getattr(event, name) for name in names if name not in _COMMON}
        return type(event), record.at, fields


def _simple_unit(name: str) -> dict[str, Any]:
    return {
        "node": name,
        "members": (name,),
        "lane": "inline",
        "cpus": 0.0,
        "memory_bytes": 0,
        "gpu_ids": (),
    }


def _succeeded(name: str, seconds: float) -> dict[str, Any]:
    return {
        "node": name,
        "attempt": 1,
        "state": NODE_STATES[3],
        "duration_seconds": max(0.0, seconds),
    }
