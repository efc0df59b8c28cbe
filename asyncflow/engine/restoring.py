"""From what a journal remembers to a run that goes on: which nodes need not run again.

Called in a thread, before the run is handed to the scheduler: reading and decoding the values
of 100,000 nodes takes longer than the event loop may be held.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec

from asyncflow.engine.frontier import Frontier
from asyncflow.engine.outcome import let_go, store
from asyncflow.engine.record import RunRecord
from asyncflow.errors import NotReadable, StorageError
from asyncflow.graph.graph import Graph
from asyncflow.states import SKIPPED, SUCCEEDED
from asyncflow.storage.blobs import read_blob
from asyncflow.storage.codecs import Codecs
from asyncflow.storage.fs import Directory
from asyncflow.storage.memory import NodeMemory, RunMemory
from asyncflow.storage.records import Blob
from asyncflow.storage.typed import annotation_of

__all__ = ["Changes", "RememberedNodes", "Values", "find_changes", "restore"]

# So many hosts may die in a row while a node runs and nothing ends.
MAX_DEATHS: Final = 3


class Changes(msgspec.Struct, frozen=True):
    """What is not as it was: nodes that changed, and those that ended and must run again, with
    the reason."""

    changed: list[str]
    dropped: list[tuple[str, str]]


class Values:
    """Reads what records hold of values."""

    def __init__(self, codecs: Codecs, blobs: Directory) -> None:
        self._codecs = codecs
        self._blobs = blobs
        self._annotations: dict[int, Any] = {}

    def content(self, kept: bytes | Blob) -> bytes:
        """The bytes of a value."""
        return read_blob(self._blobs, kept) if isinstance(kept, Blob) else kept

    def decode(self, kept: bytes | Blob, annotation: Any) -> Any:
        """A value.

        Raises:
            NotReadable, StorageError: it is damaged, or what reads it is not there.
        """
        return self._codecs.decode(self.content(kept), annotation)

    def read(self, name: str, kept: bytes | Blob, step: Any) -> Any:
        """The value of a node.

        Raises:
            StorageError: it is damaged, or what reads it is not there.
        """
        key = id(step)
        if key not in self._annotations:
            self._annotations[key] = annotation_of(step.func)
        try:
            return self.decode(kept, self._annotations[key])
        except (NotReadable, StorageError) as error:
            raise StorageError(
                f"the recorded value of step {name!r} cannot be read: {error}",
                path=self._blobs.path,
            ) from error


class RememberedNodes:
    """What is known of nodes that came up while the run went on: elements and nested calls."""

    def __init__(self, memory: RunMemory, values: Values) -> None:
        self._nodes = {name: node for name, node in memory.nodes.items() if node.above}
        self._expanded = memory.expanded
        self._values = values
        self._deaths = memory.deaths
        for node in self._nodes.values():
            if node.is_done and isinstance(node.value, Blob):
                # Read here, in the thread; when the node comes up the loop would have to wait.
                node.value = values.content(node.value)

    def was_expanded(self, name: str) -> bool:
        """Whether all elements of a mapped node are known."""
        return name in self._expanded

    def restore(
        self, run: RunRecord, node: int, item: bytes = b"", *, code: bytes | None = None
    ) -> bool:
        """Give a node that has just come up the end it had in an earlier life.

        Args:
            item: what tells its element from others, where its place in the list does not.
            code: the fingerprint of its code, for nodes that were asked for.

        Returns:
            Whether it had one that counts; else at least its attempts go on.
        """
        name = run.graph.nodes[node].name
        memory = self._nodes.get(name)
        if memory is None:
            if self._deaths:
                # It may have begun without a record in each of the lives that were cut off.
                run.earlier[node] = run.forgiven[node] = self._deaths
            return False
        known = memory.code == code if code is not None else memory.item == item
        if known and memory.is_done and (memory.state == SKIPPED or memory.value is not None):
            self._give(run, node, memory)
            return True
        if known:
            count_attempts(run, node, memory)
        return False

    def _give(self, run: RunRecord, node: int, memory: NodeMemory) -> None:
        if memory.state == SUCCEEDED:
            assert memory.value is not None
            placed = run.graph.nodes[node]
            store(run, node, self._values.read(placed.name, memory.value, placed.step))
        if memory.state == SKIPPED:
            run.blemished = True
        _note_end(run, node, memory)
        run.left -= 1
        let_go(run, node)


def count_attempts(run: RunRecord, node: int, memory: NodeMemory) -> None:
    """A node that has to run goes on with its next attempt."""
    if memory.attempt:
        run.earlier[node] = memory.attempt
        run.tried[node] = memory.tries
        run.forgiven[node] = memory.attempt - memory.tries
    if memory.gated:
        run.gated.add(node)
    if memory.deaths >= MAX_DEATHS:
        run.quarantined[node] = memory.deaths


def find_changes(graph: Graph, fingerprints: Sequence[bytes], memory: RunMemory) -> Changes:
    """Compare a graph with the one that was recorded.

    A node that is new counts as changed, for what is below it; only nodes that had ended are
    dropped.
    """
    changed: dict[int, str] = {}  # by node, why it cannot stay as it was
    named: list[str] = []
    dropped: list[tuple[str, str]] = []
    for index in graph.order:
        name = graph.nodes[index].name
        known = memory.nodes.get(name)
        above = next((parent for parent in graph.parents[index] if parent in changed), None)
        if known is None:
            changed[index] = f"{name!r} is new"
        elif known.fingerprint != fingerprints[index]:
            changed[index] = f"{name!r} changed"
            named.append(name)
        elif above is not None:
            changed[index] = changed[above]
        else:
            continue
        if known is not None and (known.state is not None or known.attempt):
            dropped.append((name, changed[index]))
    return Changes(named, dropped)


def restore(run: RunRecord, memory: RunMemory, values: Values, dropped: Iterable[str]) -> None:
    """Give the nodes of a run the ends they had, and set its frontier to what is left."""
    graph = run.graph
    gone = set(dropped)
    run.memory = RememberedNodes(memory, values)
    done = _done_nodes(graph, memory, gone)
    for index in graph.order:
        name = graph.nodes[index].name
        node = memory.nodes.get(name)
        if node is None:
            continue
        if index in done:
            _give(run, index, name, node, values)
            let_go(run, index)
        elif name in gone:
            run.earlier[index] = run.forgiven[index] = node.attempt
        else:
            count_attempts(run, index, node)
            if index in graph.maps and node.is_done:
                # Its elements say what it was; that it ended everybody knows.
                run.told.add(index)
                run.resumed.add(index)
            if node.state == SUCCEEDED and not node.recorded:
                run.unkept.add(index)
    _set_frontier(run, done)
    run.left -= len(done)
    run.blemished = True


def _done_nodes(graph: Graph, memory: RunMemory, gone: set[str]) -> set[int]:
    """The nodes that need not run again."""
    done: set[int] = set()
    for index in range(len(graph)):
        node = memory.nodes.get(graph.nodes[index].name)
        if node is None or not node.is_done or graph.nodes[index].name in gone:
            continue
        if node.state == SUCCEEDED and (index in graph.maps or node.value is None):
            continue
        done.add(index)
    left = (index for index in range(len(graph)) if index not in done)
    if graph.cleanup and any(index not in graph.cleanup for index in left):
        # What clean-up steps clean up after goes on.
        done.difference_update(graph.cleanup)
    return done


def _give(run: RunRecord, index: int, name: str, node: NodeMemory, values: Values) -> None:
    if node.state == SUCCEEDED:
        assert node.value is not None
        failed = store(run, index, values.read(name, node.value, run.graph.nodes[index].step))
        if failed is not None:
            raise StorageError(f"the recorded value of step {name!r} does not fit: {failed}")
    _note_end(run, index, node)


def _note_end(run: RunRecord, node: int, memory: NodeMemory) -> None:
    """All that is remembered of the end of a node, apart from its value."""
    assert memory.state is not None
    run.states[node] = memory.state
    run.started[node], run.finished[node] = memory.began, memory.ended
    if memory.attempt != 1:
        run.attempts[node] = memory.attempt
    if memory.worker:
        run.workers[node] = memory.worker
    if memory.cached:
        run.cached.add(node)
    run.resumed.add(node)


def _set_frontier(run: RunRecord, done: set[int]) -> None:
    graph, units = run.graph, run.graph.units
    frontier = Frontier(graph.unlocks, graph.wait, graph.roots)
    for node in done:
        if frontier.finished(node):
            while frontier.work_off():
                continue
        if node in graph.maps:
            frontier.release(units.of_node[other] for other in graph.maps[node].followers)
    if units.members is None:
        frontier.retire(done)
    else:
        whole = (unit for unit, members in enumerate(units.members) if done.issuperset(members))
        frontier.retire(whole)
    run.frontier = frontier
