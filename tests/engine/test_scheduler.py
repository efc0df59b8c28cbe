"""One pump for all runs: fair between them, within the window, and never stuck."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from typing import Any

import pytest

from asyncflow import (
    CapacityError,
    NodeState,
    Pipeline,
    Run,
    RunState,
    Runtime,
    Step,
    StepContext,
    StepFailed,
    step,
)
from asyncflow.engine.settlement import Settlement
from tests.virtual_time import Gate, now, virtual_time


class Crowd:
    """A step that counts how many of it run at once, and notes who ran."""

    def __init__(self, seconds: float = 1, **options: Any) -> None:
        self.running = 0
        self.most = 0
        self.order: list[str] = []

        @step(name="member", **options)
        async def member(context: StepContext) -> float:
            self.running += 1
            self.most = max(self.most, self.running)
            self.order.append(context.run_id)
            await asyncio.sleep(seconds)
            self.running -= 1
            return now()

        self.step: Step[..., Any] = member

    def pipeline(self, count: int) -> Pipeline:
        pipeline = Pipeline("crowd")
        for number in range(count):
            pipeline.add_step(self.step, f"member {number}")
        return pipeline


# --------------------------------------------------------------------- sharing


@pytest.mark.parametrize("window", [1, 3, 50])
@virtual_time
async def test_no_more_units_are_in_flight_than_the_window_allows(window: int) -> None:
    crowd = Crowd()
    async with Runtime(max_concurrency=window) as runtime:
        assert (await crowd.pipeline(60).run(runtime=runtime)).success
    assert crowd.most == window
    assert now() == -(-60 // window)


@virtual_time
async def test_the_window_is_shared_by_all_runs() -> None:
    crowd = Crowd()
    async with Runtime(max_concurrency=4) as runtime:
        await asyncio.gather(*(crowd.pipeline(10).run(runtime=runtime) for _ in range(5)))
    assert crowd.most == 4


@virtual_time
async def test_a_small_run_that_comes_late_is_not_behind_ten_thousand_steps() -> None:
    crowd = Crowd()
    async with Runtime(max_concurrency=10) as runtime:
        large = asyncio.create_task(crowd.pipeline(10_000).run(runtime=runtime, run_id="large"))
        await asyncio.sleep(5.5)
        await crowd.pipeline(20).run(runtime=runtime, run_id="small")
        assert now() <= 11
        large.cancel()
        await asyncio.wait([large])


@pytest.mark.parametrize("options", [{}, {"resources": {"cpu": 1}}])
@virtual_time
async def test_runs_take_turns(options: dict[str, Any]) -> None:
    crowd = Crowd(**options)
    runtime = Runtime(max_cpus=1, max_concurrency=1)
    async with runtime:
        await asyncio.gather(
            *(crowd.pipeline(20).run(runtime=runtime, run_id=name) for name in "abc")
        )
    for turn in range(1, 20):
        assert set(crowd.order[3 * turn : 3 * turn + 3]) == {"a", "b", "c"}


@virtual_time
async def test_runs_take_turns_at_the_threads() -> None:
    order: list[str] = []

    @step
    def work(context: StepContext) -> None:
        order.append(context.run_id)

    pipeline = Pipeline("p")
    for number in range(20):
        pipeline.add_step(work, f"work {number}")
    async with Runtime(max_threads=1) as runtime:
        await asyncio.gather(*(pipeline.run(runtime=runtime, run_id=name) for name in "ab"))
    both = order[order.index("b") :][:30]
    assert abs(both.count("a") - both.count("b")) <= 1


@virtual_time
async def test_a_run_that_fails_does_not_disturb_another() -> None:
    crowd = Crowd()

    @step
    async def broken() -> None:
        raise ValueError("no good")

    async with Runtime(max_concurrency=2) as runtime:
        failing = crowd.pipeline(10).add_step(broken).run(runtime=runtime)
        bad, good = await asyncio.gather(failing, crowd.pipeline(10).run(runtime=runtime))
    assert (bad.state, good.state) == (RunState.FAILED, RunState.SUCCEEDED)


@virtual_time
async def test_ready_steps_start_in_the_order_in_which_they_became_ready() -> None:
    began: list[str] = []

    @step
    async def note(context: StepContext) -> None:
        began.append(context.node)
        await asyncio.sleep(1)

    pipeline = Pipeline("p")
    for name in "cab":
        pipeline.add_step(note, name)
    pipeline.add_step(note, "below a", after=["a"]).add_step(note, "below c", after=["c"])
    async with Runtime(max_concurrency=1) as runtime:
        await pipeline.run(runtime=runtime)
    assert began == ["c", "a", "b", "below c", "below a"]


# -------------------------------------------------------------------- capacity


@pytest.mark.parametrize("cpu, at_once", [(1, 4), (2, 2), (3, 1), ("500m", 8), (0, 20)])
@virtual_time
async def test_never_more_cpus_are_in_use_than_there_are(cpu: Any, at_once: int) -> None:
    crowd = Crowd(resources={"cpu": cpu})
    async with Runtime(max_cpus=4) as runtime:
        await crowd.pipeline(20).run(runtime=runtime)
    assert crowd.most == at_once


@virtual_time
async def test_memory_is_shared_like_cpus() -> None:
    crowd = Crowd(resources={"memory": "3Gi"})
    async with Runtime(max_memory="8Gi") as runtime:
        await crowd.pipeline(6).run(runtime=runtime)
    assert (crowd.most, now()) == (2, 3)


@virtual_time
async def test_steps_that_run_at_once_have_devices_of_their_own() -> None:
    held: Counter[str] = Counter()
    leases: list[tuple[str, ...]] = []

    @step(resources={"gpu": 2})
    async def train(context: StepContext) -> None:
        held.update(context.lease.gpu_ids)
        assert max(held.values()) == 1, "two steps share a device"
        leases.append(context.lease.gpu_ids)
        await asyncio.sleep(1)
        held.subtract(context.lease.gpu_ids)

    pipeline = Pipeline("p")
    for number in range(5):
        pipeline.add_step(train, f"train {number}")
    async with Runtime(max_gpus=4) as runtime:
        assert (await pipeline.run(runtime=runtime)).success
    assert now() == 3
    assert all(len(set(lease)) == 2 for lease in leases)


@virtual_time
async def test_shares_of_a_device_are_packed() -> None:
    held: Counter[str] = Counter()

    @step(resources={"gpu": 0.5})
    async def infer(context: StepContext) -> str:
        (device,) = context.lease.gpu_ids
        held[device] += 1
        assert held[device] <= 2
        await asyncio.sleep(1)
        held[device] -= 1
        return device

    pipeline = Pipeline("p")
    for number in range(4):
        pipeline.add_step(infer, f"infer {number}")
    async with Runtime(max_gpus=2) as runtime:
        result = await pipeline.run(runtime=runtime)
    assert now() == 1
    assert sorted(Counter(result.outputs.values()).values()) == [2, 2]


@virtual_time
async def test_devices_are_given_by_type() -> None:
    @step(resources={"gpu": "nvidia-t4"})
    async def small(context: StepContext) -> tuple[str, ...]:
        return context.lease.gpu_ids

    async with Runtime(max_gpus=["nvidia-a100", "nvidia-t4"]) as runtime:
        assert (await Pipeline("p", steps=[small]).run(runtime=runtime))["small"] == ("1",)


@virtual_time
async def test_a_step_sees_what_it_holds() -> None:
    @step(resources={"cpu": "500m", "memory": "1Ki"})
    def holds(context: StepContext) -> tuple[float, int, tuple[str, ...]]:
        return context.lease.cpus, context.lease.memory_bytes, context.lease.gpu_ids

    @step
    async def holds_nothing(context: StepContext) -> tuple[float, int, tuple[str, ...]]:
        return context.lease.cpus, context.lease.memory_bytes, context.lease.gpu_ids

    result = await Pipeline("p", steps=[holds, holds_nothing]).run()
    assert result["holds"] == (0.5, 1024, ())
    assert result["holds_nothing"] == (0.0, 0, ())


@virtual_time
async def test_large_requests_are_not_starved_by_small_ones() -> None:
    # Out of step with each other, so that never all CPUs are free by chance.
    crowds = [Crowd(seconds, resources={"cpu": 1}) for seconds in (1, 0.7)]

    @step(resources={"cpu": 4})
    async def large() -> float:
        return now()

    async with Runtime(max_cpus=4) as runtime:
        runs = [asyncio.create_task(c.pipeline(300).run(runtime=runtime)) for c in crowds]
        await asyncio.sleep(0.5)
        result = await Pipeline("late", steps=[large]).run(runtime=runtime)
        assert result["large"] < 30
        await asyncio.gather(*runs)
    assert now() > 100


# ---------------------------------------------------------------------- stalls


@virtual_time
async def test_what_waits_for_a_lost_thread_alone_fails_and_names_it() -> None:
    with Gate() as gate:

        @step(resources={"cpu": 2}, timeout=1)
        def hang() -> None:
            gate.wait()

        @step(resources={"cpu": 1})
        async def starved() -> None: ...

        @step
        async def free() -> str:
            return "ran"

        pipeline = Pipeline("p", steps=[hang, starved, free], failure_policy="collect_all")
        async with Runtime(max_cpus=2, grace_seconds=1) as runtime:
            result = await pipeline.run(runtime=runtime)
        assert now() == 2
        assert result["free"] == "ran"
        error = result.step_results["starved"].error
        assert isinstance(error, CapacityError)
        assert str(error).startswith(
            "step 'starved' can never start: nothing else runs, and 'starved' waits for 1 CPU "
            "(0 CPUs free of 2 CPUs, held by 'hang')."
        )
        with pytest.raises(StepFailed) as caught:
            result["starved"]
        assert caught.value.__cause__ is error


@virtual_time
async def test_all_that_waits_for_a_lost_thread_fails_in_every_run() -> None:
    with Gate() as gate:

        @step(resources={"cpu": 1}, timeout=1)
        def hang() -> None:
            gate.wait()

        crowd = Crowd(resources={"cpu": 1})
        async with Runtime(max_cpus=1, grace_seconds=1) as runtime:
            first = asyncio.create_task(Pipeline("p", steps=[hang]).run(runtime=runtime))
            await asyncio.sleep(0.5)
            results = await asyncio.gather(
                *(
                    crowd.pipeline(3).run(runtime=runtime, failure_policy="collect_all")
                    for _ in range(2)
                )
            )
            await first
        assert now() == 2
        for result in results:
            assert result.counts() == {NodeState.FAILED: 3}


@virtual_time
async def test_nothing_is_stuck_while_a_step_waits_to_be_tried_again() -> None:
    @step(retry=1)
    async def flaky(context: StepContext) -> str:
        if context.attempt == 1:
            raise OSError("again")
        return "done"

    async with Runtime(max_cpus=1) as runtime:
        assert (await Pipeline("p", steps=[flaky]).run(runtime=runtime))["flaky"] == "done"


async def await_with_faults_expected(run: Run) -> list[dict[str, Any]]:
    """Wait for the end, and take what the loop was told meanwhile off its list."""
    await run.wait()
    faults: list[dict[str, Any]] = asyncio.get_running_loop().faults  # type: ignore[attr-defined]
    told, faults[:] = list(faults), []
    return told


@virtual_time
async def test_a_fault_of_the_engine_ends_its_runs_instead_of_hanging(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(self: Settlement, attempt: object) -> None:
        raise RuntimeError("planted")

    monkeypatch.setattr(Settlement, "_succeed", broken)

    @step(resources={"cpu": 1})
    async def simple() -> None: ...

    async with Pipeline("p", steps=[simple]).start() as run:
        told = await await_with_faults_expected(run)
    result = run.result_now()
    assert result.state is RunState.FAILED
    assert result.reason == ("asyncflow itself failed, please report this: RuntimeError: planted")
    assert [str(fault["exception"]) for fault in told] == ["planted"]


# --------------------------------------------------------------------- threads


@virtual_time
async def test_sync_steps_run_side_by_side_in_threads() -> None:
    meeting = threading.Barrier(3, timeout=10)

    @step
    def meet() -> int:
        meeting.wait()
        return threading.get_ident()

    pipeline = Pipeline("p").add_step(meet, "a").add_step(meet, "b").add_step(meet, "c")
    result = await pipeline.run()
    assert len({result["a"], result["b"], result["c"], threading.get_ident()}) == 4


@virtual_time
async def test_threads_are_used_again() -> None:
    @step
    def where(context: StepContext) -> int:
        return threading.get_ident()

    pipeline = Pipeline("p")
    for number in range(200):
        pipeline.add_step(where, f"where {number}")
    async with Runtime(max_threads=3) as runtime:
        result = await pipeline.run(runtime=runtime)
    assert len(set(result.outputs.values())) <= 3


@pytest.mark.both_loops
async def test_the_usual_loops_run_all_kinds_of_steps() -> None:
    @step
    def load() -> list[int]:
        return [1, 2, 3]

    @step(timeout=60, retry=1)
    async def double(load: list[int], context: StepContext) -> list[int]:
        await asyncio.sleep(0)
        if context.attempt == 1:
            raise OSError("again")
        return [2 * number for number in load]

    @step(execution_group="g", resources={"cpu": 1})
    def total(double: list[int]) -> int:
        return sum(double)

    @step(execution_group="g")
    async def text(total: int) -> str:
        return f"{total}"

    result = await Pipeline("p", steps=[load, double, total, text]).run()
    assert result["text"] == "12"


@pytest.mark.parametrize("count", [1, 5, 1000])
@virtual_time
async def test_a_loop_with_a_task_factory_of_its_own_is_obeyed(count: int) -> None:
    made: list[asyncio.Task[Any]] = []

    def factory(
        loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any
    ) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.Task(coroutine, loop=loop, **options)
        made.append(task)
        return task

    asyncio.get_running_loop().set_task_factory(factory)
    crowd = Crowd()
    assert (await crowd.pipeline(count).run()).success
    assert sum(task.get_name().startswith("member") for task in made) == count
