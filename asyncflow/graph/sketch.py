"""What a picture shows of a graph: every step, or of a large one its families of steps."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec

from asyncflow.graph.drawing import edges_of, label_of, levels_of
from asyncflow.graph.graph import Graph
from asyncflow.graph.kinds import common_name, first_word, kind_of, mapped_node, needless_start
from asyncflow.paper import Title
from asyncflow.states import NODE_STATES, NodeState

__all__ = ["Figure", "Frame", "Joint", "Sketch", "sketch_of"]

# A larger picture says less than its summary.
_MOST_STEPS, _MOST_EDGES = 800, 4000
_MOST_FIGURES = 150
_MOST_BANDS = 60

Tally = Mapping[str, Counter[NodeState]]


class Figure(msgspec.Struct, frozen=True):
    """One box: a step, or ``size`` steps that are shown as one, ``stacked``.

    ``counts`` says how many of them are in each state; it is empty without a run.
    """

    name: str
    hint: str
    size: int = 1
    stacked: bool = False
    conditional: bool = False
    counts: Mapping[NodeState, int] = {}


class Frame(msgspec.Struct, frozen=True):
    """Figures that run one after the other in one worker; a single one has no title."""

    title: str
    figures: tuple[int, ...]


class Joint(msgspec.Struct, frozen=True):
    """A line between figures; ``label`` names what goes along it where that is not obvious.

    Without a value to carry it only says what comes first.
    """

    start: int
    end: int
    label: str
    carries: bool


class Sketch(msgspec.Struct, frozen=True):
    """What is drawn, without a place for any of it."""

    title: Title
    figures: Sequence[Figure]
    frames: Sequence[Frame]
    joints: Sequence[Joint]


def sketch_of(graph: Graph, states: Mapping[str, NodeState] | None, about: str = "") -> Sketch:
    """Choose what to show of a graph.

    Args:
        graph: a built pipeline.
        states: of the nodes of a run, by name; None for no run.
        about: what to say of the run.
    """
    tally = None if states is None else _tally(graph, states)
    total = _added((tally or {}).values())
    title = Title(
        graph.name, _about(graph) + (f", {about}" if about else ""), counts=_in_order(total)
    )
    if len(graph) <= _MOST_STEPS and sum(map(len, graph.parents)) <= _MOST_EDGES:
        return _whole(graph, tally, title)
    return _summary(graph, tally, title)


def _tally(graph: Graph, states: Mapping[str, NodeState]) -> Tally:
    """How many are in each state, by node; for a mapped node those of its elements."""
    tally: dict[str, Counter[NodeState]] = defaultdict(Counter)
    for name, state in states.items():
        if name not in graph.index and mapped_node(name) in graph.index:
            tally[mapped_node(name)][state] += 1
    for name, state in states.items():
        if name in graph.index and name not in tally:
            tally[name][state] = 1
    return dict(tally)


def _added(counts: Iterable[Counter[NodeState]]) -> Counter[NodeState]:
    total = Counter[NodeState]()
    for some in counts:
        total.update(some)
    return total


def _in_order(counts: Mapping[NodeState, int]) -> dict[NodeState, int]:
    return {state: counts[state] for state in NODE_STATES if counts.get(state)}


def _about(graph: Graph) -> str:
    parts = [(len(graph), "step"), (len(graph.units.groups), "group")]
    return ", ".join(f"{n:,} {word}{'' if n == 1 else 's'}" for n, word in parts if n)


# -- every step --------------------------------------------------------------------------


def _whole(graph: Graph, tally: Tally | None, title: Title) -> Sketch:
    needless = needless_start([node.name for node in graph.nodes])
    return Sketch(
        title,
        [_figure(graph, index, tally, needless) for index in range(len(graph))],
        [_frame(graph, unit) for unit in range(len(graph.units))],
        [
            Joint(edge.start, edge.end, name, carry)
            for edge in edges_of(graph)
            for name, carry in [(name, True) for name in edge.names(graph)] or [("", False)]
        ],
    )


def _figure(graph: Graph, index: int, tally: Tally | None, needless: int) -> Figure:
    node = graph.nodes[index]
    label = label_of(graph, index)
    counts = _in_order((tally or {}).get(node.name, {}))
    return Figure(
        name=f"…{label[needless:]}" if needless else label,
        hint=" · ".join([*_facts(graph, index), *_words(counts, tally)]),
        size=max(1, sum(counts.values())),
        stacked=node.map is not None,
        conditional=index in graph.conditions,
        counts=counts,
    )


def _facts(graph: Graph, index: int) -> Iterator[str]:
    node = graph.nodes[index]
    yield node.name
    if node.step.name != node.name:
        yield f"step {node.step.name}"
    if node.map is not None:
        yield f"once for each of {node.map}"
    if node.asset_names != (node.name,):
        yield f"makes {', '.join(node.asset_names)}"
    if node.after:
        yield f"after {', '.join(node.after)}"
    if index in graph.conditions:
        yield "runs if its condition is true"


def _words(counts: Mapping[NodeState, int], tally: Tally | None) -> Iterator[str]:
    if tally is not None and not counts:
        yield "not part of the run"
    one = sum(counts.values()) == 1
    for state, count in counts.items():
        yield ("" if one else f"{count:,} ") + state.replace("_", " ")


def _frame(graph: Graph, unit: int) -> Frame:
    group = graph.units.groups.get(unit)
    # What an inlined pipeline is called stands before the name of each member already.
    name = "" if group is None else group.group_name.rpartition("/")[2]
    title = "" if group is None else f"{name} · {group.lane}"
    return Frame(title, graph.units.members_of(unit))


# -- families of steps -------------------------------------------------------------------


def _summary(graph: Graph, tally: Tally | None, title: Title) -> Sketch:
    keys, how = _keys(graph)
    remarks = (how + ("; groups are left out" if graph.units.groups else ""),)
    members: dict[tuple[int, str], list[int]] = {}
    for index in sorted(range(len(graph)), key=keys.__getitem__):
        members.setdefault(keys[index], []).append(index)
    number_of = {key: number for number, key in enumerate(members)}
    at = [number_of[key] for key in keys]
    return Sketch(
        msgspec.structs.replace(title, remarks=remarks),
        [_summed_up(graph, chosen, tally) for chosen in members.values()],
        [Frame("", (number,)) for number in range(len(members))],
        list(_summed_joints(graph, at)),
    )


def _keys(graph: Graph) -> tuple[list[tuple[int, str]], str]:
    """The box that each node belongs to, by level and kind; and what to say of that."""
    levels = levels_of(graph)
    level_of = [0] * len(graph)
    for number, level in enumerate(levels):
        for index in level:
            level_of[index] = number
    many = f"more than {_MOST_STEPS} steps: "
    if len(graph) <= _MOST_STEPS:
        many = f"more than {_MOST_EDGES:,} edges: "
    for kind in (kind_of, first_word):
        kinds = (kind(node.name, node.step.name) for node in graph.nodes)
        keys = list(zip(level_of, kinds, strict=True))
        if len(set(keys)) <= _MOST_FIGURES:
            return keys, many + "those of one level and kind are one box"
    height = -(-len(levels) // _MOST_BANDS)
    keys = [(level // height, "") for level in level_of]
    each = "level is one box" if height == 1 else f"{height:,} levels are one box"
    return keys, many + ("each " if height == 1 else "") + each


def _summed_up(graph: Graph, chosen: Sequence[int], tally: Tally | None) -> Figure:
    names = [graph.nodes[index].name for index in chosen]
    found = _added((tally or {}).get(name, Counter()) for name in names)
    counts = _in_order(found)
    name = common_name(names)
    some = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
    hint = f"{len(names):,} steps: {some}" if len(names) > 1 else name
    return Figure(
        name,
        " · ".join([hint, *_words(counts, tally)]),
        size=max(len(names), sum(counts.values())),
        stacked=len(names) > 1,
        counts=counts,
    )


def _summed_joints(graph: Graph, at: Sequence[int]) -> Iterator[Joint]:
    labels: dict[tuple[int, int, bool], set[str]] = {}
    for edge in edges_of(graph):
        key = (at[edge.start], at[edge.end], bool(edge.assets))
        if key[0] != key[1]:
            labels.setdefault(key, set()).add(edge.label(graph))
    for (start, end, carries), found in labels.items():
        yield Joint(start, end, _only(found), carries)


def _only(labels: Iterable[str]) -> str:
    first, *others = labels
    return "" if others else first
