"""The GPUs of a machine as a probe reports them, and which of them this process may use.

A probe is an object with one method, :meth:`GpuProbe.find`. The one of the real machine asks
NVML (`asyncflow.engine.nvml`); `asyncflow.testing.FakeGpus` makes a machine up. Which one a
runtime asks is said by ``Runtime(max_gpus=probe)``, or for all runtimes by :func:`installed`.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

import msgspec

from asyncflow.engine.capacity import Device

__all__ = [
    "Gpu",
    "GpuProbe",
    "GpuReport",
    "current_probe",
    "devices_of",
    "find_gpus",
    "find_gpus_blocking",
    "installed",
    "installed_probe",
    "visible_devices",
]

ENVIRONMENT_VARIABLE = "CUDA_VISIBLE_DEVICES"


class Gpu(msgspec.Struct, frozen=True):
    """One GPU, or one slice of one.

    Parameters:
        uuid: its name for CUDA (``GPU-…``, ``MIG-…``).
        name: its model as the driver spells it.
        memory_bytes: its memory in bytes; None if that is not known.
        slices: its MIG slices; a GPU that has some cannot be used as a whole.
    """

    uuid: str
    name: str
    memory_bytes: int | None = None
    slices: tuple[Gpu, ...] = ()

    @property
    def parts(self) -> tuple[Gpu, ...]:
        """What can be handed out of it: its slices, or itself."""
        return self.slices or (self,)


class GpuReport(msgspec.Struct, frozen=True):
    """What a probe found.

    Parameters:
        gpus: in the order of their indexes.
        absent: why there is no driver to ask at all, which is no fault; "" if there is one.
        faults: what went wrong, one sentence each.
    """

    gpus: tuple[Gpu, ...] = ()
    absent: str = ""
    faults: tuple[str, ...] = ()


@runtime_checkable
class GpuProbe(Protocol):
    """Finds GPUs.

    Attributes:
        timeout_seconds: how long an answer may take.
        visible: what this process inherited as ``CUDA_VISIBLE_DEVICES``; None for nothing.
    """

    timeout_seconds: float

    @property
    def visible(self) -> str | None: ...

    async def find(self) -> GpuReport:
        """Report the GPUs of the machine; cancelled when it takes too long."""
        ...

    def forget(self) -> None:
        """Something may have changed: what was found before must not be told again."""
        ...

    def watch(self, lost: Callable[[str, str], None]) -> Callable[[], None]:
        """Have the loss of a device told at once, if this probe hears of it by itself.

        Parameters:
            lost: takes the uuid and the reason; called from any thread.

        Returns:
            What ends the watch.
        """
        ...


_installed: list[GpuProbe] = []


@contextmanager
def installed(probe: GpuProbe) -> Iterator[GpuProbe]:
    """Make this the machine's probe for all runtimes that are made meanwhile."""
    _installed.append(probe)
    try:
        yield probe
    finally:
        _installed.remove(probe)


def installed_probe() -> GpuProbe | None:
    """The probe that was installed last, if any is."""
    return _installed[-1] if _installed else None


def current_probe() -> GpuProbe:
    """The probe that was installed last, else the one that asks NVML."""
    from asyncflow.engine.nvml import NVML  # most programs never look for a GPU

    return installed_probe() or NVML


async def find_gpus(probe: GpuProbe) -> GpuReport:
    """Ask a probe; whatever becomes of it is told in the report."""
    seconds = probe.timeout_seconds
    try:
        async with asyncio.timeout(seconds):
            return await probe.find()
    except TimeoutError:
        return GpuReport(faults=(f"the GPU driver did not answer within {seconds:g} s",))
    except Exception as error:  # noqa: BLE001 - a probe may be the user's
        kind = type(error).__name__
        return GpuReport(faults=(f"looking for GPUs failed with {kind}: {error}",))


def find_gpus_blocking(probe: GpuProbe) -> GpuReport:
    """The blocking twin, also inside a running loop, which it holds up meanwhile."""
    found: list[GpuReport] = []
    thread = threading.Thread(
        target=lambda: found.append(asyncio.run(find_gpus(probe))), name="asyncflow-gpus"
    )
    thread.start()
    thread.join()
    return found[0] if found else GpuReport(faults=("looking for GPUs was interrupted",))


def devices_of(report: GpuReport, variable: str | None) -> tuple[Device, ...]:
    """The devices that this process may use, for the limiter.

    Parameters:
        report: what a probe found.
        variable: what this process inherited as ``CUDA_VISIBLE_DEVICES``; None if it is unset.

    Example:
        >>> report = GpuReport((Gpu("GPU-a", "T4"), Gpu("GPU-b", "T4")))
        >>> [device.id for device in devices_of(report, "1")]
        ['GPU-b']
    """
    return tuple(
        Device(gpu.uuid, gpu.name, gpu.memory_bytes)
        for gpu in _visible(report.gpus, variable)
        if gpu.uuid  # one without is there, but cannot be used
    )


def visible_devices() -> str | None:
    """What this process inherited as ``CUDA_VISIBLE_DEVICES``; None if it is unset."""
    return os.environ.get(ENVIRONMENT_VARIABLE)


def _visible(gpus: Sequence[Gpu], variable: str | None) -> tuple[Gpu, ...]:
    """Read ``CUDA_VISIBLE_DEVICES`` as CUDA does (CUDA C++ Programming Guide, section on
    environment variables): entries are indexes, uuids or the beginning of one; the first that
    names no device ends the list, and a device that stands twice leaves none.
    """
    if variable is None:
        return tuple(part for gpu in gpus for part in gpu.parts)
    chosen: list[Gpu] = []
    for entry in variable.split(","):
        named = _named(gpus, entry.strip())
        if not named:
            break
        chosen += named
    uuids = [gpu.uuid for gpu in chosen if gpu.uuid]
    return tuple(chosen) if len(set(uuids)) == len(uuids) else ()


def _named(gpus: Sequence[Gpu], entry: str) -> tuple[Gpu, ...]:
    """The devices that one entry stands for; none if it stands for nothing, or for several."""
    if entry.isdecimal():
        index = int(entry)
        return gpus[index].parts if index < len(gpus) else ()
    if entry.startswith("MIG-GPU-"):  # the old spelling: MIG-GPU-<uuid>/<instance>/<instance>
        return tuple(s for gpu in gpus for s in gpu.slices if s.uuid == entry)
    if not entry.startswith(("GPU-", "MIG-")):
        return ()
    found = [gpu.parts for gpu in gpus if gpu.uuid.startswith(entry)]
    found += [(s,) for gpu in gpus for s in gpu.slices if s.uuid.startswith(entry)]
    return found[0] if len(found) == 1 else ()
