"""Mapped nodes: one node for each element of an asset, known only while the run goes on.

A mapped node waits like any other. When its parents are done it is *expanded*: its
elements become nodes of their own, and it waits for them; when the last has ended it ends
itself, with the list of their values. A mapped node that maps over the values of another
one is expanded right after that one, element by element: nobody waits for the whole list.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import msgspec

from asyncflow import events
from asyncflow.engine.outcome import count_uses, let_go_of_element, store
from asyncflow.engine.record import RunRecord
from asyncflow.errors import StepFailed, text_of
from asyncflow.graph.graph import MapPlan
from asyncflow.graph.growing import GrowingGraph
from asyncflow.graph.node import MISSING
from asyncflow.states import (
    CANCELLED,
    FAILED,
    PASSED_ON,
    RUNNING,
    SKIPPED,
    SUCCEEDED,
    UPSTREAM_FAILED,
)
from asyncflow.storage.records import Added

if TYPE_CHECKING:
    from asyncflow.engine.scheduler import Scheduler

__all__ = ["Expansion", "Maps"]

_CHUNK, _SLICE = 128, 1000
# Key, asset and parents of an element.
Element = tuple[Any, int, tuple[int, ...]]
MAX_ELEMENTS = 1_000_000


class Expansion(msgspec.Struct, eq=False):
    """What became of a mapped node in one run.

    ``elements`` are node numbers in input order; ``pending`` of them have not ended;
    ``complete`` says that all have been added, ``collecting`` that all have ended.
    """

    began_at: float
    elements: list[int] = []
    keys: list[Any] = []
    pending: int = 0
    complete: bool = False
    collecting: bool = False


class Maps:
    """Expands the mapped nodes of one scheduler's runs, a chunk in each turn."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler

    def begin(self, run: RunRecord, node: int) -> None:
        """A mapped node has all it waits for."""
        run.expansions[node] = Expansion(self._scheduler.clock())
        self._scheduler.growing.append(self._expand(run, node))
        self._let_flow(run, node)

    def grow_some(self) -> None:
        """Add a chunk of elements of one node; each has its turn."""
        growth = self._scheduler.growing.popleft()
        if next(growth, self) is not self:
            self._scheduler.growing.append(growth)

    def _expand(self, run: RunRecord, node: int) -> Generator[None]:
        expansion = run.expansions[node]
        run.grow()
        try:
            for element in self._elements_of(run, node):
                if run.bars(node):
                    return
                if element is not None:
                    self._add(run, node, *element)
                if element is None or not len(expansion.elements) % _CHUNK:
                    self._scheduler.queue(run)
                    yield
        except Exception as error:  # noqa: BLE001 - iterating calls the user's code
            self._refuse(run, node, error)
            return
        expansion.complete = True
        run.graph.parents[node] = (*run.graph.parents[node], *expansion.elements)  # type: ignore[index]
        if run.memory is None or not run.memory.was_expanded(run.graph.nodes[node].name):
            run.bus.publish(
                events.MapExpanded,
                node=run.graph.nodes[node].name,
                elements=len(expansion.elements),
            )
        self._collect(run, node)
        self._scheduler.queue(run)

    def _elements_of(self, run: RunRecord, node: int) -> Iterable[Element | None]:
        """Key, asset and parents of each element; None while the next is not known."""
        plan = run.graph.maps[node]
        followed = run.expansions.get(plan.follows) if plan.follows is not None else None
        if followed is not None:
            yield from _following(run, followed, plan)
            return
        source = run.graph.slots[node][plan.position]
        for key, value in _items(run.values[source]):
            asset = run.graph.add_asset()  # type: ignore[attr-defined]
            run.values.append(value)
            if run.consumers is not None:
                run.consumers.append(1)
            yield key, asset, ()

    def _add(
        self, run: RunRecord, node: int, key: Any, asset: int, parents: tuple[int, ...]
    ) -> None:
        graph = run.graph
        assert isinstance(graph, GrowingGraph)
        expansion, plan = run.expansions[node], graph.maps[node]
        mapped = graph.nodes[node]
        name = f"{mapped.name}[{key}]"
        if name in graph.index:
            raise ValueError(f"two of them have the key {str(key)!r}; give each one of its own")
        slots = list(graph.slots[node])
        slots[plan.position] = asset
        element = graph.add_element(
            node,
            msgspec.structs.replace(mapped, name=name, map=None),
            tuple(slots),
            parents,
        )
        run.add_node(len(graph.outputs_of(element)), self._scheduler.clock())
        if run.consumers is not None:
            count_uses(run, element, asset, node)
        expansion.elements.append(element)
        expansion.keys.append(key)
        if self._remembered(run, node, element, asset):
            return
        expansion.pending += 1
        run.element_of[element] = node
        run.frontier.add(len(graph.units.lanes) - 1, [p for p in parents if not run.is_final(p)])

    def _remembered(self, run: RunRecord, node: int, element: int, asset: int) -> bool:
        """Whether an earlier life of the run knows what came of an element; else note it."""
        plan = run.graph.maps[node]
        item = b""
        if plan.follows is None and not run.unkept.isdisjoint(
            run.graph.producers_of(run.graph.slots[node][plan.position])
        ):
            # The list is made anew in each life: its order says nothing.
            item = run.item_fingerprint(run.values[asset])
        if run.memory is not None and run.memory.restore(run, element, item):
            run.frontier.add_retired(len(run.graph.units.lanes) - 1)
            return True
        if run.recorder is not None:
            name = run.graph.nodes[element].name
            run.recorder.put(Added(element, name, node, nested=False, item=item))
        return False

    # -- ends ----------------------------------------------------------------------------

    def element_ended(self, run: RunRecord, element: int) -> None:
        """One element of a mapped node reached its final state."""
        node = run.element_of.pop(element, None)
        if node is not None:
            run.expansions[node].pending -= 1
            self._collect(run, node)

    def ended(self, run: RunRecord, node: int) -> None:
        """A mapped node ended; if it never was expanded, none that follow it wait for that."""
        if node in run.graph.maps and node not in run.expansions:
            self._let_flow(run, node)

    def _let_flow(self, run: RunRecord, node: int) -> None:
        followers = [run.graph.units.of_node[f] for f in run.graph.maps[node].followers]
        run.frontier.release(followers)

    def _collect(self, run: RunRecord, node: int) -> None:
        """End a mapped node whose elements have all ended; in several turns if they are many."""
        expansion = run.expansions[node]
        if expansion.pending or not expansion.complete or expansion.collecting:
            return
        expansion.collecting = True
        collecting = self._collecting(run, node)
        if next(collecting, self) is not self:
            self._scheduler.growing.append(collecting)
            self._scheduler.wake()

    def _collecting(self, run: RunRecord, node: int) -> Generator[None]:
        stopped = False
        for above in _slices(run.graph.parents[node]):
            if any(run.states[number] in PASSED_ON for number in above):
                self._end(run, node, UPSTREAM_FAILED)
                return
            stopped = stopped or any(run.states[number] == CANCELLED for number in above)
            if len(above) == _SLICE:
                yield
        if stopped:
            self._end(run, node, CANCELLED)
            return
        parts: list[list[Any]] = [[] for _ in run.graph.outputs_of(node)]
        there = 0
        for elements in _slices(run.expansions[node].elements):
            if run.bars(node):
                return
            there += _gather(run, node, elements, parts)
            if len(elements) == _SLICE:
                yield
        if run.is_final(node) or run.is_ending(node) or run.bars(node):
            return
        if not there and self._gives_way(run, node):
            self._end(run, node, SKIPPED)
            return
        run.started[node] = run.expansions[node].began_at
        run.states[node] = RUNNING
        error = store(run, node, parts[0] if len(parts) == 1 else tuple(parts))
        if error is None:
            self._end(run, node, SUCCEEDED)
        else:
            self._fail(run, node, error)

    def _gives_way(self, run: RunRecord, node: int) -> bool:
        """Whether nothing came of a node and another one may produce its asset, or has.

        That is how the branch of an if and else that is not taken ends if it is mapped: a
        condition is asked for each element.
        """
        shared = [a for a in run.graph.outputs_of(node) if len(run.graph.producers_of(a)) > 1]
        asked = bool(run.expansions[node].elements)
        return any(asked or run.values[asset] is not MISSING for asset in shared)

    def _refuse(self, run: RunRecord, node: int, error: Exception) -> None:
        name = run.graph.nodes[node].name
        failed = StepFailed(
            f"step {name!r} maps over {run.graph.nodes[node].map!r}, whose elements cannot be "
            f"had: {text_of(error)}",
            step=name,
        )
        failed.__cause__ = error
        self._fail(run, node, failed)

    def _fail(self, run: RunRecord, node: int, error: StepFailed) -> None:
        run.errors[node] = error
        self._end(run, node, FAILED)
        if run.fail_fast:
            self._scheduler.stopping.fail_run(run, run.graph.nodes[node].name, error)

    def _end(self, run: RunRecord, node: int, state: int) -> None:
        run.finished[node] = self._scheduler.clock()
        self._scheduler.settlement.reach(run, node, state)
        if not run.left or run.stopping is not None:
            self._scheduler.stopping.end_if_over(run)


def _gather(run: RunRecord, node: int, elements: Sequence[int], parts: Sequence[list[Any]]) -> int:
    """Add to each part the values of those elements that succeeded; returns how many did."""
    values, outputs_of, there = run.values, run.graph.outputs_of, 0
    for element in elements:
        if run.states[element] == SUCCEEDED:
            there += 1
            for part, asset in zip(parts, outputs_of(element), strict=True):
                part.append(values[asset])
        if run.consumers is not None:
            let_go_of_element(run, element, node)
    return there


def _slices(numbers: Sequence[int]) -> Iterator[Sequence[int]]:
    """Parts that take about a millisecond each."""
    return (numbers[start : start + _SLICE] for start in range(0, len(numbers), _SLICE))


def _following(run: RunRecord, followed: Expansion, plan: MapPlan) -> Iterator[Element | None]:
    """The elements of the node that is followed, which may itself still be growing."""
    count = 0
    while True:
        while count < len(followed.elements):
            element = followed.elements[count]
            asset = run.graph.outputs_of(element)[plan.part]
            yield followed.keys[count], asset, (element,)
            count += 1
        if followed.complete or run.is_final(plan.follows or 0):
            return
        yield None


def _items(value: Any) -> Iterator[tuple[Any, Any]]:
    """Keys and elements: those of a mapping, else numbered from 0."""
    if isinstance(value, str | bytes):
        raise TypeError(f"it is {type(value).__name__}, not a list of elements")
    items = iter(value.items()) if isinstance(value, Mapping) else enumerate(value)
    yield from islice(items, MAX_ELEMENTS)
    if next(iter(items), None) is not None:
        raise ValueError(f"there are more than {MAX_ELEMENTS:,} elements; use stream_map for that")
