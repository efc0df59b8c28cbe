"""What one runtime shares: what it was told to, else what this process may use.

CPUs and memory are looked at when first something asks for any. GPUs are looked for when first a
graph asks for one, in another process and without holding up the event loop: who asks for none
never pays for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence

from asyncflow.engine.admission import Admission, Machine, admit, admit_nested
from asyncflow.engine.capacity import Capacity, Demand, Device
from asyncflow.engine.gpus import (
    GpuProbe,
    GpuReport,
    current_probe,
    devices_of,
    find_gpus,
    find_gpus_blocking,
    visible_devices,
)
from asyncflow.engine.hardware import declared_devices, probe
from asyncflow.engine.headroom import Headroom, private_bytes
from asyncflow.engine.limiter import Limiter
from asyncflow.engine.surroundings import surroundings_of
from asyncflow.graph.graph import Graph
from asyncflow.limits import Definitions, Limit
from asyncflow.resources import ResourceRequirements

__all__ = ["Supply"]

_LOOK_SECONDS = 1.0


class Supply:
    """The figures behind the limiter of a runtime, and the limiter.

    Args:
        cpu_millis: thousandths of a CPU; None for what this process may use.
        memory_bytes: bytes; None likewise.
        max_gpus: devices that are declared, or the probe that finds them; None for the machine's
            own.
        labels, taints: of this machine.
        refuse_oversized: whether CPU and memory above the machine are refused.
        limits: the named keys.

    Raises:
        TypeError, ValueError: ``max_gpus`` makes no sense.

    Attributes:
        gpu_faults: what went wrong when GPUs were looked for, one sentence each.
        on_found: told once devices were found by a probe, which can lose them again.
        worker_pids: gives the processes whose memory is ours too.
    """

    def __init__(
        self,
        *,
        cpu_millis: int | None,
        memory_bytes: int | None,
        max_gpus: int | Sequence[str] | GpuProbe | None,
        labels: Mapping[str, str],
        taints: Sequence[str],
        refuse_oversized: bool,
        limits: Definitions,
    ) -> None:
        self._labels, self.taints, self._refuse_oversized = labels, taints, refuse_oversized
        self._limits = limits
        self._cpu_millis = cpu_millis
        self._memory_bytes = memory_bytes
        self._probe = max_gpus if isinstance(max_gpus, GpuProbe) else None
        self._devices: tuple[Device, ...] | None = None
        if max_gpus is not None and not isinstance(max_gpus, GpuProbe):
            self._devices = declared_devices(max_gpus, visible_devices())
        self._made: Limiter | None = None
        self._headroom: Headroom | None = None
        self._looked_at = 0.0
        self.worker_pids: Callable[[], Iterable[int]] = tuple
        self._looking = asyncio.Lock()
        self._absent = ""
        self.gpu_faults: tuple[str, ...] = ()
        self.on_found: Callable[[GpuProbe], None] | None = None

    @property
    def limiter(self) -> Limiter:
        """The account of it all; made when first it is needed."""
        if self._made is None:
            self._made = Limiter(self._look(), self._limits)
        return self._made

    @property
    def limiter_so_far(self) -> Limiter | None:
        """The account, if anything has needed it."""
        return self._made

    @property
    def capacity(self) -> Capacity:
        """What there is to share, as far as it was looked for."""
        return self._look() if self._made is None else self._made.capacity

    def _look(self) -> Capacity:
        cpus, memory = self._cpu_millis, self._memory_bytes
        if cpus is None or memory is None:
            if self._headroom is None:
                given = {"cpu_millis": cpus, "memory_bytes": memory}
                figures = [figure for figure, amount in given.items() if amount is None]
                self._headroom = Headroom(lambda: probe(), self._own_bytes, figures=figures)
            totals = self._headroom.totals
            cpus = totals.cpu_millis if cpus is None else cpus
            memory = totals.memory_bytes if memory is None else memory
        return Capacity(cpus, memory, self._devices or ())

    def _own_bytes(self) -> int:
        return private_bytes(["self", *self.worker_pids()])

    def follow(self, now: float) -> tuple[str, ...]:
        """Follow the limits of this process, at most once in a second.

        Args:
            now: seconds on any clock.

        Returns:
            What deserves attention, one sentence each.
        """
        if self._headroom is None or self._made is None:
            return ()
        if now - self._looked_at < _LOOK_SECONDS:
            return ()
        self._looked_at = now
        before, totals = self._headroom.totals, self._headroom.look()
        if (before.cpu_millis, before.memory_bytes) != (totals.cpu_millis, totals.memory_bytes):
            capacity = self._look()
            self._made.resize(cpu_millis=capacity.cpu_millis, memory_bytes=capacity.memory_bytes)
        return totals.warnings

    def set_limit(self, name: str, limit: Limit, now: float | None) -> None:
        """Give a named key another limit, at a time on the clock of those who ask for it.

        Raises:
            KeyError, TypeError, ValueError: see :meth:`Limiter.set_limit`.
        """
        if self._made is None:
            self._limits.change(name, limit)
        else:
            self._made.set_limit(name, limit, now)

    # -- what can be met -----------------------------------------------------------------

    def check(
        self,
        graph: Graph,
        lane_of: Callable[[int], str] | None = None,
        process_cpu_millis: int = 1000,
    ) -> Admission:
        """Which requests of a graph would be clamped or refused.

        Where GPUs are asked for and were not looked for before, that is done now, blocking.

        Args:
            lane_of: where a unit runs; None for what the graph says.
            process_cpu_millis: thousandths of a CPU for process steps that name none.
        """
        if self.lacks_gpus_of(graph):
            self.find_gpus_blocking()
        return admit(graph, self._machine(), lane_of, process_cpu_millis)

    def _machine(self) -> Machine:
        return Machine(
            self.limiter, self._labels, self.taints, self._refuse_oversized, self.why_no_gpus()
        )

    def demand_of(
        self, requirements: ResourceRequirements | None, name: str, default_cpu_millis: int = 0
    ) -> tuple[Demand, str | None]:
        """What a nested step takes, and a warning if that is less than it asks for.

        Args:
            default_cpu_millis: thousandths of a CPU if it names none.

        Raises:
            CapacityError: it can never be met here.
        """
        if requirements is None and not self.taints:
            return Demand(default_cpu_millis), None
        return admit_nested(requirements, name, self._machine(), default_cpu_millis)

    # -- GPUs ----------------------------------------------------------------------------

    def lacks_gpus_of(self, graph: Graph) -> bool:
        """Whether a graph asks for GPUs and nobody has looked for them yet."""
        return self._devices is None and asks_for_gpus(graph)

    async def find_gpus(self) -> None:
        """Look for the machine's GPUs, unless that was done; of several callers one does it."""
        async with self._looking:
            if self._devices is None:
                found = self._probe or surroundings_of(asyncio.get_running_loop()).gpu_probe()
                self._take(found, await find_gpus(found))

    def find_gpus_blocking(self) -> None:
        """The blocking twin."""
        if self._devices is None:
            found = self._probe or current_probe()
            self._take(found, find_gpus_blocking(found))

    def _take(self, found: GpuProbe, report: GpuReport) -> None:
        self._probe, self._absent = found, report.absent
        self._devices = devices_of(report, found.visible)
        self.gpu_faults = report.faults
        if self._devices and self._made is not None:
            self._made.provide(self._devices)
        if self._devices and self.on_found is not None:
            self.on_found(found)

    def faults_for(self, graph: Graph) -> tuple[str, ...]:
        """What went wrong when GPUs were looked for, for a graph that asks for some."""
        return self.gpu_faults if self.gpu_faults and asks_for_gpus(graph) else ()

    def why_no_gpus(self) -> str:
        """Why there is none, in a sentence; "" where that was said by whoever declared them."""
        reasons = self.gpu_faults or ((self._absent,) if self._absent else ())
        return "".join(f"{reason[0].upper()}{reason[1:]}. " for reason in reasons)


def asks_for_gpus(graph: Graph) -> bool:
    """Whether any unit of a graph asks for a GPU."""
    return any(asked.gpu is not None for asked in graph.units.resources.values())
