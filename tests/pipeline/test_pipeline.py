"""A pipeline is put together once and run any number of times."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from asyncflow import GraphError, Group, Pipeline, PipelineResult, step
from tests.virtual_time import now, virtual_time


@step(outputs=["page"])
async def fetch(url: str, agent: str = "asyncflow") -> str:
    await asyncio.sleep(1)
    return f"<p>{url} by {agent}</p>"


@step(inputs=["page"], outputs=["size"])
def measure(page: str) -> int:
    return len(page)


@step
async def report(size: int, unit: str) -> str:
    return f"{size} {unit}"


# -------------------------------------------------------------- put together


def test_steps_stand_in_the_order_in_which_they_were_added() -> None:
    pipeline = Pipeline("p", steps=[fetch]).add_step(measure, "size it").add_step(report)
    assert [node.name for node in pipeline.steps] == ["fetch", "size it", "report"]
    assert repr(pipeline) == "<Pipeline 'p' of 3 steps>"


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        ({"name": ""}, "a pipeline name must not be empty"),
        ({"name": "a/b"}, "pipeline name 'a/b' holds '/'"),
        ({"failure_policy": "ignore"}, "failure_policy is 'fail_fast' or 'collect_all'"),
        ({"inputs": "url"}, "names"),
        ({"groups": {"g": "thread"}}, "takes a Group"),
        ({"steps": [print]}, "takes a step"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(GraphError, match=sentence):
        Pipeline(**{"name": "p", **arguments})


def test_a_pipeline_without_steps_is_refused() -> None:
    with pytest.raises(GraphError, match="pipeline 'empty' has no steps; add one with add_step"):
        Pipeline("empty").run_sync()


def test_a_pipeline_is_built_once_until_it_changes() -> None:
    pipeline = Pipeline("p", steps=[fetch])
    built = pipeline.build()
    assert pipeline.build() is built
    pipeline.add_step(measure)
    assert len(pipeline.build()) == 2


@virtual_time
async def test_a_step_that_is_added_while_a_run_builds_joins_the_next_run() -> None:
    @step
    async def no_op() -> None: ...

    pipeline = Pipeline("p")
    for number in range(3000):
        pipeline.add_step(no_op, f"step {number}")

    async def add() -> None:
        pipeline.add_step(no_op, "late")

    adding = asyncio.create_task(add())
    result = await pipeline.run()
    await adding
    assert len(result.step_results) in (3000, 3001)
    assert len((await pipeline.run()).step_results) == 3001


def test_advice_of_the_build_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    @step(execution_group="g")
    async def one() -> None: ...

    @step(execution_group="g")
    async def two() -> None: ...

    pipeline = Pipeline("p", steps=[one, two])
    with caplog.at_level(logging.WARNING, logger="asyncflow"):
        pipeline.run_sync()
        pipeline.run_sync()
    (record,) = caplog.records
    assert "one after the other although they could run at the same time" in record.getMessage()


def test_groups_are_told_in_order() -> None:
    @step(execution_group="g")
    async def one() -> int:
        return 1

    @step(execution_group="g")
    def two(one: int) -> int:
        return one

    (group,) = Pipeline("p", steps=[one, two]).step_groups
    assert (group.group_name, group.execution_order, group.lane) == ("g", ["one", "two"], "thread")


@virtual_time
async def test_a_lane_said_of_a_group_is_where_it_runs() -> None:
    @step(execution_group="g")
    def sync() -> int:
        return 1

    result = await Pipeline("p", steps=[sync], groups={"g": Group(lane="inline")}).run()
    assert result.step_results["sync"].lane == "inline"


# ------------------------------------------------------------------- run inputs


@virtual_time
async def test_run_inputs_and_context_fill_what_nothing_else_does() -> None:
    pipeline = Pipeline("p", steps=[fetch, measure, report], context={"unit": "letters"})
    result = await pipeline.run(inputs={"url": "a"})
    assert result["report"] == "21 letters"


@virtual_time
async def test_run_inputs_go_before_context_and_defaults() -> None:
    pipeline = Pipeline("p", steps=[fetch], context={"url": "context", "agent": "context"})
    result = await pipeline.run(inputs={"url": "input"})
    assert result["page"] == "<p>input by context</p>"


@virtual_time
async def test_params_belong_to_their_node() -> None:
    pipeline = Pipeline("p").add_step(fetch, "a", params={"url": "x"}, outputs=["page a"])
    pipeline.add_step(fetch, "b", params={"url": "y", "agent": "z"}, outputs=["page b"])
    result = await pipeline.run()
    assert (result["a"], result["b"]) == ("<p>x by asyncflow</p>", "<p>y by z</p>")


@pytest.mark.parametrize(
    "inputs, sentence",
    [
        ({}, r"parameter 'url' of step 'fetch' has no value"),
        ({"url": "a", "ur": "b"}, "no step takes the run input 'ur'.*'url'"),
        ({"url": "a", "page": "b"}, "the run input 'page' has the name of an asset"),
    ],
)
@virtual_time
async def test_run_inputs_that_do_not_fit_are_refused_before_anything_runs(
    inputs: dict[str, str], sentence: str
) -> None:
    with pytest.raises(GraphError, match=sentence):
        await Pipeline("p", steps=[fetch, measure]).run(inputs=inputs)
    assert now() == 0


@pytest.mark.parametrize(
    "inputs, sentence",
    [
        ({}, "the run input 'url' is missing"),
        ({"url": 1}, "the run input 'url' is of type int, declared as str"),
        ({"url": "a", "other": 1}, "the run input 'other' is not declared"),
    ],
)
@virtual_time
async def test_declared_run_inputs_are_checked(inputs: dict[str, Any], sentence: str) -> None:
    with pytest.raises(GraphError, match=sentence):
        await Pipeline("p", steps=[fetch], inputs={"url": str}).run(inputs=inputs)


@virtual_time
async def test_a_declared_run_input_without_a_type_takes_anything() -> None:
    result = await Pipeline("p", steps=[fetch], inputs=["url"]).run(inputs={"url": 7})
    assert result["page"] == "<p>7 by asyncflow</p>"


# ------------------------------------------------------------------------- runs


@virtual_time
async def test_a_pipeline_may_run_many_times_at_once() -> None:
    pipeline = Pipeline("p", steps=[fetch, measure])
    results = await asyncio.gather(
        *(pipeline.run(inputs={"url": "x" * length}) for length in range(20))
    )
    assert [result["size"] for result in results] == [20 + length for length in range(20)]
    assert now() == 1


@virtual_time
async def test_a_run_may_stand_in_a_step_of_another() -> None:
    inner = Pipeline("inner", steps=[fetch, measure])

    @step
    async def outer(url: str) -> int:
        result: PipelineResult = await inner.run(inputs={"url": url})
        size: int = result["size"]
        return size

    assert (await Pipeline("outer", steps=[outer]).run(inputs={"url": "a"}))["outer"] == 21


@virtual_time
async def test_steps_run_as_soon_as_what_they_need_is_there() -> None:
    """No stage waits for the slowest of the one before it."""

    @step
    async def slow() -> None:
        await asyncio.sleep(100)

    @step
    async def quick() -> None:
        await asyncio.sleep(1)

    @step
    async def after_quick(quick: None) -> float:
        return now()

    result = await Pipeline("p", steps=[slow, quick, after_quick]).run()
    assert result["after_quick"] == 1


@virtual_time
async def test_run_id_must_be_a_name() -> None:
    with pytest.raises(GraphError, match="run name 'a/b' holds '/'"):
        await Pipeline("p", steps=[fetch]).run(inputs={"url": "a"}, run_id="a/b")


@pytest.mark.parametrize("format, part", [("text", "fetch"), ("mermaid", "-->"), ("dot", "->")])
def test_a_pipeline_can_be_drawn(format: str, part: str) -> None:
    assert part in Pipeline("p", steps=[fetch, measure]).visualize(format)
