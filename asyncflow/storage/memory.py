"""What a journal says of a run, node by node, over all its lives."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from asyncflow.states import FAILURES, SKIPPED, SUCCEEDED, RunState
from asyncflow.storage.records import (
    Added,
    Blob,
    Ended,
    Gated,
    Happened,
    Inputs,
    Life,
    NodeBegan,
    Plan,
    Record,
    Restored,
    SimplyBegan,
    SimplyEnded,
)
from asyncflow.storage.replay import Teller

__all__ = ["NodeMemory", "RunMemory"]


class NodeMemory(msgspec.Struct, eq=False, gc=False):
    """What is known of a node.

    ``state`` is its final state as a number, None while it has none. ``attempt`` is the
    highest number of an attempt that began; ``tries`` of them failed and count against its
    retries. ``value`` is what is kept of its value; ``recorded`` is false where no codec took
    it. ``running``: an attempt began and its end is not known. ``gated``: its condition was
    found true. ``above`` is the node that it belongs to, where it came up while the run went
    on; ``deaths`` counts the hosts that died, one after the other, while it ran.
    """

    state: int | None = None
    attempt: int = 0
    tries: int = 0
    value: bytes | Blob | None = None
    recorded: bool = True
    running: bool = False
    gated: bool = False
    cached: bool = False
    began: float = 0.0
    ended: float = 0.0
    error: str = ""
    worker: str = ""
    lane: str = ""
    above: str = ""
    nested: bool = False
    code: bytes = b""
    item: bytes = b""
    fingerprint: bytes = b""
    deaths: int = 0

    @property
    def is_done(self) -> bool:
        """Whether it need not run again."""
        return self.state == SUCCEEDED or self.state == SKIPPED


class RunMemory:
    """The run that the records of a journal, taken one after the other, tell of.

    Attributes:
        life: the record of the latest life; None before the first.
        plan, inputs: the latest ones.
        nodes: by name.
        finished: the last ``RunFinished``, as it is recorded; None while the run goes on or was
            interrupted.
        expanded: mapped nodes whose elements were all added.
        deaths: how many hosts of the run died.
        teller: knows the number of the last event.
    """

    def __init__(self) -> None:
        self.life: Life | None = None
        self.plan: Plan | None = None
        self.inputs: Inputs | None = None
        self.nodes: dict[str, NodeMemory] = {}
        self.finished: dict[str, Any] | None = None
        self.finished_at = 0.0
        self.began_wall = 0.0
        self.expanded: set[str] = set()
        self.lives: list[Life] = []
        self.last_name = ""
        self.teller = Teller("")
        self.deaths = 0
        self._parents: dict[str, list[str]] = {}
        self._by_number: dict[int, NodeMemory] = {}
        self._names: dict[int, str] = {}
        self._progressed = self._life_ended = False

    @property
    def run_id(self) -> str:
        return "" if self.life is None else self.life.run_id

    @property
    def state(self) -> RunState:
        """Where the run stands; ``running`` also where it was interrupted."""
        return RunState.RUNNING if self.finished is None else RunState(self.finished["state"])

    def take(self, record: Record) -> None:
        """Take note of the next record.

        Raises:
            KeyError, ValueError: it does not fit those before it.
        """
        self.teller.count(record)
        kind = type(record)
        if kind is SimplyEnded:
            for node, began, ended, value in record.ended:  # type: ignore[union-attr]
                memory = self._by_number[node]
                memory.state, memory.running, memory.recorded = SUCCEEDED, False, True
                memory.began, memory.ended, memory.value = began, ended, value
                self._progressed = True
            self.last_name = self._names[node]
        elif kind is SimplyBegan:
            for node, at in record.begun:  # type: ignore[union-attr]
                memory = self._by_number[node]
                memory.running, memory.attempt, memory.began = True, 1, at
                memory.lane = "inline"
        else:
            self._take_other(record)

    def _take_other(self, record: Record) -> None:
        if isinstance(record, Ended):
            self._end(record)
        elif isinstance(record, NodeBegan):
            memory = self._by_number[record.node]
            memory.running, memory.attempt, memory.lane = True, record.attempt, record.lane
            memory.began = record.at
        elif isinstance(record, Happened):
            self._happened(record)
        elif isinstance(record, Added):
            self._add(record)
        elif isinstance(record, Gated):
            self._by_number[record.node].gated = True
        elif isinstance(record, Life):
            self._begin_life(record)
        elif isinstance(record, Plan):
            self._plan(record)
        elif isinstance(record, Inputs):
            self.inputs = record
        elif isinstance(record, Restored):
            self._drop(name for name, _ in record.dropped)

    def _end(self, record: Ended) -> None:
        memory = self._by_number[record.node]
        self.last_name = self._names[record.node]
        memory.state, memory.running = record.state, False
        memory.attempt = max(memory.attempt, record.attempt)
        memory.began, memory.ended = record.began, record.ended
        memory.value, memory.recorded = record.value, record.recorded
        memory.cached, memory.error, memory.worker = record.cached, record.error, record.worker
        if record.state in FAILURES:
            memory.tries = 0
            memory.gated = False
        memory.deaths = 0
        self._progressed = True

    def _happened(self, record: Happened) -> None:
        event = record.event
        kind = event["kind"]
        if kind == "NodeRetrying":
            memory = self.nodes[event["node"]]
            memory.tries += 1
            memory.running = False
        elif kind == "RunFinished":
            self.finished, self.finished_at = event, record.at
        elif kind == "MapExpanded":
            self.expanded.add(event["node"])

    def _add(self, record: Added) -> None:
        memory = self.nodes.setdefault(record.name, NodeMemory())
        memory.above, memory.nested = self._names[record.above], record.nested
        memory.code, memory.item = record.code, record.item
        self._by_number[record.node] = memory
        self._names[record.node] = record.name

    def _plan(self, record: Plan) -> None:
        if len(record.fingerprints) != len(record.names):
            raise ValueError("the plan has not one fingerprint for each node")
        if self.plan is not None:
            self._forget_removed({*record.names, *record.absent})
        self.plan, self._parents = record, {}
        self._names = dict(enumerate(record.names))
        self._by_number = {}
        for number, name in enumerate(record.names):
            memory = self.nodes.get(name)
            if memory is None:
                memory = self.nodes[name] = NodeMemory()
            memory.fingerprint = record.fingerprints[number]
            self._by_number[number] = memory

    def _forget_removed(self, names: set[str]) -> None:
        """A node that comes back later starts anew: what is above it may have changed."""
        for name in [
            name for name, memory in self.nodes.items() if not memory.above and name not in names
        ]:
            del self.nodes[name]
        for name in [name for name, memory in self.nodes.items() if self._is_orphan(memory)]:
            del self.nodes[name]

    def _is_orphan(self, memory: NodeMemory) -> bool:
        while memory.above:
            above = self.nodes.get(memory.above)
            if above is None:
                return True
            memory = above
        return False

    def let_go(self) -> None:
        """Forget the nodes, whose values may be large; who needs them has taken them."""
        self.nodes, self._by_number, self._names = {}, {}, {}

    def _begin_life(self, record: Life) -> None:
        if self.life is None:
            self.teller.run_id = record.run_id
            self.began_wall = record.wall
        else:
            self.end_life()
        self.life, self.finished = record, None
        self.lives.append(record)
        self._progressed = self._life_ended = False

    def end_life(self) -> None:
        """The latest life is over: if its host died, note on whose watch.

        A second time, without a new life, does nothing more.

        A death is blamed on the nodes that ran. It counts as one of a row only if the life
        came to nothing, no node of it ended: a step that kills its host stops all progress,
        while one that is merely slow sees others end.
        """
        if self.finished is not None or self._life_ended:
            return
        self._life_ended = True
        self.deaths += 1
        self._count_unrecorded_begins()
        for memory in self.nodes.values():
            if not memory.running:
                memory.deaths = 0
                continue
            memory.running = False
            memory.deaths = 1 if self._progressed else memory.deaths + 1

    def _count_unrecorded_begins(self) -> None:
        """Begins are not waited for: what may have begun without a record counts as begun.

        So whatever runs again has a higher number than it ever had.
        """
        for name, memory in self.nodes.items():
            if memory.is_done or memory.running:
                continue
            if memory.above or all(self._may_be_done(parent) for parent in self._outside(name)):
                memory.attempt += 1

    def _outside(self, name: str) -> list[str]:
        """The parents of a node that are not in its own group."""
        if not self._parents and self.plan is not None:
            names = self.plan.names
            group_of = {node: group for group, members in self.plan.groups for node in members}
            for number, parents in enumerate(self.plan.parents):
                own = group_of.get(number)
                self._parents[names[number]] = [
                    names[parent]
                    for parent in parents
                    if own is None or group_of.get(parent) != own
                ]
        return self._parents.get(name, [])

    def _may_be_done(self, name: str) -> bool:
        memory = self.nodes.get(name)
        return memory is None or memory.state is not None or not memory.recorded

    def _drop(self, names: Iterable[str]) -> None:
        """Those nodes, and what came up below them, run again as if they never had."""
        dropped = set(names)
        if not dropped:
            return
        for name, memory in self.nodes.items():
            if name in dropped or (memory.above and self._is_below(memory, dropped)):
                memory.state, memory.value, memory.tries = None, None, 0
                memory.gated = False
        self.expanded -= dropped

    def _is_below(self, memory: NodeMemory, dropped: set[str]) -> bool:
        while memory.above:
            if memory.above in dropped:
                return True
            memory = self.nodes[memory.above]
        return False
