"""The function of a module's step: makes the context, and calls what the file names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from asyncflow.context import StepContext
from asyncflow.orchestrator.logs import kept
from asyncflow.orchestrator.module import Allocation, ModuleContext
from asyncflow.orchestrator.places import Nest, Place, entered
from asyncflow.orchestrator.targets import Target, Targets, load_target

__all__ = ["AsyncModuleCall", "CallPlan", "ModuleCall"]


class CallPlan(msgspec.Struct, frozen=True):
    """All that a module's call needs to know, in any process.

    Args:
        module, pipeline: their names.
        depends_on: names of the modules whose results it is given, in order.
        gpus: how many GPUs it asked for.
        target, targets: what it runs, and what its arguments may be made of.
        nest: how its nested tasks are run, and where its output is kept.
    """

    module: str
    pipeline: str
    depends_on: tuple[str, ...]
    gpus: float
    target: Target
    targets: Targets
    nest: Nest


class ModuleCall:
    """Called by the engine with the step's context and the results of the dependencies.

    It travels to a worker process without what it calls, which is imported there.

    Args:
        plan: what it needs to know.
        params: the module's parameters, secrets revealed to nobody but the module.
        function: what is called with a :class:`ModuleContext`; None until it is imported.
    """

    def __init__(
        self,
        plan: CallPlan,
        params: Mapping[str, Any],
        function: Callable[[Any], Any] | None = None,
    ) -> None:
        self.plan = plan
        self.params = params
        self._function = function
        self.__name__ = plan.module

    def __call__(self, step: StepContext, results: Sequence[Any]) -> Any:
        context, place = self._begin(step, results)
        with entered(place), kept(self.plan.nest.logs, self.plan.module):
            return self.function(context)

    @property
    def function(self) -> Callable[[Any], Any]:
        """What is called; imported if that was not done yet."""
        if self._function is None:
            self._function = load_target(self.plan.target)
        return self._function

    def _begin(self, step: StepContext, results: Sequence[Any]) -> tuple[ModuleContext, Place]:
        plan = self.plan
        place = Place(step, plan.nest, 0)
        lease = step.lease
        context = ModuleContext(
            module_name=plan.module,
            pipeline_name=plan.pipeline,
            params=self.params,
            resources=Allocation(lease.cpus, plan.gpus, lease.gpu_ids, lease.memory_bytes),
            dependency_results=dict(zip(plan.depends_on, results, strict=True)),
            place=place,
        )
        return context, place


class AsyncModuleCall(ModuleCall):
    """The same for coroutines, which run on the event loop."""

    async def __call__(self, step: StepContext, results: Sequence[Any]) -> Any:
        context, place = self._begin(step, results)
        with entered(place), kept(self.plan.nest.logs, self.plan.module):
            return await self.function(context)
