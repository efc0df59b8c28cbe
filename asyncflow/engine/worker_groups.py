"""Groups in worker processes: values stay there, and a unit whose worker dies starts again.

All members run in one worker, which keeps what members hand to each other. Only what somebody
else takes comes back: a node outside, a condition, the cache, ``outputs=`` of the pipeline, or
nobody at all; and everything that can, where the run records.

If the worker dies, members whose values died with it run again, when and if a later member that
needs them does.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from asyncflow import events
from asyncflow.engine.attempt import Attempt, hand_over
from asyncflow.engine.outcome import let_go
from asyncflow.engine.record import STAYED, RunRecord
from asyncflow.graph.binding import FromAsset, FromAssets
from asyncflow.graph.graph import Graph
from asyncflow.graph.node import MISSING
from asyncflow.lanes.flow import GIVE, GIVE_IF_POSSIBLE, STAY, Flow, RemoteValue, Stayed
from asyncflow.states import CANCELLED, RETRYING, SUCCEEDED, WAITING

if TYPE_CHECKING:
    from asyncflow.engine.scheduler import Scheduler

__all__ = ["WorkerGroups"]

# So many members of a group are one message at most: it is made in one go, in a few milliseconds.
_MOST_TOGETHER = 128


class _Use(NamedTuple):
    """Who takes an asset that a member makes: the place of the last member that does (-1 for
    none), and whether anybody else."""

    last_member: int
    is_wanted: bool


class _Overlay(Sequence[Any]):
    """The values of a run, as one worker sees them: what it keeps is there already."""

    def __init__(self, values: Sequence[Any], kept: Mapping[int, RemoteValue]) -> None:
        self._values = values
        self._kept = kept

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, asset: Any) -> Any:
        return self._kept.get(asset) or self._values[asset]


class WorkerGroups:
    """The groups of one scheduler's runs that are in worker processes."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._numbers = itertools.count(1)

    @staticmethod
    def has(run: RunRecord, unit: int) -> bool:
        """Whether a unit is a group in a worker process."""
        members = run.graph.units.members
        return members is not None and len(members[unit]) > 1 and run.lane_of(unit) == "process"

    # -- values ----------------------------------------------------------------------------

    def values_for(self, attempt: Attempt) -> Sequence[Any]:
        """What the arguments of a member are taken from."""
        run = attempt.run
        kept = _kept_by(attempt)
        return _Overlay(run.values, kept) if kept else run.values

    def plan(self, attempt: Attempt, kept: Mapping[int, RemoteValue] | None = None) -> None:
        """Work out what becomes of the value of a member.

        Args:
            kept: what the worker keeps by the time of its turn; None for what it keeps now.
        """
        run, node = attempt.run, attempt.node
        kept = _kept_by(attempt) if kept is None else kept
        uses = _uses_of(run.graph, attempt.unit)
        outputs = run.graph.outputs_of(node)
        keep, back = [], []
        for asset in outputs:
            use = uses[asset]
            keep.append(next(self._numbers) if use.last_member > attempt.position else 0)
            if use.is_wanted or use.last_member <= attempt.position:
                back.append(GIVE)
            else:
                back.append(STAY if run.recorder is None else GIVE_IF_POSSIBLE)
        drop = [
            remote.number
            for asset in set(run.graph.slots[node])
            if (remote := kept.get(asset)) is not None
            and uses[asset].last_member <= attempt.position
        ]
        if any(keep) or drop:
            names = list(run.graph.nodes[node].output_names) if len(outputs) > 1 else None
            attempt.flow = Flow(names, keep, back, drop)

    def took_parts(self, attempt: Attempt, parts: list[Any], worker: Any) -> Any:
        """The value of a member, with a stand-in for each part that stayed in the worker."""
        run, flow = attempt.run, cast(Flow, attempt.flow)
        for place, asset in enumerate(run.graph.outputs_of(attempt.node)):
            if flow.keep[place]:
                remote = RemoteValue(worker, flow.keep[place])
                run.kept_remotely[asset] = remote
                if flow.back[place] == STAY or isinstance(parts[place], Stayed):
                    parts[place] = remote
        return parts[0] if flow.parts is None else parts

    @staticmethod
    def dropped(attempt: Attempt, worker: Any) -> None:
        """A worker has let go of the values that no later member needs, unless one before it has
        to run again."""
        kept, dropped = attempt.run.kept_remotely, cast(Flow, attempt.flow).drop
        for asset in set(attempt.run.graph.slots[attempt.node]):
            remote = kept.get(asset)
            if remote is not None and remote.holder is worker and remote.number in dropped:
                del kept[asset]

    # -- one message -----------------------------------------------------------------------

    def send_ahead(self, attempt: Attempt) -> None:
        """Send the members behind one that has begun as well: the worker goes on by itself.

        Not beyond a member of which the host has to decide whether it runs.
        """
        run = attempt.run
        kept = _kept_by(attempt)
        _promise(attempt, kept)
        ready: list[Attempt] = []
        members = run.graph.units.members_of(attempt.unit)
        end = min(attempt.position + _MOST_TOGETHER, len(members))
        for place in range(attempt.position + 1, end):
            if run.is_settled(members[place]):
                continue
            following = self._prepared(attempt, place, kept)
            if following is None:
                break
            ready.append(following)
            _promise(following, kept)
        sent = attempt.lane.send_ahead(ready, attempt.worker)
        for following in ready[:sent]:
            run.ahead[following.node] = following

    def _prepared(
        self, attempt: Attempt, place: int, kept: Mapping[int, RemoteValue]
    ) -> Attempt | None:
        run = attempt.run
        node = run.graph.units.members_of(attempt.unit)[place]
        if not _may_go_ahead(run, node, kept):
            return None
        following = self._scheduler.starting.new_attempt(run, attempt.unit, node)
        following.position, following.worker, following.sent = place, attempt.worker, True
        self.plan(following, kept)
        step = run.graph.nodes[node].step
        values = _Overlay(run.values, kept)
        frame = self._scheduler.starting.frame(following, values, attempt)
        following.args, following.kwargs = run.graph.templates[node].bind(frame)
        following.is_coroutine = step.is_coroutine
        return following

    def _prepared_before(self, attempt: Attempt, node: int) -> Attempt | None:
        """The attempt at a member that was sent ahead, if the worker still has it."""
        following = attempt.run.ahead.pop(node, None)
        worker = attempt.worker
        if following is None or worker is None or not worker.number_ahead(following):
            return None
        return None if worker.is_gone and not following.over else following

    def drop_ahead(self, attempt: Attempt) -> None:
        """What was sent ahead shall not run: a member before it has failed, or the unit ends."""
        run = attempt.run
        if not run.ahead:
            return
        for node in run.graph.units.members_of(attempt.unit):
            run.ahead.pop(node, None)
        if attempt.worker is not None and not attempt.worker.is_gone:
            self._scheduler.lanes["process"].drop_ahead(attempt.worker)

    def drop_all_ahead(self, run: RunRecord) -> None:
        """A run begins nothing more: of its groups, only the members that it knows to run go on."""
        for attempt in run.in_flight.values():
            if self.has(run, attempt.unit):
                self.drop_ahead(attempt)

    # -- deaths ----------------------------------------------------------------------------

    def look_at_worker(self, attempt: Attempt) -> None:
        """Give back what a unit holds whose worker has died."""
        if attempt.worker is not None and getattr(attempt.worker, "is_gone", False):
            attempt.run.workers[attempt.node] = attempt.worker.name
            self._scheduler.settlement.give_back(attempt)

    def revived(self, attempt: Attempt) -> Attempt:
        """The attempt to go on with: an earlier one, where values that it needs are lost."""
        self.look_at_worker(attempt)
        run = attempt.run
        for asset in self._out_of_reach(attempt):
            del run.kept_remotely[asset]
        lost = _lost_members(run, attempt.node)
        if not lost:
            return attempt
        run.postponed[attempt.node] = attempt
        for node in lost:
            self._lose(run, node)
        members = run.graph.units.members_of(attempt.unit)
        again = self._again(attempt, min(members.index(node) for node in lost))
        hand_over(attempt, again)
        return again

    def _out_of_reach(self, attempt: Attempt) -> list[int]:
        """The values that are gone with their worker, or that a unit has left behind in one."""
        run = attempt.run
        left: set[int] = set()
        if attempt.worker is None and run.kept_remotely:
            members = run.graph.units.members_of(attempt.unit)
            left = {asset for node in members for asset in run.graph.outputs_of(node)}
        kept = run.kept_remotely.items()
        return [asset for asset, remote in kept if remote.holder.is_gone or asset in left]

    def _lose(self, run: RunRecord, node: int) -> None:
        """A member that has ended has to run again."""
        for asset in run.graph.outputs_of(node):
            if isinstance(run.values[asset], RemoteValue):
                run.values[asset] = MISSING
        run.raw.pop(node, None)
        run.rerun.add(node)
        # No move of the table: to those outside the group it has ended.
        run.states[node] = RETRYING
        run.left += 1
        run.blemished = True
        run.bus.publish(
            events.NodeRetrying,
            node=run.graph.nodes[node].name,
            attempt=run.attempts_of(node),
            delay_seconds=0.0,
            error="its value was lost with the worker of its group",
        )

    def _again(self, attempt: Attempt, position: int) -> Attempt:
        run = attempt.run
        node = run.graph.units.members_of(attempt.unit)[position]
        again = self._scheduler.starting.new_attempt(run, attempt.unit, node)
        again.position, again.number = position, run.attempts_of(node) + 1
        again.gated = True
        return again

    def next_attempt(self, attempt: Attempt, position: int) -> Attempt | None:
        """The attempt at the first member from a place on that has not ended; None if all have."""
        run = attempt.run
        members = run.graph.units.members_of(attempt.unit)
        for place in range(position, len(members)):
            node = members[place]
            if run.is_final(node) or run.is_ending(node):
                continue
            following = run.postponed.pop(node, None)
            if following is not None:
                following.postponed = True
                return following
            if node in run.rerun:
                return self._again(attempt, place)
            return self.first_attempt(attempt, place)
        return None

    def first_attempt(self, attempt: Attempt, position: int) -> Attempt:
        """The first attempt at the member in this place: the one that was sent ahead, if any."""
        run = attempt.run
        node = run.graph.units.members_of(attempt.unit)[position]
        following = self._prepared_before(attempt, node) if run.ahead else None
        if following is None:
            following = self._scheduler.starting.new_attempt(run, attempt.unit, node)
            following.position = position
        return following

    def end_unit(self, run: RunRecord, unit: int) -> None:
        """Let go of what was kept for a group that has ended."""
        for node in run.graph.units.members_of(unit):
            for asset in run.graph.outputs_of(node):
                run.kept_remotely.pop(asset, None)
                if isinstance(run.values[asset], RemoteValue):
                    run.values[asset] = STAYED
            run.ahead.pop(node, None)
            waiting = run.postponed.pop(node, None)
            if waiting is not None and not run.is_final(node):
                self._scheduler.stopping.give_up_retry(waiting)
            if node in run.rerun and not (run.is_final(node) or run.is_ending(node)):
                # The run was stopped before the turn of this one came again.
                self._scheduler.settlement.reach(run, node, CANCELLED)
        if run.consumers is not None:
            for node in run.unfreed.pop(unit, ()):
                let_go(run, node)


def _kept_by(attempt: Attempt) -> dict[int, RemoteValue]:
    """What the worker of an attempt keeps; another group may be under way in another one."""
    return {
        asset: remote
        for asset, remote in attempt.run.kept_remotely.items()
        if remote.holder is attempt.worker
    }


def _promise(attempt: Attempt, kept: dict[int, RemoteValue]) -> None:
    """Count what the worker will keep once a member has ended."""
    flow = attempt.flow
    if flow is not None:
        for number, asset in zip(
            flow.keep, attempt.run.graph.outputs_of(attempt.node), strict=True
        ):
            if number:
                kept[asset] = RemoteValue(attempt.worker, number)


def _is_lost(value: Any, asset: int, kept: Mapping[int, RemoteValue]) -> bool:
    return isinstance(value, RemoteValue) and asset not in kept


def _may_go_ahead(run: RunRecord, node: int, kept: Mapping[int, RemoteValue]) -> bool:
    values = _Overlay(run.values, kept)
    graph, step = run.graph, run.graph.nodes[node].step
    if run.states[node] != WAITING or run.attempts_of(node) or node in run.quarantined:
        return False
    if node in run.postponed:
        return False  # there is an attempt at it already
    if node in graph.conditions or step.cache is not False or step.limits:
        return False
    if any(_is_lost(values[asset], asset, kept) for asset in graph.slots[node]):
        return False  # those that made what it takes have to run again first
    # Those before it that have not ended will have succeeded by then, or it does not run.
    return graph.verdict(node, run.states_ahead(), values) == WAITING


def _lost_members(run: RunRecord, node: int) -> set[int]:
    """The members whose values a member needs and no living worker has."""
    lost: set[int] = set()
    to_look_at = [node]
    while to_look_at:
        for asset in run.graph.slots[to_look_at.pop()]:
            value = run.values[asset]
            # What is out of reach is not listed any more.
            if not isinstance(value, RemoteValue) or asset in run.kept_remotely:
                continue
            for producer in run.graph.producers_of(asset):
                if run.states[producer] == SUCCEEDED and producer not in lost:
                    lost.add(producer)
                    to_look_at.append(producer)
    return lost


def _uses_of(graph: Graph, unit: int) -> Mapping[int, _Use]:
    """Who takes each asset that members of a unit make or take, worked out once for a graph."""
    if graph.asset_uses is None:
        graph.asset_uses = {}
    found: dict[int, _Use] | None = graph.asset_uses.get(unit)
    if found is None:
        found = graph.asset_uses[unit] = _worked_out(graph, unit)
    return found


def _worked_out(graph: Graph, unit: int) -> dict[int, _Use]:
    members = graph.units.members_of(unit)
    made = {asset for member in members for asset in graph.outputs_of(member)}
    last = dict.fromkeys(made, -1)
    for place, member in enumerate(members):
        for asset in made.intersection(graph.slots[member]):
            last[asset] = place
    wanted = set(_wanted_outside(graph, unit, members, made))
    return {asset: _Use(place, asset in wanted or place < 0) for asset, place in last.items()} | {
        asset: _Use(len(members), True)
        for member in members
        for asset in graph.slots[member]
        if asset not in made
    }


def _wanted_outside(
    graph: Graph, unit: int, members: Sequence[int], made: set[int]
) -> Iterator[int]:
    if graph.kept is not None:
        yield from made & graph.kept
    for member in members:
        if graph.nodes[member].step.cache is not False:
            yield from made.intersection((*graph.slots[member], *graph.outputs_of(member)))
        if member in graph.conditions:
            slots = graph.slots[member]
            for source in graph.conditions[member].sources:
                if isinstance(source, FromAsset):
                    yield slots[source.position]
                elif isinstance(source, FromAssets):
                    yield from (slots[position] for position in source.positions)
        for child in graph.children[member]:
            if graph.units.of_node[child] != unit:
                yield from made.intersection(graph.slots[child])
