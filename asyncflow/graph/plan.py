"""The plan of a built pipeline: what is dispatched as one, where it runs and what it waits for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from asyncflow.graph.graph import Graph
from asyncflow.resources import GPUConfig, ResourceRequirements

__all__ = ["Plan", "PlannedUnit", "make_plan", "units_in_order"]

Amount = str | int | float

# A terminal holds no more; to_dict() gives every unit.
_MOST_ROWS = 200
_FIRST_ROWS = 100
_LAST_ROWS = 20
_MOST_NAMES = 6


class PlannedUnit(msgspec.Struct, frozen=True):
    """One line of a plan: a node on its own, or a group whose nodes run one after the other.

    Attributes:
        name: of the group, or of the only node.
        members: names of its nodes in the order they run.
        lane: where they run.
        group: the group's label; None for a node that is in no group.
        cpu, memory, storage: what it holds, as it was spelt; None where nothing is asked for.
        gpu: the devices it holds, such as ``"2x nvidia-v100"``; None for none.
        limits: the named keys that its attempts take, such as ``"api"`` or ``"2x api"``; ``"…"``
            where they depend on inputs.
        environment: how its worker is started, such as ``"nice -n 10"``; None where nothing is
            particular about that.
        waits_for: names of the units that must end before it starts.
    """

    name: str
    members: tuple[str, ...]
    lane: str
    group: str | None
    cpu: Amount | None
    memory: Amount | None
    storage: Amount | None
    gpu: str | None
    waits_for: tuple[str, ...]
    limits: tuple[str, ...] = ()
    environment: str | None = None

    @property
    def resources(self) -> str:
        """What it holds on one line, such as ``cpu=8 memory=16Gi``; empty for nothing."""
        amounts = {
            "cpu": self.cpu,
            "memory": self.memory,
            "storage": self.storage,
            "gpu": self.gpu,
            "limits": ",".join(self.limits) or None,
        }
        return " ".join(f"{name}={value}" for name, value in amounts.items() if value is not None)


class Plan(msgspec.Struct, frozen=True):
    """What a run would do; ``print(plan)`` shows it as a table.

    Attributes:
        pipeline: its name.
        units: in the order of execution were there only one worker.
        levels: how many units the longest chain of waiting has.
        warnings: advice, one sentence each.
        problems: why a run would be refused, one sentence each; empty where it would not.
    """

    pipeline: str
    units: tuple[PlannedUnit, ...]
    levels: int
    warnings: tuple[str, ...]
    problems: tuple[str, ...]

    def __str__(self) -> str:
        return self.to_text()

    def to_text(self) -> str:
        """A table for a terminal; of more than 200 units it shows the first 100 and last 20."""
        warnings = (f"warning: {sentence}" for sentence in self.warnings)
        problems = (f"problem: {sentence}" for sentence in self.problems)
        return "\n".join([self._title(), *self._table(), *warnings, *problems])

    def to_dict(self) -> dict[str, Any]:
        """Everything as builtin values, every unit included."""
        plan: dict[str, Any] = msgspec.to_builtins(self)
        return plan

    def _title(self) -> str:
        steps = sum(len(unit.members) for unit in self.units)
        return (
            f"{self.pipeline}: {_count(steps, 'step')} in {_count(len(self.units), 'unit')}, "
            f"{_count(self.levels, 'level')} deep"
        )

    def _table(self) -> list[str]:
        units = self.units
        if not units:
            return []
        if len(units) <= _MOST_ROWS:
            return _aligned([_HEADER, *map(_row, units)])
        shown = [*units[:_FIRST_ROWS], *units[-_LAST_ROWS:]]
        lines = _aligned([_HEADER, *map(_row, shown)])
        left_out = f"  … {len(units) - len(shown):,} units left out; to_dict() has them all …"
        return [*lines[: _FIRST_ROWS + 1], left_out, *lines[_FIRST_ROWS + 1 :]]


def make_plan(
    graph: Graph, *, refusals: Mapping[str, str] = {}, clamped: Mapping[str, str] = {}
) -> Plan:
    """The plan of a graph, with what one runtime would say to it.

    Args:
        graph: a built pipeline.
        refusals: unit or node → the sentence that says why the runtime refuses it.
        clamped: unit or node → the sentence that says what it gets instead of what it asks for.
    """
    order = units_in_order(graph)
    above = _units_above(graph)
    place = {unit: at for at, unit in enumerate(order)}
    return Plan(
        pipeline=graph.name,
        units=tuple(
            _planned(graph, unit, sorted(above[unit], key=place.__getitem__)) for unit in order
        ),
        levels=_depth(order, above),
        warnings=(*graph.warnings, *_sentences(clamped)),
        problems=tuple(_sentences(refusals)),
    )


def units_in_order(graph: Graph) -> list[int]:
    """The numbers of the units in the order of execution."""
    return list(dict.fromkeys(graph.units.of_node[index] for index in graph.order))


def _units_above(graph: Graph) -> list[set[int]]:
    """The units that each unit waits for, by number."""
    above: list[set[int]] = [set() for _ in range(len(graph.units))]
    for index, unlocked in enumerate(graph.unlocks):
        unit = graph.units.of_node[index]
        for below in unlocked:
            above[below].add(unit)
    return above


def _depth(order: Sequence[int], above: Sequence[set[int]]) -> int:
    level: dict[int, int] = {}
    for unit in order:
        level[unit] = 1 + max((level[parent] for parent in above[unit]), default=0)
    return max(level.values(), default=0)


def _planned(graph: Graph, unit: int, above: Sequence[int]) -> PlannedUnit:
    group = graph.units.groups.get(unit)
    asked = graph.units.resources.get(unit, _NOTHING)
    environment = graph.units.environments.get(unit)
    return PlannedUnit(
        name=graph.unit_name(unit),
        members=tuple(graph.nodes[index].name for index in graph.units.members_of(unit)),
        lane=graph.units.lanes[unit],
        group=None if group is None else group.label,
        cpu=asked.cpu,
        memory=asked.memory,
        storage=asked.storage,
        gpu=None if asked.gpu is None else _spelt(asked.gpu),
        waits_for=tuple(graph.unit_name(parent) for parent in above),
        limits=_limits_of(graph, unit),
        environment=None if environment is None else str(environment),
    )


def _limits_of(graph: Graph, unit: int) -> tuple[str, ...]:
    """What the members of a unit take, each its own while it runs."""
    found: dict[str, None] = {}
    for member in graph.units.members_of(unit):
        if member in graph.limits:
            keys = graph.nodes[member].step.static_keys
            found.update({name if n == 1 else f"{n}x {name}": None for name, n in keys})
            if graph.limits[member] is not None:
                found["…"] = None
    return tuple(found)


_NOTHING = ResourceRequirements()


def _spelt(gpu: GPUConfig) -> str:
    kind = f"x {gpu.gpu_type}" if gpu.gpu_type else ""
    return f"{gpu.count}{kind}" + ("" if gpu.memory is None else f" of {gpu.memory}")


def _sentences(said: Mapping[str, str]) -> Iterator[str]:
    for name, sentence in said.items():
        yield sentence if repr(name) in sentence else f"{name!r}: {sentence}"


# -- text ----------------------------------------------------------------------------

_HEADER = ("unit", "lane", "environment", "resources", "steps", "waits for")


def _row(unit: PlannedUnit) -> tuple[str, ...]:
    steps = "" if unit.group is None else _some(unit.members, " → ")
    waits_for = _some(unit.waits_for, ", ")
    return unit.name, unit.lane, unit.environment or "", unit.resources, steps, waits_for


def _some(names: Sequence[str], between: str) -> str:
    if len(names) <= _MOST_NAMES:
        return between.join(names)
    left_out = len(names) - _MOST_NAMES + 1
    return between.join([*names[: _MOST_NAMES - 2], f"… {left_out:,} more …", names[-1]])


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Columns of even width, without those that have nothing but their heading."""
    columns = [column for column in zip(*rows, strict=True) if any(column[1:])]
    widths = [max(map(len, column)) for column in columns]
    return [
        ("  " + "  ".join(map(str.ljust, row, widths))).rstrip()
        for row in zip(*columns, strict=True)
    ]


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")
