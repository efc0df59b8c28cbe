"""A graph that grows while one run of it goes on: mapped nodes become many."""

from __future__ import annotations

import copy
import sys
from typing import Self

from asyncflow.graph.binding import CallTemplate
from asyncflow.graph.graph import Graph
from asyncflow.graph.grouping import Units
from asyncflow.graph.node import Node

__all__ = ["GrowingGraph"]


_SPENT = CallTemplate()


class GrowingGraph(Graph):
    """A run's own copy of its graph, whose lists may get longer; what stands in them stays."""

    nodes: list[Node]  # type: ignore[assignment]
    templates: list[CallTemplate]
    slots: list[tuple[int, ...]]
    parents: list[tuple[int, ...]]
    outputs: list[int | tuple[int, ...]]
    producers: list[int | tuple[int, ...]]
    order: list[int]
    index: dict[str, int]
    conditions: dict[int, CallTemplate]
    limits: dict[int, CallTemplate | None]

    @classmethod
    def of(cls, graph: Graph) -> Self:
        """A copy that can grow."""
        grown = copy.copy(graph)
        grown.__class__ = cls
        assert isinstance(grown, cls)
        grown.nodes = list(graph.nodes)
        grown.templates = list(graph.templates)
        grown.slots = list(graph.slots)
        grown.parents = list(graph.parents)
        grown.children = list(graph.children)
        grown.outputs = list(graph.outputs)
        grown.producers = list(graph.producers)
        grown.order = list(graph.order)
        grown.index = dict(graph.index)
        grown.conditions = dict(graph.conditions)
        grown.limits = dict(graph.limits)
        grown.alone = bytearray(graph.alone)
        units = graph.units
        grown.units = Units(
            # Without groups every node is the unit of its own number, however many come.
            of_node=range(sys.maxsize) if units.members is None else list(units.of_node),
            members=None if units.members is None else list(units.members),
            lanes=list(units.lanes),
            settled=units.settled,
            resources=dict(units.resources),
            environments=dict(units.environments),
            groups=units.groups,
        )
        return grown

    def add_asset(self) -> int:
        """An asset that no node produces; returns its number."""
        self.producers.append(())
        return len(self.producers) - 1

    def add_element(
        self, mapped: int, node: Node, slots: tuple[int, ...], parents: tuple[int, ...]
    ) -> int:
        """A node for one element of a mapped node, which it is like in all else.

        Returns:
            Its number; its unit is the last one.
        """
        index = len(self.nodes)
        self.nodes.append(node)
        self.templates.append(self.templates[mapped])
        if mapped in self.conditions:
            self.conditions[index] = self.conditions[mapped]
        if mapped in self.limits:
            self.limits[index] = self.limits[mapped]
        self.slots.append(slots)
        self.parents.append(parents)
        self.children.append(())  # type: ignore[attr-defined]
        self.order.append(index)
        self.index[node.name] = index
        self._add_outputs(index, len(self.outputs_of(mapped)))
        self._add_unit(index, mapped)
        return index

    def add_nested(
        self,
        node: Node,
        template: CallTemplate,
        condition: CallTemplate | None,
        limits: CallTemplate | None,
        lane: str,
    ) -> int:
        """A node that a running step asks for; nobody else waits for it.

        Returns:
            Its number; its unit is the last one.
        """
        index = len(self.nodes)
        unit = len(self.units.lanes)
        self.nodes.append(node)
        self.templates.append(template)
        if condition is not None:
            self.conditions[index] = condition
        if node.step.limits is not None:
            self.limits[index] = limits
        self.slots.append(())
        self.parents.append(())
        self.children.append(())  # type: ignore[attr-defined]
        self.order.append(index)
        self.index[node.name] = index
        self._add_outputs(index, len(node.asset_names))
        units = self.units
        units.lanes.append(lane)
        if node.step.environment is not None:
            units.environments[unit] = node.step.environment
        if units.members is not None:
            units.members.append((index,))
            units.of_node.append(unit)  # type: ignore[attr-defined]
        self.alone.append(False)
        return index

    def forget_nested(self, index: int) -> None:
        """Let go of how a nested node was called: it has ended, and is not called again."""
        self.templates[index] = _SPENT
        self.conditions.pop(index, None)
        self.limits.pop(index, None)

    def _add_outputs(self, index: int, count: int) -> None:
        first = len(self.producers)
        self.producers.extend([index] * count)
        self.outputs.append(first if count == 1 else tuple(range(first, first + count)))

    def _add_unit(self, index: int, mapped: int) -> None:
        units = self.units
        like = units.of_node[mapped]
        unit = len(units.lanes)
        units.lanes.append(units.lanes[like])
        if units.members is not None:
            units.members.append((index,))
            units.of_node.append(unit)  # type: ignore[attr-defined]
        if like in units.resources:
            units.resources[unit] = units.resources[like]
        if like in units.environments:
            units.environments[unit] = units.environments[like]
        self.alone.append(units.members is None and self.is_simple(mapped))
