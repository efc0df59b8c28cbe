"""What a step asks of the machine, and how a group adds up what its steps ask for."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, TypeVar

from asyncflow.accelerators import gpu_matches, gpu_rank
from asyncflow.errors import GraphError
from asyncflow.quantities import (
    exact_number,
    format_bytes,
    format_cpu,
    malformed,
    nearest,
    parse_bytes,
    parse_cpu,
    refuse_absurd,
    shown,
)

__all__ = [
    "DEVICE_MICRO_UNITS",
    "GPUConfig",
    "NodeAffinity",
    "ResourceRequirements",
    "aggregate",
    "format_bytes",
    "format_cpu",
    "gpu_matches",
    "gpu_rank",
    "parse_bytes",
    "parse_cpu",
]

DEVICE_MICRO_UNITS = 1_000_000
"""One whole GPU; a share of a GPU is counted in millionths so that ten tenths make one."""

T = TypeVar("T")
Quantity = str | int | float


@dataclass(frozen=True, slots=True)
class GPUConfig:
    """The GPUs one step asks for.

    Parameters:
        gpu_type: model, in any usual spelling; None takes any device.
        count: whole devices, or the share of one device as a number between 0 and 1.
        memory: least memory of each device, in bytes or as text with a unit.

    Raises:
        TypeError, ValueError: if a value is not of its kind; a count of 0 is refused, because
            a step without GPUs leaves `gpu` out.

    Example:
        >>> GPUConfig("nvidia-a100", count=2, memory="40Gi").memory_bytes
        42949672960
    """

    gpu_type: str | None = None
    count: int | float = 1
    memory: Quantity | None = None

    def __post_init__(self) -> None:
        if self.gpu_type is not None:
            _check_gpu_type(self.gpu_type)
        _check_gpu_count(self.count)
        if self.memory is not None:
            parse_bytes(self.memory)

    @property
    def devices(self) -> int:
        """Whole devices asked for; 0 when a share of one device is asked for."""
        return int(self.count)

    @property
    def micro_units(self) -> int:
        """Millionths of one device asked for by a share; 0 when whole devices are asked for."""
        if self.devices:
            return 0
        return int(Fraction(repr(float(self.count))) * DEVICE_MICRO_UNITS)

    @property
    def memory_bytes(self) -> int:
        """Least memory of each device in bytes; 0 when any amount will do."""
        return 0 if self.memory is None else parse_bytes(self.memory)

    @classmethod
    def of(cls, value: GPUConfig | Mapping[str, Any] | str | float) -> GPUConfig:
        """Return the configuration that a short spelling stands for.

        Parameters:
            value: a count (`1`, `0.5`), a type (`"nvidia-a100"`) or a mapping of the fields.

        Raises:
            TypeError: if a key is unknown or the value is of another kind.
            ValueError: if a field's value is wrong.
        """
        if isinstance(value, GPUConfig):
            return value
        if isinstance(value, str):
            return cls(value)
        if isinstance(value, Mapping):
            return cls(**_known_fields(value, ("gpu_type", "count", "memory"), "gpu"))
        return cls(count=value)


def _check_gpu_type(gpu_type: object) -> None:
    if not isinstance(gpu_type, str):
        raise TypeError(f"The GPU type {shown(gpu_type)} is not text; write it like 'nvidia-a100'.")
    if not re.search(r"[A-Za-z]", gpu_type):
        raise ValueError(
            f"The GPU type {shown(gpu_type)} names no model; write a type like 'nvidia-a100', "
            "or a number of devices without quotes."
        )


def _check_gpu_count(count: object) -> None:
    kind, examples = "a number of GPUs", "1, 2, or 0.5 for half of one device"
    if isinstance(count, str):
        raise TypeError(f"{shown(count)} is text, not {kind}; write it like {examples}.")
    amount = exact_number(count, kind, examples)
    if amount == 0:
        raise ValueError("A GPU count of 0 asks for nothing; leave gpu out instead.")
    whole = amount >= 1 and amount.denominator == 1
    share = amount < 1 and amount * DEVICE_MICRO_UNITS >= 1
    if not (whole or share):
        raise ValueError(malformed(count, kind, examples))
    refuse_absurd(amount, count, kind, examples)


@dataclass(frozen=True, slots=True, init=False)
class NodeAffinity:
    """Which machines a step may or would like to run on.

    Parameters:
        required: labels that the machine must carry, by key.
        preferred: labels that are welcome, by key.
        tolerations: taints of a machine that the step puts up with, each a key or `key=value`.

    Raises:
        TypeError: if a label or a toleration is not text.

    Example:
        >>> NodeAffinity(required={"zone": "north"}, tolerations=["spot"]).tolerations
        ('spot',)
    """

    required: Mapping[str, str]
    preferred: Mapping[str, str]
    tolerations: tuple[str, ...]

    def __init__(
        self,
        required: Mapping[str, str] | None = None,
        preferred: Mapping[str, str] | None = None,
        tolerations: Iterable[str] | None = None,
    ) -> None:
        object.__setattr__(self, "required", _labels(required, "required"))
        object.__setattr__(self, "preferred", _labels(preferred, "preferred"))
        object.__setattr__(self, "tolerations", _tolerations(tolerations))

    def __hash__(self) -> int:
        labels = frozenset(self.required.items()), frozenset(self.preferred.items())
        return hash((labels, self.tolerations))

    @classmethod
    def of(cls, value: NodeAffinity | Mapping[str, Any]) -> NodeAffinity:
        """Return the affinity that a mapping of the fields stands for.

        Raises:
            TypeError: if a key is unknown or the value is not a mapping.
        """
        if isinstance(value, NodeAffinity):
            return value
        if not isinstance(value, Mapping):
            raise TypeError(
                f"{shown(value)} is not a node affinity; write NodeAffinity(required={{...}})."
            )
        fields = ("required", "preferred", "tolerations")
        return cls(**_known_fields(value, fields, "node_affinity"))


def _labels(labels: object, name: str) -> dict[str, str]:
    if labels is None:
        return {}
    if not isinstance(labels, Mapping):
        raise TypeError(f"{name} of a node affinity is {shown(labels)}; write {{'key': 'value'}}.")
    for key, value in labels.items():
        if not (isinstance(key, str) and isinstance(value, str)):
            raise TypeError(
                f"The {name} label {shown(key)}: {shown(value)} is not text; "
                "write both as text, like {'ssd': 'true'}."
            )
    return dict(labels)


def _tolerations(taints: object) -> tuple[str, ...]:
    if taints is None:
        return ()
    listed = None if isinstance(taints, str) else taints
    if isinstance(listed, Iterable):
        found = tuple(listed)
        if all(isinstance(taint, str) and taint for taint in found):
            return found
    raise TypeError(
        f"The tolerations {shown(taints)} are not a list of taints; "
        "write each as text, like ['spot', 'team=vision']."
    )


@dataclass(frozen=True, slots=True, init=False)
class ResourceRequirements:
    """What a step asks of the machine; the amounts keep the spelling they were given in.

    Parameters:
        cpu: CPUs (`2`, `0.5`, `"2.5"`, `"500m"`); None leaves it to the kind of step.
        memory: bytes, or text with a unit (`"4Gi"`).
        storage: free space of the run directory, spelled as memory is.
        gpu: a `GPUConfig`, a count (`1`, `0.5`), a type (`"nvidia-a100"`) or a mapping.
        node_affinity: a `NodeAffinity` or a mapping of its fields.

    Raises:
        TypeError, ValueError: if a value is not of its kind; the message names the field.

    Example:
        >>> r = ResourceRequirements(cpu="500m", memory="4Gi", gpu=1)
        >>> r.cpu, r.cpu_millis, r.gpu.count
        ('500m', 500, 1)
    """

    cpu: Quantity | None
    memory: Quantity | None
    storage: Quantity | None
    gpu: GPUConfig | None
    node_affinity: NodeAffinity | None
    cpu_millis: int | None = field(compare=False, repr=False)
    memory_bytes: int | None = field(compare=False, repr=False)
    storage_bytes: int | None = field(compare=False, repr=False)

    def __init__(
        self,
        cpu: Quantity | None = None,
        memory: Quantity | None = None,
        storage: Quantity | None = None,
        gpu: GPUConfig | Mapping[str, Any] | str | float | None = None,
        node_affinity: NodeAffinity | Mapping[str, Any] | None = None,
    ) -> None:
        fields = {
            "cpu": cpu,
            "memory": memory,
            "storage": storage,
            "gpu": _field("gpu", GPUConfig.of, gpu),
            "node_affinity": _field("node_affinity", NodeAffinity.of, node_affinity),
            "cpu_millis": _field("cpu", parse_cpu, cpu),
            "memory_bytes": _field("memory", parse_bytes, memory),
            "storage_bytes": _field("storage", parse_bytes, storage),
        }
        for name, value in fields.items():
            object.__setattr__(self, name, value)

    @classmethod
    def of(
        cls, value: ResourceRequirements | Mapping[str, Any] | None
    ) -> ResourceRequirements | None:
        """Return the requirements that a mapping of the fields stands for.

        Raises:
            TypeError: if a key is unknown or the value is not a mapping.
            ValueError: if a field's value is wrong.

        Example:
            >>> ResourceRequirements.of({"cpu": 2}).cpu_millis
            2000
        """
        if value is None or isinstance(value, ResourceRequirements):
            return value
        if not isinstance(value, Mapping):
            raise TypeError(
                f"{shown(value)} does not describe resources; "
                "write ResourceRequirements(cpu=2) or {'cpu': 2}."
            )
        return cls(**_known_fields(value, _REQUIREMENTS, "resources"))


_REQUIREMENTS = ("cpu", "memory", "storage", "gpu", "node_affinity")


def _field(name: str, parse: Callable[[Any], T], value: object) -> T | None:
    """Parse one field, so that what is wrong with it is said together with its name."""
    if value is None:
        return None
    try:
        return parse(value)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name}: {error}") from None


def _known_fields(value: Mapping[Any, Any], known: tuple[str, ...], where: str) -> dict[str, Any]:
    for key in value:
        if key not in known:
            raise TypeError(
                f"{where} has the unknown key {shown(key)}{nearest(str(key), known)}; "
                f"the keys are {', '.join(known)}."
            )
    return dict(value)


def aggregate(
    requirements: Iterable[ResourceRequirements | None], *, where: str
) -> ResourceRequirements | None:
    """Return what a group needs so that each of its steps in turn finds what it asks for.

    Amounts are the maximum and keep the winner's spelling, ties the first one's; GPUs are the
    largest count, the largest memory and the most capable type (a known type beats an unknown
    one); labels and tolerations are joined.

    Parameters:
        requirements: one entry for each step, in order; None for a step that asks for nothing.
        where: the group, as an error should name it (`"group 'train'"`).

    Raises:
        GraphError: if two steps require different values of one label.

    Example:
        >>> one, other = ResourceRequirements(cpu="500m"), ResourceRequirements(cpu="2", gpu="T4")
        >>> aggregate([one, None, other], where="group 'g'").cpu
        '2'
    """
    given = [requirement for requirement in requirements if requirement is not None]
    if not given:
        return None
    gpus = [r.gpu for r in given if r.gpu is not None]
    affinities = [r.node_affinity for r in given if r.node_affinity is not None]
    return ResourceRequirements(
        cpu=_with_most(given, lambda r: r.cpu_millis).cpu,
        memory=_with_most(given, lambda r: r.memory_bytes).memory,
        storage=_with_most(given, lambda r: r.storage_bytes).storage,
        gpu=_joined_gpus(gpus) if gpus else None,
        node_affinity=_joined_affinity(affinities, where) if affinities else None,
    )


def _with_most(asking: list[T], amount: Callable[[T], int | None]) -> T:
    """Return the one that asks for most, the first of equals; asking for none comes last."""

    def order(one: T) -> int:
        asked = amount(one)
        return -1 if asked is None else asked

    return max(asking, key=order)


def _joined_gpus(configs: list[GPUConfig]) -> GPUConfig:
    return GPUConfig(
        gpu_type=_with_most(configs, lambda c: _type_order(c.gpu_type)).gpu_type,
        count=_with_most(configs, lambda c: c.devices * DEVICE_MICRO_UNITS + c.micro_units).count,
        memory=_with_most(configs, lambda c: None if c.memory is None else c.memory_bytes).memory,
    )


def _type_order(gpu_type: str | None) -> int | None:
    return None if gpu_type is None else gpu_rank(gpu_type) or 0


def _joined_affinity(affinities: list[NodeAffinity], where: str) -> NodeAffinity:
    required: dict[str, str] = {}
    preferred: dict[str, str] = {}
    tolerations: list[str] = []
    for affinity in affinities:
        for key, value in affinity.required.items():
            if required.setdefault(key, value) != value:
                raise GraphError(
                    f"{where} requires the label {key!r} to be both {required[key]!r} and "
                    f"{value!r}; let its steps agree on one value, or split it."
                )
        preferred = {**affinity.preferred, **preferred}
        tolerations += affinity.tolerations
    return NodeAffinity(required, preferred, dict.fromkeys(tolerations))
