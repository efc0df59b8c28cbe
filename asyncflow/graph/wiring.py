"""From names to numbers: which asset each input is, and who produces it."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Generator, Sequence
from typing import Any

import msgspec

from asyncflow.graph.assets import Assets
from asyncflow.graph.binding import CallTemplate
from asyncflow.graph.names import Faulty, Names, nearest
from asyncflow.graph.node import Node
from asyncflow.graph.shapes import Shape, asset_names_of, shape_key, shape_of

__all__ = ["CHUNK", "Wiring", "wire"]

# How many nodes a phase of the build handles before it offers the event loop a turn.
CHUNK = 512


# Of a node that cannot be called: the build fails anyway.
_UNKNOWN = Shape(CallTemplate(), None, None, ())


class Wiring(msgspec.Struct):
    """What :func:`wire` works out; the lists go by node."""

    assets: Assets
    index: dict[str, int]
    templates: list[CallTemplate]
    conditions: dict[int, CallTemplate]
    # nodes that take named keys → how the function that works them out is called, if one does
    limits: dict[int, CallTemplate | None]
    slots: list[tuple[int, ...]]
    parents: list[tuple[int, ...]]
    names: Names
    # clean-up nodes → whether they wait for everything else
    cleanup: dict[int, bool] = {}
    # mapped nodes → the asset they map over, and whom they wait for as a whole
    mapped: dict[int, int] = {}
    awaited: dict[int, set[int]] = {}
    # nodes → what they run after that is no node; an inlined pipeline, if all is well
    after: dict[int, list[str]] = {}


class _Wirer:
    def __init__(
        self,
        nodes: Sequence[Node],
        names: Names,
        assets: Assets,
        problems: list[str],
        absent: Collection[str],
    ) -> None:
        self.nodes = nodes
        self.names = names
        self.problems = problems
        self.absent = absent
        self.assets = assets
        self.index: dict[str, int] = {}
        self.shapes: dict[Any, Shape | None] = {}
        self.wiring = Wiring(self.assets, self.index, [], {}, {}, [], [], names)

    # -- names and producers ---------------------------------------------------------

    def name_nodes(self) -> Generator[None]:
        folded: dict[str, str] = {}
        for index, node in enumerate(self.nodes):
            if not index % CHUNK:
                yield
            if node.name in self.index:
                if node.scope is not None:
                    continue  # two pipelines of one name, which is told once
                self.problems.append(
                    f"two nodes are called {node.name!r}; give one another name: "
                    f"add_step(…, name='{node.name}_2')"
                )
                continue
            self.index[node.name] = index
            if not node.name.isascii():
                self._check_twin(node.name, folded)

    def _check_twin(self, name: str, folded: dict[str, str]) -> None:
        twin = folded.setdefault(unicodedata.normalize("NFC", name), name)
        if twin != name:
            self.problems.append(
                f"the names {twin!a} and {name!a} look the same (they differ only in "
                "Unicode normalisation); rename one"
            )

    def name_assets(self) -> Generator[None]:
        for index, node in enumerate(self.nodes):
            if not index % CHUNK:
                yield
            for name, other in self.assets.add(index, node.asset_names):
                self._check_shared(name, self.nodes[other], node)

    def _check_shared(self, name: str, first: Node, second: Node) -> None:
        if first.name == second.name:
            return
        bare = [node.name for node in (first, second) if node.step.condition is None]
        if bare:
            self.problems.append(
                f"asset {name!r} is produced by {first.name!r} and by {second.name!r}; rename one "
                f"output, or give both a condition ({bare[0]!r} has none)"
            )

    # -- inputs ------------------------------------------------------------------------

    def wire_nodes(self) -> Generator[None]:
        for index, node in enumerate(self.nodes):
            if not index % CHUNK:
                yield
            shape = self._shape_of(node, index)
            if shape is None:
                self._append(index, node, _UNKNOWN, ())
                continue
            declared = asset_names_of(node.declared_inputs) if node.scope is None else ()
            slots = self._slots(node, declared + shape.extra)
            self._append(index, node, shape, slots)

    def _append(self, index: int, node: Node, shape: Shape, slots: tuple[int, ...]) -> None:
        wiring = self.wiring
        if node.map is not None:
            self._note_map(index, node, node.map)
        wiring.templates.append(shape.template)
        wiring.slots.append(slots)
        if shape.condition is not None:
            wiring.conditions[index] = shape.condition
        if node.step.limits is not None:
            wiring.limits[index] = shape.limits
        wiring.parents.append(self._parents(index, node, slots))

    def _note_map(self, index: int, node: Node, name: str) -> None:
        found = self.names.find(node.scope, name)
        self.wiring.mapped[index] = self.names.numbers.get(found.name, -1)
        self.wiring.awaited[index] = {
            self.index[before] for before in node.after if before in self.index
        }
        if found.told and not found.is_asset:
            self.problems.append(
                f"step {node.name!r} is mapped over {name!r}, which is {found.name!r} outside and "
                "no asset; map over the list that a step makes"
            )

    def _parents(self, index: int, node: Node, slots: tuple[int, ...]) -> tuple[int, ...]:
        if not slots and not node.after:
            return ()
        producers = self.assets.producers
        found: dict[int, None] = {}
        for slot in slots:
            producer = producers[slot]
            if isinstance(producer, tuple):
                found.update(dict.fromkeys(producer))
            else:
                found[producer] = None
        for name in node.after:
            before = self.index.get(name)
            if before is None and name in self.absent:
                continue
            if before is None:
                self.wiring.after.setdefault(index, []).append(name)
            else:
                found[before] = None
        return tuple(found)

    def _slots(self, node: Node, names: Sequence[str]) -> tuple[int, ...]:
        numbers = self.assets.numbers
        slots = []
        for name in names:
            number = numbers.get(name)
            if number is None:
                self.problems.append(self._unknown_asset(node, name))
            else:
                slots.append(number)
        # A hole would shift the others; the build fails anyway, so wire nothing.
        return tuple(slots) if len(slots) == len(names) else ()

    def _unknown_asset(self, node: Node, name: str) -> str:
        if name == node.map:
            return f"step {node.name!r} is mapped over {name!r}, which no step produces" + nearest(
                name,
                self.assets.numbers,
                "a map takes its elements from an asset: let a step return them, also a run input",
            )
        if name in self.names.offered:
            return (
                f"step {node.name!r} declares the input {name!r}, which is a run input or context "
                "value and no asset; leave it out of inputs=, parameters find it by name"
            )
        return f"step {node.name!r} needs the asset {name!r}, which no step produces" + nearest(
            name, self.assets.numbers, "add a step that does, or correct inputs="
        )

    # -- shapes ------------------------------------------------------------------------

    def _shape_of(self, node: Node, index: int) -> Shape | None:
        key = shape_key(node)
        try:
            return self.shapes[key]
        except KeyError:
            shape = self.shapes[key] = self._make_shape(node, index)
            return shape

    def _make_shape(self, node: Node, index: int) -> Shape | None:
        try:
            return shape_of(self.names, node, index)
        except Faulty as fault:
            self.problems.append(f"step {node.name!r}: {fault}")
            return None


def wire(
    nodes: Sequence[Node],
    offered: Collection[str],
    problems: list[str],
    given: Collection[str] = (),
    absent: Collection[str] = (),
    *,
    closed: bool = False,
) -> Generator[None, None, Wiring]:
    """Resolve all names of a graph; what is wrong is added to ``problems``.

    Args:
        nodes: in order of declaration.
        offered: names of declared run inputs and context values.
        problems: gets one sentence for each fault.
        given: assets whose values are there already.
        absent: nodes that ``after`` may name though they do not run.
        closed: whether there are no other run inputs than those offered.
    """
    assets = Assets()
    assets.add_given(given)
    names = Names(assets.numbers, offered, closed)
    wirer = _Wirer(nodes, names, assets, problems, absent)
    yield from wirer.name_nodes()
    yield from wirer.name_assets()
    yield from wirer.wire_nodes()
    return wirer.wiring
