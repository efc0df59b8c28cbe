"""What came of a run: values by name, and why one is missing."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import weakref
from itertools import chain
from typing import Any, ClassVar

import pytest

from asyncflow import (
    DependencyError,
    NodeState,
    Pipeline,
    PipelineResult,
    Retry,
    RunState,
    Runtime,
    Step,
    StepCancelled,
    StepContext,
    StepFailed,
    StepResult,
    StepSkipped,
    step,
)
from tests.virtual_time import now, virtual_time


@step(outputs=["numbers"])
async def load() -> list[int]:
    await asyncio.sleep(1)
    return [1, 2, 3]


@step
def total(numbers: list[int]) -> int:
    return sum(numbers)


@step
async def broken() -> None:
    await asyncio.sleep(2)
    raise ValueError("no good")


@step
async def below(broken: None) -> None: ...


@step(condition=lambda: False)
async def unwanted() -> None: ...


async def mixed() -> PipelineResult:
    steps: list[Step[..., Any]] = [load, total, broken, below, unwanted]
    pipeline = Pipeline("mixed", steps=steps, failure_policy="collect_all")
    return await pipeline.run(run_id="night")


# ---------------------------------------------------------------------- values


@virtual_time
async def test_values_are_found_by_asset_by_node_and_by_step() -> None:
    result = await Pipeline("sums", steps=[load, total]).run()
    assert result["numbers"] == result["load"] == result[load] == [1, 2, 3]
    assert result["total"] == result[total] == 6
    assert result.outputs == {"numbers": [1, 2, 3], "load": [1, 2, 3], "total": 6}


@virtual_time
async def test_a_step_under_another_name_is_found_while_it_stands_once() -> None:
    pipeline = Pipeline("p").add_step(load, "fetch", outputs=["numbers"])
    result = await pipeline.run()
    assert result[load] == [1, 2, 3]
    pipeline.add_step(load, "again", outputs=["others"])
    result = await pipeline.run()
    with pytest.raises(KeyError, match="stands under 2 names"):
        result[load]
    assert result["others"] == [1, 2, 3]


@virtual_time
async def test_a_step_is_not_mistaken_for_an_asset_of_its_name() -> None:
    @step(outputs=["y"])
    async def x() -> str:
        return "of the step x"

    @step(outputs=["x"])
    async def y() -> str:
        return "of the asset x"

    result = await Pipeline("p", steps=[x, y]).run()
    assert result[x] == "of the step x"
    assert result["x"] == "of the asset x"


@virtual_time
async def test_outputs_have_the_values_of_the_pipeline_itself() -> None:
    @step
    async def double(number: int) -> int:
        return 2 * number

    @step
    async def nest(numbers: list[int], context: StepContext) -> list[int]:
        return await context.map(double, numbers, key=str)

    pipeline = Pipeline("p", [load, nest]).add_step(double, map="numbers")
    result = await pipeline.run()
    assert set(result.outputs) == {"numbers", "load", "nest", "double"}
    assert result["double[1]"] == result.step_results["double[1]"].output == 4
    assert result["nest/double[3]"] == result.step_results["nest/double[3]"].output == 6
    assert len(result.step_results) == 3 + 3 + 3


@pytest.mark.parametrize("name", ["nonsense", "mixed", ""])
@virtual_time
async def test_a_name_that_the_pipeline_does_not_have_is_a_key_error(name: str) -> None:
    result = await mixed()
    with pytest.raises(KeyError, match="pipeline 'mixed' has no asset or step"):
        result[name]
    with pytest.raises(KeyError):
        result.get(name)


@virtual_time
async def test_a_name_that_is_misspelt_is_answered_with_the_right_one() -> None:
    result = await mixed()
    with pytest.raises(KeyError, match="has no asset or step 'brokn'; did you mean 'broken'"):
        result["brokn"]


@virtual_time
async def test_a_step_that_the_pipeline_does_not_have_is_a_key_error() -> None:
    @step
    async def stranger() -> None: ...

    with pytest.raises(KeyError, match="is no step of pipeline 'mixed'"):
        (await mixed())[stranger]


@virtual_time
async def test_get_gives_a_default_for_what_was_not_produced() -> None:
    result = await mixed()
    assert result.get("total") == 6
    assert result.get("broken") is None
    assert result.get("broken", "instead") == "instead"
    assert result.get(unwanted, 0) == 0


# --------------------------------------------------------------- what is missing


@virtual_time
async def test_the_value_of_a_failed_step_raises_with_its_cause() -> None:
    result = await mixed()
    with pytest.raises(StepFailed) as caught:
        result["broken"]
    assert str(caught.value) == ("step 'broken' failed at attempt 1: ValueError: no good")
    assert (caught.value.step, caught.value.attempt) == ("broken", 1)
    assert caught.value.__cause__ is result.step_results["broken"].error
    assert isinstance(caught.value.__cause__, ValueError)


@virtual_time
async def test_the_value_below_a_failed_step_raises_with_the_same_cause() -> None:
    result = await mixed()
    with pytest.raises(DependencyError, match="'below' did not run because 'broken'") as caught:
        result[below]
    assert isinstance(caught.value.__cause__, ValueError)


@virtual_time
async def test_the_value_of_a_skipped_step_raises() -> None:
    with pytest.raises(StepSkipped, match="'unwanted' has no value: step 'unwanted' was skipped"):
        (await mixed())["unwanted"]


@virtual_time
async def test_the_value_of_a_cancelled_step_raises() -> None:
    async with Pipeline("p", steps=[load, total]).start() as run:
        await run.cancel("enough")
    with pytest.raises(StepCancelled, match=r"step 'load' was cancelled.*enough"):
        run.result_now()["numbers"]
    with pytest.raises(StepCancelled, match=r"step 'total' was cancelled.*enough"):
        run.result_now()["total"]


# ---------------------------------------------------------------- step results


@virtual_time
async def test_a_step_result_tells_times_lane_and_worker() -> None:
    result = await mixed()
    assert result.step_results["load"] == StepResult(
        step_name="load",
        status=NodeState.SUCCEEDED,
        output=[1, 2, 3],
        attempts=1,
        duration_seconds=1,
        lane="inline",
    )
    total_result = result.step_results[total]
    assert (total_result.lane, total_result.worker.startswith("asyncflow")) == ("thread", True)
    assert (total_result.output, total_result.success) == (6, True)


@virtual_time
async def test_time_in_a_queue_is_told_apart_from_time_at_work() -> None:
    pipeline = Pipeline("p")
    for number in range(3):
        pipeline.add_step(load, f"load {number}", outputs=[f"numbers {number}"])
    async with Runtime(max_concurrency=1) as runtime:
        result = await pipeline.run(runtime=runtime)
    times = [
        (outcome.queued_seconds, outcome.duration_seconds)
        for outcome in result.step_results.values()
    ]
    assert times == [(0, 1), (1, 1), (2, 1)]


@virtual_time
async def test_an_element_is_queued_from_when_it_could_have_begun() -> None:
    @step
    async def late(numbers: list[int]) -> list[int]:
        await asyncio.sleep(10)
        return numbers

    @step(resources={"cpu": 1})
    async def hold(number: int) -> int:
        await asyncio.sleep(2)
        return number

    pipeline = Pipeline("p", [load, late]).add_step(hold, map="late")
    async with Runtime(max_cpus=1):
        result = await pipeline.run()
    queued = [result.step_results[f"hold[{place}]"].queued_seconds for place in range(3)]
    assert queued == pytest.approx([0, 2, 4])


@virtual_time
async def test_a_nested_call_is_queued_from_when_it_was_made() -> None:
    @step
    async def quick() -> None: ...

    @step
    async def nest(context: StepContext) -> None:
        await asyncio.sleep(5)
        await context.call(quick)

    result = await Pipeline("p", [nest]).run()
    assert result.step_results["nest/quick"].queued_seconds == pytest.approx(0, abs=1e-3)


@virtual_time
async def test_a_skip_counts_as_success_and_a_cancel_does_not() -> None:
    result = await mixed()
    assert result.step_results["unwanted"].success
    assert result.step_results["unwanted"].skipped
    assert not StepResult("x", NodeState.CANCELLED).success
    only = await Pipeline("p", steps=[unwanted]).run()
    assert (only.success, only.state) == (True, RunState.SUCCEEDED)


@virtual_time
async def test_step_results_are_a_mapping_by_name() -> None:
    results = (await mixed()).step_results
    assert list(results) == ["load", "total", "broken", "below", "unwanted"]
    assert len(results) == 5
    assert repr(results) == "<results of 5 steps>"
    with pytest.raises(KeyError):
        results["nonsense"]


# ------------------------------------------------------------------ whole result


@virtual_time
async def test_a_result_tells_about_the_run() -> None:
    result = await mixed()
    assert (result.run_id, result.pipeline_name) == ("night", "mixed")
    assert (result.state, result.success) == (RunState.FAILED, False)
    assert result.duration_seconds == now() == 2
    assert repr(result) == "<PipelineResult 'mixed' failed run_id='night'>"
    assert result.counts() == {
        NodeState.SUCCEEDED: 2,
        NodeState.FAILED: 1,
        NodeState.SKIPPED: 1,
        NodeState.UPSTREAM_FAILED: 1,
    }


@virtual_time
async def test_a_summary_is_a_few_lines_for_people() -> None:
    lines = (await mixed()).summary().splitlines()
    assert lines[0].startswith("mixed: failed in 2 s (")
    assert lines[1] == "  slowest: broken 2 s, load 1 s"
    assert lines[2] == "  broken: failed at attempt 1: ValueError: no good"
    assert len(lines) == 3


@virtual_time
async def test_a_summary_of_many_failures_is_cut() -> None:
    pipeline = Pipeline("p", failure_policy="collect_all")
    for number in range(25):
        pipeline.add_step(broken, f"broken {number}")
    lines = (await pipeline.run()).summary().splitlines()
    assert len(lines) == 13
    assert lines[-1] == "  … and 15 more"


@virtual_time
async def test_a_chart_shows_every_try() -> None:
    @step(retry=Retry(retries=2, wait_initial=4, wait_jitter=0), name="flaky")
    async def flaky(context: StepContext) -> None:
        await asyncio.sleep(context.attempt)
        if context.attempt < 3:
            raise OSError("not yet")

    result = await Pipeline("p", [flaky]).run()
    (bar,) = result._source.bars()
    assert [*chain(*bar.earlier)] == pytest.approx([0, 1, 5, 7])
    assert (bar.start_seconds, bar.end_seconds, bar.attempts) == pytest.approx((15, 18, 3))
    assert "flaky (3 tries)" in result.gantt()


@virtual_time
async def test_a_chart_shows_the_tries_of_what_was_cancelled_between_two() -> None:
    @step(retry=Retry(retries=2, wait_initial=50, wait_jitter=0))
    async def flaky() -> None:
        await asyncio.sleep(1)
        raise OSError("not yet")

    async with Pipeline("p", [flaky]).start() as run:
        await asyncio.sleep(10)
        await run.cancel()
        (bar,) = (await run.result())._source.bars()
    assert (bar.start_seconds, bar.end_seconds) == pytest.approx((0, 1))
    assert bar.state is NodeState.CANCELLED


@virtual_time
async def test_to_dict_is_plain_values() -> None:
    result = await mixed()
    told = json.loads(json.dumps(result.to_dict()))
    assert told["run_id"] == "night"
    assert (told["state"], told["success"], told["duration_seconds"]) == ("failed", False, 2)
    assert told["steps"]["broken"] == {
        "status": "failed",
        "success": False,
        "attempts": 1,
        "duration_seconds": 2,
        "queued_seconds": 0,
        "lane": "inline",
        "worker": "",
        "cached": False,
        "resumed": False,
        "peak_memory_bytes": 0,
        "error": "ValueError: no good",
    }
    assert told["steps"]["unwanted"]["error"] is None
    assert "numbers" not in json.dumps(told)


@virtual_time
async def test_raise_for_failure_does_nothing_after_a_success() -> None:
    (await Pipeline("p", steps=[load, unwanted]).run()).raise_for_failure()


@virtual_time
async def test_raise_for_failure_raises_the_one_failure() -> None:
    with pytest.raises(StepFailed, match="step 'broken' failed at attempt 1") as caught:
        (await mixed()).raise_for_failure()
    assert isinstance(caught.value.__cause__, ValueError)


@virtual_time
async def test_raise_for_failure_raises_several_as_a_group() -> None:
    pipeline = Pipeline("p", steps=[load, broken], failure_policy="collect_all")
    result = await pipeline.add_step(broken, "too").run()
    with pytest.raises(ExceptionGroup, match="2 steps of pipeline 'p' failed") as caught:
        result.raise_for_failure()
    assert [getattr(error, "step", None) for error in caught.value.exceptions] == ["broken", "too"]


@virtual_time
async def test_raise_for_failure_after_a_cancel_tells_the_reason() -> None:
    async with Pipeline("p", steps=[load]).start(run_id="night") as run:
        await run.cancel("enough")
    with pytest.raises(StepCancelled, match="run night of pipeline 'p' ended as cancelled: enough"):
        run.result_now().raise_for_failure()


@virtual_time
async def test_only_failures_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="asyncflow"):
        await Pipeline("p", steps=[load, unwanted]).run()
        async with Pipeline("p", steps=[load]).start() as run:
            await run.cancel()
        assert caplog.records == []
        await mixed()
        assert len(caplog.records) == 1


# ------------------------------------------------------------------- let go of


class Large:
    """A value whose end can be seen."""


@virtual_time
async def test_values_that_nobody_needs_any_more_are_let_go() -> None:
    values: list[weakref.ref[Large]] = []
    alive: list[bool] = []

    def is_alive() -> bool:
        gc.collect()
        return values[0]() is not None

    @step
    async def make() -> Large:
        value = Large()
        values.append(weakref.ref(value))
        return value

    @step
    async def first(make: Large) -> int:
        return 1

    @step
    async def second(make: Large, first: int) -> int:
        return 2

    @step
    async def third(second: int) -> int:
        alive.append(is_alive())
        return 3

    @step
    async def between(first: int) -> None:
        alive.append(is_alive())
        await asyncio.sleep(1)

    pipeline = Pipeline("p", steps=[make, first, between], outputs=["third"])
    pipeline.add_step(second, after=["between"]).add_step(third)
    result = await pipeline.run()
    assert alive == [True, False]
    assert result.outputs == {"third": 3}
    with pytest.raises(StepFailed, match="the value of 'make' was not kept: it is not among the"):
        result["make"]
    assert result.get("make", "gone") == "gone"
    assert result.step_results["make"].output is None
    assert result.success


@virtual_time
async def test_kept_outputs_are_named_by_asset_or_by_node() -> None:
    @step(outputs=["low", "high"])
    async def limits() -> tuple[int, int]:
        return 1, 2

    @step
    async def span(low: int, high: int) -> int:
        return high - low

    steps: list[Step[..., Any]] = [limits, span]
    result = await Pipeline("p", steps=steps, outputs=["high", "span"]).run()
    assert result.outputs == {"high": 2, "span": 1}
    with pytest.raises(StepFailed, match="'low' was not kept"):
        result["low"]
    result = await Pipeline("p", steps=steps, outputs=["limits"]).run()
    assert result["low"] == 1
    with pytest.raises(StepFailed, match="'span' was not kept"):
        result["span"]


class Counted:
    """A value that can be watched."""

    alive: ClassVar[weakref.WeakSet[Counted]] = weakref.WeakSet()

    def __init__(self, number: int) -> None:
        self.number = number
        self.alive.add(self)


@step
async def make(number: int, factor: int) -> Counted:
    await asyncio.sleep(number)
    return Counted(number * factor)


@step
async def factor() -> int:
    return 10


@step
async def alive_after(**values: object) -> int:
    gc.collect()
    return len(Counted.alive)


@virtual_time
async def test_elements_are_let_go_of_when_the_last_that_takes_them_is_done() -> None:
    @step
    async def number_of(make: Counted) -> int:
        return make.number

    @step
    async def numbers_of(made: list[Counted]) -> list[int]:
        await asyncio.sleep(5)
        return [each.number for each in made]

    pipeline = Pipeline("p", [load, factor], outputs=["number_of", "numbers_of", "alive_after"])
    pipeline.add_step(make, map="numbers", inputs={"number": "numbers"})
    pipeline.add_step(number_of, map="make").add_step(numbers_of, inputs={"made": "make"})
    pipeline.add_step(alive_after, inputs=["number_of", "numbers_of"])
    result = await pipeline.run()
    assert result["number_of"] == result["numbers_of"] == [10, 20, 30]
    assert result["alive_after"] == 0
    assert result.get("make[1]") is None


@virtual_time
async def test_elements_of_what_is_kept_are_kept() -> None:
    pipeline = Pipeline("p", [load, factor], outputs=["make"])
    pipeline.add_step(make, map="numbers", inputs={"number": "numbers"})
    result = await pipeline.run()
    assert [each.number for each in result["make"]] == [10, 20, 30]
    assert result["make[2]"].number == 30


@virtual_time
async def test_an_element_that_comes_late_to_its_follower_is_still_there() -> None:
    @step
    async def follow(make: Counted) -> int:
        return make.number

    @step
    async def slow_gate() -> None:
        await asyncio.sleep(60)

    pipeline = Pipeline("p", [load, factor, slow_gate], outputs=["follow"])
    pipeline.add_step(make, map="numbers", inputs={"number": "numbers"})
    pipeline.add_step(follow, map="make", after=["slow_gate"])
    assert (await pipeline.run())["follow"] == [10, 20, 30]


@virtual_time
async def test_nested_values_are_let_go_of_when_their_caller_has_them() -> None:
    @step
    async def nest(context: StepContext) -> int:
        await context.call(make, 1, factor=2)
        gc.collect()
        return len(Counted.alive)

    assert (await Pipeline("p", [nest], outputs=["nest"]).run())["nest"] == 0
    assert len(await kept_nested()) == 1


async def kept_nested() -> list[Counted]:
    @step
    async def nest(context: StepContext) -> None:
        await context.call(make, 1, factor=2)

    result = await Pipeline("p", [nest]).run()
    return [result["nest/make"]]


@virtual_time
async def test_without_outputs_everything_is_kept() -> None:
    result = await Pipeline("p", steps=[load, total]).run()
    assert set(result.outputs) == {"numbers", "load", "total"}


@virtual_time
async def test_a_value_freed_in_one_branch_is_told_as_not_kept() -> None:
    @step(outputs=["model"], condition=lambda: False)
    async def skipped() -> int:
        return 0

    @step(outputs=["model"], condition=lambda: True)
    async def taken() -> int:
        return 1

    @step
    async def use(model: int) -> int:
        return model

    result = await Pipeline("p", steps=[skipped, taken, use], outputs=["use"]).run()
    assert result["use"] == 1
    with pytest.raises(StepFailed, match="the value of 'model' was not kept"):
        result["model"]


@virtual_time
async def test_nothing_of_a_run_is_left_when_its_result_is_dropped() -> None:
    values: list[weakref.ref[Large]] = []

    @step
    async def make() -> Large:
        value = Large()
        values.append(weakref.ref(value))
        return value

    @step
    def use(make: Large) -> Large:
        value = Large()
        values.append(weakref.ref(value))
        return value

    pipeline = Pipeline("p", steps=[make, use])
    result: PipelineResult | None = await pipeline.run()
    gc.collect()
    assert all(value() is not None for value in values)
    del result
    gc.collect()
    assert [value() for value in values] == [None, None]
