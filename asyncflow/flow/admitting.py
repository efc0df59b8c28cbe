"""Before anything is executed: whether the machine has what is going to be executed asks for."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from asyncflow.engine.admission import Admission
from asyncflow.errors import CapacityError
from asyncflow.flow.aggregates import Aggregate
from asyncflow.flow.errors import DirectivesError
from asyncflow.flow.forecast import Forecast
from asyncflow.flow.groups import FlowGroup
from asyncflow.flow.selecting import Selection
from asyncflow.flow.steps import StepMaker
from asyncflow.graph.compile import Blueprint, compile_graph
from asyncflow.graph.node import Node
from asyncflow.resources import ResourceRequirements
from asyncflow.runtime import Runtime
from asyncflow.step import Step

__all__ = ["admit"]

_LOGGER = logging.getLogger("asyncflow")
_MOST_TOLD = 5


class _Asked(NamedTuple):
    """What an operation of a group asks for."""

    group: FlowGroup
    operation: str
    requirements: ResourceRequirements

    def __str__(self) -> str:
        name = f"operation {self.operation!r}"
        return name if self.group.is_singleton else f"{name} in group {self.group.name!r}"


async def admit(
    runtime: Runtime, selection: Selection, steps: StepMaker, forecast: Forecast
) -> None:
    """Refuse what can never be granted and is going to be executed; tell what is cut down.

    Directives that are the same for all jobs are looked at once for each group, and conditions
    are asked only where something is wrong with these or directives are functions.

    Raises:
        CapacityError: an operation asks for more than there is.
        UserConditionError: a condition raised.
    """
    groups = {group.name: group for group, _, _ in selection}.values()
    constant = [group for group in groups if group.has_constant_directives()]
    asked = [each for group in constant for each in _asked(group, (), steps)]
    found = await _look(runtime, asked)
    wrong = {asked[int(place)].group.name for place in {**found.refusals, **found.clamped}}
    granted = {group.name for group in constant} - wrong
    doubtful = [pair for pair in selection if pair[0].name not in granted]
    if doubtful:
        coming = await asyncio.to_thread(lambda: list(_coming(doubtful, steps, forecast)))
        _conclude(coming, await _look(runtime, coming))


def _asked(group: FlowGroup, jobs: Aggregate, steps: StepMaker) -> Iterator[_Asked]:
    """What may be more than there is; any machine has one CPU."""
    for name, asked in steps.requirements(group, jobs).items():
        if asked.gpu or asked.memory_bytes or (asked.cpu_millis or 0) > 1000:
            yield _Asked(group, name, asked)


def _coming(selection: Selection, steps: StepMaker, forecast: Forecast) -> Iterator[_Asked]:
    """What is asked for by groups that are going to be executed, the same only once."""
    seen: set[tuple[str, ...]] = set()
    for group, _, jobs in selection:
        is_constant = group.has_constant_directives()
        if (is_constant and (group.name,) in seen) or not forecast.comes(group, jobs):
            continue
        seen.add((group.name,))
        try:
            every = list(_asked(group, jobs, steps))
        except DirectivesError:
            continue  # they may be known by the time they are needed
        for asked in every:
            key = group.name, asked.operation, repr(asked.requirements)
            if key not in seen:
                seen.add(key)
                yield asked


async def _look(runtime: Runtime, asked: Sequence[_Asked]) -> Admission:
    """What a runtime says of it, by its place."""
    if not asked:
        return Admission({}, {}, {})
    nodes = (
        Node(str(place), Step(_nothing, name=str(place), resources=each.requirements))
        for place, each in enumerate(asked)
    )
    graph = compile_graph(Blueprint("operations", tuple(nodes)))
    await runtime.find_gpus_for(graph)
    return runtime.check(graph)


def _nothing() -> None:
    """Stands in for an operation."""


def _conclude(asked: Sequence[_Asked], found: Admission) -> None:
    faults = [
        f"{asked[int(place)]} cannot run here: {why}" for place, why in found.refusals.items()
    ]
    if faults:
        error = CapacityError(faults[0])
        for fault in faults[1:_MOST_TOLD]:
            error.add_note(f"also: {fault}")
        error.add_note(
            "select others with -o (names=…), or run all that can run here with --keep-going "
            "(keep_going=True)"
        )
        raise error
    first_of = {str(asked[int(place)]): why for place, why in reversed(found.clamped.items())}
    for who, why in first_of.items():
        _LOGGER.warning("%s: %s", who, why)
