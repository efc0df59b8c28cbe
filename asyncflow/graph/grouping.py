"""Execution groups: which nodes form one unit, where it runs, and what it holds.

A group is a maximal run of neighbours, in the graph's order, with one label. Intervals
of a topological order can never wait for each other in a circle, whatever the labels.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence

import msgspec

from asyncflow.environment import Environment
from asyncflow.errors import GraphError
from asyncflow.graph.node import Node
from asyncflow.resources import ResourceRequirements, aggregate
from asyncflow.step import LANES, LaneName, Step, lane_names

__all__ = ["Group", "StepGroup", "Units", "make_units"]

_CHUNK = 1024


class Group(msgspec.Struct, frozen=True):
    """What is said about a group as a whole: ``Pipeline(groups={"prep": Group(lane="thread")})``.

    Args:
        lane: where all members run.
        resources: what the group holds, instead of the aggregate of its members.
        environment: how its worker process is started; all members run in a process then.

    Raises:
        GraphError: there is no such lane, or the resources or the environment make no sense.
    """

    lane: LaneName | None = None
    resources: ResourceRequirements | None = None
    environment: Environment | None = None

    def __post_init__(self) -> None:
        if self.lane is not None and self.lane not in LANES:
            raise GraphError(f"there is no lane {self.lane!r}; the lanes are {lane_names()}")
        try:
            resources = ResourceRequirements.of(self.resources)
        except (TypeError, ValueError) as error:
            raise GraphError(f"Group(resources=…): {error}") from error
        msgspec.structs.force_setattr(self, "resources", resources)
        self._check_environment()

    def _check_environment(self) -> None:
        try:
            environment = Environment.of(self.environment)
        except (TypeError, ValueError) as error:
            raise GraphError(f"Group(environment=…): {error}") from error
        msgspec.structs.force_setattr(self, "environment", environment)
        if environment is not None:
            if self.lane not in (None, "process"):
                raise GraphError(
                    f"Group(lane={self.lane!r}): an environment is that of a process; leave the "
                    "lane out"
                )
            msgspec.structs.force_setattr(self, "lane", "process")


class StepGroup(msgspec.Struct, frozen=True):
    """A group of a built pipeline.

    ``steps`` are its nodes in order and ``execution_order`` their names. A label that is
    split gives several groups, named ``label_0``, ``label_1``, ….
    """

    group_name: str
    label: str
    steps: tuple[Node, ...]
    execution_order: list[str]
    aggregated_resources: ResourceRequirements | None
    lane: str


class Units(msgspec.Struct):
    """What is dispatched as one. Without groups every node is the unit of its own number.

    ``members`` is None in that case; ``resources`` has only units that ask for something;
    ``settled`` are the groups whose lane was chosen by name; ``environments`` has only units
    whose worker is started in a particular way.
    """

    of_node: Sequence[int]
    members: list[tuple[int, ...]] | None
    lanes: list[str]
    resources: dict[int, ResourceRequirements]
    groups: dict[int, StepGroup]
    settled: set[int] = set()
    environments: dict[int, Environment] = {}

    def __len__(self) -> int:
        return len(self.lanes)

    def members_of(self, unit: int) -> tuple[int, ...]:
        return (unit,) if self.members is None else self.members[unit]


def make_units(
    nodes: Sequence[Node],
    order: Sequence[int] | None,
    groups: Mapping[str, Group],
    problems: list[str],
) -> Generator[None, None, Units]:
    """Cut the order into units and work out lane and resources of each.

    Args:
        order: of execution; None where no node has a label.
    """
    if order is None:
        return (yield from _single_units(nodes))
    runs: list[tuple[str | None, tuple[int, ...]]] = []
    for run in _runs(nodes, order):
        runs.append(run)
        if not len(runs) % _CHUNK:
            yield
    names = iter(group_names([label for label, _ in runs if label is not None]))
    units = Units([0] * len(nodes), [], [], {}, {})
    assert units.members is not None
    for number, (label, members) in enumerate(runs):
        if not number % _CHUNK:
            yield
        units.members.append(members)
        for member in members:
            units.of_node[member] = number  # type: ignore[index]
        if label is None:
            _add_single(units, number, nodes[members[0]].step)
        else:
            chosen = tuple(nodes[member] for member in members)
            group = _make_group(next(names), label, chosen, groups.get(label, Group()), problems)
            units.groups[number] = group
            said = groups.get(label)
            if any(node.step.lane for node in chosen) or (said is not None and said.lane):
                units.settled.add(number)
            units.lanes.append(group.lane)
            if group.aggregated_resources is not None:
                units.resources[number] = group.aggregated_resources
            environment = _environment_of(label, chosen, said, problems)
            if environment is not None:
                units.environments[number] = environment
    return units


def _single_units(nodes: Sequence[Node]) -> Generator[None, None, Units]:
    units = Units(range(len(nodes)), None, [], {}, {})
    for number, node in enumerate(nodes):
        if not number % _CHUNK:
            yield
        _add_single(units, number, node.step)
    return units


def _add_single(units: Units, number: int, step: Step[..., object]) -> None:
    units.lanes.append(lane_of(step))
    if step.resources is not None:
        units.resources[number] = step.resources
    if step.environment is not None:
        units.environments[number] = step.environment


def _runs(
    nodes: Sequence[Node], order: Sequence[int]
) -> Iterator[tuple[str | None, tuple[int, ...]]]:
    for label, run in itertools.groupby(order, key=lambda index: nodes[index].execution_group):
        if label is None:
            yield from ((None, (index,)) for index in run)
        else:
            yield label, tuple(run)


def group_names(labels: Sequence[str]) -> list[str]:
    """The name of each run: its label where that stands once, else ``label_0``, ``label_1``, ….

    A number whose name is a label of its own is left out, so names never clash.
    """
    counts = Counter(labels)
    numbers = {label: itertools.count() for label in counts}

    def name(label: str) -> str:
        if counts[label] == 1:
            return label
        return next(name for k in numbers[label] if (name := f"{label}_{k}") not in counts)

    return [name(label) for label in labels]


def lane_of(step: Step[..., object]) -> str:
    """Where a step runs when it is alone; coroutines run on the event loop, or in a process."""
    if step.is_coroutine:
        return "process" if step.lane == "process" else "inline"
    return step.lane or ("process" if wants_gpu(step) else "thread")


def wants_gpu(step: Step[..., object]) -> bool:
    """Whether a step asks for a device, which only a process of its own can be confined to."""
    return step.resources is not None and step.resources.gpu is not None


def _make_group(
    name: str, label: str, nodes: tuple[Node, ...], said: Group, problems: list[str]
) -> StepGroup:
    return StepGroup(
        group_name=name,
        label=label,
        steps=nodes,
        execution_order=[node.name for node in nodes],
        aggregated_resources=_resources_of(label, nodes, said, problems),
        lane=_lane_of_group(label, nodes, said, problems),
    )


def _resources_of(
    label: str, nodes: tuple[Node, ...], said: Group, problems: list[str]
) -> ResourceRequirements | None:
    if said.resources is not None:
        return said.resources
    try:
        return aggregate((node.step.resources for node in nodes), where=f"group {label!r}")
    except GraphError as error:
        problems.extend(error.problems)
        return None


def _environment_of(
    label: str, nodes: tuple[Node, ...], said: Group | None, problems: list[str]
) -> Environment | None:
    """The one environment of a group's worker."""
    explicit: dict[Environment, str] = {}
    if said is not None and said.environment is not None:
        explicit[said.environment] = "Group(environment=…)"
    for node in nodes:
        if node.step.environment is not None:
            explicit.setdefault(node.step.environment, repr(node.name))
    if len(explicit) > 1:
        (one, first), (two, second) = list(explicit.items())[:2]
        problems.append(
            f"group {label!r} has one worker but {first} wants it in one environment ({one}) and "
            f"{second} in another ({two}); make them agree or take one out of the group"
        )
    return next(iter(explicit), None)


def _lane_of_group(label: str, nodes: tuple[Node, ...], said: Group, problems: list[str]) -> str:
    explicit: dict[str, str] = {
        node.step.lane: node.name for node in reversed(nodes) if node.step.lane
    }
    if said.lane:
        explicit.setdefault(said.lane, f"Group(lane={said.lane!r})")
    if len(explicit) > 1:
        (one, first), (two, second) = sorted(explicit.items())[:2]
        problems.append(
            f"group {label!r} has one worker but {first!r} wants the {one} lane and {second!r} the "
            f"{two} lane; make them agree or take one out of the group"
        )
    if explicit:
        return next(iter(explicit))
    if all(node.step.is_coroutine for node in nodes):
        return "inline"
    return "process" if any(lane_of(node.step) == "process" for node in nodes) else "thread"
