"""Where module code runs at the moment, and what it asks for from there.

A closure brings the context of its module along, yet when it executes tasks these are nested in
*it*, not in the module. So whose code is running is kept in a context variable, which module and
tasks set when they begin, in whichever thread, task or process that is.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec

from asyncflow.context import StepContext
from asyncflow.errors import NestedDepthError, StepCancelled, StepFailed, text_of
from asyncflow.functions import is_coroutine_function
from asyncflow.orchestrator.completed import COMPLETED_STEP, completed_here
from asyncflow.orchestrator.logs import LogPlan, keeping, kept
from asyncflow.orchestrator.targets import Targets
from asyncflow.step import Step
from asyncflow.storage.unrecorded import unrecorded

__all__ = ["Nest", "Place", "current_place", "entered"]

_PLACE: contextvars.ContextVar[Place | None] = contextvars.ContextVar(
    "asyncflow_place", default=None
)
# How many nested tasks of one call are under way at once; what CPUs there are decides the rest.
_UNDER_WAY = 256
_VISIBLE = "CUDA_VISIBLE_DEVICES"


def current_place() -> Place | None:
    """Whose code is running; None outside of modules and tasks."""
    return _PLACE.get()


@contextmanager
def entered(place: Place) -> Iterator[None]:
    """The code of a module or a task, for the length of a block."""
    token = _PLACE.set(place)
    try:
        yield
    finally:
        _PLACE.reset(token)


class Nest(msgspec.Struct, frozen=True):
    """What all nested tasks of a module have in common.

    Args:
        targets: what tasks and values may be made of. They stand first, here and in what is sent
            to a worker, so that the rest can be loaded there.
        module: its name.
        logs: where its output is kept, and theirs.
        in_processes: whether they run in processes, as their modules do.
        max_depth: how deep they may nest.
    """

    targets: Targets
    module: str
    logs: LogPlan
    in_processes: bool
    max_depth: int


class Place:
    """A module or task that is running.

    Args:
        step: what the engine told it.
        nest: how its tasks are run.
        depth: 0 for a module, 1 for its tasks, 2 for theirs.
    """

    def __init__(self, step: StepContext, nest: Nest, depth: int) -> None:
        self.step = step
        self._nest = nest
        self._depth = depth
        self._numbers = itertools.count()

    def completed(self) -> dict[str, Any]:
        """The results that the run has until now."""
        here = completed_here(self.step)
        if here is not None:
            return here
        found: dict[str, Any] = self.step.call_sync(COMPLETED_STEP, key=next(self._numbers))
        return found

    # -- nested tasks --------------------------------------------------------------------

    def execute(self, tasks: Iterable[Callable[[], Any]]) -> list[Any]:
        if _on_an_event_loop():
            raise RuntimeError(
                f"{self.step.node!r} is a coroutine and would wait for itself; write "
                "'await context.execute_tasks_async(tasks)'"
            )
        calls = self._calls(tasks)
        if self._nest.in_processes:
            return self._unless_cancelled(
                self.step.map_sync(
                    _IN_PROCESS,
                    calls,
                    key=_number_of,
                    on_error="yield",
                    concurrency=_UNDER_WAY,
                )
            )
        return self._unless_cancelled(self.step._wait(self._gather(calls)))

    async def execute_async(self, tasks: Iterable[Callable[[], Any]]) -> list[Any]:
        calls = self._calls(tasks)
        if self._nest.in_processes:
            values = await self._map(_IN_PROCESS, calls)
        else:
            values = await self._gather(calls)
        return self._unless_cancelled(values)

    def _calls(self, tasks: Iterable[Any]) -> list[TaskCall]:
        """The tasks, numbered.

        Raises:
            NestedDepthError, TypeError: as ``execute_tasks``.
        """
        listed = list(tasks)
        for task in listed:
            if not callable(task):
                _refuse(listed, task)
        most = self._nest.max_depth
        if self._depth + 1 > most:
            raise NestedDepthError(
                f"{self.step.node!r} executes tasks {self._depth + 1} levels deep; "
                f"max_nested_depth is {most}"
            )
        return [TaskCall(self._nest, task, next(self._numbers), self._depth + 1) for task in listed]

    async def _gather(self, calls: list[TaskCall]) -> list[Any]:
        """Coroutine functions on the event loop, all others in threads, at the same time."""
        inline = [call for call in calls if is_coroutine_function(call.func)]
        threaded = [call for call in calls if not is_coroutine_function(call.func)]
        values = await asyncio.gather(self._map(_ON_LOOP, inline), self._map(_IN_THREAD, threaded))
        found = dict(
            zip((c.number for c in (*inline, *threaded)), (*values[0], *values[1]), strict=True)
        )
        # A lambda may give a coroutine: nothing showed that before it was called.
        later = [
            TaskCall(self._nest, value.give, next(self._numbers), self._depth + 1, number)
            for number, value in found.items()
            if isinstance(value, _Later)
        ]
        for call, value in zip(later, await self._map(_ON_LOOP, later), strict=True):
            found[call.stands_for] = value
        return [found[call.number] for call in calls]

    async def _map(self, step: Step[..., Any], calls: list[TaskCall]) -> list[Any]:
        if not calls:
            return []
        values: list[Any] = await self.step.map(
            step, calls, key=_number_of, on_error="yield", concurrency=_UNDER_WAY
        )
        return values

    def _unless_cancelled(self, values: list[Any]) -> list[Any]:
        if self.step.cancelled:
            raise StepCancelled(
                f"{self.step.node!r} was told to stop while it waited for its tasks",
                step=self.step.node,
                attempt=self.step.attempt,
            )
        return values


class TaskCall(msgspec.Struct):
    """A nested task on its way.

    ``stands_for`` is the number of the task whose coroutine it awaits.
    """

    nest: Nest
    func: Callable[[], Any]
    number: int
    depth: int
    stands_for: int = -1


class _Later(msgspec.Struct):
    """The coroutine that a lambda gave in a thread; it belongs on the event loop."""

    coroutine: Any

    async def give(self) -> Any:
        return await self.coroutine


def _number_of(call: TaskCall) -> int:
    return call.number


def _on_an_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _refuse(tasks: list[Any], wrong: Any) -> None:
    for task in tasks:
        if inspect.iscoroutine(task):
            task.close()
    hint = "; pass the function itself, or a lambda" if inspect.iscoroutine(wrong) else ""
    raise TypeError(
        "a nested task is a function without arguments, got a value of type "
        f"{type(wrong).__name__}{hint}"
    )


def _as_exception(error: BaseException) -> StepFailed:
    """What would end a thread or an event loop is the failure of a task like any other."""
    return StepFailed(f"the task raised {text_of(error)}")


@contextmanager
def _at_work(step: StepContext, call: TaskCall) -> Iterator[None]:
    with entered(Place(step, call.nest, call.depth)), kept(call.nest.logs, call.nest.module):
        yield


@contextmanager
def _seeing(gpu_ids: Sequence[str]) -> Iterator[None]:
    """A worker that was not started for the GPUs of a module shows its tasks these alone."""
    before = os.environ.get(_VISIBLE)
    if not gpu_ids or before == ",".join(gpu_ids):
        yield
        return
    os.environ[_VISIBLE] = ",".join(gpu_ids)
    try:
        yield
    finally:
        if before is None:
            del os.environ[_VISIBLE]
        else:
            os.environ[_VISIBLE] = before


@unrecorded
def _run_in_thread(step: StepContext, call: TaskCall) -> Any:
    with _at_work(step, call):
        try:
            value = call.func()
        except (SystemExit, KeyboardInterrupt, GeneratorExit) as error:
            raise _as_exception(error) from error
    return _Later(value) if inspect.iscoroutine(value) else value


@unrecorded
def _run_in_process(step: StepContext, call: TaskCall) -> Any:
    with (
        keeping(call.nest.logs, in_worker=True),
        _seeing(step.lease.gpu_ids),
        _at_work(step, call),
    ):
        try:
            value = call.func()
            return asyncio.run(value) if inspect.iscoroutine(value) else value
        except (SystemExit, KeyboardInterrupt, GeneratorExit) as error:
            raise _as_exception(error) from error


@unrecorded
async def _run_on_loop(step: StepContext, call: TaskCall) -> Any:
    with _at_work(step, call):
        try:
            return await call.func()
        except SystemExit as error:
            raise _as_exception(error) from error


_ONE_CPU = {"cpu": 1}
_ON_LOOP = Step(_run_on_loop, name="task", resources=_ONE_CPU)
_IN_THREAD = Step(_run_in_thread, name="task", lane="thread", resources=_ONE_CPU)
_IN_PROCESS = Step(_run_in_process, name="task", lane="process", resources=_ONE_CPU)
