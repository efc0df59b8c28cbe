"""What a run that records does with everything that happens: to the journal, then to the world.

What a step returned is *ended* first and *acknowledged* later, in a turn after its record was
committed: only then its event is told, its dependents are released and whoever called it goes
on. Between the two the node keeps the state it had; inside a group the next member starts
meanwhile. Starts, progress and the like go the same way and nobody waits for them, so what
subscribers see is what the journal holds, in its order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from asyncflow import events
from asyncflow.engine.attempt import Attempt
from asyncflow.engine.deferring import DeferredValues, is_light
from asyncflow.engine.record import RunRecord
from asyncflow.engine.recorded_bus import RecordedBus
from asyncflow.engine.reporting import unit_fields
from asyncflow.errors import NotRecordable, StepFailed, StorageError, text_of
from asyncflow.events import Event
from asyncflow.graph.node import MISSING
from asyncflow.lanes.lane import Lane
from asyncflow.states import FAILED, NODE_STATES, SUCCEEDED, RunState
from asyncflow.storage.codecs import Codecs
from asyncflow.storage.fingerprint import code_fingerprint
from asyncflow.storage.records import (
    Added,
    Blob,
    Clock,
    Ended,
    Gated,
    Happened,
    NodeBegan,
    Record,
    SimplyBegan,
    SimplyEnded,
    UnitBegan,
    UnitEnded,
    encode,
)
from asyncflow.storage.replay import Teller, event_fields
from asyncflow.storage.typed import annotation_of
from asyncflow.storage.unrecorded import is_unrecorded
from asyncflow.storage.writer import JournalWriter

if TYPE_CHECKING:
    from asyncflow.engine.scheduler import Scheduler

__all__ = ["Recorder"]

# So many ends go into one record; a record is acknowledged in one piece.
_TOGETHER: Final = 64
# The wall clock is noted again when it has moved against the monotonic one.
_DRIFT_SECONDS: Final = 0.05
# Nobody waits for these.
_LAZY: Final = (SimplyBegan, NodeBegan, UnitBegan, UnitEnded, Gated, Added)


class Recorder:
    """The recording of one run.

    Args:
        run: whose; it is given this recorder.
        codecs: turn values into bytes.
        teller: knows the events so far.
        open_writer: makes the journal's writer; told what to call when records are safe, when
            nothing more can be written, and before it takes what waits.
        deferred: encodes and keeps large values beside the loop.

    Attributes:
        ending: how many nodes have ended and are not acknowledged.
        ahead: the final states of those that did not take the shortest way.
        error: why nothing more is recorded, once that is so.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        run: RunRecord,
        *,
        codecs: Codecs,
        teller: Teller,
        deferred: DeferredValues,
        open_writer: Callable[..., JournalWriter],
    ) -> None:
        assert isinstance(run.bus, RecordedBus)
        self._scheduler = scheduler
        self._run = run
        self._bus = run.bus
        self._codecs = codecs
        self._teller = teller
        self._deferred = deferred
        self.ending = 0
        self.ahead: dict[int, int] = {}
        self.error: StorageError | None = None
        self.pending = 0  # records that are not acknowledged
        self._begun: list[tuple[int, float]] = []
        self._ended: list[tuple[int, float, float, bytes]] = []
        self._offset = run.bus.wall_clock() - scheduler.clock()
        self._final: RunState | None = None
        # Until the first records are safe nothing starts: what ran then nobody would know of.
        self._is_held = True
        # Nodes whose values are being encoded, and the units that ended meanwhile.
        self._deferring: set[int] = set()
        self._held: dict[str, None] = {}
        # Records that end nodes and are not acknowledged, by their identity.
        self._codes: dict[int, bytes] = {}  # by step
        self._annotations: dict[int, Any] = {}  # by step
        self._open: dict[int, Ended | SimplyEnded] = {}
        self._writer = open_writer(
            acknowledge=self._acknowledge, failed=self._fail, gather=self._gather
        )

    @property
    def is_busy(self) -> bool:
        """Whether something is still to be recorded, or to follow from what was."""
        return bool(self.pending or self.ending or self._begun)

    # -- begins --------------------------------------------------------------------------

    def began(self, attempt: Attempt, lane: Lane) -> None:
        """An attempt begins, and perhaps its unit."""
        at = self._scheduler.clock()
        if attempt.alone:
            if self._ended:
                self._flush()
            elif not self._begun:
                self._writer.want(lazily=True)
            self._begun.append((attempt.node, at))
            return
        if not attempt.unit_announced:
            attempt.unit_announced = True
            self._unit_began(attempt, at)
        self.put(NodeBegan(attempt.node, attempt.number, lane.name, at))

    def _unit_began(self, attempt: Attempt, at: float) -> None:
        graph = self._run.graph
        fields = unit_fields(attempt)
        members = list(graph.units.members_of(attempt.unit))
        name = fields["node"]
        self.put(
            UnitBegan(
                members,
                "" if name == graph.nodes[members[0]].name else name,
                fields["lane"],
                fields["cpus"],
                fields["memory_bytes"],
                list(fields["gpu_ids"]),
                at,
            )
        )

    # -- ends ----------------------------------------------------------------------------

    def ended_alone(self, attempt: Attempt) -> None:
        """A node that took the shortest way succeeded."""
        value, node = attempt.value, attempt.node
        if self.error is None and is_light(value):
            try:
                encoded = self._codecs.encode(value)
            except NotRecordable:
                pass
            else:
                if self._begun or len(self._ended) >= _TOGETHER:
                    self._flush()
                if not self._ended:
                    self._writer.want()
                self._ended.append((node, attempt.started, attempt.finished, encoded))
                self.ending += 1
                return
        self.end(node, SUCCEEDED)
        self.unit_ended(attempt.name)

    def code_of(self, node: int) -> bytes:
        """The fingerprint of the code of a node's step."""
        step = self._run.graph.nodes[node].step
        if id(step) not in self._codes:
            self._codes[id(step)] = bytes.fromhex(code_fingerprint(step.func))
        return self._codes[id(step)]

    def item_fingerprint(self, item: Any) -> bytes:
        """What tells an element from others by its value; empty where no codec takes it."""
        try:
            encoded = self._codecs.encode(item)
        except NotRecordable:
            return b""
        return hashlib.blake2b(encoded, digest_size=8).digest()

    def end(self, node: int, state: int) -> None:
        """A node comes to its final state, which counts once that is recorded."""
        run = self._run
        self.ending += 1
        self.ahead[node] = state
        if self.error is not None:
            self._end_unrecorded(node)
            return
        record = self._record_of_end(node, state)
        if state != SUCCEEDED or node in run.graph.maps:
            self.put(record)
            return
        if is_unrecorded(run.graph.nodes[node].step.func):
            record.recorded = False
            run.unkept.add(node)
            self.put(record)
            return
        value = run.raw[node] if node in run.raw else run.values[run.graph.outputs_of(node)[0]]
        annotation = self._annotation_of(node)
        if is_light(value):
            try:
                record.value = self._codecs.encode(value, annotation)
            except NotRecordable as refusal:
                self._refused(record, refusal)
            self.put(record)
        else:
            self._deferring.add(node)
            self._deferred.add(value, annotation, lambda kept: self._value_kept(record, kept))

    def _annotation_of(self, node: int) -> Any:
        step = self._run.graph.nodes[node].step
        if id(step) not in self._annotations:
            self._annotations[id(step)] = annotation_of(step.func)
        return self._annotations[id(step)]

    def _record_of_end(self, node: int, state: int) -> Ended:
        run = self._run
        return Ended(
            node,
            state,
            run.attempts_of(node),
            run.started[node],
            run.finished[node],
            self._scheduler.clock(),
            cached=node in run.cached,
            error=text_of(run.errors.get(node)),
            worker=run.workers.get(node, ""),
        )

    def _value_kept(self, record: Ended, kept: bytes | Blob | Exception) -> None:
        """A value that was encoded beside the loop is there, or was refused."""
        self._deferring.discard(record.node)
        if isinstance(kept, StorageError):
            self._fail(kept)
        if self.error is not None:
            self._end_unrecorded(record.node)
            return
        if isinstance(kept, NotRecordable):
            self._refused(record, kept)
        elif isinstance(kept, Exception):
            self._refused(record, NotRecordable("a value", text_of(kept)))
        else:
            record.value = kept
        self.put(record)
        for name in self._held:
            if not self._is_deferring(name):
                del self._held[name]
                self.unit_ended(name)
                break

    def _refused(self, record: Ended, refusal: NotRecordable) -> None:
        record.recorded = False
        name = self._run.graph.nodes[record.node].name
        self._run.unkept.add(record.node)
        self.happened(
            events.Warned,
            {
                "node": name,
                "message": f"the result of step {name!r} is not recorded, and a resumed run runs "
                f"the step again: {refusal}",
            },
        )

    def closed(self, fields: Mapping[str, Any]) -> None:
        """A node that a stopped run did not come to has its state already."""
        node = self._run.graph.index[fields["node"]]
        self.put(self._record_of_end(node, NODE_STATES.index(fields["state"])))

    def unit_ended(self, name: str) -> None:
        """A unit ended: ``name`` is that of a group or of its only node."""
        if self._deferring and self._is_deferring(name):
            self._held[name] = None
            return
        node = self._run.graph.index.get(name)
        at = self._scheduler.clock()
        self.put(UnitEnded(0, name, at) if node is None else UnitEnded(node, "", at))

    def _is_deferring(self, unit: str) -> bool:
        """Whether a value of a unit's member is still being encoded."""
        graph = self._run.graph
        return any(graph.unit_name(graph.units.of_node[node]) == unit for node in self._deferring)

    # -- anything else -------------------------------------------------------------------

    def gated(self, node: int) -> None:
        """A condition was found true."""
        self.put(Gated(node))

    def added(self, record: Added) -> None:
        """A node came up."""
        self.put(record)

    def happened(self, kind: type[Event], fields: dict[str, Any]) -> None:
        """Any other event."""
        self.put(Happened(self._scheduler.clock(), event_fields(kind, fields)))

    def finish(self, state: RunState, fields: dict[str, Any]) -> None:
        """The run ends; it is over once that is recorded and the journal is closed."""
        self._final = state
        self.happened(events.RunFinished, fields)
        if self.error is not None:
            self._scheduler.spawn(self._close())

    def give_up(self, fault: BaseException) -> None:
        """The engine failed: nothing that is not recorded yet will be."""
        if self.error is None:
            self.error = StorageError(f"asyncflow itself failed: {text_of(fault)}")
            self._begun, self._ended = [], []

    # -- to the journal ------------------------------------------------------------------

    def put(self, record: Record) -> None:
        """Have a record written after all before it."""
        if self.error is not None:
            self._tell(record)
            return
        if self._begun or self._ended:
            self._flush()
        self._append(record)

    def _append(self, record: Record) -> None:
        self.pending += 1
        if isinstance(record, Ended | SimplyEnded):
            self._open[id(record)] = record
        self._writer.append(encode(record), record, lazily=isinstance(record, _LAZY))

    def _flush(self) -> None:
        """Make records of the begins or ends that gathered."""
        record: SimplyBegan | SimplyEnded
        if self._begun:
            record, self._begun = SimplyBegan(self._begun), []
        else:
            record, self._ended = SimplyEnded(self._ended), []
        self._append(record)

    def _gather(self) -> None:
        """The writer is about to take all that waits."""
        if self._begun or self._ended:
            self._flush()
        offset = self._run.bus.wall_clock() - self._scheduler.clock()
        if abs(offset - self._offset) > _DRIFT_SECONDS:
            self._offset = offset
            at = self._scheduler.clock()
            self.put(Clock(at + offset, at))

    def _acknowledge(self, records: list[Record]) -> None:
        self._scheduler.acknowledged.extend((self, record) for record in records)
        self._scheduler.turn_now()

    # -- from the journal ----------------------------------------------------------------

    def apply(self, record: Record) -> None:
        """A record is safe: tell its events, and draw the consequences."""
        self.pending -= 1
        self._open.pop(id(record), None)
        if self._run.is_over:
            return
        self._tell(record)
        if self._is_held and not self.pending:
            self._let_begin()
        if isinstance(record, SimplyEnded):
            self._apply_simple(record)
        elif isinstance(record, Ended):
            if record.node in self.ahead:
                self._acknowledge_end(record.node)
        elif isinstance(record, Happened) and record.event["kind"] == "RunFinished":
            self._scheduler.spawn(self._close())

    def _let_begin(self) -> None:
        self._is_held = False
        self._scheduler.let_begin(self._run)

    def _apply_simple(self, record: SimplyEnded) -> None:
        run, scheduler = self._run, self._scheduler
        states, frontier = run.states, run.frontier
        count = len(record.ended)
        run.left -= count
        self.ending -= count
        goes_on = run.stopping is None or bool(run.graph.cleanup)
        for node, *_ in record.ended:
            states[node] = SUCCEEDED
            if goes_on and frontier.finished(node):
                scheduler.releasing.append(run)
            if run.element_of:
                scheduler.maps.element_ended(run, node)
        if goes_on:
            scheduler.queue(run)
        if not run.left or run.stopping is not None:
            scheduler.stopping.end_if_over(run)

    def _acknowledge_end(self, node: int) -> None:
        state = self.ahead.pop(node)
        self.ending -= 1
        run, scheduler = self._run, self._scheduler
        scheduler.settlement.settle_node(run, node, state)
        if not run.left or run.stopping is not None:
            scheduler.stopping.end_if_over(run)

    def _tell(self, record: Record) -> None:
        bus, teller = self._bus, self._teller
        if bus.heard:
            for event in teller.tell(record):
                bus.hand_out(event)
        else:
            teller.count(record)
        bus.sequence = teller.sequence

    # -- failing and closing -------------------------------------------------------------

    def _fail(self, error: StorageError) -> None:
        """Nothing more can be recorded: the run takes on nothing new, and ends as failed."""
        if self.error is not None:
            return
        self.error = error
        run, scheduler = self._run, self._scheduler
        safe = {id(record) for recorder, record in scheduler.acknowledged if recorder is self}
        lost = [record for record in self._open.values() if id(record) not in safe]
        self.pending = len(safe)
        ended, self._begun, self._ended = self._ended, [], []
        nodes = [node for node, *_ in ended]
        for record in lost:
            if isinstance(record, Ended):
                nodes.append(record.node)
            else:
                nodes += [node for node, *_ in record.ended]
        scheduler.stopping.drain(run, RunState.FAILED, str(error))
        if self._is_held:
            self._let_begin()
        # In a turn of its own: this may be called while one goes on.
        scheduler.loop.call_soon(self._end_lost, nodes)

    def _end_lost(self, nodes: list[int]) -> None:
        for node in nodes:
            self._end_unrecorded(node)
        if self._final is not None:
            self._run.stopping = self._run.stopping or str(self.error)
            self._scheduler.spawn(self._close())

    def _end_unrecorded(self, node: int) -> None:
        """A node whose end cannot be recorded any more ends without that; a result is lost."""
        run = self._run
        if self.ahead.get(node, SUCCEEDED) == SUCCEEDED and node not in run.graph.maps:
            name = run.graph.nodes[node].name
            failed = StepFailed(
                f"step {name!r} ended, but its result could not be recorded: {self.error}",
                step=name,
            )
            failed.__cause__ = self.error
            run.errors[node] = failed
            run.raw.pop(node, None)
            for asset in run.graph.outputs_of(node):
                run.values[asset] = MISSING
            run.blemished = True
            self.ahead[node] = FAILED
        self.ahead.setdefault(node, FAILED)
        self._acknowledge_end(node)

    async def _close(self) -> None:
        """Let go of the journal; then the run is over."""
        assert self._final is not None
        await self._writer.close()
        self._deferred.close()
        state = self._final
        if self.error is not None and state is RunState.SUCCEEDED:
            state = RunState.FAILED
        if not self._run.is_over:
            self._scheduler.stopping.conclude(self._run, state)

    async def abort(self) -> None:
        """Let go of the journal of a run that ends without being recorded to its end."""
        await self._writer.close()
        self._deferred.close()
