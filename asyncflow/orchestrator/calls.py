"""The function of a module's step: makes the context, and calls what the file names."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec

from asyncflow.context import StepContext
from asyncflow.graph.node import MISSING
from asyncflow.orchestrator.environment import opened, sealed, without_secrets
from asyncflow.orchestrator.logs import keeping, kept
from asyncflow.orchestrator.module import Allocation, ModuleContext
from asyncflow.orchestrator.own_code import code_parts
from asyncflow.orchestrator.places import Nest, Place, entered
from asyncflow.orchestrator.targets import Runnable, Target, load_target

__all__ = ["AsyncModuleCall", "CallPlan", "ModuleCall"]


class CallPlan(msgspec.Struct, frozen=True):
    """All that a module's call needs to know, in any process.

    Args:
        nest: how its nested tasks are run, and where its output is kept.
        module, pipeline: their names.
        depends_on: names of the modules whose results it is given, in order.
        gpus: how many GPUs it asked for.
        target: what it runs.
        version: of the code that is imported; a worker that knows another one is told anew.
    """

    nest: Nest
    module: str
    pipeline: str
    depends_on: tuple[str, ...]
    gpus: float
    target: Target
    version: str = ""


# So that no build has to look at every call anew.
_SIGNATURE = inspect.Signature(
    [
        inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=annotation)
        for name, annotation in (("step", StepContext), ("results", Sequence))
    ]
)


class ModuleCall:
    """Called by the engine with the step's context and the results of the dependencies.

    It travels to a worker process without what it calls, which is imported there.

    Args:
        plan: what it needs to know.
        params: the module's parameters, secrets revealed to nobody but the module.
        runnable: what it runs; None until that is imported.
    """

    def __init__(
        self,
        plan: CallPlan,
        params: Mapping[str, Any],
        runnable: Runnable | None = None,
    ) -> None:
        self.plan = plan
        self.params = params
        self.in_worker = False
        self.__signature__ = _SIGNATURE
        self._runnable = runnable
        self.__name__ = plan.module

    def __call__(self, step: StepContext, results: Sequence[Any]) -> Any:
        context, place = self._begin(step, results)
        with self._at_work(place):
            return self.function(context)

    def __reduce__(self) -> tuple[Any, ...]:
        return _arrived, (type(self), self.plan, sealed(self.params))

    @property
    def function(self) -> Callable[[Any], Any]:
        """What is called with the context; imported if that was not done yet."""
        if self._runnable is None:
            self._runnable = load_target(self.plan.target)
        return self._runnable.function

    def code_parts(self) -> list[tuple[str, Any]]:
        """What the module is made of, for telling whether it changed since it was recorded.

        Where it runs and where its output goes are no part of it.
        """
        said = ("params", without_secrets(self.params))
        return [said, *(code_parts(self._runnable.code) if self._runnable is not None else ())]

    @property
    def result_annotation(self) -> Any:
        """What the module's own function says that it returns: values are recorded by it."""
        from asyncflow.storage.typed import annotation_of

        return MISSING if self._runnable is None else annotation_of(self._runnable.body)

    @contextmanager
    def _at_work(self, place: Place) -> Iterator[None]:
        logs = self.plan.nest.logs
        with (
            keeping(logs, in_worker=self.in_worker),
            entered(place),
            kept(logs, self.plan.module),
        ):
            yield

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


def _arrived(kind: type[ModuleCall], plan: CallPlan, params: Mapping[str, Any]) -> ModuleCall:
    """A call in the worker that makes it."""
    call = kind(plan, opened(params))
    call.in_worker = True
    return call


class AsyncModuleCall(ModuleCall):
    """The same for coroutines, which run on the event loop."""

    async def __call__(self, step: StepContext, results: Sequence[Any]) -> Any:
        context, place = self._begin(step, results)
        with self._at_work(place):
            return await self.function(context)
