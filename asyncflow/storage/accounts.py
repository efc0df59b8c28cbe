"""An account of a recorded run for people and programs, without its values."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import msgspec

from asyncflow.errors import JournalDamaged, StorageError
from asyncflow.states import NODE_STATES, RunState
from asyncflow.storage.fs import RealDirectory
from asyncflow.storage.journal import Sight, read_events, read_memory
from asyncflow.storage.layout import open_run
from asyncflow.storage.listing import run_directories
from asyncflow.storage.lock import Holder, holder_of
from asyncflow.storage.memory import NodeMemory

__all__ = ["RunAccount", "account_of", "accounts_in"]

# How the boxes of a mermaid drawing look, by state.
_LOOKS = {
    "succeeded": "fill:#d7f0d9,stroke:#2e7d32",
    "failed": "fill:#f8d7da,stroke:#b71c1c",
    "timed_out": "fill:#f8d7da,stroke:#b71c1c",
    "abandoned": "fill:#f8d7da,stroke:#b71c1c",
    "running": "fill:#d6e6fa,stroke:#1565c0",
    "skipped": "fill:#eeeeee,stroke:#757575",
    "upstream_failed": "fill:#fdecd2,stroke:#e65100",
    "cancelled": "fill:#eeeeee,stroke:#757575",
}


class RunAccount(msgspec.Struct):
    """What is recorded of a run at one moment, and who holds it."""

    directory: str
    sight: Sight
    holder: Holder | None

    @property
    def run_id(self) -> str:
        return self.sight.memory.run_id

    @property
    def state(self) -> str:
        """The state of the run; ``interrupted`` where it is not over and nobody is at work."""
        if self.sight.damage is not None:
            return "damaged"
        state = self.sight.memory.state
        if state is RunState.RUNNING and self.holder is None:
            return "interrupted"
        return str(state)

    def summary(self) -> dict[str, Any]:
        """One run among others."""
        memory = self.sight.memory
        nodes = [node for node in memory.nodes.values() if not node.above]
        life = memory.life
        return {
            "run_id": self.run_id,
            "pipeline": "" if life is None else life.pipeline,
            "state": self.state,
            "done": sum(node.is_done for node in nodes),
            "steps": len(nodes),
            "started": memory.began_wall,
            "parent": "" if life is None else life.parent,
            "held_by": None if self.holder is None else msgspec.to_builtins(self.holder),
            "damage": "" if self.sight.damage is None else str(self.sight.damage),
        }

    def as_dict(self, *, events: bool = False) -> dict[str, Any]:
        """All of it but the values.

        Args:
            events: whether the events are told as well.
        """
        memory, ending = self.sight.memory, self.sight.ending
        told = {
            **self.summary(),
            "ending": "" if ending is None else ending.kind,
            "reason": "" if memory.finished is None else memory.finished.get("reason", ""),
            "lives": [
                {
                    "number": life.number,
                    "host": life.host,
                    "pid": life.pid,
                    "started": life.wall,
                    "version": life.version,
                }
                for life in memory.lives
            ],
            "nodes": [self._node(name, node) for name, node in self._in_order()],
        }
        if events:
            told["events"] = list(self._events())
        return told

    def _in_order(self) -> list[tuple[str, NodeMemory]]:
        """The nodes that began in that order, then those that did not."""
        nodes = self.sight.memory.nodes.items()
        return sorted(nodes, key=lambda found: found[1].began or float("inf"))

    def _node(self, name: str, node: NodeMemory) -> dict[str, Any]:
        over = node.state is not None and node.began
        return {
            "name": name,
            "state": self._state_of(node),
            "attempts": node.attempt,
            "lane": node.lane,
            "worker": node.worker,
            "duration_seconds": max(0.0, node.ended - node.began) if over else None,
            "cached": node.cached,
            "recorded": node.recorded,
            "error": node.error,
        }

    def _state_of(self, node: NodeMemory) -> str:
        if node.state is not None:
            return str(NODE_STATES[node.state])
        if not node.running:
            return "waiting"
        return "running" if self.holder is not None else "interrupted"

    def _events(self) -> Iterator[dict[str, Any]]:
        try:
            for event in read_events(self.directory, self.run_id):
                yield msgspec.to_builtins(event)
        except JournalDamaged:
            return  # what stands before the damage was told, and the damage itself is

    def mermaid(self) -> str:
        """The graph of the run with the states of its nodes."""
        plan = self.sight.memory.plan
        lines = ["flowchart TD"]
        if plan is None:
            return "\n".join(lines)
        used: set[str] = set()
        for number, name in enumerate(plan.names):
            state = self._state_of(self.sight.memory.nodes[name])
            text = name.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
            lines.append(f'    n{number}["{text}<br>{state}"]')
            if state in _LOOKS:
                lines.append(f"    class n{number} {state}")
                used.add(state)
        for number, parents in enumerate(plan.parents):
            lines += [f"    n{parent} --> n{number}" for parent in parents]
        lines += [f"    classDef {state} {_LOOKS[state]}" for state in sorted(used)]
        return "\n".join(lines)


def account_of(directory: str | os.PathLike[str], run_id: str) -> RunAccount:
    """The account of one run, also while it is being written.

    Raises:
        FileNotFoundError: there is none.
        StorageError: it is not ours to look at.
    """
    with open_run(directory, run_id) as found:
        return RunAccount(os.fspath(directory), read_memory(found), holder_of(found))


def accounts_in(directory: str | os.PathLike[str]) -> Iterator[RunAccount]:
    """The accounts of all runs in a directory, oldest first."""
    found = []
    for run in run_directories(directory):
        account = _account_in(directory, run)
        if account is not None:
            found.append(account)
    yield from sorted(found, key=lambda account: account.sight.memory.began_wall)


def _account_in(directory: str | os.PathLike[str], run: RealDirectory) -> RunAccount | None:
    try:
        sight = read_memory(run)
    except (FileNotFoundError, StorageError):
        return None
    if sight.memory.life is None and sight.damage is None:
        return None  # a journal that is just being made
    return RunAccount(os.fspath(directory), sight, holder_of(run))
