"""A worker sees exactly the GPUs that its step holds, before any code of the user's runs."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from asyncflow import GPUConfig, Group, Pipeline, Runtime, StepContext, step
from asyncflow.engine.gpus import devices_of, find_gpus, visible_devices
from asyncflow.engine.nvml import NvmlProbe
from asyncflow.testing import FakeGpus
from tests.lanes.process import devices as there

A100, T4 = "NVIDIA A100-SXM4-80GB", "Tesla T4"


def asking(func: Any, gpu: Any, **options: Any) -> Any:
    return step(func, name="x", resources={"cpu": 0.5, "gpu": gpu}, **options)


async def seen_by(runtime: Runtime, gpu: Any) -> tuple[str, str, int]:
    resources = None if gpu is None else {"gpu": gpu}
    one = step(there.seen, name="x", lane="process", resources=resources)
    result = await Pipeline("p", steps=[one]).run(runtime=runtime)
    found: tuple[str, str, int] = result["x"]
    return found


async def test_two_steps_at_once_see_different_devices(tmp_path: Path) -> None:
    machine = FakeGpus(2)
    pipeline = Pipeline("p")
    for name in ("a", "b"):
        params = {"folder": str(tmp_path), "name": name}
        pipeline.add_step(asking(there.seen_beside_another, 1), name, params=params)
    async with Runtime(max_cpus=2, max_gpus=machine) as runtime:
        result = await pipeline.run(runtime=runtime)
    seen = {result[name] for name in ("a", "b")}
    assert seen == {(uuid, 2) for uuid in machine.uuids}


@pytest.mark.parametrize(
    "gpu, places",
    [
        (2, [0, 1]),
        (GPUConfig("T4"), [0]),
        (GPUConfig("nvidia-a100"), [1]),
        (GPUConfig(count=0.5), [0]),
        (None, []),
    ],
)
async def test_a_worker_sees_what_its_step_holds_from_the_start(
    gpu: Any, places: list[int]
) -> None:
    machine = FakeGpus([T4, A100])
    async with Runtime(max_cpus=2, max_gpus=machine) as runtime:
        at_import, now, _ = await seen_by(runtime, gpu)
    assert at_import == now == ",".join(machine.uuids[place] for place in places)


async def test_other_devices_mean_another_worker_and_the_same_ones_the_same() -> None:
    machine = FakeGpus([T4, A100])
    async with Runtime(max_cpus=1, max_gpus=machine) as runtime:
        workers = [(await seen_by(runtime, gpu))[2] for gpu in ("T4", "A100", "T4", None)]
    assert workers[0] == workers[2]
    assert len(set(workers)) == 3


async def test_a_worker_that_only_computes_sees_none_whatever_we_see(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    async with Runtime(max_cpus=1) as runtime:
        assert (await seen_by(runtime, None))[:2] == ("", "")


async def test_declared_devices_are_those_that_were_inherited(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,3")
    async with Runtime(max_cpus=1, max_gpus=2) as runtime:
        assert (await seen_by(runtime, 1))[1] == "5"


async def test_a_step_that_asks_for_a_gpu_and_names_no_lane_runs_in_a_process() -> None:
    machine = FakeGpus(1)
    async with Runtime(max_cpus=1, max_gpus=machine) as runtime:
        result = await Pipeline("p", steps=[asking(there.leased, 1)]).run(runtime=runtime)
    assert result["x"] == (machine.uuids, machine.uuids[0])
    assert result.step_results["x"].lane == "process"


@pytest.mark.parametrize("lane", ["inline", "thread"])
async def test_in_our_own_process_the_environment_is_never_touched(
    lane: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "as it was")
    machine = FakeGpus(2)

    async def leased_inline(context: Any) -> Any:
        return there.leased(context)

    leased_inline.__annotations__["context"] = StepContext
    func = leased_inline if lane == "inline" else there.leased
    async with Runtime(max_cpus=1, max_gpus=machine) as runtime:
        result = await Pipeline("p", steps=[asking(func, 1, lane=lane)]).run(runtime=runtime)
    assert result["x"] == (machine.uuids[:1], "as it was")
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "as it was"


async def test_a_group_holds_its_devices_in_one_worker() -> None:
    machine = FakeGpus([T4, A100])
    one = step(there.make, name="devices", execution_group="g", resources={"gpu": "A100"})
    two = step(there.add, name="both", execution_group="g", inputs=["devices"])
    async with Runtime(max_cpus=1, max_gpus=machine) as runtime:
        result = await Pipeline("p", steps=[one, two]).run(runtime=runtime)
    assert result["both"] == [machine.uuids[1]] * 2


async def test_what_a_group_is_said_to_hold_counts_instead() -> None:
    machine = FakeGpus([T4, A100])
    one = step(there.make, name="devices", execution_group="g", lane="process")
    pipeline = Pipeline("p", steps=[one], groups={"g": Group(resources={"gpu": 2})})  # type: ignore[arg-type]
    async with Runtime(max_cpus=1, max_gpus=machine) as runtime:
        assert (await pipeline.run(runtime=runtime))["devices"] == [",".join(machine.uuids)]


async def test_after_a_loss_the_step_gets_a_worker_with_another_device() -> None:
    machine = FakeGpus(2)
    failing = asking(there.fail_first, 1)
    async with Runtime(max_cpus=1, max_gpus=machine) as runtime:
        async with Pipeline("p", steps=[failing]).start(runtime=runtime) as run:
            machine.lose(0, told=False)
        result = await run.result()
    assert result["x"] == machine.uuids[1]
    assert result.step_results["x"].attempts == 2


async def test_a_group_that_loses_its_device_begins_again_in_another_worker() -> None:
    machine = FakeGpus(2)
    one = step(there.make, name="devices", execution_group="g", resources={"gpu": 1})
    two = step(there.add_if_it_works, name="both", execution_group="g", inputs=["devices"])
    pipeline = Pipeline("p", steps=[one, two], outputs=["both"])
    async with Runtime(max_cpus=1, max_gpus=machine) as runtime:
        async with pipeline.start(runtime=runtime) as run:
            machine.lose(0, told=False)
        result = await run.result()
    result.raise_for_failure()
    assert result["both"] == [machine.uuids[1]] * 2
    attempts = [result.step_results[name].attempts for name in ("devices", "both")]
    assert attempts == [2, 2]


async def test_a_device_that_is_lost_between_two_members_has_the_group_begin_again() -> None:
    machine = FakeGpus(2)

    async def loses_one() -> bool:
        if len(machine.uuids) - len(machine._lost) == 2:
            machine.lose(0)
            await asyncio.sleep(0)  # the runtime hears of it in the loop's next turn
        return True

    one = step(there.make, name="devices", execution_group="g", resources={"gpu": 1})
    two = step(there.add, name="both", execution_group="g", inputs=["devices"], condition=loses_one)
    pipeline = Pipeline("p", steps=[one, two], outputs=["both"])
    async with Runtime(max_cpus=1, max_gpus=machine) as runtime:
        result = await pipeline.run(runtime=runtime)
    assert result["both"] == [machine.uuids[1]] * 2
    attempts = [result.step_results[name].attempts for name in ("devices", "both")]
    assert attempts == [2, 1]


async def test_a_member_that_was_sent_ahead_is_stopped_when_its_device_is_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    machine = FakeGpus(2)
    one = step(there.make, name="devices", execution_group="g", resources={"gpu": 1})
    two = step(there.add_unless_stopped, name="both", execution_group="g", inputs=["devices"])
    pipeline = Pipeline("p", steps=[one, two], outputs=["both"])
    async with Runtime(max_cpus=1, max_gpus=machine) as runtime:
        scheduler = runtime._scheduler
        assert scheduler is not None
        go_on_with_what_was_sent = scheduler.groups.first_attempt

        def lose_first(*member: Any) -> Any:
            scheduler.losses.lose({machine.uuids[0]: "it has fallen off the bus"})
            return go_on_with_what_was_sent(*member)

        monkeypatch.setattr(scheduler.groups, "first_attempt", lose_first)
        result = await pipeline.run(runtime=runtime)
    assert result["both"] == [machine.uuids[1]] * 2
    assert result.step_results["both"].attempts == 2


async def test_fractions_share_a_device_and_never_more_than_there_is(tmp_path: Path) -> None:
    machine = FakeGpus(2)
    pipeline = Pipeline("p")
    for number in range(10):
        pipeline.add_step(asking(there.leased, 0.3), f"x{number}")
    async with Runtime(max_cpus=2, max_gpus=machine) as runtime:
        result = await pipeline.run(runtime=runtime)
        assert runtime._get_limiter().statistics().gpu_micro_units_held == 0
    for number in range(10):
        ids, visible = result[f"x{number}"]
        assert len(ids) == 1
        assert visible == ids[0]


async def test_on_this_machine_s_own_gpus_each_step_sees_its_device() -> None:
    report = await find_gpus(NvmlProbe())
    found = devices_of(report, visible_devices())
    if not found:
        pytest.skip(f"no GPU here: {report.absent or ', '.join(report.faults) or 'none visible'}")
    async with Runtime(max_cpus=1) as runtime:
        assert (await seen_by(runtime, len(found)))[1] == ",".join(device.id for device in found)
        assert (await seen_by(runtime, GPUConfig(found[0].gpu_type)))[0] in [d.id for d in found]
    assert all(device.id.startswith(("GPU-", "MIG-")) for device in found)
