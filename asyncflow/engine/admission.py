"""Before the first step starts: whether this machine can run the graph at all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import msgspec

from asyncflow.engine.capacity import Demand, demand_of
from asyncflow.engine.limiter import Limiter
from asyncflow.errors import CapacityError
from asyncflow.graph.graph import Graph
from asyncflow.resources import NodeAffinity, ResourceRequirements, format_bytes

__all__ = ["Admission", "Machine", "admit", "admit_nested"]


class Machine(msgspec.Struct, frozen=True):
    """What requests are checked against; ``why_no_gpus`` is said where GPUs fall short."""

    limiter: Limiter
    labels: Mapping[str, str]
    taints: Sequence[str]
    refuse_oversized: bool
    why_no_gpus: str = ""


class Admission(msgspec.Struct):
    """The demands of a graph's units by the identity of their requirements and the thousandths
    of a CPU that those get who name none, what had to be clamped (unit → sentence), and what
    cannot be met (unit → sentence)."""

    demands: dict[tuple[int, int], Demand]
    clamped: dict[str, str]
    refusals: dict[str, str]


def admit(
    graph: Graph,
    machine: Machine,
    lane_of: Callable[[int], str] | None = None,
    process_cpu_millis: int = 1000,
) -> Admission:
    """Check every distinct request of a graph once; units share most of them.

    Args:
        lane_of: where a unit runs; None for what the graph says.
        process_cpu_millis: thousandths of a CPU for process steps that name none.
    """
    admission = Admission({}, {}, {})
    lane_of = lane_of or graph.units.lanes.__getitem__
    for unit, requirements in graph.units.resources.items():
        default = process_cpu_millis if lane_of(unit) == "process" else 0
        key = id(requirements), default
        if key not in admission.demands:
            name = graph.unit_name(unit)
            demand = _admit_one(name, requirements, machine, admission, default)
            admission.demands[key] = demand
    for name, why in _limits_faults(graph, machine.limiter):
        before = admission.refusals.get(name)
        admission.refusals[name] = why if before is None else f"{before} {why}"
    if machine.taints and len(graph.units.resources) < len(graph.units):
        # Units without requirements tolerate nothing.
        bare = next(u for u in range(len(graph.units)) if u not in graph.units.resources)
        for fault in _taint_faults(None, machine.taints):
            admission.refusals[graph.unit_name(bare)] = fault
    return admission


def admit_nested(
    requirements: ResourceRequirements | None,
    name: str,
    machine: Machine,
    default_cpu_millis: int = 0,
) -> tuple[Demand, str | None]:
    """Check the request of a step that a running step asks for.

    Returns:
        What it takes, and a warning if that is less than it asks for.

    Raises:
        CapacityError: it can never be met here.
    """
    admission = Admission({}, {}, {})
    if requirements is None:
        demand, faults = Demand(default_cpu_millis), list(_taint_faults(None, machine.taints))
        if faults:
            admission.refusals[name] = " ".join(faults)
    else:
        demand = _admit_one(name, requirements, machine, admission, default_cpu_millis)
    if admission.refusals:
        raise CapacityError(f"nested step {name!r}: {admission.refusals[name]}")
    return demand, admission.clamped.get(name)


def _admit_one(
    name: str,
    requirements: ResourceRequirements,
    machine: Machine,
    admission: Admission,
    default_cpu_millis: int,
) -> Demand:
    wanted = demand_of(requirements, default_cpu_millis=default_cpu_millis)
    demand = machine.limiter.clamped(wanted)
    if requirements.cpu_millis is None:
        # What it did not ask for is no reason to warn, or to refuse it.
        wanted = wanted._replace(cpu_millis=demand.cpu_millis)
    faults = list(_faults(requirements, machine))
    refusal = machine.limiter.refusal(demand)
    if refusal is not None:
        why = f"{refusal} {machine.why_no_gpus}"
        faults.insert(0, f"{why}Ask for less, or declare devices with Runtime(max_gpus=…).")
    elif demand != wanted:
        too_much = machine.limiter.refusal(wanted) or "it asks for more than there is"
        if machine.refuse_oversized:
            faults.append(f"{too_much} Ask for less, or let oversized='clamp' give it all.")
        else:
            admission.clamped[name] = f"{too_much} It gets all there is and runs alone."
    if faults:
        admission.refusals[name] = " ".join(faults)
    return demand


def _faults(requirements: ResourceRequirements, machine: Machine) -> Iterator[str]:
    affinity = requirements.node_affinity
    if affinity is not None:
        yield from _label_faults(affinity.required, machine.labels)
    yield from _taint_faults(affinity, machine.taints)
    if requirements.storage_bytes:
        import shutil

        free = shutil.disk_usage(".").free
        if requirements.storage_bytes > free:
            yield (
                f"it asks for {format_bytes(requirements.storage_bytes)} of storage, and "
                f"{format_bytes(free)} are free in the working directory; ask for less, or make "
                "room."
            )


def _limits_faults(graph: Graph, limiter: Limiter) -> Iterator[tuple[str, str]]:
    """The nodes whose named keys can never be had, as far as that is known before they start."""
    known: dict[int, str | None] = {}
    for node, computed in graph.limits.items():
        step = graph.nodes[node].step
        if computed is None and id(step) not in known:
            known[id(step)] = why = limiter.refusal_of_keys(step.static_keys)
            if why is not None:
                yield graph.nodes[node].name, why


def _label_faults(required: Mapping[str, str], labels: Mapping[str, str]) -> Iterator[str]:
    for key, value in required.items():
        if labels.get(key) != value:
            has = f"has {key}={labels[key]}" if key in labels else "does not have that label"
            yield (
                f"it requires the label {key}={value}, and this runtime {has}; "
                "set Runtime(labels=…)."
            )


def _taint_faults(affinity: NodeAffinity | None, taints: Iterable[str]) -> Iterator[str]:
    tolerated = set(() if affinity is None else affinity.tolerations)
    for taint in taints:
        if taint not in tolerated and taint.split("=")[0] not in tolerated:
            yield f"it does not tolerate the taint {taint!r} of this runtime; add a toleration."
