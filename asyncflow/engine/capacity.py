"""What there is to share and what is asked of it, as exact integers.

Amounts are thousandths of a CPU, bytes, and millionths of each GPU.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from asyncflow.engine.sharing import NOTHING, Share
from asyncflow.limits import Keys
from asyncflow.resources import (
    DEVICE_MICRO_UNITS,
    ResourceRequirements,
    format_bytes,
    gpu_matches,
    gpu_rank,
)

if TYPE_CHECKING:
    from asyncflow.engine.named import Taken

__all__ = [
    "Capacity",
    "Demand",
    "Device",
    "DevicePool",
    "GpuDemand",
    "Lease",
    "Reserve",
    "demand_of",
    "describe_gpus",
]


class GpuDemand(NamedTuple):
    """GPUs wanted at once: whole devices, or a share of one.

    Parameters:
        devices: whole devices; 0 when a share is wanted.
        micro_units: millionths of one device; 0 when whole devices are wanted.
        gpu_type: the model wanted; None takes any.
        memory_bytes: least memory of each device in bytes.
    """

    devices: int = 1
    micro_units: int = 0
    gpu_type: str | None = None
    memory_bytes: int = 0


class Demand(NamedTuple):
    """What one request takes while it holds its lease.

    Parameters:
        cpu_millis: thousandths of a CPU.
        memory_bytes: bytes of memory.
        gpu: GPUs, or None.
        keys: named keys and how much of each, sorted.
    """

    cpu_millis: int = 0
    memory_bytes: int = 0
    gpu: GpuDemand | None = None
    keys: Keys = ()


class Device(NamedTuple):
    """One GPU of the machine, or one that was declared.

    Parameters:
        id: what `CUDA_VISIBLE_DEVICES` has to hold for it.
        gpu_type: its model; None stands for any.
        memory_bytes: its memory in bytes; None stands for enough.
    """

    id: str
    gpu_type: str | None = None
    memory_bytes: int | None = None


class Capacity(NamedTuple):
    """What there is to share.

    Parameters:
        cpu_millis: thousandths of a CPU.
        memory_bytes: bytes of memory.
        devices: the GPUs.
    """

    cpu_millis: int
    memory_bytes: int
    devices: tuple[Device, ...] = ()


class Reserve:
    """What has to be left for several requests: the most that any one of them wants.

    Iterating gives one demand for all requests that want the same GPUs, so that checking a
    grant against them costs little however many they are.
    """

    def __init__(self) -> None:
        self._most: dict[GpuDemand | None, Demand] = {}
        self._keys: dict[str, int] = {}

    def __iter__(self) -> Iterator[Demand]:
        return iter(self._most.values())

    def add(self, wanted: Demand) -> None:
        """Leave enough for this request as well."""
        most = self._most.get(wanted.gpu, wanted)
        self._most[wanted.gpu] = Demand(
            max(wanted.cpu_millis, most.cpu_millis),
            max(wanted.memory_bytes, most.memory_bytes),
            wanted.gpu,
        )
        for key, weight in wanted.keys:
            self._keys[key] = max(weight, self._keys.get(key, 0))

    @property
    def keys(self) -> Keys:
        """The named keys to leave."""
        return tuple(self._keys.items())


def demand_of(requirements: ResourceRequirements | None, *, default_cpu_millis: int = 0) -> Demand:
    """Return what a step's requirements take from the account.

    Parameters:
        requirements: the step's, or its group's; None asks for nothing in particular.
        default_cpu_millis: thousandths of a CPU for a step that does not name its CPUs.
    """
    if requirements is None:
        return Demand(default_cpu_millis)
    cpu, gpu = requirements.cpu_millis, requirements.gpu
    return Demand(
        default_cpu_millis if cpu is None else cpu,
        requirements.memory_bytes or 0,
        None
        if gpu is None
        else GpuDemand(gpu.devices, gpu.micro_units, gpu.gpu_type, gpu.memory_bytes),
    )


@dataclass(eq=False, slots=True)
class Lease:
    """What one granted request holds until it is released.

    Parameters:
        ticket: the request it was granted to.
        owner: the run, or whatever shares fairly with others, that asked.
        cpu_millis: thousandths of a CPU, also while they are lent.
        memory_bytes: bytes of memory.
        gpus: index of each device held and the millionths of it.
        gpu_ids: ids of the same devices, in the same order.
        lent: whether its CPUs are back in the pool while the holder waits for its nest.
        released: whether it has ended.
        under: the lease of the work it is nested in.
        nest: what the leases nested in it have taken of its memory and devices.
        keys: named keys held, and how much of each.
        taken: what rates counted when it was granted.
    """

    ticket: Hashable
    owner: Hashable
    cpu_millis: int
    memory_bytes: int
    gpus: tuple[tuple[int, int], ...] = ()
    gpu_ids: tuple[str, ...] = ()
    lent: bool = False
    released: bool = False
    under: Lease | None = None
    nest: dict[Lease, Share] = field(default_factory=dict)
    keys: Keys = ()
    taken: tuple[Taken, ...] = ()

    @property
    def cpu_millis_held(self) -> int:
        """Thousandths of a CPU that are not free on this lease's account."""
        return 0 if self.lent or self.released else self.cpu_millis


class DevicePool:
    """The GPUs: how much of each is free, and which one a request gets.

    Whole devices must be untouched, and the least capable ones that suffice are taken, so that
    better ones stay for who needs them. A share goes to the fullest device with room for it, so
    that whole devices stay whole. A lost device is no longer handed out.
    """

    def __init__(self, devices: tuple[Device, ...]) -> None:
        self.devices = devices
        self.free = [DEVICE_MICRO_UNITS] * len(devices)
        self.lost: set[int] = set()
        self._eligible: dict[tuple[str | None, int], list[int]] = {}

    @property
    def alive(self) -> tuple[int, ...]:
        """Indexes of the devices that are not lost."""
        return tuple(i for i in range(len(self.devices)) if i not in self.lost)

    def lose(self, ids: Iterable[str]) -> tuple[str, ...]:
        """Hand these devices out no more; return the ids of those that were there."""
        gone = [i for i in self.alive if self.devices[i].id in set(ids)]
        self.lost.update(gone)
        self._eligible.clear()
        return tuple(self.devices[i].id for i in gone)

    def eligible(self, gpu: GpuDemand) -> list[int]:
        """Indexes of the devices that suffice, the least capable first."""
        key = gpu.gpu_type, gpu.memory_bytes
        if key not in self._eligible:
            found = [i for i in self.alive if _suffices(self.devices[i], gpu)]
            self._eligible[key] = sorted(found, key=self._capability)
        return self._eligible[key]

    def _capability(self, index: int) -> tuple[int, int]:
        return gpu_rank(self.devices[index].gpu_type) or 0, index

    def choose(
        self, gpu: GpuDemand | None, spare: Mapping[int, int] = NOTHING.gpus
    ) -> tuple[tuple[int, int], ...] | None:
        """Return the devices and amounts a request would get now, or None if it cannot.

        Parameters:
            gpu: what it asks for.
            spare: by device, millionths that the work it is nested in has left for it; these
                are taken first.
        """
        if gpu is None:
            return ()
        free = [left + spare.get(i, 0) for i, left in enumerate(self.free)] if spare else self.free
        fitting = self._fitting(gpu, free)
        if len(fitting) < max(gpu.devices, 1):
            return None
        if spare:
            fitting.sort(key=lambda i: i not in spare)
        if gpu.devices:
            return tuple((i, DEVICE_MICRO_UNITS) for i in fitting[: gpu.devices])
        return ((min(fitting, key=lambda i: (i not in spare, free[i])), gpu.micro_units),)

    def falls_short(self, gpu: GpuDemand, taken: Iterable[tuple[int, int]]) -> bool:
        """Return whether taking these leaves a request too little of what would do for it.

        It does not if none of the devices taken would do, however little there is.
        """
        left, eligible, shared = self.free.copy(), self.eligible(gpu), False
        for index, micro_units in taken:
            left[index] -= micro_units
            shared = shared or index in eligible
        return shared and len(self._fitting(gpu, left)) < max(gpu.devices, 1)

    def _fitting(self, gpu: GpuDemand, free: Sequence[int]) -> list[int]:
        needed = DEVICE_MICRO_UNITS if gpu.devices else gpu.micro_units
        return [i for i in self.eligible(gpu) if free[i] >= needed]

    def refusal(self, gpu: GpuDemand) -> str | None:
        """Return why these devices can never serve a request, or None if they can."""
        suffice = len(self.eligible(gpu))
        if suffice >= max(gpu.devices, 1):
            return None
        asked = f"{describe_gpus(gpu)} asked for"
        if not self.devices:
            return f"{asked}, but there are no GPUs."
        listed = "; ".join(map(self._described, range(len(self.devices))))
        return f"{asked}, but of {len(self.devices)} only {suffice} will do ({listed})."

    def _described(self, index: int) -> str:
        lost = " (lost)" if index in self.lost else ""
        return _described_device(self.devices[index]) + lost

    def take(self, gpus: Iterable[tuple[int, int]]) -> None:
        for index, micro_units in gpus:
            self.free[index] -= micro_units

    def give_back(self, gpus: Iterable[tuple[int, int]]) -> None:
        for index, micro_units in gpus:
            self.free[index] += micro_units


def _suffices(device: Device, gpu: GpuDemand) -> bool:
    enough = device.memory_bytes is None or device.memory_bytes >= gpu.memory_bytes
    return enough and gpu_matches(gpu.gpu_type, device.gpu_type)


def describe_gpus(gpu: GpuDemand) -> str:
    """Return what is wanted, in words.

    Example:
        >>> describe_gpus(GpuDemand(2, 0, "A100", 40 * 2**30))
        "2 GPUs of type 'A100' with 40 GiB each"
    """
    if gpu.devices:
        words = f"{gpu.devices} GPU{'' if gpu.devices == 1 else 's'}"
    else:
        words = f"{gpu.micro_units / DEVICE_MICRO_UNITS:.10g} of a GPU"
    if gpu.gpu_type is not None:
        words += f" of type {gpu.gpu_type!r}"
    if gpu.memory_bytes:
        words += f" with {format_bytes(gpu.memory_bytes)}{' each' if gpu.devices > 1 else ''}"
    return words


def _described_device(device: Device) -> str:
    model = "any type" if device.gpu_type is None else device.gpu_type
    memory = "" if device.memory_bytes is None else f", {format_bytes(device.memory_bytes)}"
    return f"{device.id}: {model}{memory}"
