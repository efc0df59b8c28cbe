"""A condition decides whether its step runs; what a skip means for the steps below it."""

from __future__ import annotations

import asyncio

import pytest

from asyncflow import (
    DependencyError,
    NodeState,
    Pipeline,
    PipelineResult,
    Retry,
    Runtime,
    StepFailed,
    StepSkipped,
    step,
)
from asyncflow.events import NodeStarted, UnitStarted
from tests.virtual_time import now, virtual_time


@step(condition=lambda: False)
async def unwanted() -> str:
    raise AssertionError("a step ran whose condition is false")


def states_of(result: PipelineResult) -> dict[str, str]:
    return {name: str(step.status) for name, step in result.step_results.items()}


@virtual_time
async def test_a_false_condition_skips_the_step_and_what_needs_its_value() -> None:
    @step
    async def needs(unwanted: str) -> str:
        return unwanted

    @step
    async def needs_that(needs: str) -> str:
        return needs

    result = await Pipeline("p", steps=[unwanted, needs, needs_that]).run()
    assert result.success
    assert set(states_of(result).values()) == {"skipped"}
    assert result.outputs == {}
    with pytest.raises(StepSkipped, match="'needs_that' has no value: step 'needs_that' was"):
        result["needs_that"]


@virtual_time
async def test_a_skip_does_not_pass_along_after() -> None:
    @step
    async def later() -> str:
        return "ran"

    result = await Pipeline("p", steps=[unwanted]).add_step(later, after=[unwanted]).run()
    assert states_of(result) == {"unwanted": "skipped", "later": "succeeded"}


@virtual_time
async def test_a_failure_passes_along_after() -> None:
    @step
    async def broken() -> None:
        raise ValueError("no")

    @step
    async def later() -> str:
        return "ran"

    pipeline = Pipeline("p", steps=[broken], failure_policy="collect_all")
    result = await pipeline.add_step(later, after=[broken]).run()
    assert states_of(result) == {"broken": "failed", "later": "upstream_failed"}
    assert isinstance(result.step_results["later"].error, DependencyError)


@virtual_time
async def test_a_parameter_with_a_default_stops_a_skip() -> None:
    @step
    async def optional(unwanted: str = "instead") -> str:
        return unwanted

    @step
    async def below(optional: str) -> str:
        return optional.upper()

    result = await Pipeline("p", steps=[unwanted, optional, below]).run()
    assert result["below"] == "INSTEAD"


@virtual_time
async def test_a_list_of_assets_is_missing_when_one_of_them_is() -> None:
    @step
    async def one() -> int:
        return 1

    @step(inputs={"parts": ["one", "unwanted"]})
    async def strict(parts: list[object]) -> list[object]:
        return parts

    @step(inputs={"parts": ["one", "unwanted"]})
    async def lenient(parts: tuple[object, ...] = ()) -> tuple[object, ...]:
        return parts

    result = await Pipeline("p", steps=[one, unwanted, strict, lenient]).run()
    assert states_of(result)["strict"] == "skipped"
    assert result["lenient"] == ()


@virtual_time
async def test_none_is_a_value_like_any_other() -> None:
    @step
    async def nothing() -> None:
        return None

    @step
    async def takes(nothing: object = "the default") -> object:
        return nothing

    result = await Pipeline("p", steps=[nothing, takes]).run()
    assert result["takes"] is None
    assert result.outputs == {"nothing": None, "takes": None}


@virtual_time
async def test_a_condition_that_raises_fails_its_step() -> None:
    asked: list[float] = []

    def check() -> bool:
        asked.append(now())
        raise LookupError("no such table")

    @step(condition=check, retry=3)
    async def guarded() -> None:
        raise AssertionError("ran although its condition raised")

    result = await Pipeline("p", steps=[guarded]).run()
    assert not result.success
    assert result.step_results["guarded"].status is NodeState.FAILED
    assert asked == [0]
    with pytest.raises(StepFailed, match="the condition of step 'guarded' raised") as caught:
        result["guarded"]
    assert isinstance(caught.value.__cause__, LookupError)


class Ambiguous:
    def __bool__(self) -> bool:
        raise ValueError("neither true nor false")


@virtual_time
async def test_a_condition_whose_answer_is_neither_true_nor_false_fails_its_step() -> None:
    @step(condition=Ambiguous)
    async def guarded() -> None: ...

    result = await Pipeline("p", steps=[guarded]).run()
    with pytest.raises(StepFailed, match="neither true nor false"):
        result["guarded"]


@pytest.mark.parametrize("wanted", [True, False])
@virtual_time
async def test_a_condition_may_be_a_coroutine_function(wanted: bool) -> None:
    async def ask() -> bool:
        await asyncio.sleep(5)
        return wanted

    @step(condition=ask)
    async def guarded() -> str:
        return "ran"

    result = await Pipeline("p", steps=[guarded]).run()
    assert result.get("guarded") == ("ran" if wanted else None)
    assert now() == 5


@virtual_time
async def test_a_condition_takes_inputs_params_and_context_by_name() -> None:
    seen: list[tuple[object, ...]] = []

    def check(size: int, limit: int, region: str, url: str) -> bool:
        seen.append((size, limit, region, url))
        return True

    @step
    async def size() -> int:
        return 3

    @step(condition=check)
    async def guarded() -> str:
        return "ran"

    pipeline = Pipeline("p", steps=[size], context={"region": "north"})
    pipeline.add_step(guarded, params={"limit": 10})
    result = await pipeline.run(inputs={"url": "http://127.0.0.1/"})
    assert result["guarded"] == "ran"
    assert seen == [(3, 10, "north", "http://127.0.0.1/")]


@virtual_time
async def test_a_step_waits_for_what_only_its_condition_takes() -> None:
    @step
    async def slow() -> int:
        await asyncio.sleep(3)
        return 3

    @step(condition=lambda slow: slow > 2)
    async def guarded() -> float:
        return now()

    assert (await Pipeline("p", steps=[slow, guarded]).run())["guarded"] == 3


@virtual_time
async def test_a_condition_that_takes_a_skipped_value_is_not_asked() -> None:
    def check(unwanted: str) -> bool:
        raise AssertionError("asked without its input")

    @step(condition=check)
    async def guarded() -> None: ...

    result = await Pipeline("p", steps=[unwanted, guarded]).run()
    assert states_of(result)["guarded"] == "skipped"


@virtual_time
async def test_a_condition_is_asked_once_however_often_the_step_is_tried() -> None:
    asked: list[float] = []

    def check() -> bool:
        asked.append(now())
        return True

    @step(condition=check, retry=Retry(2, wait_initial=1))
    async def guarded() -> str:
        if len(tries) < 2:
            tries.append(now())
            raise OSError("again")
        return "ran"

    tries: list[float] = []
    result = await Pipeline("p", steps=[guarded]).run()
    assert result["guarded"] == "ran"
    assert asked == [0.0]


@pytest.mark.parametrize("mode, made_by", [("fast", "quick"), ("good", "thorough")])
@virtual_time
async def test_if_and_else_meet_again_in_one_asset(mode: str, made_by: str) -> None:
    @step(outputs=["model"], condition=lambda mode: mode == "fast")
    async def quick() -> str:
        return "quick"

    @step(outputs=["model"], condition=lambda mode: mode != "fast")
    async def thorough() -> str:
        return "thorough"

    @step
    async def use(model: str) -> str:
        return f"used {model}"

    result = await Pipeline("p", steps=[quick, thorough, use]).run(inputs={"mode": mode})
    assert result["use"] == f"used {made_by}"
    assert result["model"] == made_by


@virtual_time
async def test_an_asset_that_both_branches_produce_fails_the_run() -> None:
    @step(outputs=["model"], condition=lambda: True)
    async def one() -> int:
        return 1

    @step(outputs=["model"], condition=lambda: True)
    async def two() -> int:
        return 2

    result = await Pipeline("p", steps=[one, two]).run()
    assert not result.success
    with pytest.raises(StepFailed, match="asset 'model' was produced by more than one of 'one'"):
        result.raise_for_failure()


def mapped_branches(*, numbers: list[int]) -> Pipeline:
    @step
    async def items() -> list[int]:
        return numbers

    @step(outputs=["out"], condition=lambda mode: mode in ("fast", "both"))
    async def fast(item: int, mode: str) -> str:
        return f"fast {item}"

    @step(outputs=["out"], condition=lambda mode: mode in ("slow", "both"))
    async def slow(item: int, mode: str) -> str:
        return f"slow {item}"

    @step
    async def use(out: list[str]) -> str:
        return ", ".join(out)

    pipeline = Pipeline("p", [items, use])
    pipeline.add_step(fast, map="items", inputs={"item": "items"})
    return pipeline.add_step(slow, map="items", inputs={"item": "items"})


@pytest.mark.parametrize("mode", ["fast", "slow"])
@virtual_time
async def test_mapped_branches_meet_again_too(mode: str) -> None:
    result = await mapped_branches(numbers=[1, 2]).run({"mode": mode})
    assert result["use"] == f"{mode} 1, {mode} 2"
    other = "slow" if mode == "fast" else "fast"
    assert result.step_results[other].skipped
    with pytest.raises(StepSkipped):
        result[other]


@virtual_time
async def test_of_mapped_branches_over_nothing_one_makes_the_empty_list() -> None:
    result = await mapped_branches(numbers=[]).run({"mode": "fast"})
    assert result["out"] == []
    assert sorted(result.step_results[name].skipped for name in ("fast", "slow")) == [False, True]


@virtual_time
async def test_mapped_branches_that_both_produce_fail_the_run() -> None:
    result = await mapped_branches(numbers=[1]).run({"mode": "both"})
    assert not result.success
    with pytest.raises(StepFailed, match="'out' was produced by more than one of 'fast', 'slow'"):
        result.raise_for_failure()


@virtual_time
async def test_mapped_branches_of_which_neither_runs_skip_what_needs_them() -> None:
    result = await mapped_branches(numbers=[1]).run({"mode": "none"})
    assert result.success
    assert result.step_results["use"].skipped


@virtual_time
async def test_a_map_leaves_out_the_elements_whose_condition_is_false() -> None:
    @step
    async def items() -> list[int]:
        return [1, 2, 3]

    @step(condition=lambda item: item % 2)
    async def odd(item: int) -> int:
        return item

    pipeline = Pipeline("p", [items]).add_step(odd, map="items", inputs={"item": "items"})
    assert (await pipeline.run())["odd"] == [1, 3]


@virtual_time
async def test_when_neither_branch_runs_what_needs_the_asset_is_skipped() -> None:
    @step(outputs=["model"], condition=lambda: False)
    async def one() -> int:
        return 1

    @step(outputs=["model"], condition=lambda: False)
    async def two() -> int:
        return 2

    @step
    async def use(model: int) -> int:
        return model

    result = await Pipeline("p", steps=[one, two, use]).run()
    assert result.success
    with pytest.raises(StepSkipped):
        result["model"]


@virtual_time
async def test_a_condition_holds_no_capacity() -> None:
    @step(resources={"cpu": 1})
    async def holder() -> float:
        await asyncio.sleep(10)
        return now()

    async def ask() -> bool:
        await asyncio.sleep(1)
        skipped_at.append(now())
        return False

    @step(resources={"cpu": 1}, condition=ask)
    async def guarded() -> None: ...

    skipped_at: list[float] = []
    async with Runtime(max_cpus=1) as runtime:
        result = await Pipeline("p", steps=[holder, guarded]).run(runtime=runtime)
    assert result["holder"] == 10
    assert skipped_at == [1]


@virtual_time
async def test_a_skipped_step_is_never_announced_as_started() -> None:
    async with Pipeline("p", steps=[unwanted]).start() as run:
        events = [event async for event in run.events()]
    assert not any(isinstance(event, NodeStarted | UnitStarted) for event in events)


@virtual_time
async def test_a_cancel_ends_a_condition_that_waits() -> None:
    async def ask() -> bool:
        await asyncio.sleep(100)
        return True

    @step(condition=ask)
    async def guarded() -> None: ...

    async with Pipeline("p", steps=[guarded]).start() as run:
        await asyncio.sleep(1)
        await run.cancel()
        assert now() == 1
    assert states_of(run.result_now()) == {"guarded": "cancelled"}


@virtual_time
async def test_a_condition_that_ignores_its_cancel_is_abandoned() -> None:
    given_up = asyncio.Event()

    async def stubborn() -> bool:
        while not given_up.is_set():
            try:
                await given_up.wait()
            except asyncio.CancelledError:
                continue
        return True

    @step(condition=stubborn)
    async def guarded() -> None:
        raise AssertionError("ran after a cancel")

    async with (
        Runtime(grace_seconds=3) as runtime,
        Pipeline("p", steps=[guarded]).start(runtime=runtime) as run,
    ):
        await asyncio.sleep(1)
        await run.cancel()
        assert (now(), run.abandoned) == (4, ("guarded",))
        given_up.set()
        await asyncio.sleep(1)
        assert not run.abandoned
