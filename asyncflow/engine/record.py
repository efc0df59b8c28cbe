"""What is known of one run: columns by node instead of an object for each.

A finished node costs about 40 bytes and no object that the garbage collector tracks.
"""

from __future__ import annotations

import asyncio
import contextvars
from array import array
from collections import deque
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from asyncflow import events
from asyncflow.engine.attempt import Attempt
from asyncflow.engine.bus import EventBus
from asyncflow.engine.capacity import Demand
from asyncflow.engine.frontier import Frontier
from asyncflow.engine.nested_first import NestedFirst
from asyncflow.engine.ranked import RankedQueue
from asyncflow.graph.graph import Graph
from asyncflow.graph.growing import GrowingGraph
from asyncflow.graph.node import MISSING
from asyncflow.lanes.flow import RemoteValue
from asyncflow.states import FINAL, NODE_STATES, WAITING, NodeState, RunState

if TYPE_CHECKING:
    from asyncflow.engine.convoys import Convoy
    from asyncflow.engine.maps import Expansion
    from asyncflow.engine.nesting import Nested, Nesting
    from asyncflow.engine.recording import Recorder
    from asyncflow.engine.restoring import RememberedNodes

__all__ = ["RunRecord"]

Backlog = deque[Attempt] | RankedQueue[Attempt] | NestedFirst[Attempt]
_LONGEST_OUTPUT = 1 << 20


class _Freed:
    """In the place of a value that nobody needs any more."""

    def __repr__(self) -> str:
        return "<freed>"


FREED = _Freed()


class _Stayed:
    """In the place of a value that stayed in the worker of its group."""

    def __repr__(self) -> str:
        return "<stayed in its worker>"


STAYED = _Stayed()


class RunRecord:
    """The state of one run; written by the scheduler only.

    Attributes:
        states: one byte for each node, see :mod:`asyncflow.states`.
        values: by asset; ``MISSING`` until produced.
        raw: what nodes with several outputs returned, as one.
        kept_remotely: by asset, the stand-ins for what workers keep for members of groups.
        ahead: by node, the attempt that its worker was sent ahead of its turn.
        postponed: by node, the attempt that waits for members that have to run again;
            ``rerun`` are those.
        convoys: of units that are alike, by their step and template; None where that is none.
        unfreed: by unit, the members that have ended and whose inputs may be needed again.
        attempts: how often a node was tried, where that is not once.
        started, finished: seconds on the loop's clock of the last attempt, 0.0 before.
        tries: begin and end of each earlier attempt of nodes that were tried again, one
            after the other.
        added: by node that was added while the run goes on, from the first such node on, the
            seconds on the loop's clock at which it came into being.
        expansions: by mapped node, its elements; ``element_of`` by element that has not
            ended, its mapped node.
        nested: by nested node, who asked for it; their demands by unit, beyond what the
            parents hold; ``nested_failures`` counts those that failed, which is their
            parents' business. ``parent`` is the attempt that this whole run is nested in,
            ``depth`` how deep.
        in_flight: by unit, the attempt whose function (or condition) is running.
        backlog: by lane, the parked attempts that wait for a worker.
        remaining: by unit, the seconds of the longest path that begins with it; None where no
            durations are known, and units start in the order in which they became ready.
        ordering: works ``remaining`` out; done before the run begins.
        recorder: where what happens is recorded; None for a run that does not record.
        kept_in: the directory in which it is recorded. ``is_resumed``: it has had earlier lives.
        resumed: nodes whose end is from an earlier life of the run; ``told`` those of them whose
            end is worked out anew, though everybody knows of it.
        earlier: by node, how many attempts began in earlier lives, of which ``tried`` failed
            and count. ``gated``: nodes whose condition was found true then.
        forgiven: by node, how many attempts do not count against its retries.
        quarantined: by node, how many hosts died while it ran, where that is too many.
        unkept: nodes whose value could not be recorded.
        lasted: how many seconds a run took that is only given back as it was.
        item_fingerprint: tells elements of a list apart whose order means nothing.
        memory: what is remembered of nodes that came up while the run went on.
        max_workers: how many units that name no lane may be in a worker lane at once;
            ``capped`` are there now. ``backend`` is the lane of those among them that are sync.
        one_at_a_time: whether a unit begins only when the one before has ended.
        demands: by the identity of what a step asks for and how many thousandths of a CPU it
            gets if it names none.
        stdout: what nodes have printed, from lanes that capture it.
        deaths: how many workers a node has killed.
        parked: by unit, the attempt that waits for capacity, a worker or its back-off.
        abandoned: attempts that ignored their cancel and have not ended.
        left: how many nodes have not reached a final state.
        stopping: why nothing new is started, once that is so.
    """

    def __init__(
        self,
        graph: Graph,
        run_id: str,
        outside: Mapping[str, Any],
        context: contextvars.Context,
        failure_policy: str,
        clock: Callable[[], float],
    ) -> None:
        size = len(graph)
        self.graph = graph
        self.run_id = run_id
        self.outside = outside
        self.context = context
        self.fail_fast = failure_policy == "fail_fast"
        self.bus = EventBus(run_id, clock)
        self.frontier = Frontier(graph.unlocks, graph.wait, graph.roots)
        self.states = bytearray(size)
        self.values: list[Any] = [MISSING] * len(graph.producers)
        self.consumers = array("q", graph.consumers) if graph.kept is not None else None
        self.raw: dict[int, Any] = {}
        self.kept_remotely: dict[int, RemoteValue] = {}
        self.postponed: dict[int, Attempt] = {}
        self.ahead: dict[int, Attempt] = {}
        self.rerun: set[int] = set()
        self.unfreed: dict[int, list[int]] = {}
        self.convoys: dict[tuple[int, int], Convoy | None] = {}
        self.attempts: dict[int, int] = {}
        # By node, how many of its tries were no fault of its own and do not count as such.
        self.forgiven: dict[int, int] = {}
        self.started = array("d", bytes(8 * size))
        self.finished = array("d", bytes(8 * size))
        self.tries: dict[int, array[float]] = {}
        self.size = size
        self.added = array("d")
        self.errors: dict[int, BaseException] = {}
        self.workers: dict[int, str] = {}
        # By node, the most memory that its worker held, where that was measured.
        self.peaks: dict[int, int] = {}
        self.cached: set[int] = set()
        self.services: frozenset[str] = frozenset()
        # By the identity of the requirements: most steps share theirs.
        self.demands: dict[tuple[int, int], Demand] = {}
        self.process_demand = Demand()
        self.in_processes = False
        self.stdout: dict[int, str] = {}
        self.deaths: dict[int, int] = {}
        self.expansions: dict[int, Expansion] = {}
        self.element_of: dict[int, int] = {}
        self.nested: dict[int, Nested] = {}
        self.has_nested = False
        self.nested_demands: dict[int, Demand] = {}
        self.nested_failures = 0
        self.nested_names: set[str] = set()
        self.nesting: Nesting | None = None
        self.launch_nested: Callable[..., Awaitable[Any]] = _launch_nothing
        self.parent: Attempt | None = None
        self.depth = 0
        self.in_flight: dict[int, Attempt] = {}
        self.parked: dict[int, Attempt] = {}
        self.abandoned: dict[Attempt, None] = {}
        self.backlog: dict[str, Backlog] = {}
        self.remaining: Sequence[float] | None = None
        self.ordering: Generator[None, None, None] | None = None
        self.recorder: Recorder | None = None
        self.kept_in: str | None = None
        self.is_resumed = False
        self.resumed: set[int] = set()
        self.told: set[int] = set()
        self.earlier: dict[int, int] = {}
        self.tried: dict[int, int] = {}
        self.gated: set[int] = set()
        self.quarantined: dict[int, int] = {}
        self.unkept: set[int] = set()
        self.memory: RememberedNodes | None = None
        self.lasted: float | None = None
        self.item_fingerprint: Callable[[Any], bytes] = _no_fingerprint
        self.max_workers: int | None = None
        self.backend = "thread"
        self.capped = 0
        self.one_at_a_time = False
        self.queued = False
        self.left = size
        self.blemished = False
        self.begun = False
        self.closing = False
        self.draining = False
        self.cleaning = False
        self.cleanup_over = False
        self.cleanup_timer: asyncio.TimerHandle | None = None
        self.warnings: list[str] = []
        self.told_of_pause: set[str] = set()
        self.progress: dict[int, tuple[float, float | None, str | None]] = {}
        self.stopping: str | None = None
        self.state = RunState.RUNNING
        self.stop_state = RunState.FAILED
        self.began_at = 0.0
        self.ended_at = 0.0
        self.on_end: list[Callable[[RunRecord], None]] = []
        self.report_soon: Callable[[Attempt], None] = _drop_report
        self.take_parts: Callable[[Attempt, list[Any], Any], Any] = _take_no_parts
        self.dropped: Callable[[Attempt, Any], None] = _drop_nothing
        self.tell_report: Callable[[Attempt], None] = _drop_report
        self.came_back: Callable[[Attempt], None] = _drop_report
        self.set_timeout: Callable[[Attempt, float], None] = _set_no_timeout

    def rank(self, unit: int) -> float | None:
        """The place of a unit among those that are ready, lower first; None for arrival order."""
        if self.remaining is None:
            return None
        # What was added while the graph runs is not known to have anything below it.
        return -self.remaining[unit] if unit < len(self.remaining) else 0.0

    def backlog_of(self, lane: str) -> Backlog:
        """Those that wait for a worker of a lane."""
        backlog = self.backlog.get(lane)
        if backlog is None:
            ranked = self.remaining is not None
            backlog = RankedQueue(lambda attempt: self.rank(attempt.unit)) if ranked else deque()
            if self.has_nested:
                backlog = NestedFirst(backlog, self._is_nested)
            self.backlog[lane] = backlog
        return backlog

    def put_nested_first(self) -> None:
        """A nested node comes: from now on such nodes go before all others that wait."""
        if self.has_nested:
            return
        self.has_nested = True
        members_of = self.graph.units.members_of
        self.frontier.put_nested_first(lambda unit: members_of(unit)[0] in self.nested)
        for lane, backlog in self.backlog.items():
            assert not isinstance(backlog, NestedFirst)
            self.backlog[lane] = NestedFirst(backlog, self._is_nested)

    def _is_nested(self, attempt: Attempt) -> bool:
        return attempt.node in self.nested

    def lane_of(self, unit: int) -> str:
        """The lane of a unit: its own, or that of the run's executor if it names none."""
        lane = self.graph.units.lanes[unit]
        if lane != "thread" or self.backend == "thread" or unit in self.graph.units.settled:
            return lane
        members = self.graph.units.members_of(unit)
        return lane if self.graph.nodes[members[0]].step.lane else self.backend

    @property
    def process_cpu_millis(self) -> int:
        """Thousandths of a CPU for process steps that name none."""
        return 1000 if self.max_workers is None else 0

    def demand_of(self, unit: int) -> Demand | None:
        """What a unit takes; None for nothing."""
        nested = self.nested_demands.get(unit)
        if nested is not None:
            return nested
        requirements = self.graph.units.resources.get(unit)
        in_process = self.lane_of(unit) == "process"
        if requirements is None:
            return self.process_demand if in_process else None
        return self.demands[id(requirements), self.process_cpu_millis if in_process else 0]

    def grow(self) -> None:
        """See that the graph is this run's own, which may grow."""
        if not isinstance(self.graph, GrowingGraph):
            self.graph = GrowingGraph.of(self.graph)

    def add_node(self, outputs: int, now: float) -> None:
        """The graph has grown by one node; it comes into being as waiting."""
        self.states.append(WAITING)
        self.added.append(now)
        self.started.append(0.0)
        self.finished.append(0.0)
        self.values.extend([MISSING] * outputs)
        if self.consumers is not None:
            self.consumers.extend([1] * outputs)
        self.left += 1

    def take_output(self, attempt: Attempt, stream: str, lines: tuple[str, ...]) -> None:
        """Keep what a node prints, the last megabyte of it, and tell who listens."""
        if stream == "stdout":
            text = self.stdout.get(attempt.node, "") + "\n".join(lines) + "\n"
            self.stdout[attempt.node] = text[-_LONGEST_OUTPUT:]
        self.bus.publish(
            events.NodeOutput,
            node=attempt.name,
            attempt=attempt.number,
            stream=stream,
            lines=lines,
        )

    def bars(self, node: int) -> bool:
        """Whether a node may not start any more, because the run is stopping.

        Clean-up steps may, and what they ask for, until their time is over; and what steps ask
        for that still run while the run drains.
        """
        if self.stopping is None:
            return False
        if self.cleanup_over:
            return True
        if self.draining and node in self.nested:
            return False  # what runs may end, and needs this for it
        return not self.belongs_to_cleanup(node)

    def belongs_to_cleanup(self, node: int) -> bool:
        """Whether a node is a clean-up step, or nested in one."""
        while node in self.nested:
            node = self.nested[node].parent.node
        return node in self.graph.cleanup

    def has_cleanup_ready(self) -> bool:
        """Whether clean-up steps of a stopping run are about to start."""
        return bool(self.graph.cleanup) and not self.cleanup_over and bool(self.frontier.ready)

    def let_go(self) -> None:
        """Forget what only steps need: services, run inputs, and the caller's context."""
        self.outside = {}
        self.context = contextvars.Context()

    @property
    def is_over(self) -> bool:
        return self.state is not RunState.RUNNING

    def state_of(self, index: int) -> NodeState:
        return NODE_STATES[self.states[index]]

    def is_final(self, index: int) -> bool:
        return self.states[index] in FINAL

    def number_of(self, attempt: Attempt) -> int:
        """Which try an attempt is, those that the death of a host cut off left out, from 1."""
        node = attempt.node
        if node not in self.earlier:
            return attempt.number
        return attempt.number - self.earlier[node] + self.tried.get(node, 0)

    def is_settled(self, node: int) -> bool:
        """Whether a node has the end of an earlier life, and nothing is left to do for it."""
        return node in self.resumed and node not in self.told

    def is_ending(self, node: int) -> bool:
        """Whether a node has ended and is not acknowledged."""
        return self.recorder is not None and node in self.recorder.ahead

    def states_ahead(self) -> Sequence[int]:
        """The states, with those of nodes that have ended and are not acknowledged."""
        if self.recorder is None or not self.recorder.ahead:
            return self.states
        states = self.states.copy()
        for node, state in self.recorder.ahead.items():
            states[node] = state
        return states

    def attempts_of(self, index: int) -> int:
        return self.attempts.get(index, 1 if self.started[index] else 0)

    def ready_at(self, index: int) -> float:
        """When the last parent of a node ended; the run's begin for roots, or its own."""
        ends = [self.finished[parent] for parent in self.graph.parents[index]]
        begin = self.began_at if index < self.size else self.added[index - self.size]
        return max(begin, max(ends, default=0.0))

    def note_try(self, attempt: Attempt, now: float) -> None:
        """An attempt that is followed by another one has ended."""
        if attempt.started:
            tries = self.tries.setdefault(attempt.node, array("d"))
            tries.extend((attempt.started, attempt.finished or now))

    def tries_of(self, index: int) -> list[tuple[float, float]]:
        """Begin and end of each attempt that began, in order."""
        earlier = self.tries.get(index, ())
        tries = list(zip(earlier[::2], earlier[1::2], strict=True))
        if self.started[index]:
            tries.append((self.started[index], self.finished[index]))
        return tries

    def value_of(self, index: int) -> Any:
        """What a node returned; ``MISSING`` or ``FREED`` where there is nothing to give."""
        if index in self.raw:
            parts = self.raw[index]
            outputs = self.graph.outputs_of(index)
            stayed = any(self.values[asset] is STAYED for asset in outputs)
            return STAYED if stayed else parts
        if NODE_STATES[self.states[index]] is not NodeState.SUCCEEDED:
            return MISSING
        outputs = self.graph.outputs_of(index)
        return self.values[outputs[0]] if len(outputs) == 1 else FREED


async def _launch_nothing(*_: Any) -> Any:
    """Nested runs of a run that no runtime owns."""
    raise RuntimeError("this run belongs to no runtime")


def _take_no_parts(attempt: Attempt, parts: list[Any], worker: Any) -> Any:
    """Values of groups of a run that the scheduler does not own."""


def _drop_nothing(attempt: Attempt, worker: Any) -> None:
    """Values of groups of a run that the scheduler does not own."""


def _set_no_timeout(attempt: Attempt, seconds: float) -> None:
    """Timeouts in a run that the scheduler does not own."""


def _no_fingerprint(_: Any) -> bytes:
    """Where nothing is recorded nothing has to be recognized."""
    return b""


def _drop_report(attempt: Attempt) -> None:
    """Progress of a run that the scheduler does not own."""
