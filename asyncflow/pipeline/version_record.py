"""What a version of a pipeline is made of, and what differs between two.

Values of params and context are kept as fingerprints, never as they are: they may be large, and
they may be nobody's business.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from typing import Any, Final

import msgspec

from asyncflow.errors import NotRecordable
from asyncflow.graph.binding import FromAsset, FromAssets, FromOutside, FromParams, Source
from asyncflow.graph.graph import Graph
from asyncflow.resources import ResourceRequirements
from asyncflow.secret import Secret
from asyncflow.step import Step
from asyncflow.storage.digests import digest_of
from asyncflow.storage.fingerprint import code_fingerprint

__all__ = ["GroupRecord", "NodeRecord", "VersionDifference", "VersionRecord", "compare", "describe"]

FORMAT: Final = 1


class NodeRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A node of a version. ``takes`` says of each parameter where its value comes from."""

    name: str
    step: str
    code: str
    takes: dict[str, str]
    gives: list[str]
    after: list[str]
    map: str | None
    params: dict[str, str]
    options: dict[str, Any]
    group: str | None
    resources: dict[str, Any] | None


class GroupRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A group of a version, with what its steps ask for together."""

    name: str
    label: str
    steps: list[str]
    lane: str
    resources: dict[str, Any] | None


class VersionRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A version of a pipeline, as its file holds it.

    ``order`` is the order of execution were there only one worker; ``created`` UTC in ISO 8601.
    """

    format: int
    pipeline: str
    version: str
    created: str
    steps: list[NodeRecord]
    order: list[str]
    groups: list[GroupRecord]
    inputs: list[str] | None
    outputs: list[str] | None
    context: dict[str, str]
    metadata: dict[str, Any] = {}

    def says_the_same(self, other: VersionRecord) -> bool:
        """Whether both describe one pipeline, whenever they were made."""
        same = msgspec.structs.replace(
            other, created=self.created, metadata=self.metadata, version=self.version
        )
        return same == self


class VersionDifference(msgspec.Struct, frozen=True):
    """What differs between a pipeline as it is now and one of its versions.

    Fields can be read as those of a dict, too. ``modified_steps`` are those whose code, wiring,
    params or options differ, and ``modifications`` says which of these. ``step_order_changed``
    looks at the steps that both have. In ``changed_resources`` and ``changed_groups`` each name
    of a step has what was before and what is now. ``context_changes`` has names under ``added``,
    ``removed`` and ``modified``.
    """

    current_version: str
    compared_to: str
    added_steps: list[str]
    removed_steps: list[str]
    modified_steps: list[str]
    modifications: dict[str, list[str]]
    step_order_changed: bool
    changed_resources: dict[str, tuple[dict[str, Any] | None, dict[str, Any] | None]]
    changed_groups: dict[str, tuple[str | None, str | None]]
    context_changes: dict[str, list[str]]

    def __getitem__(self, name: str) -> Any:
        if name not in self.__struct_fields__:
            raise KeyError(name)
        return getattr(self, name)

    def __contains__(self, name: object) -> bool:
        return name in self.__struct_fields__

    def keys(self) -> tuple[str, ...]:
        """The names of the fields, as a dict has them."""
        return self.__struct_fields__

    @property
    def has_changes(self) -> bool:
        """Whether anything differs."""
        return any(self._changes()) or any(self.context_changes.values())

    def _changes(self) -> tuple[Any, ...]:
        return (
            self.added_steps,
            self.removed_steps,
            self.modified_steps,
            self.step_order_changed,
            self.changed_resources,
            self.changed_groups,
        )

    def to_dict(self) -> dict[str, Any]:
        """As a dict."""
        return msgspec.structs.asdict(self)

    def __str__(self) -> str:
        return "\n".join([f"{self.current_version} compared to {self.compared_to}", *self._lines()])

    def _lines(self) -> Iterator[str]:
        if not self.has_changes:
            yield "  no differences"
        for title, names in (("added", self.added_steps), ("removed", self.removed_steps)):
            if names:
                yield f"  {title}: {', '.join(names)}"
        for name, parts in self.modifications.items():
            yield f"  modified: {name} ({', '.join(parts)})"
        if self.step_order_changed:
            yield "  the order has changed"
        for name, (before, now) in self.changed_resources.items():
            yield f"  resources of {name}: {before} -> {now}"
        for name, labels in self.changed_groups.items():
            yield f"  group of {name}: {labels[0]} -> {labels[1]}"
        for what, names in self.context_changes.items():
            if names:
                yield f"  context values {what}: {', '.join(names)}"


# -- describing ------------------------------------------------------------------------


def describe(
    graph: Graph, version: str, created: str, outputs: Iterable[str] | None, metadata: Any
) -> VersionRecord:
    """The record of a built pipeline."""
    names = {number: name for name, number in graph.assets.items()}
    return VersionRecord(
        format=FORMAT,
        pipeline=graph.name,
        version=version,
        created=created,
        steps=[_node(graph, index, names) for index in range(len(graph.nodes))],
        order=[graph.nodes[index].name for index in graph.order],
        groups=[
            GroupRecord(
                group.group_name,
                group.label,
                list(group.execution_order),
                group.lane,
                _resources(group.aggregated_resources),
            )
            for group in graph.step_groups
        ],
        inputs=None if graph.inputs is None else sorted(graph.inputs),
        outputs=None if outputs is None else sorted(outputs),
        context={name: _value(value) for name, value in sorted(graph.context.items())},
        metadata=metadata,
    )


def _node(graph: Graph, index: int, names: Mapping[int, str]) -> NodeRecord:
    node = graph.nodes[index]
    step = node.step
    return NodeRecord(
        name=node.name,
        step=step.name,
        code=code_fingerprint(step.func),
        takes=dict(_takes(graph, index, names)),
        gives=list(node.asset_names),
        after=sorted(node.after),
        map=node.map,
        params={name: _value(value) for name, value in sorted((node.params or {}).items())},
        options=_options(step),
        group=node.execution_group,
        resources=_resources(step.resources),
    )


def _takes(graph: Graph, index: int, names: Mapping[int, str]) -> Iterator[tuple[str, str]]:
    template = graph.templates[index]
    parameters = [parameter.name for parameter in graph.nodes[index].step.parameters]
    slots = [names.get(slot, "") for slot in graph.slots[index]]
    for place, source in enumerate(template.args):
        last = len(parameters) - 1
        name = parameters[place] if place < last else f"{parameters[last]}"
        yield (name if place <= last else f"{name}[{place - last}]"), _source(source, slots)
    for name, source in template.kwargs:
        yield name, _source(source, slots)


def _source(source: Source, slots: Sequence[str]) -> str:
    if isinstance(source, FromAsset):
        return f"asset {slots[source.position]}"
    if isinstance(source, FromAssets):
        return f"assets {', '.join(slots[position] for position in source.positions)}"
    if isinstance(source, FromParams):
        return f"param {source.name}"
    if isinstance(source, FromOutside):
        return f"input {source.name}"
    return "the run"


def _options(step: Step[..., Any]) -> dict[str, Any]:
    """What an option says that is not said elsewhere; only those that were chosen."""
    said = {
        "retry": step.retry if step.retry.retries else None,
        "timeout": step.timeout,
        "condition": step.condition,
        "cache": step.cache or None,
        "when": None if step.when == "success" else step.when,
        "lane": step.lane,
        "tags": sorted(step.tags) or None,
    }
    return {name: _plain(value) for name, value in said.items() if value is not None}


def _plain(value: Any) -> Any:
    """A value as JSON has it; functions as their fingerprints."""
    if isinstance(value, msgspec.Struct):
        return {name: _plain(getattr(value, name)) for name in value.__struct_fields__}
    if is_dataclass(value) and not isinstance(value, type):
        return {name: _plain(part) for name, part in asdict(value).items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, Mapping):
        return {str(name): _plain(part) for name, part in value.items()}
    if isinstance(value, type):
        return value.__qualname__
    if isinstance(value, enum.Enum):
        return value.name
    return f"code {code_fingerprint(value)}" if callable(value) else value


def _resources(resources: ResourceRequirements | None) -> dict[str, Any] | None:
    if resources is None:
        return None
    said = {
        "cpu": resources.cpu,
        "memory": resources.memory,
        "storage": resources.storage,
        "gpu": None if resources.gpu is None else _without_none(asdict(resources.gpu)),
        "node_affinity": None
        if resources.node_affinity is None
        else {
            "required": dict(resources.node_affinity.required),
            "preferred": dict(resources.node_affinity.preferred),
            "tolerations": list(resources.node_affinity.tolerations),
        },
    }
    return _without_none(said)


def _without_none(said: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in said.items() if value is not None}


def _value(value: Any) -> str:
    if isinstance(value, Secret):
        return "secret"
    try:
        return digest_of(value).hex()
    except NotRecordable:
        return f"opaque {type(value).__qualname__}"


# -- comparing -------------------------------------------------------------------------

_PARTS: Final[dict[str, Callable[[NodeRecord], Any]]] = {
    "code": lambda node: node.code,
    "wiring": lambda node: (node.step, node.takes, node.gives, node.after, node.map),
    "params": lambda node: node.params,
    "options": lambda node: node.options,
}


def compare(now: VersionRecord, before: VersionRecord) -> VersionDifference:
    """What differs in ``now`` from ``before``."""
    old = {node.name: node for node in before.steps}
    new = {node.name: node for node in now.steps}
    both = [name for name in new if name in old]
    modifications = {name: _modified(new[name], old[name]) for name in both}
    modified = {name: parts for name, parts in modifications.items() if parts}
    return VersionDifference(
        current_version=now.version,
        compared_to=before.version,
        added_steps=[name for name in new if name not in old],
        removed_steps=[name for name in old if name not in new],
        modified_steps=list(modified),
        modifications=modified,
        step_order_changed=_common(now.order, old) != _common(before.order, new),
        changed_resources={
            name: (old[name].resources, new[name].resources)
            for name in both
            if not _ask_the_same(old[name].resources, new[name].resources)
        },
        changed_groups={
            name: (old[name].group, new[name].group)
            for name in both
            if old[name].group != new[name].group
        },
        context_changes=_changes_of(before.context, now.context),
    )


def _modified(now: NodeRecord, before: NodeRecord) -> list[str]:
    return [name for name, part in _PARTS.items() if part(now) != part(before)]


def _common(order: Iterable[str], others: Mapping[str, Any]) -> list[str]:
    return [name for name in order if name in others]


def _ask_the_same(before: dict[str, Any] | None, now: dict[str, Any] | None) -> bool:
    """``"500m"`` and ``0.5`` are one amount."""
    return bool(_amounts(before) == _amounts(now))


def _amounts(said: dict[str, Any] | None) -> Any:
    if said is None:
        return None
    asked = ResourceRequirements.of(said)
    assert asked is not None
    gpu = asked.gpu
    return (
        asked.cpu_millis,
        asked.memory_bytes,
        asked.storage_bytes,
        None if gpu is None else (gpu.gpu_type, gpu.devices, gpu.micro_units, gpu.memory_bytes),
        asked.node_affinity,
    )


def _changes_of(before: Mapping[str, str], now: Mapping[str, str]) -> dict[str, list[str]]:
    return {
        "added": [name for name in now if name not in before],
        "removed": [name for name in before if name not in now],
        "modified": [name for name in now if name in before and now[name] != before[name]],
    }
