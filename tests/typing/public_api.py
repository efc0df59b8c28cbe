"""Checked by mypy and never run: what a type checker knows of steps and of their results."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from datetime import timedelta
from typing import Any, assert_type

from asyncflow import (
    NodeState,
    Pipeline,
    PipelineResult,
    Rate,
    ResourceRequirements,
    Retry,
    Run,
    Runtime,
    Step,
    StepContext,
    StepResult,
    VersionedPipeline,
    parallel_map,
    step,
)
from asyncflow.orchestrator import BaseModule, ModuleContext, PipelineOrchestrator

runtime_with_limits = Runtime(limits={"host:*": 8, "api": Rate(200, per_seconds=1, burst=20)})
runtime_with_limits.set_limit("api", Rate(10, per_seconds=timedelta(minutes=1)))

# -- step: bare, with arguments, around a function -----------------------------------------


@step
def double(number: int) -> int:
    return 2 * number


@step()
def with_brackets(text: str, times: int = 1) -> list[str]:
    return [text] * times


@step(
    name="page",
    inputs=["url"],
    outputs=["page"],
    execution_group="web",
    resources=ResourceRequirements(cpu="500m"),
    retry=Retry(3, on=OSError),
    timeout=timedelta(seconds=10),
    condition=lambda url: bool(url),
    cache=lambda url: url,
    limits=lambda url: {f"host:{url}": 2},
    lane="inline",
    tags=("nightly",),
)
async def fetch(url: str, *, depth: int = 1) -> bytes:
    return url.encode()


@step(
    inputs={"texts": ["a", "b"]},
    resources={"cpu": 2},
    retry=3,
    timeout=1.5,
    cache="code_hash",
)
def join(texts: list[str], context: StepContext) -> str:
    return "".join(texts)


def plain(number: float) -> str:
    return str(number)


async def plain_coroutine(number: float) -> dict[str, float]:
    return {"number": number}


shown = step(plain, name="shown", retry=1)
measured = step(plain_coroutine, timeout=5)

a_step: Step[[int], int] = double
made_of_a_function: Step[[float], str] = shown
made_of_a_coroutine_function: Step[[float], Coroutine[Any, Any, dict[str, float]]] = measured
of_another_parameter: Step[[str], int] = double  # type: ignore[assignment]
of_another_result: Step[[int], str] = double  # type: ignore[assignment]
assert_type(shown.name, str)

step(plain, retries=3)  # type: ignore[call-overload]
step(plain, lane="fibre")  # type: ignore[call-overload]
step(plain, execution_group=3)  # type: ignore[call-overload]
step(3)  # type: ignore[call-overload]


@step(timeout="ten")  # type: ignore[call-overload, untyped-decorator]
def late() -> None: ...


# -- calling a step is calling its function ------------------------------------------------


async def calls() -> None:
    assert_type(double(3), int)
    assert_type(double(number=3), int)
    assert_type(with_brackets("a"), list[str])
    assert_type(with_brackets("a", times=2), list[str])
    not_awaited: Coroutine[Any, Any, bytes] = fetch("u")
    not_awaited.close()
    assert_type(await fetch("u", depth=2), bytes)
    assert_type(await measured(1.0), dict[str, float])

    double("3")  # type: ignore[arg-type]
    double()  # type: ignore[call-arg]
    with_brackets("a", time=2)  # type: ignore[call-arg]
    await fetch("u", "2")  # type: ignore[call-arg, arg-type]


# -- a changed copy has the same type ------------------------------------------------------


async def copies() -> None:
    changed: Step[[int], int] = double.with_options(retry=3)
    assert_type(changed(1), int)
    assert_type(double.with_options(lane="thread", timeout=None)(1), int)
    assert_type(await fetch.with_options(name="again")("u"), bytes)
    double.with_options(retries=3)  # type: ignore[call-arg]
    double.with_options(lane="fibre")  # type: ignore[arg-type]


# -- results -------------------------------------------------------------------------------


async def results(result: PipelineResult) -> None:
    assert_type(result[double], int)
    assert_type(result[with_brackets], list[str])
    # The value of a coroutine step is what it returns once awaited, not the coroutine.
    assert_type(result[fetch], bytes)
    assert_type(result[measured], dict[str, float])
    assert_type(result[double.with_options(retry=1)], int)
    assert_type(result["double"], Any)
    assert_type(result.step_results["double"], StepResult)
    assert_type(result.step_results["double"].error, BaseException | None)
    assert_type(result.outputs, dict[str, Any])
    assert_type(result.success, bool)
    result[3]  # type: ignore[call-overload]


# -- pipelines and runs --------------------------------------------------------------------


async def pipelines() -> None:
    pipeline = Pipeline("typed", steps=[double, fetch], inputs={"url": str})
    assert_type(pipeline.add_step(join, name="joined", params={"x": 1}, after=[fetch]), Pipeline)
    assert_type(pipeline.add_pipeline(pipeline, "in", inputs={"url": "page"}), Pipeline)
    pipeline.add_pipeline(double, "in")  # type: ignore[arg-type]
    assert_type(await pipeline.run(inputs={"url": "u"}), PipelineResult)
    assert_type(pipeline.run_sync({"url": "u"}), PipelineResult)
    async with Runtime(max_cpus=2) as runtime, pipeline.start(runtime=runtime) as run:
        assert_type(runtime, Runtime)
        assert_type(run, Run)
        assert_type(await run.result(), PipelineResult)

    pipeline.add_step(plain)  # type: ignore[arg-type]
    Pipeline("typed", failure_policy="stop")  # type: ignore[arg-type]
    Runtime(oversized="maybe")  # type: ignore[arg-type]


class Subclass(Pipeline):
    """Chained calls keep the class."""


assert_type(Subclass("mine").add_step(double), Subclass)
assert_type(parallel_map(plain, [1.0, 2.0]), list[str])


def takes_any_step(used: Step[..., Any]) -> Callable[..., Any]:
    return used.func


takes_any_step(double)
takes_any_step(fetch)


# -- caching, codecs, versions ---------------------------------------------------------------


def cached() -> None:
    step(plain, cache="code")  # type: ignore[call-overload]
    step(plain, cache=True)  # type: ignore[call-overload]
    assert_type(StepResult("a", NodeState.SUCCEEDED).cached, bool)


class Numbers:
    tag = "numbers"

    def takes(self, value: Any) -> bool:
        return False

    def encode(self, value: Any) -> Any:
        return value

    def decode(self, encoded: Any) -> Any:
        return encoded


def kept(pipeline: VersionedPipeline) -> None:
    Runtime(directory="kept", codecs=[Numbers()], pickle_key=b"0123456789abcdef")
    Runtime(codecs=["numbers"])  # type: ignore[list-item]
    assert_type(pipeline.list_versions(), list[str])
    assert_type(pipeline.compare_with("v1").step_order_changed, bool)
    assert_type(pipeline.compare_with("v1").added_steps, list[str])


# -- pipelines in files ----------------------------------------------------------------------


class Count(BaseModule):
    def run(self, context: ModuleContext) -> list[Any]:
        assert_type(context.get_result("load"), Any)
        assert_type(context.resources.gpu_ids, list[str])
        return context.execute_tasks([lambda: 1])


async def pipelines_in_files(runtime: Runtime) -> None:
    orchestrator = PipelineOrchestrator("pipeline.yaml", runtime=runtime, overlays=["more.yaml"])
    assert_type(await orchestrator.execute(force_restart=True), dict[str, Any])
    assert_type(await orchestrator.restart(), dict[str, Any])
    assert_type(orchestrator.execute_sync(), dict[str, Any])
    assert_type(orchestrator.get_results(), dict[str, Any])
    assert_type(await runtime.start(orchestrator), Run)
    async with orchestrator.start() as run:
        assert_type(run, Run)
    await orchestrator.cleanup()
