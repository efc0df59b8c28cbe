"""The runs that a runtime records: opening their journals, and what they remember."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import os
import socket
from collections.abc import Callable, Iterator
from functools import cache, partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import msgspec

from asyncflow.engine.deferring import DeferredValues
from asyncflow.engine.record import RunRecord
from asyncflow.engine.recorded_bus import RecordedBus
from asyncflow.engine.recording import Recorder
from asyncflow.engine.restoring import Changes, Values, find_changes, restore
from asyncflow.engine.scheduler import Scheduler
from asyncflow.engine.stored import StorageSettings
from asyncflow.errors import RunConflict
from asyncflow.graph.graph import Graph
from asyncflow.recorded_inputs import encode_inputs, with_recorded_inputs
from asyncflow.request import RunRequest
from asyncflow.states import SKIPPED, SUCCEEDED, RunState
from asyncflow.storage.codecs import Codecs
from asyncflow.storage.fingerprint import Fingerprints
from asyncflow.storage.journal import OpenJournal, open_journal, read_events
from asyncflow.storage.layout import DEFAULT_DIRECTORY
from asyncflow.storage.memory import RunMemory
from asyncflow.storage.records import Inputs, Life, Plan, Record, Restored
from asyncflow.storage.writer import Durability, JournalWriter

__all__ = ["Checkpoint", "Checkpoints"]

_LOGGER = logging.getLogger("asyncflow")


class Checkpoint(msgspec.Struct):
    """A run about to be recorded, or given back from its record.

    ``request`` is what was asked for, with inputs that were recorded filled in; ``record`` has
    what the journal remembers. ``is_over``: the run is finished, and nothing of it has to run
    again.
    """

    run_id: str
    directory: str
    durability: Durability
    journal: OpenJournal
    codecs: Codecs
    request: RunRequest
    record: RunRecord
    inputs: Inputs
    fingerprints: list[bytes]
    changes: Changes
    is_over: bool

    def attach(self, scheduler: Scheduler) -> None:
        """Have the run recorded from now on; one that is over only gives back what was."""
        record, journal = self.record, self.journal
        journal.memory.teller.run_id = self.run_id
        record.bus.sequence = record.bus.earlier = journal.memory.teller.sequence
        if self.is_over:
            self._give_back()
            return
        bus = record.bus
        assert isinstance(bus, RecordedBus)
        recorder = Recorder(
            scheduler,
            record,
            codecs=self.codecs,
            teller=journal.memory.teller,
            deferred=DeferredValues(scheduler.loop, self.codecs, journal.blobs),
            open_writer=self._open_writer,
        )
        record.recorder = bus.recorder = recorder
        record.item_fingerprint = recorder.item_fingerprint
        record.warnings += [*([journal.cut] if journal.cut else []), *_told(self.changes)]
        for first in self._first_records(scheduler):
            recorder.put(first)
        journal.memory.let_go()

    def _give_back(self) -> None:
        finished = self.journal.memory.finished
        assert finished is not None
        self.record.lasted = finished["duration_seconds"]
        self.journal.close()
        _LOGGER.warning(
            "run %r is finished; its result is given back as it was, and nothing is run "
            "(on_existing='restart' runs it anew)",
            self.run_id,
        )

    def _open_writer(self, **calls: Any) -> JournalWriter:
        journal = self.journal
        return JournalWriter(
            journal.file,
            journal.chain,
            path=journal.path,
            durability=self.durability,
            free_bytes=journal.directory.free_bytes,
            release=journal.release,
            **calls,
        )

    def _first_records(self, scheduler: Scheduler) -> Iterator[Record]:
        """What a life begins with.

        What it drops stands before the plan that it drops it for: cut between the two, the next
        life compares with the old plan again.
        """
        memory, graph = self.journal.memory, self.record.graph
        yield Life(
            number=len(memory.lives) + 1,
            run_id=self.run_id,
            pipeline=graph.name,
            parent=self.request.parent,
            host=socket.gethostname(),
            pid=os.getpid(),
            wall=self.record.bus.wall_clock(),
            monotonic=scheduler.clock(),
            version=own_version(),
        )
        if memory.life is None:
            yield self.inputs
        else:
            yield Restored(len(self.record.resumed), self.changes.dropped)
        # Below what changed nothing counts any more, also what is no part of this life.
        absent = [] if self.changes.dropped else sorted(graph.absent & memory.nodes.keys())
        plan = _plan_of(graph, self.fingerprints, absent)
        if memory.plan is None or not _is_same(plan, memory.plan):
            yield plan


class Checkpoints:
    """Opens the journals of a runtime's runs.

    Args:
        storage: where, if runs are recorded without asking for it, and with which codecs.
        durability: what a record has to survive before it counts.
    """

    def __init__(self, storage: StorageSettings, durability: Durability) -> None:
        self._storage = storage
        self._durability: Durability = durability

    async def open(
        self, request: RunRequest, run_id: str, clock: Callable[[], float]
    ) -> Checkpoint:
        """Open the journal of a run that is to be recorded, and restore what it remembers.

        Raises:
            RunLocked: the run is in progress elsewhere.
            RunConflict: a run of that id is there and is not this one, or may not be there.
            StorageError: it cannot be read, or kept.
        """
        directory = request.checkpoint
        if not isinstance(directory, str):
            directory = self._storage.directory or DEFAULT_DIRECTORY
        # In a thread: reading takes longer than the loop may be held.
        work = partial(self._open, directory, request, run_id, clock)
        opening = asyncio.get_running_loop().run_in_executor(None, work)
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            # The thread goes on; what it opens nobody would close.
            opening.add_done_callback(_close_unwanted)
            raise

    def _open(
        self, directory: str, request: RunRequest, run_id: str, clock: Callable[[], float]
    ) -> Checkpoint:
        asked = isinstance(request.checkpoint, str) or self._storage.directory is not None
        if not asked and not os.path.exists(directory):
            _LOGGER.warning(
                "runs are recorded in %s; Runtime(directory=…) or checkpoint=… keeps them "
                "elsewhere",
                os.path.abspath(directory),
            )
        journal = open_journal(directory, run_id, on_existing=request.on_existing)
        try:
            return self._remember(directory, request, run_id, clock, journal)
        except RunConflict:
            journal.close()
            if request.on_conflict == "refuse":
                raise
            anew = msgspec.structs.replace(request, on_existing="restart", on_conflict="refuse")
            return self._open(directory, anew, run_id, clock)
        except BaseException:
            journal.close()
            raise

    def _remember(
        self,
        directory: str,
        request: RunRequest,
        run_id: str,
        clock: Callable[[], float],
        journal: OpenJournal,
    ) -> Checkpoint:
        own_version()  # here, in the thread: it reads files
        codecs, memory = self._storage.make_codecs(directory), journal.memory
        if memory.life is not None:
            _refuse_another(memory.life, request.graph, run_id)
        inputs = encode_inputs(request, codecs, journal.blobs)
        values = Values(codecs, journal.blobs)
        if memory.inputs is not None:
            request = with_recorded_inputs(request, run_id, memory.inputs, inputs, values)
        graph = request.graph
        read = {**graph.context, **request.inputs}
        found = Fingerprints(graph, read, self._storage.extra)
        fingerprints = [found.of(index) for index in range(len(graph))]
        record = RunRecord(graph, run_id, {}, contextvars.Context(), request.failure_policy, clock)
        record.bus = RecordedBus(run_id, clock, partial(read_events, directory, run_id))
        record.kept_in = directory
        changes = Changes([], [])
        if memory.life is not None:
            memory.end_life()
            changes = find_changes(graph, fingerprints, memory)
            _refuse_changes(request, run_id, changes)
            record.is_resumed = True
            restore(record, memory, values, {name for name, _ in changes.dropped})
        return Checkpoint(
            run_id,
            directory,
            self._durability,
            journal,
            codecs,
            request,
            record,
            inputs,
            fingerprints,
            changes,
            memory.life is not None and _is_over(graph, memory, changes),
        )


@cache
def own_version() -> str:
    """The version of this package, "" where it is not installed as one."""
    try:
        return version("asyncflow-runtime")
    except PackageNotFoundError:
        return ""


def _close_unwanted(opening: asyncio.Future[Checkpoint]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().journal.close()


# -- changes -----------------------------------------------------------------------------------


def _refuse_another(life: Life, graph: Graph, run_id: str) -> None:
    if life.pipeline != graph.name:
        raise RunConflict(
            f"there is a run {run_id!r} of pipeline {life.pipeline!r}, not of {graph.name!r}; "
            "take another run id, or on_existing='restart'",
            run_id=run_id,
        )


def _refuse_changes(request: RunRequest, run_id: str, changes: Changes) -> None:
    if request.on_change == "refuse" and changes.changed:
        raise RunConflict(
            f"run {run_id!r} was recorded with other steps: "
            f"{', '.join(map(repr, changes.changed))} changed; on_change='rerun' runs them again "
            "with everything below them",
            run_id=run_id,
            steps=changes.changed,
        )


def _told(changes: Changes) -> Iterator[str]:
    """What a run says of what it drops."""
    if changes.changed:
        below = len(changes.dropped) - len(
            {name for name, _ in changes.dropped}.intersection(changes.changed)
        )
        more = f", and {below} below them" if below else ""
        yield (
            f"since the run was recorded these steps changed and run again: "
            f"{', '.join(map(repr, changes.changed))}{more}"
        )


def _is_over(graph: Graph, memory: RunMemory, changes: Changes) -> bool:
    """Whether a run succeeded, and nothing of it has to run again."""
    if memory.state is not RunState.SUCCEEDED or changes.dropped or changes.changed:
        return False
    for index, node in enumerate(graph.nodes):
        known = memory.nodes.get(node.name)
        if known is None or not known.is_done:
            return False
        if known.state == SUCCEEDED and known.value is None and index not in graph.maps:
            return False
    return all(
        node.is_done and (node.state == SKIPPED or node.value is not None)
        for node in memory.nodes.values()
        if node.above and not node.nested
    )


def _is_same(plan: Plan, known: Plan) -> bool:
    return (plan.names, plan.fingerprints, plan.absent) == (
        known.names,
        known.fingerprints,
        known.absent,
    )


def _plan_of(graph: Graph, fingerprints: list[bytes], absent: list[str]) -> Plan:
    units = graph.units
    return Plan(
        [node.name for node in graph.nodes],
        fingerprints,
        [list(parents) for parents in graph.parents],
        [(group.group_name, list(units.members_of(unit))) for unit, group in units.groups.items()],
        absent,
    )
