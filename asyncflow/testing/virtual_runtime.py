"""A runtime in virtual time: the same pipeline, the same engine, a made-up world."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol, Self, TypeVar

from asyncflow.engine.gpus import GpuProbe
from asyncflow.result import PipelineResult
from asyncflow.runtime import Runtime
from asyncflow.testing.script import Durations, Failures, Script
from asyncflow.testing.virtual_loop import VirtualLoop
from asyncflow.testing.world import World

__all__ = ["VirtualRuntime"]

T = TypeVar("T")


class Runnable(Protocol):
    """A pipeline of any dialect."""

    async def run(self, *args: Any, **options: Any) -> PipelineResult: ...


Main = Callable[[Runtime], Awaitable[T]] | Callable[[], Awaitable[T]] | Awaitable[T]


class VirtualRuntime:
    """Runs pipelines in virtual time: sleeps, timeouts and back-offs take none of yours.

    Steps are called for real, in the lanes they ask for. The clock jumps when nothing can go
    on; a thread at work holds it. The same seed gives the same run: which of several ready
    steps starts first, which of the timers of one instant goes off first, and the jitter of
    retries are all drawn from it. Another seed gives another order that is just as possible.

    Args:
        seed: what all chance is drawn from; with None what is equal goes in the order of arrival.
        cpus, gpus, memory: what there is to share, as ``max_cpus``, ``max_gpus`` and
            ``max_memory`` of :class:`Runtime`; ``gpus`` may be a :class:`FakeGpus`. Nothing is
            taken from this machine.
        durations: how many virtual seconds an attempt takes at least, by the name of a node or
            of its step: a number, or a function of the node's name. Instead of a mapping, one
            function of the node's name for all.
        failures: what attempts raise instead of calling their function, by the name of a node
            or of its step: a list with an exception or None for each attempt in turn, or a
            function of the node's name and the attempt's number. Instead of a mapping, one
            function for all.
        options: any other arguments of :class:`Runtime`.

    Raises:
        ValueError, TypeError: a number makes no sense.

    Example:
        >>> from asyncflow import Pipeline, step
        >>> @step(retry=3)
        ... async def fetch() -> str:
        ...     return "page"
        >>> virtual = VirtualRuntime(
        ...     seed=1, durations={"fetch": 60}, failures={"fetch": [ConnectionError(), None]}
        ... )
        >>> result = virtual.run(Pipeline("crawl", steps=[fetch]))
        >>> result["fetch"], result.step_results["fetch"].attempts, virtual.clock > 120
        ('page', 2, True)
    """

    def __init__(
        self,
        seed: int | None = 0,
        *,
        cpus: int | float | str = 8,
        gpus: int | Sequence[str] | GpuProbe | None = None,
        memory: int | str = "64Gi",
        durations: Durations | None = None,
        failures: Failures | None = None,
        **options: Any,
    ) -> None:
        self._given: dict[str, Any] = {
            "seed": seed,
            "cpus": cpus,
            "gpus": gpus,
            "memory": memory,
            "durations": durations,
            "failures": failures,
            **options,
        }
        self._options = {"max_cpus": cpus, "max_gpus": gpus, "max_memory": memory, **options}
        Runtime(**self._options)  # what is wrong is said here, not in the first run
        self._script = Script(durations, failures)
        self._world = World(seed, self._script)

    def with_options(self, **changes: Any) -> Self:
        """Another one that begins anew, with some arguments changed.

        Example:
            >>> VirtualRuntime(cpus=2).with_options(seed=7).clock
            0.0
        """
        return type(self)(**{**self._given, **changes})

    @property
    def clock(self) -> float:
        """Virtual seconds since the beginning; a later run goes on where the last one ended."""
        return self._world.seconds

    def event_log(self) -> bytes:
        """The events of all runs so far, as JSON, one in a line.

        The same seed, pipelines and arguments give the same bytes.
        """
        return self._world.event_log()

    def run(
        self, pipeline: Runnable, inputs: Mapping[str, Any] | None = None, **options: Any
    ) -> PipelineResult:
        """Run a pipeline to its end, blocking, on a virtual event loop of its own.

        Args:
            pipeline: what to run.
            inputs: values for run inputs, by name.
            options: the other arguments of ``pipeline.run``, without ``runtime``.

        Raises:
            GraphError, CapacityError, RunTimeout: as ``pipeline.run``; GraphError too where
                ``durations`` or ``failures`` name a step that no run had.
            Stuck: nothing can go on, and no timer is set.
            RuntimeError: an event loop is running in this thread.
        """
        return self.run_async(lambda runtime: pipeline.run(inputs, runtime=runtime, **options))

    def run_async(self, main: Main[T]) -> T:
        """Run a coroutine in virtual time, blocking: several pipelines, or code around them.

        Pipelines that it runs without ``runtime=`` run here too, and so does any
        :class:`Runtime` of its own.

        Args:
            main: a coroutine, or a function that makes one; it is given the
                :class:`Runtime` if it takes an argument.

        Raises:
            GraphError, Stuck, RuntimeError: as :meth:`run`.
        """
        _refuse_running_loop(main)
        with asyncio.Runner(loop_factory=lambda: VirtualLoop(self._world)) as runner:
            result = runner.run(self._live(main))
        self._script.check_names()
        return result

    async def _live(self, main: Main[T]) -> T:
        async with Runtime(**self._options) as runtime:
            if not callable(main):
                return await main
            if inspect.signature(main).parameters:
                return await main(runtime)  # type: ignore[call-arg]
            return await main()  # type: ignore[call-arg]


def _refuse_running_loop(main: object) -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    if inspect.iscoroutine(main):
        main.close()
    raise RuntimeError(
        "VirtualRuntime makes an event loop of its own and blocks until it is done; call it from "
        "a function that is not a coroutine"
    )
