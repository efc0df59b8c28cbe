"""Steps on machines with made-up GPUs: who gets which, and what a lost device leads to."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from asyncflow import (
    CapacityError,
    GPUConfig,
    NodeState,
    Pipeline,
    ResourceLost,
    Runtime,
    StepContext,
    StepFailed,
    step,
)
from asyncflow.engine.gpus import GpuReport
from asyncflow.events import Event, Warned
from asyncflow.testing import FakeGpu, FakeGpus, VirtualRuntime

A100, T4 = "NVIDIA A100-SXM4-80GB", "Tesla T4"
TWO_KINDS = (A100, T4, A100, T4)
EIGHT = (A100,) * 8


def using(gpu: Any, seconds: float = 1.0, **options: Any) -> Any:
    """A step that holds devices for a while and returns their ids."""

    @step(name="use", resources={"gpu": gpu}, **options)
    async def use(context: StepContext) -> tuple[str, ...]:
        await asyncio.sleep(seconds)
        return context.lease.gpu_ids

    return use


def places(machine: FakeGpus, ids: tuple[str, ...]) -> list[int]:
    return [machine.uuids.index(uuid) for uuid in ids]


# ------------------------------------------------------------------- who gets which


@pytest.mark.parametrize(
    "gpus, visible, wanted, expected",
    [
        ((A100,), None, 1, [0]),
        ((A100, A100), None, 2, [0, 1]),
        (EIGHT, None, 8, list(range(8))),
        (EIGHT, "5,2", 1, [5]),
        (EIGHT, "5,2", 2, [2, 5]),
        (EIGHT, "GPU-00000003", 1, [3]),
        (TWO_KINDS, None, 1, [1]),  # the least capable that will do
        (TWO_KINDS, None, "nvidia-a100", [0]),
        (TWO_KINDS, None, GPUConfig("nvidia-a100", count=2), [0, 2]),
        (TWO_KINDS, None, GPUConfig("T4", count=2), [1, 3]),
        (TWO_KINDS, None, GPUConfig(count=3), [0, 1, 3]),
        (TWO_KINDS, None, GPUConfig("T4", count=0.5), [1]),
        (TWO_KINDS, "2,3", "nvidia-a100", [2]),
        ((FakeGpu(T4, "16Gi"), FakeGpu(T4, "32Gi")), None, GPUConfig(memory="20Gi"), [1]),
        ((FakeGpu(T4, None),), None, GPUConfig(memory="20Gi"), [0]),  # not known counts as enough
        ((FakeGpu(A100, "80Gi", ("A100 MIG 3g.40gb",) * 2),), None, 1, [0]),
        ((FakeGpu(A100, "80Gi", ("A100 MIG 3g.40gb",) * 2),), "MIG-00000000-0001", 1, [1]),
    ],
)
def test_a_step_gets_devices_that_will_do(
    gpus: tuple[str | FakeGpu, ...], visible: str | None, wanted: Any, expected: list[int]
) -> None:
    machine = FakeGpus(gpus, visible=visible)
    result = VirtualRuntime(gpus=machine).run(Pipeline("p", steps=[using(wanted)]))
    assert sorted(places(machine, result["use"])) == expected


@pytest.mark.parametrize(
    "gpus, visible, wanted, why",
    [
        ((), None, 1, "1 GPU asked for, but there are no GPUs"),
        ((A100,), None, 2, "2 GPUs asked for, but of 1 only 1 will do"),
        ((A100, A100), "", 1, "there are no GPUs"),
        ((A100, A100), "-1", 1, "there are no GPUs"),
        (EIGHT, "0,1", 3, "of 2 only 2 will do"),
        (TWO_KINDS, None, GPUConfig("nvidia-a100", count=3), "of 4 only 2 will do"),
        (TWO_KINDS, "1,3", "nvidia-a100", "of 2 only 0 will do"),
        (TWO_KINDS, None, GPUConfig(memory="81Gi"), "of 4 only 0 will do"),
        ((FakeGpu(A100, "80Gi", ("A100 MIG 3g.40gb",) * 2),), None, "nvidia-a100", "only 0 will"),
        ((FakeGpu(A100, "80Gi", ("A100 MIG 3g.40gb",) * 2),), None, GPUConfig(memory="60Gi"), "0"),
    ],
)
def test_what_a_machine_can_never_give_is_refused_before_the_first_step(
    gpus: tuple[str | FakeGpu, ...], visible: str | None, wanted: Any, why: str
) -> None:
    ran = []

    @step
    async def first() -> None:
        ran.append("first")

    virtual = VirtualRuntime(gpus=FakeGpus(gpus, visible=visible))
    with pytest.raises(CapacityError, match=f"step 'use': .*{why}"):
        virtual.run(Pipeline("p", steps=[first, using(wanted)]))
    assert ran == []


def test_shares_fill_devices_and_never_span_two_nor_take_one_twice() -> None:
    machine = FakeGpus(2)
    holders = dict.fromkeys(machine.uuids, 0)
    most = holders.copy()

    @step(resources={"gpu": 0.3})
    async def use(context: StepContext) -> None:
        (uuid,) = context.lease.gpu_ids
        holders[uuid] += 1
        most[uuid] = max(most[uuid], holders[uuid])
        await asyncio.sleep(1)
        holders[uuid] -= 1

    pipeline = Pipeline("p")
    for number in range(10):
        pipeline.add_step(use, f"use{number}")
    virtual = VirtualRuntime(gpus=machine)
    virtual.run(pipeline).raise_for_failure()
    # Three fit on each device, so ten of one second take two rounds.
    assert most == dict.fromkeys(machine.uuids, 3)
    assert virtual.clock == 2


def test_the_devices_of_the_machine_are_found_without_being_declared() -> None:
    with FakeGpus([T4, T4]) as machine:
        result = Pipeline("p", steps=[using(1, seconds=0)]).run_sync()
    assert result["use"] == machine.uuids[:1]


@pytest.mark.parametrize("declared", [0, []])
def test_no_gpus_can_be_declared_although_the_machine_has_some(declared: Any) -> None:
    with FakeGpus(2) as machine, pytest.raises(CapacityError, match="there are no GPUs"):
        VirtualRuntime(gpus=declared).run(Pipeline("p", steps=[using(1)]))
    assert machine.looks == 0


async def test_nobody_looks_for_gpus_until_a_graph_asks_for_one() -> None:
    @step(resources={"cpu": 1, "memory": "1Mi"})
    async def modest() -> None: ...

    with FakeGpus(1) as machine:
        async with Runtime(max_cpus=4, max_memory="1Gi") as runtime:
            await Pipeline("p", steps=[modest]).run(runtime=runtime)
            assert machine.looks == 0
            assert not runtime.capacity.devices
            both = Pipeline("q", steps=[using(1, seconds=0)])
            await asyncio.gather(both.run(runtime=runtime), both.run(runtime=runtime))
            assert machine.looks == 1
            assert [found.id for found in runtime.capacity.devices] == list(machine.uuids)


async def test_a_nested_step_may_be_the_first_that_asks_for_a_gpu() -> None:
    inner = using(1, seconds=0)

    @step
    async def outer(context: StepContext) -> Any:
        return await context.call(inner)

    with FakeGpus(1) as machine:
        result = await Pipeline("p", steps=[outer]).run()
    assert result["outer"] == machine.uuids


def test_a_plan_looks_for_gpus_where_the_pipeline_wants_some() -> None:
    pipeline = Pipeline("p", steps=[using(2)])
    with FakeGpus(1):
        assert "of 1 only 1 will do" in pipeline.plan(Runtime()).problems[0]
    with FakeGpus(2):
        assert pipeline.plan(Runtime()).problems == ()


# ------------------------------------------------------------------- broken drivers


@pytest.mark.parametrize(
    "behaviour, cause",
    [
        ("hangs", r"The GPU driver did not answer within 30 s\."),
        ("crashes", r"The child that asks NVML ended with signal SIGSEGV\."),
    ],
)
def test_a_broken_driver_means_no_gpus_and_the_refusal_names_it(behaviour: Any, cause: str) -> None:
    machine = FakeGpus(2, behaviour=behaviour, timeout_seconds=30)
    with pytest.raises(CapacityError, match=f"there are no GPUs. {cause} Ask for less"):
        VirtualRuntime(gpus=machine).run(Pipeline("p", steps=[using(1)]))


class PartlyBroken(FakeGpus):
    """Some of its devices cannot be used."""

    async def find(self) -> GpuReport:
        report = await super().find()
        return msgspec.structs.replace(report, faults=("GPU 1 cannot be used: ECC error",))


async def test_a_device_that_cannot_be_used_is_a_warning_for_those_who_ask_for_gpus() -> None:
    @step(resources={"cpu": 1})
    async def work() -> None: ...

    async def warnings(pipeline: Pipeline, runtime: Runtime) -> list[str]:
        async with pipeline.start(runtime=runtime) as run:
            events = [event async for event in run.events()]
        return [event.message for event in events if isinstance(event, Warned)]

    async with Runtime(max_gpus=PartlyBroken(2)) as runtime:
        asking = Pipeline("p", steps=[using(1, seconds=0)])
        assert await warnings(asking, runtime) == ["GPU 1 cannot be used: ECC error"]
        assert await warnings(Pipeline("q", steps=[work]), runtime) == []


def test_work_on_cpus_does_not_care_about_a_broken_driver() -> None:
    @step(resources={"cpu": 1})
    async def work() -> str:
        return "done"

    machine = FakeGpus(2, behaviour="hangs", timeout_seconds=30)
    virtual = VirtualRuntime(gpus=machine)
    assert virtual.run(Pipeline("p", steps=[work]))["work"] == "done"
    assert (machine.looks, virtual.clock) == (0, 0.0)


# ------------------------------------------------------------------- lost devices


async def run_and_lose(
    runtime: Runtime, pipeline: Pipeline, machine: FakeGpus, which: int, after: float
) -> tuple[Any, list[Event]]:
    async with pipeline.start(runtime=runtime) as run:
        asyncio.get_running_loop().call_later(after, machine.lose, which)
        events = [event async for event in run.events()]
    return await run.result(), events


def test_the_step_of_a_lost_device_is_tried_again_elsewhere() -> None:
    machine = FakeGpus(2)
    pipeline = Pipeline("p", steps=[using(1, seconds=10)])
    virtual = VirtualRuntime(gpus=machine)
    result, events = virtual.run_async(
        lambda runtime: run_and_lose(runtime, pipeline, machine, 0, after=3)
    )
    assert result["use"] == (machine.uuids[1],)
    assert result.step_results["use"].attempts == 2
    assert virtual.clock == 13
    (warning,) = (event.message for event in events if isinstance(event, Warned))
    assert warning == f"GPU {machine.uuids[0]} was lost: it has fallen off the bus"


def test_a_step_that_ended_well_before_it_heard_of_the_loss_has_its_value() -> None:
    machine = FakeGpus(1)

    @step(resources={"gpu": 1})
    async def use(context: StepContext) -> str:
        machine.lose(0)
        return "in time"

    result = VirtualRuntime(gpus=machine).run(Pipeline("p", steps=[use]))
    assert (result["use"], result.step_results["use"].attempts) == ("in time", 1)


def test_without_another_device_the_step_fails_and_says_so() -> None:
    machine = FakeGpus([A100, T4])
    pipeline = Pipeline("p", steps=[using("nvidia-a100", seconds=10, retry=5)])
    result, _ = VirtualRuntime(gpus=machine).run_async(
        lambda runtime: run_and_lose(runtime, pipeline, machine, 0, after=3)
    )
    lost = result.step_results["use"].error
    assert isinstance(lost, ResourceLost)
    assert (lost.devices, lost.step, lost.attempt) == (machine.uuids[:1], "use", 1)
    assert "no other device will do: 1 GPU of type 'nvidia-a100' asked for" in str(lost)
    assert "(lost)" in str(lost)


def test_a_request_that_a_loss_makes_hopeless_fails_at_once_and_the_rest_goes_on() -> None:
    machine = FakeGpus(2)

    @step
    async def work() -> str:
        await asyncio.sleep(60)
        return "done"

    pipeline = Pipeline("p", steps=[work], failure_policy="collect_all")
    pipeline.add_step(using(1, seconds=20), "holder").add_step(using(2), "waits")
    pipeline.add_step(using(2), "later", after=["holder"])
    virtual = VirtualRuntime(gpus=machine)
    result, _ = virtual.run_async(
        lambda runtime: run_and_lose(runtime, pipeline, machine, 1, after=5)
    )
    assert result["holder"] == machine.uuids[:1]
    assert result["work"] == "done"
    for name in ("waits", "later"):
        error = result.step_results[name].error
        assert isinstance(error, CapacityError)
        assert f"step {name!r} can never start any more: 2 GPUs asked for" in str(error)
        assert machine.uuids[1] in str(error)


def test_a_lost_try_does_not_count_against_the_retries() -> None:
    machine = FakeGpus(2)
    tries: list[str] = []

    @step(resources={"gpu": 1}, retry=1)
    async def use(context: StepContext) -> str:
        tries.append(context.lease.gpu_ids[0])
        if len(tries) == 1:
            machine.lose(tries[0])
            await asyncio.sleep(60)
        if len(tries) == 2:
            raise ValueError("a fault of the step")
        return "third time"

    result = VirtualRuntime(gpus=machine).run(Pipeline("p", steps=[use]))
    assert result["use"] == "third time"
    assert tries == [machine.uuids[0], machine.uuids[1], machine.uuids[1]]


@pytest.mark.parametrize("error", [RuntimeError("CUDA error: device lost"), OSError("odd")])
def test_a_device_that_is_missed_after_a_failure_was_lost(error: Exception) -> None:
    machine = FakeGpus(2)

    @step(resources={"gpu": 1})
    async def use(context: StepContext) -> str:
        if context.attempt == 1:
            machine.lose(context.lease.gpu_ids[0], told=False)
            raise error
        return context.lease.gpu_ids[0]

    result = VirtualRuntime(gpus=machine).run(Pipeline("p", steps=[use]))
    assert result["use"] == machine.uuids[1]
    assert machine.looks == 2


def test_a_failure_is_the_steps_own_where_all_devices_are_still_there() -> None:
    machine = FakeGpus(1)

    @step(resources={"gpu": 1}, retry=1)
    async def use(context: StepContext) -> None:
        raise ValueError("wrong data")

    result = VirtualRuntime(gpus=machine).run(Pipeline("p", steps=[use]))
    failed = result.step_results["use"]
    assert isinstance(failed.error, ValueError)
    assert (failed.attempts, machine.looks) == (2, 3)


def test_where_the_driver_hangs_after_a_failure_the_error_stays_and_says_so() -> None:
    machine = FakeGpus(1, timeout_seconds=30)

    @step(resources={"gpu": 1})
    async def use(context: StepContext) -> None:
        machine.behaviour = "hangs"
        raise ValueError("odd")

    virtual = VirtualRuntime(gpus=machine)
    error = virtual.run(Pipeline("p", steps=[use])).step_results["use"].error
    assert isinstance(error, ValueError)
    assert error.__notes__ == [
        "its GPUs could not be looked at afterwards: the GPU driver did not answer within 30 s"
    ]
    assert virtual.clock == 30


def test_a_run_that_is_cancelled_during_the_look_ends_with_the_steps_own_error() -> None:
    machine = FakeGpus(1, timeout_seconds=1000)

    @step(resources={"gpu": 1})
    async def use(context: StepContext) -> None:
        machine.behaviour = "hangs"
        raise ValueError("odd")

    async def main(runtime: Runtime) -> Any:
        async with Pipeline("p", steps=[use]).start(runtime=runtime) as run:
            await asyncio.sleep(10)
            assert "its GPUs" in run.explain("use") or "GPUs it held" in run.explain("use")
            await run.cancel("enough")
        return await run.result()

    virtual = VirtualRuntime(gpus=machine)
    result = virtual.run_async(main)
    assert isinstance(result.step_results["use"].error, ValueError)
    assert virtual.clock == 10


def test_the_next_member_of_a_group_moves_to_another_device() -> None:
    machine = FakeGpus(2)

    @step(execution_group="g", resources={"gpu": 1}, lane="thread")
    def first(context: StepContext) -> str:
        machine.lose(context.lease.gpu_ids[0])
        return context.lease.gpu_ids[0]

    @step(execution_group="g", lane="thread")
    def second(first: str, context: StepContext) -> tuple[str, str]:
        return first, context.lease.gpu_ids[0]

    result = VirtualRuntime(gpus=machine).run(Pipeline("p", steps=[first, second]))
    assert result["second"] == machine.uuids
    assert result.step_results["first"].attempts == 1


def test_a_thread_that_does_not_hear_of_the_loss_is_abandoned_and_its_step_tried_again() -> None:
    machine = FakeGpus(2)

    @step(resources={"gpu": 1}, lane="thread")
    def use(context: StepContext) -> str:
        if context.attempt == 1:
            machine.lose(context.lease.gpu_ids[0])
        return context.lease.gpu_ids[0]

    virtual = VirtualRuntime(gpus=machine, durations={"use": 100})
    result = virtual.run(Pipeline("p", steps=[use]))
    assert result["use"] == machine.uuids[1]
    assert result.step_results["use"].status is NodeState.SUCCEEDED


def test_a_later_run_of_the_runtime_knows_what_is_lost() -> None:
    machine = FakeGpus(2)

    async def main(runtime: Runtime) -> None:
        await run_and_lose(runtime, Pipeline("p", steps=[using(1, 5)]), machine, 0, after=1)
        assert (await Pipeline("p", steps=[using(1)]).run(runtime=runtime))["use"] == (
            machine.uuids[1],
        )
        with pytest.raises(CapacityError, match=r"\(lost\)"):
            await Pipeline("p", steps=[using(2)]).run(runtime=runtime)

    VirtualRuntime(gpus=machine).run_async(main)


def test_the_failure_of_a_run_names_the_lost_device() -> None:
    machine = FakeGpus(1)
    pipeline = Pipeline("p", steps=[using(1, seconds=10)])
    result, _ = VirtualRuntime(gpus=machine).run_async(
        lambda runtime: run_and_lose(runtime, pipeline, machine, 0, after=3)
    )
    with pytest.raises(StepFailed, match=machine.uuids[0]):
        result.raise_for_failure()
