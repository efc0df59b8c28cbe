"""A machine with made-up GPUs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Literal, Self

import msgspec

from asyncflow.engine.gpus import Gpu, GpuProbe, GpuReport, installed
from asyncflow.quantities import parse_bytes

__all__ = ["FakeGpu", "FakeGpus"]

Behaviour = Literal["answers", "hangs", "crashes"]


class FakeGpu(msgspec.Struct, frozen=True):
    """One GPU of a :class:`FakeGpus`.

    Args:
        name: its model as a driver would spell it.
        memory: its memory, as bytes or text such as ``"80Gi"``; None for "not known".
        slices: the names of its MIG slices; each has an equal part of the memory.
    """

    name: str = "NVIDIA A100-SXM4-80GB"
    memory: int | str | None = "80Gi"
    slices: tuple[str, ...] = ()


class FakeGpus:
    """A machine with the GPUs you say, for tests: what NVML would have found.

    It stands in for the machine's own while it is entered as a context manager, and for one
    runtime as ``Runtime(max_gpus=fake)`` or ``VirtualRuntime(gpus=fake)``.

    Args:
        gpus: how many of the usual kind, or the names of their models, or :class:`FakeGpu`.
        visible: what the program inherited as ``CUDA_VISIBLE_DEVICES``; None for nothing.
        behaviour: whether the driver ``"answers"``, ``"hangs"`` or ``"crashes"``; it may be
            changed later.
        timeout_seconds: how long a driver that hangs is waited for.

    Raises:
        ValueError: there is no such behaviour, the number is negative, or a memory is wrong.

    Attributes:
        looks: how often somebody looked.

    Example:
        >>> from asyncflow import Pipeline, StepContext, step
        >>> @step(resources={"gpu": "nvidia-t4"})
        ... async def infer(context: StepContext) -> tuple[str, ...]:
        ...     return context.lease.gpu_ids
        >>> with FakeGpus(["NVIDIA A100-SXM4-80GB", "Tesla T4"]) as gpus:
        ...     result = Pipeline("p", steps=[infer]).run_sync()
        >>> result["infer"] == (gpus.uuids[1],)
        True
    """

    def __init__(
        self,
        gpus: int | Iterable[str | FakeGpu] = 1,
        *,
        visible: str | None = None,
        behaviour: Behaviour = "answers",
        timeout_seconds: float = 0.1,
    ) -> None:
        if isinstance(gpus, str):
            raise TypeError(f"FakeGpus takes a list of models; write FakeGpus([{gpus!r}])")
        if isinstance(gpus, int) and gpus < 0:
            raise ValueError(f"FakeGpus({gpus}): a machine has 0 or more GPUs")
        listed = [FakeGpu()] * gpus if isinstance(gpus, int) else list(gpus)
        self._gpus = [_made(place, gpu) for place, gpu in enumerate(listed)]
        self._lost: set[str] = set()
        self._watching: list[Callable[[str, str], None]] = []
        self._entered: AbstractContextManager[GpuProbe] | None = None
        self.visible = visible
        self.timeout_seconds = timeout_seconds
        self.looks = 0
        self.behaviour = behaviour

    @property
    def behaviour(self) -> Behaviour:
        """What the driver does when it is asked."""
        return self._behaviour

    @behaviour.setter
    def behaviour(self, behaviour: Behaviour) -> None:
        if behaviour not in ("answers", "hangs", "crashes"):
            raise ValueError(f"a driver 'answers', 'hangs' or 'crashes', not {behaviour!r}")
        self._behaviour: Behaviour = behaviour

    @property
    def uuids(self) -> tuple[str, ...]:
        """The ids that can be handed out, in order; those of lost ones too."""
        return tuple(part.uuid for gpu in self._gpus for part in gpu.parts)

    def lose(
        self, which: int | str, why: str = "it has fallen off the bus", *, told: bool = True
    ) -> None:
        """Lose a device while things run.

        Args:
            which: its place among :attr:`uuids`, or its id.
            why: the reason.
            told: whether the runtimes hear of it at once; if not, it is missed when a step
                that held it has failed.

        Raises:
            LookupError: there is no such device.
        """
        uuid = self.uuids[which] if isinstance(which, int) else which
        if uuid not in self.uuids:
            raise LookupError(f"there is no GPU {which!r}; there are {', '.join(self.uuids)}")
        self._lost.add(uuid)
        for lost in list(self._watching) if told else ():
            lost(uuid, why)

    # -- what a runtime asks for ---------------------------------------------------------

    async def find(self) -> GpuReport:
        """What the driver says."""
        self.looks += 1
        if self._behaviour == "hangs":
            await asyncio.Event().wait()
        if self._behaviour == "crashes":
            return GpuReport(faults=("the child that asks NVML ended with signal SIGSEGV",))
        return GpuReport(tuple(self._present(gpu) for gpu in self._gpus))

    def _present(self, gpu: Gpu) -> Gpu:
        """The GPU without its lost slices; one that is lost itself only keeps its place."""
        if not gpu.slices:
            return Gpu("", "") if gpu.uuid in self._lost else gpu
        left = tuple(part for part in gpu.slices if part.uuid not in self._lost)
        return msgspec.structs.replace(gpu, slices=left) if left else Gpu("", "")

    def forget(self) -> None:
        """Every look is a new one."""

    def watch(self, lost: Callable[[str, str], None]) -> Callable[[], None]:
        """Tell of losses."""
        self._watching.append(lost)
        return lambda: self._watching.remove(lost)

    def __enter__(self) -> Self:
        self._entered = installed(self)
        self._entered.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._entered is not None
        self._entered.__exit__(None, None, None)


def _made(place: int, gpu: str | FakeGpu) -> Gpu:
    said = FakeGpu(gpu) if isinstance(gpu, str) else gpu
    memory = None if said.memory is None else parse_bytes(said.memory)
    each = None if memory is None or not said.slices else memory // len(said.slices)
    return Gpu(
        f"GPU-{place:08x}-fake",
        said.name,
        memory,
        tuple(
            Gpu(f"MIG-{place:08x}-{number:04x}-fake", name, each)
            for number, name in enumerate(said.slices)
        ),
    )
