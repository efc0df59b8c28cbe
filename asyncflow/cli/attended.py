"""A run that a command attends to: its signals, its display and its events."""

from __future__ import annotations

import asyncio
import shlex
import traceback
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any

import msgspec

from asyncflow.cli.endings import CommandError, ExitCode, say
from asyncflow.cli.event_stream import BUFFER, EventStream
from asyncflow.cli.interrupts import Interrupts, taking_signals
from asyncflow.cli.values import lines_of_values
from asyncflow.orchestrator.orchestrator import PipelineOrchestrator
from asyncflow.pipeline.pipeline import Pipeline
from asyncflow.progress import show_progress, shown
from asyncflow.result import PipelineResult
from asyncflow.run import Run
from asyncflow.runtime import FailurePolicy, Runtime
from asyncflow.secret import Secret
from asyncflow.states import RunState

__all__ = ["Ending", "Order", "attend", "make_runtime", "tell"]

_USUAL_DIRECTORY = ".asyncflow"

_MOST_TRACEBACKS = 10


class Order(msgspec.Struct, frozen=True):
    """What to run, how, and what to show meanwhile.

    ``target`` is what the command calls the pipeline; ``events`` is the descriptor that takes
    them, None for none.
    """

    target: str
    pipeline: Pipeline | PipelineOrchestrator
    inputs: dict[str, Any]
    max_cpus: str | None = None
    max_gpus: str | None = None
    failure_policy: FailurePolicy | None = None
    timeout_seconds: float | None = None
    run_id: str | None = None
    checkpoint: str | None = None
    restart: bool = False
    progress: bool = True
    events: int | None = None


class Ending(msgspec.Struct, frozen=True):
    """How a run ended, and what it left behind."""

    result: PipelineResult
    abandoned: tuple[str, ...]
    interrupted: bool
    events_lost: bool

    @property
    def exit_code(self) -> ExitCode:
        if self.result.success:
            return ExitCode.FAILED if self.events_lost else ExitCode.SUCCESS
        if self.result.recording_error is not None:
            return ExitCode.UNRECORDED
        stopped = self.interrupted and self.result.state is RunState.CANCELLED
        return ExitCode.INTERRUPTED if stopped else ExitCode.FAILED


def make_runtime(max_cpus: str | None, max_gpus: str | None) -> Runtime:
    """A runtime with what the command line says of its capacity.

    Raises:
        CommandError: that makes no sense.
    """
    options: dict[str, Any] = {}
    if max_cpus is not None:
        options["max_cpus"] = max_cpus
        _check("--max-cpus", options)
    if max_gpus is not None:
        options["max_gpus"] = _devices(max_gpus)
        _check("--max-gpus", options)
    return Runtime(**options)


def _check(option: str, options: dict[str, Any]) -> None:
    try:
        Runtime(**options)
    except (TypeError, ValueError) as error:
        raise CommandError(f"{option}: {error}") from error


def _devices(text: str) -> int | list[str]:
    try:
        return int(text)
    except ValueError:
        return [name.strip() for name in text.split(",")]


async def attend(order: Order) -> Ending:
    """Run a pipeline to its end.

    Raises:
        GraphError: the pipeline or its inputs are wrong.
        CapacityError: a step asks for what can never be granted.
    """
    async with (
        _runtime_of(order) as runtime,
        _started(order, runtime) as run,
    ):
        with taking_signals(run) as interrupts:
            return await _watch(run, order, interrupts)


def _runtime_of(order: Order) -> AbstractAsyncContextManager[Runtime | None]:
    if isinstance(order.pipeline, PipelineOrchestrator):
        return nullcontext()  # it has one of its own; options are laid over its file
    return make_runtime(order.max_cpus, order.max_gpus)


def _started(order: Order, runtime: Runtime | None) -> AbstractAsyncContextManager[Run]:
    options: dict[str, Any] = {}
    if isinstance(order.pipeline, PipelineOrchestrator):
        options["force_restart"] = order.restart
    else:
        options["checkpoint"] = order.checkpoint
        options["on_existing"] = "restart" if order.restart else "resume"
    return order.pipeline.start(
        order.inputs,
        runtime=runtime,
        run_id=order.run_id,
        failure_policy=order.failure_policy,
        timeout=order.timeout_seconds,
        **options,
    )


async def _watch(run: Run, order: Order, interrupts: Interrupts) -> Ending:
    stream = None if order.events is None else EventStream(order.events)
    async with asyncio.TaskGroup() as tasks:
        if stream is not None:
            tasks.create_task(stream.copy(run.events(buffer=BUFFER)))
        if order.progress:
            # No task of its own: that would begin too late to hear of the first steps.
            await show_progress(run)
        await run.wait()
    if stream is not None and stream.lost is not None:
        say(f"warning: the events could not be written to their end: {stream.lost}")
    return Ending(
        result=run.result_now(),
        abandoned=run.abandoned,
        interrupted=interrupts.stopped,
        events_lost=stream is not None and stream.lost is not None and not stream.reader_left,
    )


def tell(
    ending: Ending, order: Order, *, quiet: bool, with_values: bool, with_traceback: bool
) -> None:
    """Say how it ended; a quiet command only speaks of what went wrong, and of values."""
    result = ending.result
    is_silent = quiet and ending.exit_code is ExitCode.SUCCESS
    if not is_silent:
        print(shown(result.summary(), lines=True), flush=True)
    if with_values:
        for line in lines_of_values(result.outputs):
            print(line, flush=True)
    if is_silent:
        return
    if result.state is RunState.CANCELLED and result.reason:
        print(f"  reason: {shown(result.reason)}", flush=True)
    tracebacks = _tracebacks(result)
    if with_traceback:
        for text in tracebacks:
            say(text)
    elif tracebacks:
        say("  --traceback shows where it was raised")
    if not result.success and (command := _going_on(order, result.run_id)):
        say(f"  go on with it: {command}")


def _going_on(order: Order, run_id: str) -> str | None:
    """The command that goes on with a recorded run; None if the same one does, or none."""
    if order.checkpoint is None or isinstance(order.pipeline, PipelineOrchestrator):
        return None
    words = ["asyncflow", "resume", run_id, order.target]
    if order.checkpoint != _USUAL_DIRECTORY:
        words += ["--directory", order.checkpoint]
    unrecorded = [name for name, value in order.inputs.items() if isinstance(value, Secret)]
    return " ".join([shlex.join(words), *(f"--input {name}=…" for name in unrecorded)])


def _tracebacks(result: PipelineResult) -> list[str]:
    errors = (found.error for found in result.step_results.values() if not found.success)
    with_frames = [error for error in errors if error is not None and error.__traceback__]
    return ["".join(traceback.format_exception(e)) for e in with_frames[:_MOST_TRACEBACKS]]
