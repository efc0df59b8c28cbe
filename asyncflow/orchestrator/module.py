"""What module code is written against: the base class, and the context it is given."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from asyncflow.context import StepContext
from asyncflow.errors import DependencyError
from asyncflow.graph.names import nearest
from asyncflow.orchestrator.environment import opened, sealed
from asyncflow.orchestrator.places import Place, current_place

__all__ = ["Allocation", "BaseModule", "ModuleContext"]


class Allocation(Mapping[str, Any]):
    """What a module holds while it runs, as attributes and as keys.

    Attributes:
        cpus: how many CPUs it was granted.
        gpus: how many GPUs it asked for.
        gpu_ids: the devices that are its own, as ``CUDA_VISIBLE_DEVICES`` would name them.
        memory_bytes: the memory it was granted, 0 where it asked for none.
    """

    __slots__ = ("cpus", "gpu_ids", "gpus", "memory_bytes")

    def __init__(
        self, cpus: float, gpus: float, gpu_ids: Iterable[str] = (), memory_bytes: int = 0
    ) -> None:
        self.cpus = int(cpus) if cpus == int(cpus) else cpus
        self.gpus = int(gpus) if gpus == int(gpus) else gpus
        self.gpu_ids = list(gpu_ids)
        self.memory_bytes = memory_bytes

    def __getitem__(self, key: str) -> Any:
        if key not in self.__slots__:
            raise KeyError(key)
        return getattr(self, key)

    def __iter__(self) -> Iterator[str]:
        return iter(self.__slots__)

    def __len__(self) -> int:
        return len(self.__slots__)

    def __repr__(self) -> str:
        return f"Allocation({', '.join(f'{key}={value!r}' for key, value in self.items())})"


class BaseModule(ABC):
    """A module of a pipeline: a class with one method, made anew for each try.

    ``run`` may be a coroutine function: under ``worker_type: thread`` it runs on the event loop
    of whoever executes the pipeline.

    Example:
        >>> class Double(BaseModule):
        ...     def run(self, context: "ModuleContext") -> int:
        ...         return 2 * context.get_result("numbers")
    """

    @abstractmethod
    def run(self, context: ModuleContext) -> Any:
        """Do the module's work and give its result."""


class ModuleContext:
    """What a running module knows of itself, and what it may ask for.

    Attributes:
        module_name: its name in the pipeline.
        pipeline_name: that of the pipeline.
        params: its ``params``; what came from the environment is a :class:`~asyncflow.Secret`.
        resources: what it holds: ``cpus``, ``gpus``, ``gpu_ids``.
        dependency_results: the results of the modules it depends on, by name.
    """

    def __init__(
        self,
        *,
        module_name: str,
        pipeline_name: str,
        params: Mapping[str, Any],
        resources: Allocation,
        dependency_results: Mapping[str, Any],
        place: Place | None = None,
    ) -> None:
        self.module_name = module_name
        self.pipeline_name = pipeline_name
        self.params = dict(params)
        self.resources = resources
        self.dependency_results = dict(dependency_results)
        self._own_place = place

    def __repr__(self) -> str:
        return f"<ModuleContext of {self.module_name!r} in {self.pipeline_name!r}>"

    def __getstate__(self) -> dict[str, Any]:
        # A nested task may bring it along to another process, where it has another place.
        return {**self.__dict__, "params": sealed(self.params), "_own_place": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.params = opened(self.params)

    @property
    def _place(self) -> Place:
        """Where the calling code runs: the module itself, or one of its nested tasks."""
        place = current_place() or self._own_place
        if place is None:
            raise RuntimeError(
                f"the context of module {self.module_name!r} was used outside of a run; it is of "
                "use only to a module and its nested tasks"
            )
        return place

    @property
    def _step(self) -> StepContext:
        return self._place.step

    # -- what it is ----------------------------------------------------------------------

    @property
    def run_id(self) -> str:
        """The run that it is part of."""
        return self._step.run_id

    @property
    def attempt(self) -> int:
        """Which try this is, from 1."""
        return self._step.attempt

    @property
    def logger(self) -> logging.Logger:
        """A logger below ``asyncflow.step``; what it takes is in ``asyncflow logs`` too."""
        return logging.getLogger(f"asyncflow.step.{self.pipeline_name}.{self.module_name}")

    @property
    def cancelled(self) -> bool:
        """Whether the module was told to stop (a timeout, a cancel); true in threads too."""
        return self._step.cancelled

    def report(self, done: float, total: float | None = None, message: str | None = None) -> None:
        """Tell how far the module is, for progress displays; cheap, from any thread."""
        self._step.report(done, total, message)

    # -- results of others ---------------------------------------------------------------

    def get_result(self, module_name: str) -> Any:
        """The result of a module it depends on.

        Raises:
            DependencyError: it does not depend on a module of that name.
        """
        if module_name in self.dependency_results:
            return self.dependency_results[module_name]
        known = ", ".join(map(repr, self.dependency_results)) or "no other"
        raise DependencyError(
            f"module {self.module_name!r} has no result of {module_name!r}"
            + nearest(
                module_name,
                self.dependency_results,
                f"it depends on {known}: name it in depends_on",
            ),
            step=self.module_name,
            ancestor=module_name,
        )

    def get_all_results(self) -> dict[str, Any]:
        """The results of all modules of the pipeline that have succeeded until now, by name."""
        return {**self._place.completed(), **self.dependency_results}

    # -- nested tasks --------------------------------------------------------------------

    def execute_tasks(self, tasks: Iterable[Callable[[], Any]]) -> list[Any]:
        """Call functions without arguments at the same time, each holding one CPU.

        While the module waits for them its own CPUs are theirs. They run where the module does:
        in threads, or in processes of their own; coroutine functions on the event loop.

        Args:
            tasks: functions, lambdas and closures included. A task may execute tasks itself.

        Returns:
            Their values in the order of the tasks; of a task that failed, its exception.

        Raises:
            NestedDepthError: deeper than ``execution.max_nested_depth``.
            StepCancelled: the module was told to stop meanwhile.
            TypeError: a task is no function.
            RuntimeError: called on the event loop; await :meth:`execute_tasks_async` there.
        """
        return self._place.execute(tasks)

    async def execute_tasks_async(self, tasks: Iterable[Callable[[], Any]]) -> list[Any]:
        """The twin of :meth:`execute_tasks` for modules and tasks that are coroutines."""
        return await self._place.execute_async(tasks)
