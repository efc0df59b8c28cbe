"""What this machine can never give is refused before the first step starts."""

from __future__ import annotations

import asyncio
import shutil
from typing import Any, NamedTuple

import pytest

from asyncflow import (
    CapacityError,
    NodeAffinity,
    NodeState,
    Pipeline,
    ResourceRequirements,
    Runtime,
    StepContext,
    step,
)
from asyncflow.events import Warned
from tests.virtual_time import now, virtual_time

RAN: list[str] = []


@pytest.fixture(autouse=True)
def nothing_ran() -> None:
    RAN.clear()


def asking_for(resources: ResourceRequirements | dict[str, Any], **options: Any) -> Pipeline:
    @step
    def innocent() -> None:
        RAN.append("innocent")

    @step(name="asking", resources=resources, **options)
    def asking(context: StepContext) -> str:
        RAN.append("asking")
        return "ran"

    return Pipeline("p", steps=[innocent, asking])


async def refusal_of(pipeline: Pipeline, runtime: Runtime) -> str:
    """What the refusal says; nothing may have run."""
    async with runtime:
        with pytest.raises(CapacityError) as caught:
            await pipeline.run(runtime=runtime)
        assert runtime._get_limiter().statistics().waiting == 0
    assert RAN == []
    return str(caught.value)


# -------------------------------------------------------------- CPUs, memory


@virtual_time
async def test_a_request_above_the_machine_gets_all_there_is_with_a_warning() -> None:
    @step(resources={"cpu": 64})
    async def large(context: StepContext) -> tuple[float, int]:
        return context.lease.cpus, context.lease.memory_bytes

    async with (
        Runtime(max_cpus=4, max_memory=1000) as runtime,
        Pipeline("p", steps=[large]).start(runtime=runtime) as run,
    ):
        events = [event async for event in run.events()]
    assert run.result_now()["large"] == (4, 1000)
    (warning,) = (event.message for event in events if isinstance(event, Warned))
    assert warning == (
        "step 'large': 64 CPUs asked for, but there are 4 CPUs. "
        "It gets all there is and runs alone."
    )


@virtual_time
async def test_an_oversized_step_runs_alone() -> None:
    running: set[str] = set()

    @step(resources={"cpu": 1})
    async def small(context: StepContext) -> None:
        running.add(context.node)
        assert "large" not in running
        await asyncio.sleep(1)
        running.remove(context.node)

    @step(name="large", resources={"memory": "1Ti"})
    async def large(context: StepContext) -> None:
        assert not running
        running.add(context.node)
        await asyncio.sleep(1)
        running.remove(context.node)

    pipeline = Pipeline("p").add_step(small, "a").add_step(large).add_step(small, "b")
    async with Runtime(max_cpus=4, max_memory="1Gi") as runtime:
        assert (await pipeline.run(runtime=runtime)).success
    assert now() == 2


@pytest.mark.parametrize(
    "resources, sentence",
    [
        ({"cpu": 5}, "5 CPUs asked for, but there are 4 CPUs."),
        ({"memory": "2Gi"}, "2 GiB of memory asked for, but there are 1 GiB."),
    ],
)
@virtual_time
async def test_a_runtime_may_refuse_oversized_requests(
    resources: dict[str, Any], sentence: str
) -> None:
    runtime = Runtime(max_cpus=4, max_memory="1Gi", oversized="error")
    message = await refusal_of(asking_for(resources), runtime)
    assert message.startswith("pipeline 'p' cannot run here: step 'asking': ")
    assert sentence in message


@virtual_time
async def test_a_request_of_exactly_the_machine_is_no_oversized_one() -> None:
    pipeline = asking_for({"cpu": 4, "memory": "1Gi"})
    async with Runtime(max_cpus=4, max_memory="1Gi", oversized="error") as runtime:
        assert (await pipeline.run(runtime=runtime))["asking"] == "ran"


@virtual_time
async def test_a_group_is_checked_by_what_it_holds_altogether() -> None:
    @step(resources={"cpu": 1, "memory": "2Gi"}, execution_group="g")
    def one() -> None: ...

    @step(resources={"cpu": 8}, execution_group="g")
    def two() -> None: ...

    runtime = Runtime(max_cpus=4, max_memory="4Gi", oversized="error")
    message = await refusal_of(Pipeline("p", steps=[one, two]), runtime)
    assert "step 'g': 8 CPUs asked for" in message


# ---------------------------------------------------------------------- GPUs


@pytest.mark.parametrize(
    "max_gpus, gpu, sentence",
    [
        (None, 1, "1 GPU asked for, but there are no GPUs."),
        (2, 3, "3 GPUs asked for, but of 2 only 2 will do"),
        (["nvidia-t4"], "nvidia-a100", "1 GPU of type 'nvidia-a100' asked for, but of 1 only 0"),
        (["nvidia-t4"], {"gpu_type": "nvidia-a100", "count": 0.5}, "0.5 of a GPU of type"),
    ],
)
@pytest.mark.parametrize("oversized", ["clamp", "error"])
@virtual_time
async def test_devices_that_are_not_there_are_always_refused(
    max_gpus: Any, gpu: Any, sentence: str, oversized: Any
) -> None:
    runtime = Runtime(max_gpus=max_gpus, oversized=oversized)
    assert sentence in await refusal_of(asking_for({"gpu": gpu}), runtime)


# ------------------------------------------------------------- labels, taints


@pytest.mark.parametrize(
    "labels, sentence",
    [
        ({}, "requires the label zone=north, and this runtime does not have that label"),
        ({"zone": "south"}, "requires the label zone=north, and this runtime has zone=south"),
    ],
)
@virtual_time
async def test_a_required_label_has_to_match(labels: dict[str, str], sentence: str) -> None:
    affinity = NodeAffinity(required={"zone": "north"})
    pipeline = asking_for({"node_affinity": affinity})
    assert sentence in await refusal_of(pipeline, Runtime(labels=labels))


@virtual_time
async def test_labels_that_match_or_are_only_preferred_are_no_obstacle() -> None:
    affinity = NodeAffinity(required={"zone": "north"}, preferred={"disk": "fast"})
    pipeline = asking_for({"node_affinity": affinity})
    async with Runtime(labels={"zone": "north", "rack": "7"}) as runtime:
        assert (await pipeline.run(runtime=runtime))["asking"] == "ran"


@virtual_time
async def test_a_taint_keeps_out_what_does_not_tolerate_it() -> None:
    affinity = NodeAffinity(tolerations=["other"])
    pipeline = asking_for({"node_affinity": affinity})
    message = await refusal_of(pipeline, Runtime(taints=["spot=true"]))
    assert "step 'asking': it does not tolerate the taint 'spot=true'" in message


@virtual_time
async def test_a_taint_keeps_out_steps_that_ask_for_nothing() -> None:
    @step
    def plain() -> None:
        RAN.append("plain")

    message = await refusal_of(Pipeline("p", steps=[plain]), Runtime(taints=["spot"]))
    assert "step 'plain': it does not tolerate the taint 'spot'" in message


@pytest.mark.parametrize("toleration", ["spot", "spot=true"])
@virtual_time
async def test_a_taint_is_tolerated_by_its_key_or_in_full(toleration: str) -> None:
    @step(resources={"node_affinity": {"tolerations": [toleration]}})
    def hardened() -> str:
        return "ran"

    async with Runtime(taints=["spot=true"]) as runtime:
        result = await Pipeline("p", steps=[hardened]).run(runtime=runtime)
    assert result["hardened"] == "ran"


# -------------------------------------------------------------------- storage


class Usage(NamedTuple):
    total: int
    used: int
    free: int


@pytest.mark.parametrize("free, fits", [(2**30, True), (2**30 - 1, False)])
@virtual_time
async def test_storage_is_compared_with_what_is_free(
    free: int, fits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(2**40, 0, free))
    pipeline = asking_for({"storage": "1Gi"})
    if fits:
        async with Runtime() as runtime:
            assert (await pipeline.run(runtime=runtime))["asking"] == "ran"
    else:
        assert "it asks for 1 GiB of storage, and" in await refusal_of(pipeline, Runtime())


# ------------------------------------------------------------------- in a plan


@virtual_time
async def test_every_fault_is_told_at_once() -> None:
    affinity = NodeAffinity(required={"zone": "north", "rack": "7"})
    pipeline = asking_for({"gpu": 1, "node_affinity": affinity})
    pipeline.add_step(pipeline.steps[1].step.with_options(resources={"gpu": 2}), "second")
    message = await refusal_of(pipeline, Runtime())
    for part in ("'asking'", "'second'", "zone=north", "rack=7", "1 GPU asked", "2 GPUs asked"):
        assert part in message


def test_a_plan_tells_the_same_without_running() -> None:
    pipeline = asking_for({"cpu": 64, "gpu": 1})
    plan = pipeline.plan(Runtime(max_cpus=4))
    (problem,) = plan.problems
    assert "1 GPU asked for, but there are no GPUs." in problem
    plan = pipeline.plan(Runtime(max_cpus=4, max_gpus=1))
    assert plan.problems == ()
    assert any("64 CPUs asked for, but there are 4 CPUs." in text for text in plan.warnings)
    assert RAN == []


@virtual_time
async def test_a_refused_run_leaves_the_runtime_as_it_was() -> None:
    async with Runtime(max_cpus=1) as runtime:
        with pytest.raises(CapacityError):
            await asking_for({"gpu": 1}).run(runtime=runtime)
        result = await asking_for({"cpu": 1}).run(runtime=runtime)
    assert result.step_results["asking"].status is NodeState.SUCCEEDED
