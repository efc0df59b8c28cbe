"""A built pipeline: who depends on whom, by number. Immutable; shared by all its runs."""

from __future__ import annotations

from array import array
from collections.abc import Generator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from asyncflow.graph.binding import CallTemplate
from asyncflow.graph.grouping import StepGroup, Units
from asyncflow.graph.node import MISSING
from asyncflow.graph.wiring import CHUNK, Wiring
from asyncflow.states import FAILURES, SKIPPED, UPSTREAM_FAILED, WAITING
from asyncflow.step import Step

if TYPE_CHECKING:
    from asyncflow.graph.compile import Blueprint

__all__ = ["Graph", "MapPlan"]


class MapPlan(msgspec.Struct, frozen=True):
    """How a mapped node is expanded.

    ``position`` is the slot that takes the element. Where the asset is made by another
    mapped node, ``follows`` is that node and ``part`` which of its outputs; ``followers``
    are the nodes that follow this one.
    """

    position: int
    follows: int | None = None
    part: int = 0
    followers: tuple[int, ...] = ()


class Graph:
    """Nodes, assets and units by number, and the edges between them.

    Attributes:
        nodes: in order of declaration; a node's number is its place here.
        order: the numbers in the order of execution were there only one worker.
        index, assets: numbers of nodes and assets by name.
        outputs: the assets each node produces (a number, or a tuple of several).
        names: what is known by name, and ``outside``, what comes from outside.
        templates, slots: how each node is called, and the assets it takes.
        conditions: the condition's template for nodes that have one.
        limits: the nodes that take named keys; the template of the function that works them out,
            or None.
        parents, children: edges between nodes.
        absent: the names of nodes that do not run where this is a part of a pipeline, and
            ``elsewhere`` the names of run inputs and services that only those take.
        maps: the nodes that run once for each element of an asset.
        cleanup: the nodes that run after failures too, and whether they wait for everything
            else because they name nothing to wait for.
        units: what is dispatched as one.
        unlocks: the units that wait for each node, once for each edge.
        wait: how many edges from outside each unit waits for.
        roots: the units that wait for nothing.
        alone: by node, whether it is a coroutine that is a unit of its own, asks for
            nothing, takes only the values of its inputs, and has one output of its own.
        warnings: advice about groups and devices.
    """

    def __init__(
        self,
        blueprint: Blueprint,
        wiring: Wiring,
        order: Sequence[int],
        children: list[Sequence[int]],
        units: Units,
        warnings: tuple[str, ...],
    ) -> None:
        self.name = blueprint.name
        self.nodes = blueprint.nodes
        self.inputs = blueprint.inputs
        self.context = {**blueprint.context, **wiring.names.context}
        self.absent = blueprint.absent
        self.elsewhere = blueprint.elsewhere
        self.order = order
        self.index: Mapping[str, int] = wiring.index
        self.assets: Mapping[str, int] = wiring.assets.numbers
        self.producers: Sequence[int | tuple[int, ...]] = wiring.assets.producers
        self.outputs: Sequence[int | tuple[int, ...]] = wiring.assets.outputs
        self.templates: Sequence[CallTemplate] = wiring.templates
        self.conditions: Mapping[int, CallTemplate] = wiring.conditions
        self.limits: Mapping[int, CallTemplate | None] = wiring.limits
        self.slots: Sequence[tuple[int, ...]] = wiring.slots
        self.parents: Sequence[tuple[int, ...]] = wiring.parents
        self.children: Sequence[Sequence[int]] = children
        self.maps: dict[int, MapPlan] = {}
        self.cleanup: Mapping[int, bool] = wiring.cleanup
        self.units = units
        self.names = wiring.names
        self.outside = wiring.names.outside
        self.warnings = warnings
        self.unlocks: Sequence[Sequence[int]] = children
        self.wait: list[int] = []
        self.roots: tuple[int, ...] = ()
        self.alone = bytearray(len(blueprint.nodes))
        self.kept: frozenset[int] | None = None
        self.consumers: Sequence[int] = ()
        # By unit, who takes what its members make: worked out when a worker first runs it.
        self.asset_uses: dict[int, Any] | None = None

    @classmethod
    def assemble(
        cls,
        blueprint: Blueprint,
        wiring: Wiring,
        order: Sequence[int],
        children: list[Sequence[int]],
        units: Units,
        warnings: tuple[str, ...],
    ) -> Generator[None, None, Graph]:
        """Make a graph and work out what follows from its edges."""
        graph = cls(blueprint, wiring, order, children, units, warnings)
        if units.members is None:
            for index in range(0, len(wiring.parents), CHUNK):
                graph.wait.extend(map(len, wiring.parents[index : index + CHUNK]))
                yield
        else:
            yield from graph._count_between_units()
        graph.roots = tuple(unit for unit, count in enumerate(graph.wait) if not count)
        yield
        graph._place_maps(wiring)
        if blueprint.outputs is not None:
            yield from graph._count_consumers(blueprint.outputs)
        elif units.members is None:
            yield from graph._find_alone()
        return graph

    def _find_alone(self) -> Generator[None]:
        """Mark the nodes that the scheduler starts by its shortest way."""
        for index in range(len(self.nodes)):
            if not index % CHUNK:
                yield
            self.alone[index] = index not in self.maps and self.is_simple(index)

    def is_simple(self, index: int) -> bool:
        """Whether a node, if it is a unit of its own, can be started by the shortest way."""
        output = self.outputs[index]
        return (
            self.templates[index].plain
            and not isinstance(output, tuple)
            and not isinstance(self.producers[output], tuple)
            and self.kept is None
            and _is_simple(self.nodes[index].step)
        )

    def _place_maps(self, wiring: Wiring) -> None:
        """Which of the mapped nodes follow another one, element by element."""
        for index, asset in wiring.mapped.items():
            self.maps[index] = self._map_plan(index, asset, wiring.awaited[index])
        flows: dict[int, list[int]] = {}
        for index, plan in self.maps.items():
            if plan.follows is not None:
                flows.setdefault(plan.follows, []).append(index)
        if not flows:
            return
        unlocks = list(self.unlocks)
        for followed, followers in flows.items():
            plan = self.maps[followed]
            self.maps[followed] = msgspec.structs.replace(plan, followers=tuple(followers))
            units = {self.units.of_node[follower] for follower in followers}
            unlocks[followed] = [unit for unit in unlocks[followed] if unit not in units]
        self.unlocks = unlocks

    def _map_plan(self, index: int, asset: int, awaited: set[int]) -> MapPlan:
        position = self.slots[index].index(asset)
        producers = self.producers_of(asset)
        if len(producers) != 1 or self.nodes[producers[0]].map is None:
            return MapPlan(position)
        above = producers[0]
        others = {slot for at, slot in enumerate(self.slots[index]) if at != position}
        if not others.isdisjoint(self.outputs_of(above)):
            return MapPlan(position)  # it wants the whole list as well
        if above in awaited:
            return MapPlan(position)
        return MapPlan(position, above, self.outputs_of(above).index(asset))

    def _count_between_units(self) -> Generator[None]:
        unit_of = self.units.of_node
        self.wait = [0] * len(self.units)
        unlocks: list[Sequence[int]] = []
        for index, below in enumerate(self.children):
            if not index % CHUNK:
                yield
            own = unit_of[index]
            outside = tuple(unit_of[child] for child in below if unit_of[child] != own)
            unlocks.append(outside)
            for unit in outside:
                self.wait[unit] += 1
        self.unlocks = unlocks

    def _count_consumers(self, outputs: Sequence[str]) -> Generator[None]:
        """How many nodes take each asset: after the last one its value is let go."""
        kept: set[int] = set()
        for name in outputs:
            if name in self.assets:
                kept.add(self.assets[name])
            else:
                kept.update(self.outputs_of(self.index[name]))
        self.kept = frozenset(kept)
        consumers = array("q", bytes(8 * len(self.producers)))
        for index, slots in enumerate(self.slots):
            if not index % CHUNK:
                yield
            for slot in set(slots):
                consumers[slot] += 1
        self.consumers = consumers

    # -- reading -----------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.nodes)

    def outputs_of(self, index: int) -> tuple[int, ...]:
        """The assets a node produces, by number."""
        found = self.outputs[index]
        return found if isinstance(found, tuple) else (found,)

    def producers_of(self, asset: int) -> tuple[int, ...]:
        """The nodes that may produce an asset."""
        found = self.producers[asset]
        return found if isinstance(found, tuple) else (found,)

    @property
    def step_groups(self) -> list[StepGroup]:
        """The labelled groups in order."""
        return list(self.units.groups.values())

    def unit_name(self, unit: int) -> str:
        """A group's name, or that of the only node."""
        group = self.units.groups.get(unit)
        return (
            self.nodes[self.units.members_of(unit)[0]].name if group is None else group.group_name
        )

    # -- verdicts ----------------------------------------------------------------------

    def verdict(self, index: int, states: Sequence[int], values: Sequence[Any]) -> int:
        """Whether a node whose parents are done may run.

        Returns:
            ``WAITING`` (it may), ``UPSTREAM_FAILED`` if anything above it failed, or
            ``SKIPPED`` if a value that it needs was not produced. A skip passes only to
            nodes that need the value; a failure passes along every edge, but not to clean-up
            nodes.
        """
        failed = any(states[parent] in FAILURES for parent in self.parents[index])
        when = self.nodes[index].step.when
        if failed and when == "success":
            return UPSTREAM_FAILED
        if not failed and when == "failure":
            return SKIPPED
        slots = self.slots[index]
        templates = [self.templates[index]]
        if index in self.conditions:
            templates.append(self.conditions[index])
        if (limits := self.limits.get(index)) is not None:
            templates.append(limits)
        for template in templates:
            required = template.required_positions() - self._flowing(index, states)
            if any(values[slots[at]] is MISSING for at in required):
                return SKIPPED
        return WAITING

    def _flowing(self, index: int, states: Sequence[int]) -> set[int]:
        """The slot of a mapped node whose list is still being made, element by element."""
        plan = self.maps.get(index)
        if plan is None or plan.follows is None or states[plan.follows] != WAITING:
            return set()
        return {plan.position}

    def failed_above(self, index: int, states: Sequence[int]) -> int | None:
        """The nearest ancestor that itself failed, for the message of what it holds back."""
        seen = {index}
        layer = [index]
        while layer:
            above = [parent for node in layer for parent in self.parents[node]]
            layer = [parent for parent in dict.fromkeys(above) if parent not in seen]
            seen.update(layer)
            for parent in layer:
                if states[parent] in FAILURES and states[parent] != UPSTREAM_FAILED:
                    return parent
        return None


def _is_simple(step: Step[..., Any]) -> bool:
    return (
        step.is_coroutine
        and step.condition is None
        and step.limits is None
        and step.cache is False
        and step.timeout is None
        and step.when == "success"
        and step.resources is None
        and step.lane != "process"
    )
