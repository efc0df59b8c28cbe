"""A pipeline in virtual time: time, chance and failures are made up, everything else is real."""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
from typing import Any

import msgspec
import pytest

from asyncflow import (
    CapacityError,
    GraphError,
    NodeState,
    Pipeline,
    PipelineResult,
    ResourceRequirements,
    Retry,
    RetryAfter,
    RunState,
    Runtime,
    RunTimeout,
    StepContext,
    StepTimeout,
    WorkerDied,
    step,
)
from asyncflow.events import AnyEvent, NodeFinished, NodeProgress, NodeRetrying, NodeStarted
from asyncflow.testing import Gate, VirtualRuntime
from tests.programs import outputs_of_hash_seeds

DAY_SECONDS = 86_400.0


@step
async def at_once() -> str:
    return "done"


@step
async def tomorrow() -> str:
    await asyncio.sleep(DAY_SECONDS)
    return "done"


def log_of(virtual: VirtualRuntime) -> list[AnyEvent]:
    lines = virtual.event_log().splitlines()
    return [msgspec.json.decode(line, type=AnyEvent) for line in lines]


def started(virtual: VirtualRuntime) -> list[str]:
    return [event.node for event in log_of(virtual) if isinstance(event, NodeStarted)]


def wide(width: int = 6, what: Any = at_once) -> Pipeline:
    pipeline = Pipeline("wide")
    for number in range(width):
        pipeline.add_step(what, name=f"n{number}")
    return pipeline


def blocking(pipeline: Pipeline, **given: Any) -> PipelineResult:
    return VirtualRuntime(**given).run(pipeline)


# -- time ------------------------------------------------------------------------------------


def test_a_day_takes_no_time() -> None:
    virtual = VirtualRuntime()
    began = time.monotonic()
    result = virtual.run(Pipeline("p", steps=[tomorrow]))
    assert time.monotonic() - began < 10
    assert result["tomorrow"] == "done"
    assert result.duration_seconds == virtual.clock == DAY_SECONDS


def test_a_timeout_goes_off_in_virtual_time() -> None:
    result = blocking(Pipeline("p", steps=[tomorrow.with_options(timeout=60)]))
    assert result.step_results["tomorrow"].status is NodeState.TIMED_OUT
    assert result.duration_seconds == 60


def test_a_run_s_timeout_goes_off_in_virtual_time() -> None:
    virtual = VirtualRuntime()
    with pytest.raises(RunTimeout):
        virtual.run(Pipeline("p", steps=[tomorrow]), timeout=60)
    assert virtual.clock == 60


def test_inputs_and_options_of_the_run_are_passed_on() -> None:
    @step
    async def greet(name: str, client: str) -> str:
        return f"{client} greets {name}"

    pipeline = Pipeline("p", steps=[greet])
    result = VirtualRuntime().run(pipeline, {"name": "Ada"}, services={"client": "C"}, run_id="r")
    assert (result["greet"], result.run_id) == ("C greets Ada", "r")


def test_the_clock_goes_on_from_run_to_run() -> None:
    virtual = VirtualRuntime()
    for day in (1, 2, 3):
        assert virtual.run(Pipeline("p", steps=[tomorrow])).run_id == f"virtual-{day}"
        assert virtual.clock == day * DAY_SECONDS


def test_several_pipelines_share_one_runtime() -> None:
    async def both(runtime: Runtime) -> list[str]:
        runs = [await runtime.start(Pipeline(name, steps=[tomorrow])) for name in "ab"]
        return [(await run.result())["tomorrow"] for run in runs]

    virtual = VirtualRuntime()
    assert virtual.run_async(both) == ["done", "done"]
    assert virtual.clock == DAY_SECONDS


def test_a_coroutine_and_a_function_without_arguments_run_too() -> None:
    async def main() -> Any:
        return (await Pipeline("p", steps=[tomorrow]).run())["tomorrow"]

    virtual = VirtualRuntime()
    assert virtual.run_async(main()) == virtual.run_async(main) == "done"
    assert virtual.clock == 2 * DAY_SECONDS


def test_a_runtime_that_the_code_makes_for_itself_lives_in_virtual_time_too() -> None:
    def work() -> None:
        time.sleep(0.01)

    async def main() -> PipelineResult:
        async with Runtime(max_threads=1) as runtime:
            return await Pipeline("p", steps=[step(work)]).run(runtime=runtime, timeout=0.001)

    assert VirtualRuntime().run_async(main).run_id == "virtual-1"


async def test_it_refuses_to_block_a_running_loop() -> None:
    with pytest.raises(RuntimeError, match="call it from a function that is not a coroutine"):
        VirtualRuntime().run(Pipeline("p", steps=[at_once]))


def test_what_there_is_to_share_is_made_up() -> None:
    wants = ResourceRequirements(cpu="200", memory="3Ti", gpu={"gpu_type": "a100", "count": 2})
    pipeline = Pipeline("p").add_step(_with_context(wants), name="big")
    with pytest.raises(CapacityError):
        blocking(pipeline, oversized="error")
    result = blocking(pipeline, cpus=256, memory="4Ti", gpus=["a100", "a100"], oversized="error")
    assert result["big"] == (200.0, 3 * 2**40, ("0", "1"))


def _with_context(wants: ResourceRequirements) -> Any:
    @step(resources=wants, lane="inline")
    async def lease(context: StepContext) -> tuple[float, int, tuple[str, ...]]:
        return context.lease.cpus, context.lease.memory_bytes, context.lease.gpu_ids

    return lease


def test_wrong_arguments_are_refused_at_once() -> None:
    with pytest.raises(ValueError, match="oversized"):
        VirtualRuntime(oversized="shrug")
    with pytest.raises(ValueError, match="-1"):
        VirtualRuntime(durations={"a": -1})
    with pytest.raises(TypeError, match="nonsense"):
        VirtualRuntime(nonsense=1)


# -- durations -------------------------------------------------------------------------------


@pytest.mark.parametrize("lane", ["inline", "thread"])
@pytest.mark.parametrize(
    "durations",
    [
        pytest.param({"node": 5.0}, id="by node"),
        pytest.param({"function": 5}, id="by step"),
        pytest.param({"node": lambda name: 5.0 if name == "node" else 1.0}, id="function"),
        pytest.param(lambda name: 5.0 if name == "node" else None, id="one function for all"),
    ],
)
def test_a_step_takes_the_time_it_is_given(lane: Any, durations: Any) -> None:
    def function() -> int:
        return 1

    pipeline = Pipeline("p").add_step(step(function, lane=lane), name="node")
    result = blocking(pipeline, durations=durations)
    assert result["node"] == 1
    assert result.step_results["node"].duration_seconds == 5


def test_a_step_that_waits_longer_than_its_duration_takes_as_long_as_it_waits() -> None:
    result = blocking(Pipeline("p", steps=[tomorrow]), durations={"tomorrow": 5})
    assert result.duration_seconds == DAY_SECONDS


def test_steps_with_durations_share_the_cpus() -> None:
    one_cpu = at_once.with_options(resources=ResourceRequirements(cpu=1))
    for cpus, seconds in ((1, 60), (2, 30), (4, 20), (6, 10)):
        result = blocking(wide(6, one_cpu), cpus=cpus, durations={"at_once": 10})
        assert result.duration_seconds == seconds


def test_a_thread_is_taken_for_as_long_as_its_step_takes() -> None:
    def work() -> int:
        return 1

    result = blocking(wide(6, step(work)), max_threads=2, durations={"work": 10})
    assert result.duration_seconds == 30


def test_conditions_take_no_time() -> None:
    pipeline = Pipeline("p", steps=[at_once.with_options(condition=lambda: True)])
    assert blocking(pipeline, durations={"at_once": 5}).duration_seconds == 5


@pytest.mark.parametrize("is_coroutine", [True, False])
def test_a_failing_function_fails_when_its_time_is_over(is_coroutine: bool) -> None:
    def fails() -> None:
        raise OSError("disk full")

    async def fails_later() -> None:
        raise OSError("disk full")

    function = step(fails_later if is_coroutine else fails, name="fails")
    result = blocking(Pipeline("p", steps=[function]), durations={"fails": 5})
    assert isinstance(result.step_results["fails"].error, OSError)
    assert result.duration_seconds == 5


def test_a_coroutine_with_a_long_duration_times_out_like_one_that_waits() -> None:
    pipeline = Pipeline("p", steps=[at_once.with_options(timeout=60, retry=Retry(1, 0, 0, 0))])
    result = blocking(pipeline, durations={"at_once": DAY_SECONDS})
    assert isinstance(result.step_results["at_once"].error, StepTimeout)
    assert result.duration_seconds == 120


def test_a_thread_with_a_long_duration_is_abandoned_like_one_that_hangs() -> None:
    def work(context: StepContext) -> int:
        return 1

    virtual = VirtualRuntime(durations={"work": 100}, grace_seconds=5)

    async def main(runtime: Runtime) -> float:
        result = await Pipeline("p", steps=[step(work, timeout=60)]).run(runtime=runtime)
        assert result.step_results["work"].status is NodeState.ABANDONED
        return result.duration_seconds

    assert virtual.run_async(main) == 65


def test_a_cancel_ends_a_coroutine_whose_time_is_not_over() -> None:
    async def main(runtime: Runtime) -> PipelineResult:
        run = await runtime.start(Pipeline("p", steps=[at_once]))
        await asyncio.sleep(10)
        await run.cancel("changed my mind")
        return await run.result()

    virtual = VirtualRuntime(durations={"at_once": DAY_SECONDS})
    result = virtual.run_async(main)
    assert (result.state, virtual.clock) == (RunState.CANCELLED, 10)
    assert result.step_results["at_once"].status is NodeState.CANCELLED


# -- failures --------------------------------------------------------------------------------


@pytest.mark.parametrize("is_coroutine", [True, False])
@pytest.mark.parametrize(
    "failures",
    [
        pytest.param({"fetch": [ConnectionError("reset"), TimeoutError, None]}, id="listed"),
        pytest.param({"fetch": (ConnectionError, TimeoutError)}, id="the end of the list is None"),
        pytest.param(
            {"fetch": lambda _, attempt: OSError() if attempt < 3 else None}, id="by step"
        ),
        pytest.param(lambda _, attempt: OSError() if attempt < 3 else None, id="for all"),
    ],
)
def test_attempts_fail_as_they_are_told(is_coroutine: bool, failures: Any) -> None:
    calls: list[int] = []

    async def fetch(context: StepContext) -> str:
        calls.append(context.attempt)
        return "page"

    def fetch_in_thread(context: StepContext) -> str:
        calls.append(context.attempt)
        return "page"

    function = step(fetch if is_coroutine else fetch_in_thread, name="fetch", retry=3)
    result = blocking(Pipeline("p", steps=[function]), failures=failures)
    assert (result["fetch"], result.step_results["fetch"].attempts) == ("page", 3)
    assert calls == [3]


def test_a_failed_attempt_takes_its_time_too() -> None:
    flaky = at_once.with_options(retry=Retry(2, wait_initial=1, wait_jitter=0))
    virtual = VirtualRuntime(
        durations={"at_once": 10}, failures={"at_once": [OSError(), RetryAfter(100)]}
    )
    assert virtual.run(Pipeline("p", steps=[flaky])).success
    assert virtual.clock == 10 + 1 + 10 + 100 + 10


def test_the_error_of_a_failed_step_is_the_one_that_was_asked_for() -> None:
    error = ConnectionError("reset")
    result = blocking(Pipeline("p", steps=[at_once]), failures={"at_once": [error]})
    assert result.step_results["at_once"].error is error


@pytest.mark.parametrize("given", ["durations", "failures"])
def test_a_name_that_no_step_has_is_refused_with_the_nearest(given: str) -> None:
    value: Any = {"at_onse": 5} if given == "durations" else {"at_onse": [OSError()]}
    with pytest.raises(GraphError, match=r"'at_onse'.*did you mean 'at_once'"):
        blocking(Pipeline("p", steps=[at_once]), **{given: value})


def test_names_may_belong_to_any_of_several_pipelines() -> None:
    async def main(runtime: Runtime) -> None:
        await Pipeline("a", steps=[at_once]).run(runtime=runtime)
        await Pipeline("b", steps=[tomorrow]).run(runtime=runtime)

    VirtualRuntime(durations={"at_once": 1, "tomorrow": 1}).run_async(main)


def test_the_error_of_the_program_comes_before_a_wrong_name() -> None:
    async def main() -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        VirtualRuntime(durations={"nobody": 1}).run_async(main)


# -- the same again --------------------------------------------------------------------------


def busy() -> Pipeline:
    """Coroutines and threads, conditions, retries, reports, capacity: whatever takes a turn."""

    @step(retry=5)
    async def fetch(context: StepContext) -> str:
        await asyncio.sleep(1)
        context.report(1, total=2)
        return context.node

    @step(resources=ResourceRequirements(cpu=1))
    def parse(*pages: str, context: StepContext) -> int:
        for done in range(100):
            context.report(done, total=100)
        time.sleep(0.0005 * (len(context.node) % 3))
        return sum(map(len, pages))

    pipeline = Pipeline("busy", failure_policy="collect_all")
    for number in range(8):
        pipeline.add_step(fetch, name=f"fetch{number}")
    for number in range(8):
        above = [f"fetch{number}", f"fetch{(number + 1) % 8}"]
        pipeline.add_step(parse, name=f"parse{'x' * number}", inputs=above)
    return pipeline.add_step(at_once.with_options(condition=lambda: False))


def busy_log(seed: int | None) -> bytes:
    virtual = VirtualRuntime(
        seed,
        cpus=2,
        max_threads=3,
        durations={"parse": lambda name: float(len(name) % 2)},
        failures={"fetch": lambda name, attempt: OSError(name) if attempt < 3 else None},
    )
    virtual.run(busy())
    return virtual.event_log()


@pytest.mark.parametrize("seed", [0, 1, 2, None])
def test_the_same_seed_gives_the_same_log(seed: int | None) -> None:
    assert len({busy_log(seed) for _ in range(5)}) == 1


def test_another_seed_gives_another_order() -> None:
    assert len({busy_log(seed) for seed in range(10)}) == 10


def test_the_log_does_not_depend_on_the_process() -> None:
    program = (
        "import sys, hashlib\n"
        "from tests.testing.test_virtual_runtime import busy_log\n"
        "print(hashlib.sha256(busy_log(7)).hexdigest())"
    )
    assert len(outputs_of_hash_seeds(program)) == 1


def test_ready_steps_start_in_an_order_of_the_seed() -> None:
    orders = set()
    for seed in range(30):
        virtual = VirtualRuntime(seed)
        virtual.run(wide(3))
        orders.add(tuple(started(virtual)))
    assert len(orders) == 6, "all orders of three are possible"


def test_timers_of_one_instant_go_off_in_an_order_of_the_seed() -> None:
    async def main() -> str:
        order: list[str] = []
        loop = asyncio.get_running_loop()
        for name in "abc":
            loop.call_at(loop.time() + 1, order.append, name)
        await asyncio.sleep(2)
        return "".join(order)

    assert len({VirtualRuntime(seed).run_async(main) for seed in range(30)}) == 6
    assert VirtualRuntime(None).run_async(main) == "abc"


def test_without_a_seed_equals_go_in_the_order_of_arrival() -> None:
    virtual = VirtualRuntime(None)
    virtual.run(wide(20))
    assert started(virtual) == [f"n{number}" for number in range(20)]


def test_the_jitter_of_retries_belongs_to_the_seed() -> None:
    def waits(seed: int) -> list[float]:
        virtual = VirtualRuntime(seed, failures={"at_once": [OSError()] * 3})
        virtual.run(Pipeline("p", steps=[at_once.with_options(retry=3)]))
        return [event.delay_seconds for event in log_of(virtual) if isinstance(event, NodeRetrying)]

    assert len(waits(1)) == 3
    assert waits(1) == waits(1) != waits(2)


def test_the_log_is_json_with_virtual_times() -> None:
    virtual = VirtualRuntime()
    virtual.run(Pipeline("p", steps=[tomorrow]))
    lines = [json.loads(line) for line in virtual.event_log().splitlines()]
    assert [line["kind"] for line in lines] == [
        "RunStarted",
        "UnitStarted",
        "NodeStarted",
        "NodeFinished",
        "UnitFinished",
        "RunFinished",
    ]
    assert [line["sequence"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert lines[-1]["wall_time"] - lines[0]["wall_time"] == DAY_SECONDS
    assert lines[-1]["monotonic_seconds"] - lines[0]["monotonic_seconds"] == DAY_SECONDS
    assert {line["run_id"] for line in lines} == {"virtual-1"}


def test_with_options_begins_anew() -> None:
    virtual = VirtualRuntime(3, cpus=2, durations={"at_once": 7})
    virtual.run(wide(4))
    again = virtual.with_options()
    assert (again.clock, again.event_log()) == (0, b"")
    again.run(wide(4))
    assert again.event_log() == virtual.event_log()
    assert virtual.with_options(seed=4).run(wide(1)).duration_seconds == 7


# -- threads ---------------------------------------------------------------------------------


def test_what_threads_return_comes_in_the_order_in_which_they_began() -> None:
    first_may_end = threading.Event()

    def first() -> None:
        assert first_may_end.wait(30)

    def second() -> None:
        first_may_end.set()

    for seed in range(10):
        first_may_end.clear()
        virtual = VirtualRuntime(seed)
        result = virtual.run(Pipeline("p", steps=[step(first), step(second)]))
        assert result.success
        ends = [event.node for event in log_of(virtual) if isinstance(event, NodeFinished)]
        assert ends == started(virtual)


def test_a_thread_at_work_holds_the_clock() -> None:
    def work() -> None:
        time.sleep(0.05)

    @step
    async def ticks() -> None:
        for _ in range(1000):
            await asyncio.sleep(1)

    virtual = VirtualRuntime()
    result = virtual.run(Pipeline("p", steps=[step(work, timeout=1), ticks]))
    assert result.success
    assert result.step_results["work"].duration_seconds == 0


def test_a_thread_at_a_gate_does_not() -> None:
    with Gate() as gate:
        hang = step(gate.wait, name="hang", lane="thread", timeout=60)
        result = blocking(Pipeline("p", steps=[hang]), grace_seconds=5)
        assert result.step_results["hang"].status is NodeState.ABANDONED
        assert result.duration_seconds == 65


def test_the_clock_is_held_again_when_the_gate_opens() -> None:
    @step
    def late(gate: Gate) -> str:
        gate.wait()
        time.sleep(0.02)
        return "came"

    @step
    async def opens(gate: Gate) -> None:
        await asyncio.sleep(50)
        gate.open()

    with Gate() as gate:
        pipeline = Pipeline("p", steps=[late.with_options(timeout=51), opens])
        result = VirtualRuntime().run(pipeline, {"gate": gate})
    assert result["late"] == "came"
    assert result.step_results["late"].duration_seconds == 50


def test_what_a_thread_reported_last_is_told_when_it_ends() -> None:
    def work(context: StepContext) -> None:
        for done in range(1000):
            context.report(done)

    virtual = VirtualRuntime()
    virtual.run(Pipeline("p", steps=[step(work)]))
    reports = [event for event in log_of(virtual) if isinstance(event, NodeProgress)]
    assert [report.done for report in reports] == [999]


def test_work_nested_in_a_sync_step_runs_in_virtual_time() -> None:
    @step
    def parent(context: StepContext) -> str:
        return str(context.call_sync(tomorrow))

    log = set()
    for _ in range(5):
        virtual = VirtualRuntime(1)
        result = virtual.run(wide(3, parent))
        assert result["n1"] == "done"
        assert result.duration_seconds == DAY_SECONDS
        log.add(virtual.event_log())
    assert len(log) == 1


# -- processes -----------------------------------------------------------------------------


def test_process_steps_take_virtual_time_and_start_no_process() -> None:
    pids = []

    @step(lane="process", retry=1)
    def crunch() -> int:
        pids.append(os.getpid())
        return 7

    @step(lane="process")
    async def rest(crunch: int) -> int:
        await asyncio.sleep(3600)
        return crunch

    virtual = VirtualRuntime(
        durations={"crunch": 600}, failures={"crunch": [WorkerDied("gone", signal=9), None]}
    )
    result = virtual.run(Pipeline("p", steps=[crunch, rest]))
    assert result["rest"] == 7
    assert result.step_results["crunch"].attempts == 2
    assert {found.lane for found in result.step_results.values()} == {"process"}
    assert pids == [os.getpid()]
    assert virtual.clock >= 600 + 3600
